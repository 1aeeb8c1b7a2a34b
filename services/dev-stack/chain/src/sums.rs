//! What accounts, addresses and the whole wallet hold, by the daemon's different rules.

use std::collections::BTreeMap;

use units::Amount;

use crate::address::Address;
use crate::node::{Event, Node, Origin, Output, Tx, TxState, negative};

/// How deep coins from outside have to be for the balance of `*`.
const TRUSTED_DEPTH: i64 = 3;

impl Node {
    /// What each account holds, counting deposits of at least `depth_min` confirmations; spendings count at once.
    pub(crate) fn accounts(&self, depth_min: i64) -> BTreeMap<&str, Amount> {
        let mut accounts: BTreeMap<&str, Amount> = self
            .wallet
            .accounts()
            .into_iter()
            .map(|name| (name, Amount::ZERO))
            .collect();
        let mut add = |account, amount| {
            let balance = accounts.entry(account).or_default();
            *balance = balance.saturating_add(amount);
        };
        for event in &self.history {
            match event {
                Event::Move(moved) => {
                    add(&moved.from, negative(moved.amount));
                    add(&moved.to, moved.amount);
                }
                Event::Tx(txid) => {
                    let Some(tx) = self.txs.get(txid).filter(|tx| tx.state != TxState::Conflicted) else {
                        continue;
                    };
                    if let Origin::Wallet(sent) = &tx.origin {
                        let paid: Amount = tx.listed().map(|output| output.amount).sum();
                        add(&sent.account, negative(paid.saturating_add(sent.fee)));
                    }
                    if self.confirmations(tx) >= depth_min {
                        for (account, output) in self.received(tx) {
                            add(account, output.amount);
                        }
                    }
                }
            }
        }
        accounts
    }

    /// What all accounts received, counting only what nobody doubts any more, less what they spent.
    pub(crate) fn balance_of_all(&self, depth_min: i64) -> Amount {
        let valid = self.txs.values().filter(|tx| tx.state != TxState::Conflicted);
        let net = valid.map(|tx| {
            let (spent, depth_min) = match &tx.origin {
                Origin::Outside => (Amount::ZERO, depth_min.max(TRUSTED_DEPTH)),
                Origin::Wallet(sent) => {
                    let paid: Amount = tx.listed().map(|output| output.amount).sum();
                    (paid.saturating_add(sent.fee), depth_min)
                }
            };
            let counted = self.received(tx).filter(|_| self.confirmations(tx) >= depth_min);
            counted
                .map(|(_, output)| output.amount)
                .sum::<Amount>()
                .saturating_sub(spent)
        });
        net.sum()
    }

    /// What the wallet could spend now.
    pub(crate) fn spendable(&self) -> Amount {
        self.coins().into_iter().map(|(_, amount)| amount).sum()
    }

    /// What one address or the addresses of one account received in all.
    pub(crate) fn received_by(&self, depth_min: i64, counts: impl Fn(&str, Address) -> bool) -> Amount {
        let deep = self.txs.values().filter(|tx| self.confirmations(tx) >= depth_min);
        let outputs = deep.flat_map(|tx| self.received(tx));
        let counted = outputs.filter(|(account, output)| counts(account, output.address));
        counted.map(|(_, output)| output.amount).sum()
    }

    pub(crate) fn received<'a>(&'a self, tx: &'a Tx) -> impl Iterator<Item = (&'a str, &'a Output)> {
        let ours = tx.listed().filter(|output| self.wallet.owns(output.address));
        ours.map(|output| (self.wallet.account_of(output.address).unwrap_or(""), output))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Note;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Deposit(usize, i64),
        Send(usize, i64),
        Mine(u32),
        Reorg(u32, bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        let halfords = 1..1_000_000_000_i64;
        prop_oneof![
            (0..3_usize, halfords.clone()).prop_map(|(to, amount)| Step::Deposit(to, amount)),
            (0..5_usize, halfords).prop_map(|(to, amount)| Step::Send(to, amount)),
            (1..12_u32).prop_map(Step::Mine),
            (0..12_u32, any::<bool>()).prop_map(|(depth, conflict)| Step::Reorg(depth, conflict)),
        ]
    }

    proptest! {
        /// However coins came, went and were reorganised: once all is deep, the accounts hold what can be spent.
        #[test]
        fn accounts_add_up_to_the_coins(steps in prop::collection::vec(step(), 1..40)) {
            let mut node = Node::new(100);
            let mut addresses: Vec<Address> =
                ["alice", "bob", ""].iter().map(|name| node.wallet.new_address(name, 0).unwrap()).collect();
            addresses.extend([[1; 20], [2; 20]].map(Address::from_key_hash));
            for step in steps {
                match step {
                    Step::Deposit(to, amount) => {
                        node.deposit(&[(addresses[to], Amount::from_halfords(amount))], 0).unwrap();
                    }
                    Step::Send(to, amount) => {
                        let to = (addresses[to], Amount::from_halfords(amount));
                        // There may be no coins for it.
                        let _ = node.send("alice".to_owned(), &[to], Note::default(), 0);
                    }
                    Step::Mine(blocks) => (0..blocks).for_each(|_| node.mine(0)),
                    Step::Reorg(depth, conflict) => node.reorg(depth, conflict, 0),
                }
            }
            (0..10).for_each(|_| node.mine(0));
            let held: Amount = node.accounts(1).into_values().sum();
            prop_assert_eq!(held, node.spendable());
            prop_assert_eq!(held, node.balance_of_all(1));
        }
    }
}
