//! credit-manager in a virtual run: its own bank, asked without a network between.

use container_manager::credit::SessionState;
use credit_manager::bank::{Bank, BankError, Descent, Now, OpenRequest, Opened, Usage};
use credit_manager::ledger::{Balances, Transfer};
use credit_manager::session::Outcome;
use credit_manager::settlement::wallet::{Address, AddressError, DepositId};
use credit_manager::users::User;
use tokio::time::Instant;
use units::{Amount, CpuTime, MilliCores, NodeId, SessionId, Standing, TaskId, Timestamp};
use uuid::Uuid;

use crate::scenario::{Function, Scenario};

const NODE: &str = "node-1";

/// What a user has, for the recording.
#[derive(Clone, Copy, Debug)]
pub(super) struct Funds {
    pub balance: Amount,
    pub debt_limit: Amount,
    pub standing: Standing,
    pub may_start: bool,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum MoneyError {
    #[error(transparent)]
    Bank(#[from] BankError),
    #[error(transparent)]
    Address(#[from] AddressError),
}

pub(super) struct Money {
    bank: Bank,
    node: NodeId,
    /// Intervals only: virtual time counts from here.
    began: Instant,
    addresses: Vec<Address>,
    deposits: u32,
    ids: u128,
}

impl Money {
    /// Errors if two users or functions have the same name, or if more money is put in than there can be.
    pub(super) fn new(scenario: &Scenario, began: Instant) -> Result<Self, MoneyError> {
        let mut money = Self {
            bank: Bank::new(Balances::default()),
            node: NODE.parse().expect("a node name"),
            began,
            addresses: Vec::new(),
            deposits: 0,
            ids: 0,
        };
        for (number, user) in scenario.users.iter().enumerate() {
            // Addresses have no digit 0.
            let number = number.to_string().replace('0', "z");
            let address: Address = format!("m{number:A>33}").parse()?;
            money.addresses.push(address.clone());
            money.bank.create_user(User {
                name: user.name.clone(),
                address,
                settings: user.settings.clone(),
                created_at: Timestamp::default(),
            })?;
        }
        for function in &scenario.functions {
            let owner = &scenario.users[function.user].name;
            money.bank.create_function(function.name.clone(), owner)?;
        }
        for (number, user) in scenario.users.iter().enumerate() {
            money.deposit(0, number, user.start)?;
        }
        Ok(money)
    }

    /// An id that is the same in every run.
    pub(super) fn id(&mut self) -> Uuid {
        self.ids += 1;
        Uuid::from_u128(self.ids)
    }

    fn now(&self, at_us: u64) -> Now {
        Now {
            wall: Timestamp::from_unix_ms(i64::try_from(at_us / 1000).unwrap_or(i64::MAX)),
            instant: self.began + std::time::Duration::from_micros(at_us),
        }
    }

    pub(super) fn deposit(&mut self, at_us: u64, user: usize, amount: Amount) -> Result<(), MoneyError> {
        let address = self.addresses[user].clone();
        let name = match self.bank.owner(&address) {
            Some(name) if amount.is_positive() => name.clone(),
            _ => return Ok(()),
        };
        let id = DepositId {
            txid: format!("{}", self.deposits),
            address,
            amount,
            ordinal: 0,
        };
        self.deposits += 1;
        let transfer = Transfer::deposit(&id, 0, &name, self.now(at_us).wall);
        self.bank.move_deposit(transfer, &name)?;
        self.bank.take_effects();
        Ok(())
    }

    pub(super) fn funds(&self, function: &Function) -> Result<Funds, MoneyError> {
        let view = self.bank.payer(&function.name)?;
        Ok(Funds {
            balance: view.balance,
            debt_limit: view.user.settings.debt_limit,
            standing: view.standing,
            may_start: view.refusal.is_none(),
        })
    }

    /// A session for an attempt, or `None` if credit-manager refuses it.
    pub(super) fn open(
        &mut self,
        at_us: u64,
        function: &Function,
        task: &str,
        capacity: MilliCores,
    ) -> Result<Option<SessionState>, MoneyError> {
        let session = SessionId::from_uuid(self.id());
        let fresh = TaskId::from_uuid(self.id());
        let request = OpenRequest {
            session,
            node: self.node.clone(),
            function: function.name.clone(),
            key: task.to_owned(),
            cap: None,
            capacity,
            input_bytes: 0,
            descent: Descent::default(),
        };
        let opened = self.bank.open(request, None, fresh, self.now(at_us))?;
        self.bank.take_effects();
        Ok(match opened {
            Opened::Licensed { state, .. } => Some(told(&state)),
            Opened::Refused { .. } => None,
        })
    }

    pub(super) fn report(&mut self, at_us: u64, usages: &[Usage]) -> Result<Vec<SessionState>, MoneyError> {
        let states = self.bank.report(&self.node, usages, self.now(at_us))?;
        self.bank.take_effects();
        Ok(states.iter().map(told).collect())
    }

    pub(super) fn state(&self, session: SessionId) -> Option<SessionState> {
        self.bank.state(session).as_ref().map(told)
    }

    pub(super) fn close(
        &mut self,
        at_us: u64,
        session: SessionId,
        total: CpuTime,
        outcome: Outcome,
    ) -> Result<(), MoneyError> {
        self.bank.close(session, total, outcome, self.now(at_us).wall)?;
        self.bank.take_effects();
        Ok(())
    }
}

/// A session's state as it arrives at its node.
fn told(state: &credit_manager::session::SessionState) -> SessionState {
    SessionState {
        session: state.id,
        standing: state.standing,
        restriction: state.restriction,
        may_start: state.may_start,
        grant: state.grant,
        balance: state.balance,
        revision: state.revision,
        ceiling: state.ceiling,
        dismissed: state.dismissed,
    }
}
