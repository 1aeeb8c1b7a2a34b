//! Tells the nodes at once what they would learn at their next report.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use units::{NodeId, SessionId, UserName};

use crate::bank::Bank;
use crate::session::SessionState;

/// Messages that may wait for one node. One that falls further behind is cut off; it begins again with a whole picture.
const QUEUE: usize = 256;

/// What a node is told: whole current states, so that a lost one does no harm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    pub states: Vec<SessionState>,
    /// Whether each of these users may start new work.
    pub gates: Vec<(UserName, bool)>,
}

/// The nodes that watch.
pub struct Watchers {
    streams: Vec<(NodeId, mpsc::Sender<News>)>,
    /// When each node was last there. Kept in memory only: after a restart every node has a whole lease to come back.
    seen: BTreeMap<NodeId, Instant>,
    since: Instant,
}

impl Watchers {
    pub fn new(now: Instant) -> Self {
        Self {
            streams: Vec::new(),
            seen: BTreeMap::new(),
            since: now,
        }
    }

    /// Notes who is there.
    pub fn look(&mut self, now: Instant) {
        let there = self.streams.iter().filter(|(_, stream)| !stream.is_closed());
        self.seen.extend(there.map(|(node, _)| (node.clone(), now)));
    }

    /// Whether a node was away for longer than a lease.
    pub fn is_gone(&mut self, node: &NodeId, lease: Duration, now: Instant) -> bool {
        self.look(now);
        let seen = self.seen.get(node).unwrap_or(&self.since);
        now.saturating_duration_since(*seen) > lease
    }

    /// A stream that begins with all of the node's live sessions and every user's gate.
    pub fn add(&mut self, node: NodeId, bank: &Bank) -> mpsc::Receiver<News> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let of_node = bank.sessions().filter(|session| session.node == node);
        let whole = News {
            states: of_node.filter_map(|session| bank.state(session.id)).collect(),
            gates: bank
                .views()
                .into_iter()
                .map(|view| (view.user.name, view.refusal.is_none()))
                .collect(),
        };
        // A fresh queue has room.
        let _delivered = sender.try_send(whole);
        self.streams.push((node, sender));
        receiver
    }

    /// Tells each node what changed of its sessions, and all nodes whose gate changed.
    pub fn publish(&mut self, bank: &Bank, sessions: &BTreeSet<SessionId>, users: &BTreeSet<UserName>) {
        if self.streams.is_empty() || (sessions.is_empty() && users.is_empty()) {
            return;
        }
        let gates: Vec<(UserName, bool)> = users
            .iter()
            .filter_map(|user| bank.view(user).ok())
            .map(|view| (view.user.name, view.refusal.is_none()))
            .collect();
        let mut by_node: BTreeMap<&NodeId, Vec<SessionState>> = BTreeMap::new();
        for session in sessions.iter().filter_map(|id| bank.session(*id)) {
            if let Some(state) = bank.state(session.id) {
                by_node.entry(&session.node).or_default().push(state);
            }
        }
        self.streams.retain(|(node, sender)| {
            let news = News {
                states: by_node.get(node).cloned().unwrap_or_default(),
                gates: gates.clone(),
            };
            news == News::default() || sender.try_send(news).is_ok()
        });
    }

    /// Ends every stream, so that the nodes come back for a whole picture.
    pub fn close(&mut self) {
        self.streams.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::accounts::Balances;
    use crate::users::User;
    use units::Timestamp;

    #[tokio::test]
    async fn a_node_is_gone_when_it_was_away_for_longer_than_a_lease() {
        let (bank, start) = (Bank::new(Balances::default()), Instant::now());
        let (lease, late) = (Duration::from_secs(60), Duration::from_secs(61));
        let mut watchers = Watchers::new(start);
        let node: NodeId = "node-1".parse().unwrap();
        assert!(!watchers.is_gone(&node, lease, start + lease), "it may come back");
        assert!(watchers.is_gone(&node, lease, start + late));
        let stream = watchers.add(node.clone(), &bank);
        assert!(!watchers.is_gone(&node, lease, start + 2 * late), "it is there");
        drop(stream);
        assert!(!watchers.is_gone(&node, lease, start + 2 * late + lease));
        assert!(watchers.is_gone(&node, lease, start + 3 * late));
    }

    #[tokio::test]
    async fn a_node_that_does_not_listen_is_cut_off_and_begins_again_with_a_whole_picture() {
        let (mut bank, mut watchers) = (Bank::new(Balances::default()), Watchers::new(Instant::now()));
        let name: UserName = "alice".parse().unwrap();
        let user = User {
            name: name.clone(),
            address: "mAddress11111111111111111111".parse().unwrap(),
            settings: crate::users::tests::settings(),
            created_at: Timestamp::default(),
        };
        bank.create_user(user).unwrap();
        let node: NodeId = "node-1".parse().unwrap();
        let mut deaf = watchers.add(node.clone(), &bank);
        for _ in 0..2 * QUEUE {
            watchers.publish(&bank, &BTreeSet::new(), &BTreeSet::from([name.clone()]));
        }
        let mut heard = 0;
        while deaf.recv().await.is_some() {
            heard += 1;
        }
        assert_eq!(heard, QUEUE, "what waited is told, and then the end");
        let whole = watchers.add(node, &bank).recv().await.unwrap();
        assert_eq!(whole.gates, [(name, false)]);
    }
}
