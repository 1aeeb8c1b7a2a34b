//! I7, account by account: what the wallet's account of each user has to hold, where the wallet keeps accounts.

use std::collections::{BTreeMap, BTreeSet};

use units::{Amount, UserName};

use super::audit::Check;
use super::listing::Listing;
use super::outbox::{PayoutState, Purpose};
use super::wallet::Deposit;
use crate::bank::{Bank, FEE_RESERVE};
use crate::ledger::{Account, TransferId};

pub const ACCOUNTS: &str = "I7 the wallet's account of each user is the ledger's";

/// What an account of the wallet may hold: one amount, but for payments whose outcome nobody knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    pub least: Amount,
    pub most: Amount,
}

/// What a comparison found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub check: Check,
    /// Whose account holds more than it may, and how much.
    pub excess: BTreeMap<UserName, Amount>,
}

/// By the ledger and its outbox. Deposits that only one side counts yet are not in it.
pub fn expected(bank: &Bank) -> BTreeMap<UserName, Range> {
    let of = |account| bank.balances().of(&account);
    let owned =
        |name: &UserName| of(Account::User(name.clone())).saturating_add(of(Account::Due(name.clone())));
    let mut expected: BTreeMap<UserName, Range> = bank
        .views()
        .into_iter()
        .map(|view| {
            let (least, most) = (owned(&view.user.name), owned(&view.user.name));
            (view.user.name, Range { least, most })
        })
        .collect();
    for payout in bank.payouts() {
        let Some(range) = payout.purpose.user().and_then(|user| expected.get_mut(user)) else {
            continue;
        };
        let amount = payout.payment.amount;
        match &payout.purpose {
            // The ledger took the coins out; the wallet has them until they are sent.
            Purpose::Withdrawal { .. } => {
                let taken = amount.saturating_add(FEE_RESERVE);
                range.most = range.most.saturating_add(taken);
                if payout.state == PayoutState::Unsent {
                    range.least = range.least.saturating_add(taken);
                }
            }
            // The wallet made the move and forgot it.
            Purpose::Settlement { .. } if payout.is_booked => range.most = range.most.saturating_add(amount),
            Purpose::Settlement { .. } => range.least = range.least.saturating_sub(amount),
            Purpose::Earnings { .. } => {}
        }
    }
    expected
}

/// Compares the wallet's accounts with what is expected of them, after adding what the wallet counts and the ledger has
/// not credited yet, and taking off what the ledger has credited and a reorganisation has lifted up again.
pub fn judge(
    expected: &BTreeMap<UserName, Range>,
    balances: &BTreeMap<String, Amount>,
    deposits: &[(UserName, Deposit)],
    credited: &[TransferId],
    confirmations: u32,
) -> Judgement {
    let credited: BTreeSet<&str> = credited.iter().map(TransferId::without_round).collect();
    let mut lead: BTreeMap<&UserName, Amount> = BTreeMap::new();
    for (user, deposit) in deposits {
        let is_counted = deposit.confirmations >= i64::from(confirmations);
        let is_credited = credited.contains(TransferId::deposit_without_round(&deposit.id).as_str());
        let lead = lead.entry(user).or_default();
        match (is_counted, is_credited) {
            (true, false) => *lead = lead.saturating_add(deposit.id.amount),
            (false, true) => *lead = lead.saturating_sub(deposit.id.amount),
            (true, true) | (false, false) => {}
        }
    }
    let mut wrong = Vec::new();
    let mut excess = BTreeMap::new();
    for (user, Range { least, most }) in expected {
        let held = balances.get(user.as_str()).copied().unwrap_or_default();
        let settled = held.saturating_sub(lead.get(user).copied().unwrap_or_default());
        if settled < *least || settled > *most {
            wrong.push(format!(
                "{user} (wallet {settled} GRC, ledger {least} to {most} GRC)"
            ));
        }
        if settled > *most {
            excess.insert(user.clone(), settled.saturating_sub(*most));
        }
    }
    let check = Check {
        name: ACCOUNTS,
        ok: wrong.is_empty(),
        detail: format!("{} accounts, wrong: {}", expected.len(), Listing(&wrong)),
    };
    Judgement { check, excess }
}
