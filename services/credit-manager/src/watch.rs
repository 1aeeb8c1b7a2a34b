//! Tells the nodes at once what they would learn at their next report.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::mpsc;
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
#[derive(Default)]
pub struct Watchers(Vec<(NodeId, mpsc::Sender<News>)>);

impl Watchers {
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
        self.0.push((node, sender));
        receiver
    }

    /// Tells each node what changed of its sessions, and all nodes whose gate changed.
    pub fn publish(&mut self, bank: &Bank, sessions: &BTreeSet<SessionId>, users: &BTreeSet<UserName>) {
        if self.0.is_empty() || (sessions.is_empty() && users.is_empty()) {
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
        self.0.retain(|(node, sender)| {
            let news = News {
                states: by_node.get(node).cloned().unwrap_or_default(),
                gates: gates.clone(),
            };
            news == News::default() || sender.try_send(news).is_ok()
        });
    }

    /// Ends every stream, so that the nodes come back for a whole picture.
    pub fn close(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::accounts::Balances;
    use crate::users::User;
    use units::Timestamp;

    #[tokio::test]
    async fn a_node_that_does_not_listen_is_cut_off_and_begins_again_with_a_whole_picture() {
        let (mut bank, mut watchers) = (Bank::new(Balances::default()), Watchers::default());
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
