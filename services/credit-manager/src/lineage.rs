//! A lineage: a task that somebody dropped, its root, and every task that came of it by chained functions. Pure.
//!
//! A lineage has one budget, the money cap of its root, and spends it to the halford: what its ended sessions cost, what its
//! live ones have cost so far, and what the grants of those would still cost never sum above it. It is shared between the
//! live ones as a user's funds are (see [`grant`](crate::grant)), so tasks of one lineage may run side by side.

use sha2::{Digest as _, Sha256};
use units::{Amount, FunctionName, TaskId};

use crate::grant::{Allotment, Claim, Funds, Purse, Share};
use crate::rating::Meter;

/// A lineage as the journal has it, in its root's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    pub root: TaskId,
    /// What the root and all that came of it may cost together.
    pub cap: Option<Amount>,
    /// What their ended sessions cost.
    pub closed: Amount,
}

impl Lineage {
    pub fn new(root: TaskId, cap: Option<Amount>) -> Self {
        Self {
            root,
            cap,
            closed: Amount::ZERO,
        }
    }

    /// What is left when nothing of it runs.
    pub fn left(&self) -> Option<Amount> {
        self.cap.map(|cap| cap.saturating_sub(self.closed).or_zero())
    }
}

/// A lineage with live sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveLineage {
    pub lineage: Lineage,
    /// The claims of the billed ones of them.
    purse: Purse,
    /// What they have cost so far.
    spending: Amount,
    sessions: usize,
}

impl LiveLineage {
    pub fn new(lineage: Lineage) -> Self {
        Self {
            lineage,
            purse: Purse::default(),
            spending: Amount::ZERO,
            sessions: 0,
        }
    }

    pub fn add(&mut self, claim: Claim, cost: Amount) {
        self.sessions += 1;
        self.replace((Claim::default(), Amount::ZERO), (claim, cost));
    }

    /// Takes an ended session out; says whether none is left.
    pub fn remove(&mut self, claim: Claim, cost: Amount) -> bool {
        self.sessions -= 1;
        self.replace((claim, cost), (Claim::default(), Amount::ZERO));
        self.sessions == 0
    }

    /// Puts a session's claim and cost after a change in the place of those before it.
    pub fn replace(&mut self, before: (Claim, Amount), after: (Claim, Amount)) {
        self.purse.replace(before.0, after.0);
        self.spending = self.spending.saturating_sub(before.1).saturating_add(after.1);
    }

    /// What its live sessions may still spend together, their grants included.
    fn room(&self) -> Option<Amount> {
        Some(self.lineage.left()?.saturating_sub(self.spending).or_zero())
    }

    /// What is spent, and what the grants in force would cost on top.
    #[cfg(test)]
    pub(crate) fn committed(&self) -> Amount {
        let spent = self.lineage.closed.saturating_add(self.spending);
        spent.saturating_add(self.purse.granted())
    }

    /// Whether everything is spent, or granted to those that run.
    pub fn is_held(&self) -> bool {
        self.room().is_some_and(|room| room <= self.purse.granted())
    }

    /// What the session of `claim` may have beyond its present cost; `None` without a cap. `is_alone` says that no other
    /// can join while it runs, so nothing has to be kept back.
    pub fn share(&self, claim: Claim, meter: &Meter, is_alone: bool) -> Option<Allotment> {
        let room = self.room()?;
        let funds = Funds {
            positive: room,
            whole: room,
        };
        if is_alone && self.sessions == 1 {
            let share = Share {
                throttle: room,
                stop: room,
            };
            return Some(Allotment {
                share,
                starved: false,
            });
        }
        Some(self.purse.share(funds, claim, meter))
    }
}

/// The id of the task that a result of `parent` becomes when it is first put into `function`'s input as `key`. The same
/// again is the same task, however often a node that crashed puts it there. As old as its parent, so ids stay in the
/// order of time.
pub fn chained_id(parent: TaskId, function: &FunctionName, key: &str) -> TaskId {
    let digest = Sha256::digest(format!("{parent}/{function}/{key}"));
    let mut bits = [0; 10];
    bits.copy_from_slice(&digest[..10]);
    parent.derived(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chained_task_has_one_id_and_each_has_its_own() {
        let (parent, function) = (TaskId::new(), "next".parse().unwrap());
        let id = chained_id(parent, &function, "a");
        assert_eq!(chained_id(parent, &function, "a"), id);
        assert_ne!(chained_id(parent, &function, "b"), id);
        assert_ne!(chained_id(parent, &"other".parse().unwrap(), "a"), id);
        assert_ne!(chained_id(TaskId::new(), &function, "a"), id);
    }

    #[test]
    fn what_is_left_is_never_negative() {
        let mut lineage = Lineage::new(TaskId::new(), Some(Amount::from_halfords(10)));
        assert_eq!(lineage.left(), Some(Amount::from_halfords(10)));
        lineage.closed = Amount::from_halfords(11);
        assert_eq!(lineage.left(), Some(Amount::ZERO));
        assert_eq!(Lineage::new(TaskId::new(), None).left(), None);
    }
}
