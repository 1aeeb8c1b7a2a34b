//! The whole state of credit-manager in memory, and what every event does to it. Pure: no clock, no files, no network.
//!
//! The journal holds the same state; a [`Bank`] is rebuilt from it at every start. Each method checks first and changes
//! then, notes in [`Effects`] what has to be written and who has to be told, and leaves both to the
//! [`writer`](crate::writer).

mod alarms;
mod grants;
mod limits;
mod money;
mod sessions;
mod users;

use std::collections::{BTreeMap, BTreeSet};

use service_kit::spelling;
use tokio::time::Instant;
use units::{Amount, FunctionName, SessionId, TaskId, Timestamp, UserName};

use crate::alert::Alarm;
#[cfg(test)]
use crate::grant::Holding;
use crate::ledger::accounts::BalanceOverflow;
use crate::ledger::{Account, Balances, Transfer};
use crate::lineage::{Lineage, LiveLineage};
#[cfg(test)]
use crate::pace::Pace;
use crate::rating::TotalTooLarge;
use crate::session::{Closed, Leases, Outcome, Session, Task};
use crate::settlement::outbox::{Payout, Purpose};
use crate::settlement::wallet::{Address, Cursor, PaymentId};
use crate::users::{Function, User, UserState};

pub use money::{FEE_RESERVE, Sum, WithdrawalOrder};
pub use sessions::{Descent, OpenRequest, Opened, Refusal, Usage};
pub use users::UserView;

/// The present moment, as the two kinds of time that are kept apart: for records, and for intervals.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub wall: Timestamp,
    pub instant: Instant,
}

/// One thing for the journal to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    User(User),
    Function(Function),
    Alarm(UserName, Alarm),
    Task(Task),
    Lineage(Lineage),
    Opened(Box<Session>),
    Closed(Closed, Timestamp),
    Posted(Transfer),
    Payout(Payout),
    Scanned(Cursor),
}

/// What a command leaves to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// To be written before anybody hears of the command's outcome, in this order.
    pub changes: Vec<Change>,
    /// Live sessions whose row has to be brought up to date with this commit.
    pub stale: BTreeSet<SessionId>,
    /// Live sessions whose nodes have to be told their state.
    pub news: BTreeSet<SessionId>,
    /// Users whose gate opened or closed.
    pub gates: BTreeSet<UserName>,
}

/// Why a command changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum BankError {
    #[error("there is no user `{user}` (hint: {advice})")]
    UnknownUser { user: UserName, advice: String },
    #[error("there is a user `{0}` already")]
    UserExists(UserName),
    #[error("there is no function `{0}` (hint: `gridfaas function list` shows what there is)")]
    UnknownFunction(FunctionName),
    #[error(
        "{limit} GRC an hour are less than the least a container can run on, which costs {least} GRC (hint: set more)"
    )]
    LimitTooLow { limit: Amount, least: Amount },
    #[error("function `{function}` belongs to user `{owner}`")]
    FunctionTaken { function: FunctionName, owner: UserName },
    #[error("tasks of function `{0}` run (hint: `gridfaas function stop {0}`, and wait or cancel them)")]
    FunctionRuns(FunctionName),
    #[error("there is no session `{0}`")]
    UnknownSession(SessionId),
    #[error("session `{0}` was opened before with other content")]
    OpenedDifferently(SessionId),
    #[error("session `{session}` is closed already, as {}", outcome.as_str())]
    AlreadyClosed { session: SessionId, outcome: Outcome },
    #[error("session `{session}`")]
    Total {
        session: SessionId,
        #[source]
        err: TotalTooLarge,
    },
    #[error("address `{0}` belongs to another user")]
    AddressTaken(Address),
    #[error("there is no unfinished payment `{0}`")]
    UnknownPayment(PaymentId),
    #[error(
        "{user} cannot withdraw {}: at most {most} GRC are free (balance {balance} GRC, less {granted} GRC granted to \
         running tasks and {FEE_RESERVE} GRC kept for the fee)",
        asked.map_or_else(|| "all".to_owned(), |asked| format!("{asked} GRC"))
    )]
    NotFree {
        user: UserName,
        /// None: all.
        asked: Option<Amount>,
        most: Amount,
        balance: Amount,
        granted: Amount,
    },
    #[error(transparent)]
    Overflow(#[from] BalanceOverflow),
}

#[derive(Debug, Default)]
pub struct Bank {
    users: BTreeMap<UserName, UserState>,
    addresses: BTreeMap<Address, UserName>,
    functions: BTreeMap<FunctionName, Function>,
    /// The live ones.
    sessions: BTreeMap<SessionId, Session>,
    /// Which session runs an object: at most one may (I10).
    objects: BTreeMap<(FunctionName, String), SessionId>,
    /// Those with live sessions, by their roots.
    lineages: BTreeMap<TaskId, LiveLineage>,
    leases: Leases,
    balances: Balances,
    /// The unfinished ones.
    payouts: BTreeMap<PaymentId, Payout>,
    cursor: Option<Cursor>,
    /// All charges ever settled, those on their way included: where the split between the receivers goes on.
    settled: Amount,
    effects: Effects,
}

impl Bank {
    pub fn new(balances: Balances) -> Self {
        Self {
            balances,
            ..Self::default()
        }
    }

    pub fn restore_user(&mut self, user: User) {
        self.addresses.insert(user.address.clone(), user.name.clone());
        let name = user.name.clone();
        self.users.insert(name.clone(), UserState::new(user));
        self.note_gate(&name);
        self.effects = Effects::default();
    }

    pub fn restore_function(&mut self, function: Function) {
        if let Some(owner) = self.users.get_mut(&function.user) {
            owner.has_limited_functions |= function.max_spend.is_some();
        }
        self.functions.insert(function.name.clone(), function);
    }

    /// Has to come before the lineage's sessions; the same again changes nothing.
    pub fn restore_lineage(&mut self, lineage: Lineage) {
        self.lineages
            .entry(lineage.root)
            .or_insert_with(|| LiveLineage::new(lineage));
    }

    pub fn restore_session(&mut self, session: Session, now: Instant) {
        let user = session.user.clone();
        self.leases.renew(session.id, now);
        self.insert_session(session);
        self.judge(&user, &grants::Cause::Funds);
        self.note_gate(&user);
        self.effects = Effects::default();
    }

    /// `settled` is what the ledger booked; payouts on their way are restored by themselves.
    pub fn restore_settled(&mut self, settled: Amount) {
        self.settled = self.settled.saturating_add(settled);
    }

    pub fn restore_payout(&mut self, payout: Payout) {
        if matches!(payout.purpose, Purpose::Settlement { .. }) && !payout.is_booked {
            self.settled = self.settled.saturating_add(payout.payment.amount);
        }
        self.payouts.insert(payout.payment.id.clone(), payout);
    }

    pub fn restore_cursor(&mut self, cursor: Option<Cursor>) {
        self.cursor = cursor;
    }

    pub fn balances(&self) -> &Balances {
        &self.balances
    }

    pub fn cursor(&self) -> Option<&Cursor> {
        self.cursor.as_ref()
    }

    /// What the last command left to be done.
    pub fn take_effects(&mut self) -> Effects {
        std::mem::take(&mut self.effects)
    }

    pub fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(&id)
    }

    pub fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.sessions.values()
    }

    fn user(&self, name: &UserName) -> Result<&UserState, BankError> {
        self.users.get(name).ok_or_else(|| self.unknown_user(name))
    }

    /// Names another user, so it is for those who may know every user.
    fn unknown_user(&self, name: &UserName) -> BankError {
        let names = self.users.keys().map(UserName::as_str);
        BankError::UnknownUser {
            user: name.clone(),
            advice: spelling::advice(name.as_str(), names, "`gridfaas user list` shows who there is"),
        }
    }

    /// What a user owns, all reported usage included.
    fn balance(&self, user: &UserState) -> Amount {
        let posted = self.balances.of(&Account::User(user.user.name.clone()));
        posted.saturating_sub(user.unposted)
    }

    fn post(&mut self, transfer: Transfer) -> Result<(), BalanceOverflow> {
        self.balances.post(&transfer)?;
        self.effects.changes.push(Change::Posted(transfer));
        Ok(())
    }

    /// Fails if what a lineage has spent and granted is more than its cap.
    #[cfg(test)]
    pub(crate) fn assert_lineages_covered(&self) {
        for live in self.lineages.values() {
            if let Some(cap) = live.lineage.cap {
                assert!(live.committed() <= cap, "{live:?}");
            }
        }
    }

    /// Fails unless both answer everything alike. Leases and effects are not state, and of a holding counts what is
    /// held, not by how many grants. A pace is no state either.
    #[cfg(test)]
    pub(crate) fn assert_same_state(&self, other: &Self) {
        let sessions = |bank: &Self| -> BTreeMap<SessionId, Session> {
            let told_once = |session: &Session| {
                let holding = &session.holding;
                Session {
                    holding: Holding::restored(holding.revision(), holding.newest(), holding.held()),
                    pace: Pace::default(),
                    ..session.clone()
                }
            };
            bank.sessions
                .values()
                .map(|session| (session.id, told_once(session)))
                .collect()
        };
        assert_eq!(sessions(self), sessions(other));
        // Paces, and with them how a limit is shared, are learnt anew after a restart.
        let users = |bank: &Self| -> BTreeMap<UserName, UserState> {
            let paceless = |state: &UserState| UserState {
                burn: Amount::ZERO,
                ceilings: BTreeMap::new(),
                ..state.clone()
            };
            bank.users
                .iter()
                .map(|(name, state)| (name.clone(), paceless(state)))
                .collect()
        };
        assert_eq!(users(self), users(other));
        assert_eq!(self.addresses, other.addresses);
        assert_eq!(self.functions, other.functions);
        assert_eq!(self.objects, other.objects);
        let roots = |bank: &Self| -> Vec<Lineage> {
            let lineages = bank.lineages.values();
            lineages.map(|live| live.lineage.clone()).collect()
        };
        assert_eq!(roots(self), roots(other));
        assert_eq!(self.balances, other.balances);
        assert_eq!(self.payouts, other.payouts);
        assert_eq!(self.cursor, other.cursor);
        assert_eq!(self.settled, other.settled);
    }
}
