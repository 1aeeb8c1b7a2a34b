//! A Gridcoin node for development: answers as the real daemon does, and misbehaves on request.
//!
//! It speaks the JSON-RPC of `gridcoinresearchd` 5.5.1.0 with accounts, byte for byte where the daemon's replies were
//! recorded (`tests/vectors.json`), but has no peers, no scripts and no proof of work: blocks come by a timer or on
//! demand, coins from an outside that never runs dry. A pure core (`node`, `wallet`, `blocks`, `lists`, `sums`) is
//! served by a thin shell (`http`, `rpc`, `snapshot`).
//!
//! Beside the daemon's methods there are `dev_deposit [address, amount]`, `dev_mine [blocks]` and
//! `dev_reorg [depth, conflict]`, which the real daemon answers with "Method not found".

mod address;
mod blocks;
mod error;
mod fault;
mod hash;
mod help;
mod hold;
mod http;
mod json;
mod lists;
mod methods;
mod node;
mod rpc;
mod snapshot;
mod sums;
mod wallet;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::value::RawValue;
use service_kit::{Clock, Secret, SystemClock};
use units::Amount;

pub use address::{Address, AddressError};
pub use error::RpcError;
pub use fault::Fault;
pub use hash::{Hash256, HashError};
pub use hold::{Held, HoldAt};
pub use http::serve;
pub use snapshot::SnapshotError;

use fault::Faults;
use hold::{Hold, Holds};
use json::Params;
use methods::Call;
use node::Node;

/// How the node behaves. `Default` is the daemon as we use it, with blocks on demand and nothing on disk.
#[derive(Clone, Debug)]
pub struct ChainConfig {
    /// Where the node lives between restarts; `None` keeps it in memory.
    pub data_file: Option<PathBuf>,
    /// Time between blocks; `None` mines only on demand.
    pub block_interval: Option<Duration>,
    pub rpc_user: String,
    pub rpc_password: Secret,
    /// The daemon's `enableaccounts`: without it the accounts API is refused.
    pub enable_accounts: bool,
    /// The daemon's `staking`: with it the accounts API is refused.
    pub staking: bool,
    /// The daemon's `keypool`: how many addresses a locked wallet can still give out.
    pub key_pool: u32,
}

impl Default for ChainConfig {
    fn default() -> Self {
        Self {
            data_file: None,
            block_interval: None,
            rpc_user: "gridcoinrpc".to_owned(),
            rpc_password: Secret::new("test"),
            enable_accounts: true,
            staking: false,
            key_pool: 100,
        }
    }
}

/// A node, and the handle to it: clones share one node.
#[derive(Clone)]
pub struct Chain(Arc<Shared>);

struct Shared {
    config: ChainConfig,
    clock: Box<dyn Clock>,
    /// Unix seconds.
    started_at: i64,
    node: Mutex<Node>,
    faults: Faults,
    holds: Holds,
}

impl Chain {
    /// Opens the node in its data file, or begins a new one with the genesis block alone.
    pub fn open(config: ChainConfig) -> Result<Self, SnapshotError> {
        Self::open_with_clock(config, SystemClock)
    }

    /// As [`Chain::open`], with another clock for the times in lists and the lock of the wallet.
    pub fn open_with_clock(config: ChainConfig, clock: impl Clock) -> Result<Self, SnapshotError> {
        let stored = config
            .data_file
            .as_deref()
            .map(snapshot::load)
            .transpose()?
            .flatten();
        let node = stored.unwrap_or_else(|| Node::new(config.key_pool));
        Ok(Self(Arc::new(Shared {
            started_at: clock.now().unix_ms() / 1000,
            config,
            clock: Box::new(clock),
            node: Mutex::new(node),
            faults: Faults::default(),
            holds: Holds::default(),
        })))
    }

    pub fn config(&self) -> &ChainConfig {
        &self.0.config
    }

    /// Sends coins from outside to an address of this wallet, in the memory pool until the next block. The transaction's
    /// id. Refused for an address of somebody else.
    pub fn deposit(&self, address: &Address, amount: Amount) -> Result<Hash256, RpcError> {
        self.deposit_many(&[(*address, amount)])
    }

    /// Sends coins from outside to several addresses in one transaction, of which one at least is this wallet's. The
    /// same address and amount may stand there twice.
    pub fn deposit_many(&self, to: &[(Address, Amount)]) -> Result<Hash256, RpcError> {
        let mut node = self.node();
        let txid = node.deposit(to, self.now())?;
        self.save(&node)?;
        Ok(txid)
    }

    /// Mines this many blocks; the first takes up everything that waits.
    pub fn mine(&self, blocks: u32) -> Result<(), SnapshotError> {
        let mut node = self.node();
        (0..blocks).for_each(|_| node.mine(self.now()));
        self.save(&node)
    }

    /// Replaces the last `depth` blocks by one more, empty ones. What the lost blocks carried waits for the next block;
    /// with `conflict`, the deposits among it are double-spent: gone for good, with everything paid from them.
    pub fn reorg(&self, depth: u32, conflict: bool) -> Result<(), SnapshotError> {
        let mut node = self.node();
        node.reorg(depth, conflict, self.now());
        self.save(&node)
    }

    /// Makes the wallet forget its last `count` moves and sends, as when an older copy of it is restored. A send that is in a
    /// block is found there again, without the words it was made with; one that is not is gone.
    pub fn forget(&self, count: usize) -> Result<(), SnapshotError> {
        let mut node = self.node();
        node.forget(count);
        self.save(&node)
    }

    /// The height of the newest block; 0 for a new node.
    pub fn height(&self) -> u32 {
        self.node().blocks.height()
    }

    /// Makes the next `count` calls of `method` (`None`: of any) go wrong. Faults are used up in the order they were set.
    /// A batch is hit by the method of its first member.
    pub fn set_fault(&self, method: Option<&str>, fault: Fault, count: u32) {
        self.0.faults.set(method, fault, count);
    }

    /// Forgets all faults not used up yet.
    pub fn clear_faults(&self) {
        self.0.faults.clear();
    }

    /// Holds up the next call of `method`, whoever makes it, until the returned handle says how it goes on. A call that is
    /// held goes on even if its caller is gone, so the caller's end and the call's effect can come in either order.
    /// Faults strike it as well, between the two places where it can be held.
    pub fn hold(&self, method: &str, at: HoldAt) -> Held {
        self.0.holds.set(method, at)
    }

    fn take_hold(&self, method: &str) -> Option<Hold> {
        self.0.holds.take(method)
    }

    fn take_fault(&self, method: &str) -> Option<Fault> {
        self.0.faults.take(method)
    }

    /// Carries out one call; what it changed is on disk before this returns. After an error it may be on disk or not.
    fn call(&self, method: &str, params: &[Box<RawValue>]) -> Result<methods::Reply, SnapshotError> {
        let Some(method) = methods::find(method) else {
            return Ok(Err(RpcError::unknown_method()));
        };
        let mut node = self.node();
        let reply = method.run(&mut Call {
            node: &mut node,
            config: &self.0.config,
            started_at: self.0.started_at,
            now: self.now(),
            params: Params(params),
        });
        if method.writes && reply.is_ok() {
            self.save(&node)?;
        }
        Ok(reply)
    }

    fn save(&self, node: &Node) -> Result<(), SnapshotError> {
        match &self.0.config.data_file {
            Some(path) => snapshot::save(path, node),
            None => Ok(()),
        }
    }

    fn now(&self) -> i64 {
        self.0.clock.now().unix_ms() / 1000
    }

    fn node(&self) -> MutexGuard<'_, Node> {
        self.0.node.lock().expect("no holder of the node panics")
    }
}
