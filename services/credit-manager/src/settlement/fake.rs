//! A wallet in memory, for tests: keeps state, fails on request, and tells at the end whether all was expected.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use units::{Amount, UserName};

use super::wallet::{
    Address, AddressFacts, Cursor, Deposit, DepositId, Deposits, Payment, Receipt, Route, Wallet, WalletError,
};

/// What the chain takes for a payment.
pub const FAKE_FEE: Amount = Amount::from_halfords(100_000);

/// How the next payment goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The wallet is not there.
    Unreachable,
    /// The request is lost: nothing is done, and the caller cannot know.
    LostRequest,
    /// The payment is made, but the caller does not hear of it.
    LostReply,
    /// The daemon says no.
    Refused { code: i32, message: String },
}

/// A wallet and the chain around it. Without [`FakeWallet::mine`], no block ever comes.
#[derive(Debug, Default)]
pub struct FakeWallet(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    height: i64,
    addresses: BTreeMap<UserName, Address>,
    received: Vec<Received>,
    payments: Vec<(Payment, Receipt)>,
    /// How many of `payments` a test has not taken yet, from the end.
    unseen: usize,
    failures: VecDeque<Failure>,
    down: bool,
}

#[derive(Debug)]
struct Received {
    id: DepositId,
    place: Place,
}

/// Where a deposit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Waiting,
    Block(i64),
    /// It left the chain when the chain was this high.
    Gone(i64),
}

impl FakeWallet {
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends coins to an address in one transaction, one output for each amount. The transaction's id.
    pub fn deposit(&self, to: &Address, amounts: &[Amount]) -> String {
        let mut state = self.state();
        let txid = format!("{:064x}", state.received.len() + 1);
        for (at, amount) in amounts.iter().enumerate() {
            let alike = amounts
                .iter()
                .take(at)
                .filter(|earlier| *earlier == amount)
                .count();
            let id = DepositId {
                txid: txid.clone(),
                address: to.clone(),
                amount: *amount,
                ordinal: u32::try_from(alike).expect("a test sends few outputs"),
            };
            state.received.push(Received {
                id,
                place: Place::Waiting,
            });
        }
        txid
    }

    /// Adds this many blocks; the first takes up all deposits that wait.
    pub fn mine(&self, blocks: u32) {
        let mut state = self.state();
        if blocks == 0 {
            return;
        }
        let next = state.height + 1;
        for received in &mut state.received {
            if received.place == Place::Waiting {
                received.place = Place::Block(next);
            }
        }
        state.height += i64::from(blocks);
    }

    /// Replaces the last blocks by one more, empty ones. Their deposits wait again; with `conflict` they are gone.
    pub fn reorg(&self, depth: u32, conflict: bool) {
        let mut state = self.state();
        let (kept, height) = (state.height - i64::from(depth), state.height + 1);
        for received in &mut state.received {
            if matches!(received.place, Place::Block(at) if at > kept) {
                received.place = if conflict {
                    Place::Gone(height)
                } else {
                    Place::Waiting
                };
            }
        }
        state.height = height;
    }

    /// Makes one of the next payments go wrong, in the order asked for.
    pub fn fail_payment(&self, failure: Failure) {
        self.state().failures.push_back(failure);
    }

    /// While it is down, every call finds the wallet unreachable.
    pub fn set_down(&self, down: bool) {
        self.state().down = down;
    }

    /// The payments made since the last look, oldest first.
    pub fn take_payments(&self) -> Vec<Payment> {
        let mut state = self.state();
        let seen = state.payments.len() - state.unseen;
        state.unseen = 0;
        state.payments[seen..]
            .iter()
            .map(|(payment, _)| payment.clone())
            .collect()
    }

    /// Fails the test if a payment was made that nobody looked at, one was made twice, or a failure never struck.
    pub fn assert_quiet(&self) {
        let state = self.state();
        let unseen = &state.payments[state.payments.len() - state.unseen..];
        assert!(unseen.is_empty(), "unexpected payments: {unseen:?}");
        assert!(
            state.failures.is_empty(),
            "failures that never struck: {:?}",
            state.failures
        );
        for (at, (payment, _)) in state.payments.iter().enumerate() {
            let earlier = state.payments.iter().take(at);
            let twice = earlier.into_iter().any(|(other, _)| other.id == payment.id);
            assert!(!twice, "payment {} was made twice", payment.id);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no holder of the fake's state panics")
    }

    fn reachable(&self) -> Result<MutexGuard<'_, State>, WalletError> {
        let state = self.state();
        if state.down { Err(unreachable()) } else { Ok(state) }
    }
}

fn unreachable() -> WalletError {
    WalletError::Unreachable {
        url: "fake".to_owned(),
        err: "connection refused".into(),
    }
}

fn unclear() -> WalletError {
    WalletError::Unclear {
        method: "pay",
        err: "connection reset".into(),
    }
}

impl State {
    fn confirmations(&self, place: Place) -> i64 {
        match place {
            Place::Waiting => 0,
            Place::Block(height) => self.height + 1 - height,
            Place::Gone(_) => -1,
        }
    }

    /// An address no other user has. It looks like one, which is all that anybody but a wallet can see.
    fn new_address(&self) -> Address {
        // Base58 has no 0.
        let number = self.addresses.len().to_string().replace('0', "z");
        format!("mFake{number:A>29}")
            .parse()
            .expect("34 letters of base58")
    }

    fn balance(&self, confirmations: i64) -> Amount {
        let deep = self
            .received
            .iter()
            .filter(|received| self.confirmations(received.place) >= confirmations);
        let income: Amount = deep.map(|received| received.id.amount).sum();
        let sent = self
            .payments
            .iter()
            .filter(|(payment, _)| matches!(payment.route, Route::Send { .. }));
        let spent = sent
            .map(|(payment, receipt)| payment.amount.saturating_add(receipt.fee))
            .sum();
        income.saturating_sub(spent)
    }

    fn pay(&mut self, payment: &Payment) -> Result<Receipt, WalletError> {
        let impossible = |problem| WalletError::Impossible {
            id: payment.id.clone(),
            problem,
        };
        if !payment.amount.is_positive() {
            return Err(impossible(format!("{} GRC is not above 0", payment.amount)));
        }
        let receipt = match &payment.route {
            Route::Move { .. } => Receipt {
                txid: None,
                fee: Amount::ZERO,
            },
            Route::Send { to, .. } if self.addresses.values().any(|own| own == to) => {
                return Err(impossible(format!("`{to}` belongs to the wallet itself")));
            }
            Route::Send { .. } if self.balance(1) < payment.amount.saturating_add(FAKE_FEE) => {
                let message = "Insufficient funds".to_owned();
                return Err(WalletError::Refused {
                    method: "pay",
                    code: -4,
                    message,
                });
            }
            Route::Send { .. } => Receipt {
                txid: Some(format!("{:0<64x}", self.payments.len() + 1)),
                fee: FAKE_FEE,
            },
        };
        self.payments.push((payment.clone(), receipt.clone()));
        self.unseen += 1;
        Ok(receipt)
    }
}

#[async_trait]
impl Wallet for FakeWallet {
    async fn check(&self) -> Result<(), WalletError> {
        self.reachable().map(drop)
    }

    async fn deposit_address(&self, user: &UserName) -> Result<Address, WalletError> {
        let mut state = self.reachable()?;
        let fresh = state.new_address();
        Ok(state.addresses.entry(user.clone()).or_insert(fresh).clone())
    }

    async fn deposits(&self, cursor: Option<&Cursor>, confirmations: u32) -> Result<Deposits, WalletError> {
        let state = self.reachable()?;
        // The cursor is the height of the last scan.
        let last: i64 = cursor.and_then(|cursor| cursor.0.parse().ok()).unwrap_or(-1);
        let due = |received: &&Received| match received.place {
            Place::Waiting => true,
            Place::Block(height) => height > last - i64::from(confirmations),
            Place::Gone(height) => height > last,
        };
        let deposits = state.received.iter().filter(due).map(|received| Deposit {
            id: received.id.clone(),
            confirmations: state.confirmations(received.place),
        });
        Ok(Deposits {
            deposits: deposits.collect(),
            cursor: Cursor(state.height.to_string()),
        })
    }

    async fn pay(&self, payment: &Payment) -> Result<Receipt, WalletError> {
        let mut state = self.reachable()?;
        match state.failures.pop_front() {
            None => state.pay(payment),
            Some(Failure::Unreachable) => Err(unreachable()),
            Some(Failure::LostRequest) => Err(unclear()),
            Some(Failure::LostReply) => {
                state.pay(payment)?;
                Err(unclear())
            }
            Some(Failure::Refused { code, message }) => Err(WalletError::Refused {
                method: "pay",
                code,
                message,
            }),
        }
    }

    async fn find_payment(&self, payment: &Payment) -> Result<Option<Receipt>, WalletError> {
        let state = self.reachable()?;
        let made = state.payments.iter().find(|(made, _)| made.id == payment.id);
        match made {
            Some((made, _)) if made != payment => Err(WalletError::Nonsense {
                method: "find_payment",
                problem: format!("payment {} was made with other content", payment.id),
            }),
            Some((_, receipt)) => Ok(Some(receipt.clone())),
            None => Ok(None),
        }
    }

    async fn address_facts(&self, address: &Address) -> Result<AddressFacts, WalletError> {
        let state = self.reachable()?;
        let owner = state.addresses.iter().find(|(_, own)| *own == address);
        Ok(match owner {
            Some((user, _)) => AddressFacts::Own {
                account: user.to_string(),
            },
            None => AddressFacts::Foreign { label: None },
        })
    }

    async fn addresses_of(&self, label: &str) -> Result<Vec<Address>, WalletError> {
        let state = self.reachable()?;
        let labelled = state.addresses.iter().filter(|(user, _)| user.as_str() == label);
        Ok(labelled.map(|(_, address)| address.clone()).collect())
    }

    async fn account_balances(&self, _: u32) -> Result<Option<BTreeMap<String, Amount>>, WalletError> {
        Ok(None)
    }

    async fn has_transaction(&self, txid: &str) -> Result<bool, WalletError> {
        let state = self.reachable()?;
        let made = |(_, receipt): &(Payment, Receipt)| receipt.txid.as_deref() == Some(txid);
        Ok(state.payments.iter().any(made))
    }

    async fn check_unlocked(&self) -> Result<(), WalletError> {
        self.reachable().map(drop)
    }

    async fn balance(&self, confirmations: u32) -> Result<Amount, WalletError> {
        Ok(self.reachable()?.balance(i64::from(confirmations)))
    }
}
