//! The chain of blocks, in little memory: only blocks that carry transactions are stored.
//!
//! A block's hash is computed from its height and branch and tells both, so an empty block needs no record however long
//! the chain grows, and a hash of a block that was reorganised away is still recognised.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::hash::Hash256;

/// The genesis block of the test network, which every real daemon begins with.
const GENESIS: [u8; 32] = *b"\x00\x00\x6e\x03\x7d\x7b\x84\x10\x42\x08\xec\xf2\xa8\x63\x8d\x23\
    \x14\x9d\x71\x2e\xa8\x10\xda\x60\x4e\xe2\xf2\xcb\x39\xba\xe7\x13";

/// A block that carries transactions.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Block {
    /// Unix seconds.
    pub(crate) time: i64,
    /// In the order of their `blockindex`, which begins at 1: 0 is the coinbase, which nobody here owns.
    pub(crate) txids: Vec<Hash256>,
}

/// A block's place: its height, and the branch it was mined on. Every reorganisation begins a new branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) height: u32,
    branch: u32,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Blocks {
    height: u32,
    /// For each branch that is part of the chain, the height it begins at, rising; the branch that began with the
    /// genesis block has the number 0 and is not listed.
    forks: Vec<Fork>,
    branches_made: u32,
    filled: BTreeMap<u32, Block>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Fork {
    from: u32,
    branch: u32,
}

impl Blocks {
    pub(crate) fn height(&self) -> u32 {
        self.height
    }

    pub(crate) fn tip(&self) -> Hash256 {
        hash(self.place(self.height))
    }

    /// The hash of the block at this height, if the chain is that long.
    pub(crate) fn hash_at(&self, height: u32) -> Option<Hash256> {
        (height <= self.height).then(|| hash(self.place(height)))
    }

    pub(crate) fn at(&self, height: u32) -> Option<&Block> {
        self.filled.get(&height)
    }

    /// Where a block of this hash stands or stood; `None` if there never was one.
    pub(crate) fn find(&self, wanted: Hash256) -> Option<Place> {
        let bytes = wanted.printed();
        let number = |from: usize| Some(u32::from_be_bytes(bytes[from..from + 4].try_into().ok()?));
        let genesis = Place { height: 0, branch: 0 };
        let place = if bytes == GENESIS {
            genesis
        } else {
            Place {
                branch: number(24)?,
                height: number(28)?,
            }
        };
        (place.branch <= self.branches_made && hash(place) == wanted).then_some(place)
    }

    /// Whether the block at this place is part of the chain.
    pub(crate) fn contains(&self, place: Place) -> bool {
        place.height <= self.height && self.place(place.height) == place
    }

    /// 1 for the newest block.
    pub(crate) fn confirmations(&self, height: u32) -> u32 {
        (self.height + 1).saturating_sub(height)
    }

    /// Adds one block and returns its height.
    pub(crate) fn mine(&mut self, time: i64, txids: Vec<Hash256>) -> u32 {
        self.height += 1;
        if !txids.is_empty() {
            self.filled.insert(self.height, Block { time, txids });
        }
        self.height
    }

    /// Takes the last `depth` blocks away, all but the genesis block at most, and returns what they carried. Blocks
    /// mined from here on belong to a new branch.
    pub(crate) fn cut(&mut self, depth: u32) -> Vec<Hash256> {
        let kept = self.height.saturating_sub(depth);
        self.branches_made += 1;
        self.height = kept;
        self.forks.retain(|fork| fork.from <= kept);
        self.forks.push(Fork {
            from: kept + 1,
            branch: self.branches_made,
        });
        let cut = self.filled.split_off(&(kept + 1));
        cut.into_values().flat_map(|block| block.txids).collect()
    }

    fn place(&self, height: u32) -> Place {
        let fork = self.forks.iter().rev().find(|fork| fork.from <= height);
        Place {
            height,
            branch: fork.map_or(0, |fork| fork.branch),
        }
    }
}

/// Looks like a proof of work (two zero bytes), then 22 bytes of digest, the branch and the height.
fn hash(place: Place) -> Hash256 {
    if place.height == 0 {
        return Hash256::from_printed(GENESIS);
    }
    let (branch, height) = (place.branch.to_be_bytes(), place.height.to_be_bytes());
    let mut bytes = Hash256::digest(&[b"block", &branch, &height]).printed();
    bytes[..2].fill(0);
    bytes[24..28].copy_from_slice(&branch);
    bytes[28..].copy_from_slice(&height);
    Hash256::from_printed(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_reorganised_block_is_remembered_but_no_longer_part_of_the_chain() {
        let mut blocks = Blocks::default();
        for _ in 0..5 {
            blocks.mine(0, vec![]);
        }
        let (kept, lost) = (blocks.hash_at(3).unwrap(), blocks.hash_at(4).unwrap());
        blocks.cut(2);
        for _ in 0..3 {
            blocks.mine(0, vec![]);
        }
        assert_eq!(blocks.height(), 6);
        assert_eq!(blocks.hash_at(3), Some(kept));
        assert_ne!(blocks.hash_at(4), Some(lost));
        let place = blocks.find(lost).unwrap();
        assert_eq!((place.height, blocks.contains(place)), (4, false));
        assert_eq!(blocks.find(Hash256::ZERO), None);
    }

    proptest! {
        #[test]
        fn every_block_of_the_chain_is_found_whatever_was_reorganised(
            steps in prop::collection::vec((0_u32..6, 0_u32..4), 1..20),
        ) {
            let mut blocks = Blocks::default();
            for (mined, cut) in steps {
                (0..mined).for_each(|_| { blocks.mine(0, vec![]); });
                if cut > 0 {
                    blocks.cut(cut);
                }
            }
            for height in 0..=blocks.height() {
                let place = blocks.find(blocks.hash_at(height).unwrap()).unwrap();
                prop_assert_eq!(place.height, height);
                prop_assert!(blocks.contains(place));
            }
        }
    }
}
