//! The ledger's accounts and their balances.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use units::{Amount, ReceiverName, UserName};

use super::Transfer;
use crate::settlement::split::label_of;

/// A holder of a balance. A balance is what was credited less what was debited.
///
/// ```text
///          deposit               charge             settlement                   payout, fee
/// chain ────────────► user:NAME ───────► due:NAME ────────────► earnings:RECEIVER ────────────► chain
///                      │     ▲ withdrawn, refused; or left of what was kept for the fee              ▲
///           withdrawal ▼     │                                                       payout, fee     │
///                      outbox ────────────────────────────────────────────────────────────────────────┘
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Account {
    /// The world outside the ledger. Minus its balance is what the wallet owes to all the others.
    Chain,
    /// What a receiver earned and the wallet knows not to be the users' any more.
    Earnings(ReceiverName),
    /// What left users' accounts and has not left the wallet.
    Outbox,
    /// What a user owns.
    User(UserName),
    /// What was charged to a user and is not settled: the wallet still counts it as the user's. Negative after a charge
    /// that was settled is reversed.
    Due(UserName),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an account of the ledger")]
pub struct AccountError(String);

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain => f.write_str("chain"),
            Self::Earnings(receiver) => f.write_str(&label_of(receiver)),
            Self::Outbox => f.write_str("outbox"),
            Self::User(user) => write!(f, "user:{user}"),
            Self::Due(user) => write!(f, "due:{user}"),
        }
    }
}

impl FromStr for Account {
    type Err = AccountError;

    fn from_str(text: &str) -> Result<Self, AccountError> {
        let refused = || AccountError(text.to_owned());
        let named = |name: &str| name.parse().map_err(|_| refused());
        let receiver = |name: &str| name.parse().map_err(|_| refused());
        match text.split_once(':') {
            None if text == "chain" => Ok(Self::Chain),
            None if text == "outbox" => Ok(Self::Outbox),
            Some(("earnings", name)) => receiver(name).map(Self::Earnings),
            Some(("user", name)) => named(name).map(Self::User),
            Some(("due", name)) => named(name).map(Self::Due),
            _ => Err(refused()),
        }
    }
}

/// The balance of every account that ever had a transfer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balances(BTreeMap<Account, Amount>);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the balance of `{0}` would leave the range of an amount")]
pub struct BalanceOverflow(pub Account);

impl Balances {
    pub fn of(&self, account: &Account) -> Amount {
        self.0.get(account).copied().unwrap_or_default()
    }

    /// Debits one account and credits the other, or changes nothing.
    pub fn post(&mut self, transfer: &Transfer) -> Result<(), BalanceOverflow> {
        let debited = self.of(&transfer.debit).checked_sub(transfer.amount);
        let credited = self.of(&transfer.credit).checked_add(transfer.amount);
        let debited = debited.ok_or_else(|| BalanceOverflow(transfer.debit.clone()))?;
        let credited = credited.ok_or_else(|| BalanceOverflow(transfer.credit.clone()))?;
        self.0.insert(transfer.debit.clone(), debited);
        self.0.insert(transfer.credit.clone(), credited);
        Ok(())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Account, Amount)> {
        self.0.iter().map(|(account, balance)| (account, *balance))
    }
}

impl FromIterator<(Account, Amount)> for Balances {
    fn from_iter<I: IntoIterator<Item = (Account, Amount)>>(balances: I) -> Self {
        Self(balances.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_read_back_and_others_refused() {
        let alice: UserName = "alice".parse().unwrap();
        for account in [
            Account::Chain,
            Account::Earnings("gridfaas".parse().unwrap()),
            Account::Outbox,
            Account::User(alice.clone()),
            Account::Due(alice),
        ] {
            assert_eq!(account.to_string().parse(), Ok(account));
        }
        for text in ["", "user", "user:", "user:Alice", "bank", "chain:x", "earnings"] {
            assert_eq!(
                text.parse::<Account>(),
                Err(AccountError(text.to_owned())),
                "{text}"
            );
        }
    }
}
