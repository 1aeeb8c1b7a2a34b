//! What is next in line, read while other tasks of the function run: reading needs no session and changes nothing.

use std::collections::HashMap;
use std::sync::Arc;

use service_kit::Chain;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;
use units::FunctionName;

use crate::claim::{self, Input};
use crate::node::Node;
use crate::queue::Waiting;

pub struct Ahead {
    node: Arc<Node>,
    function: FunctionName,
    reads: HashMap<Waiting, AbortOnDropHandle<Option<Input>>>,
}

impl Ahead {
    pub fn new(node: Arc<Node>, function: FunctionName) -> Self {
        Self {
            node,
            function,
            reads: HashMap::new(),
        }
    }

    /// Reads the inputs of these, and forgets all others.
    pub fn read(&mut self, next: &[Waiting]) {
        self.reads.retain(|waiting, _| next.contains(waiting));
        for waiting in next {
            if self.reads.contains_key(waiting) {
                continue;
            }
            let (node, function, wanted) = (self.node.clone(), self.function.clone(), waiting.clone());
            let read = tokio::spawn(async move {
                let read = claim::read(&node, &function, &wanted).await;
                read.unwrap_or_else(|err| {
                    debug!(key = %wanted.key, error = %Chain(&err), "not read ahead");
                    None
                })
            });
            self.reads.insert(waiting.clone(), AbortOnDropHandle::new(read));
        }
    }

    /// What was read of a task, if it was; waits for what is being read.
    pub async fn take(&mut self, waiting: &Waiting) -> Option<Input> {
        self.reads.remove(waiting)?.await.ok().flatten()
    }
}
