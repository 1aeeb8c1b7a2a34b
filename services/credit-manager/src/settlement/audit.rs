//! Proves that the ledger holds its invariants and that the wallet agrees with it. The names are those of DESIGN's
//! invariants; each check tells the figures it was judged by.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use service_kit::Chain;
use tracing::error;
use units::{Amount, UserName};

use super::listing::Listing;
use super::mirror;
use super::outbox::Payout;
use super::wallet::{Address, Deposit, PaymentId, Route, Wallet, WalletError};
use crate::bank::FEE_RESERVE;
use crate::ledger::reader::{Proof, ReadError};
use crate::ledger::{Account, Reader, TransferId};
use crate::writer::{CommandError, Desk, Writer};

/// One invariant, judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub name: &'static str,
    pub ok: bool,
    /// The figures behind the verdict.
    pub detail: String,
}

#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Ledger(#[from] CommandError),
}

/// What an audit asks.
#[derive(Clone)]
pub struct Auditor {
    pub writer: Writer,
    pub reader: Reader,
    pub wallet: Arc<dyn Wallet>,
    pub confirmations: u32,
}

impl Auditor {
    /// Every check, in the order of the invariants. A wallet that cannot be asked fails its checks, not the audit.
    pub async fn audit(&self) -> Result<Vec<Check>, AuditError> {
        let proof = self.reader.proof().await?;
        let mut checks = Vec::from(of_ledger(&proof));
        checks.push(self.writer.call(|desk| Ok(grants(desk))).await?);
        match self.mirror().await? {
            Ok(mirror) => checks.extend(mirror.checks),
            Err(err) => checks.extend([DEPOSITS, COINS].map(|name| Check {
                name,
                ok: false,
                detail: Chain(&err).to_string(),
            })),
        }
        for check in checks.iter().filter(|check| !check.ok) {
            error!(check = check.name, detail = check.detail, "an audit check failed");
        }
        Ok(checks)
    }

    /// I7. Both sides go on while they are compared, so a disagreement counts only if it is there three times in a row.
    pub async fn mirror(&self) -> Result<Result<Mirror, WalletError>, AuditError> {
        for _ in 1..TRIES {
            match self.look().await? {
                Ok(mirror) if mirror.checks.iter().any(|check| !check.ok) => tokio::time::sleep(PAUSE).await,
                seen => return Ok(seen),
            }
        }
        self.look().await
    }

    /// The ledger is read before the wallet is asked, so a deposit credited in between cannot look missing.
    async fn look(&self) -> Result<Result<Mirror, WalletError>, AuditError> {
        let credited = self.reader.credited_deposits().await?;
        let sent = self.reader.made_sends(SENDS).await?;
        let (owed, owners, expected) = self
            .writer
            .call(|desk| Ok((owed(desk), owners(desk), mirror::expected(&desk.bank))))
            .await?;
        let asked = async {
            let found = self.wallet.deposits(None, self.confirmations).await?;
            let accounts = self.wallet.account_balances(self.confirmations).await?;
            let balance = self.wallet.balance(self.confirmations).await?;
            Ok::<_, WalletError>((found, accounts, balance, self.forgotten(&sent).await?))
        };
        let (found, accounts, balance, forgotten) = match asked.await {
            Ok(answers) => answers,
            Err(err) => return Ok(Err(err)),
        };
        let owned = |deposit: Deposit| Some((owners.get(&deposit.id.address)?.clone(), deposit));
        let deposits: Vec<(UserName, Deposit)> = found.deposits.into_iter().filter_map(owned).collect();
        let mut checks = vec![
            on_chain(&credited, &deposits, self.confirmations),
            covered(balance, young(&deposits, self.confirmations), &owed),
            Check {
                name: SENT,
                ok: forgotten.is_empty(),
                detail: format!(
                    "the last {} looked for, missing: {} (never sent again by themselves: look for their transactions on \
                     the chain first)",
                    sent.len(),
                    Listing(&forgotten)
                ),
            },
        ];
        let mut excess = BTreeMap::new();
        if let Some(accounts) = accounts {
            let judgement = mirror::judge(&expected, &accounts, &deposits, &credited, self.confirmations);
            checks.push(judgement.check);
            excess = judgement.excess;
        }
        Ok(Ok(Mirror { checks, excess }))
    }

    /// Which of these payments the wallet knows nothing of.
    async fn forgotten(&self, sent: &[Payout]) -> Result<Vec<PaymentId>, WalletError> {
        let mut forgotten = Vec::new();
        for payout in sent {
            if let Some(txid) = payout.state.receipt().and_then(|receipt| receipt.txid.as_ref())
                && !self.wallet.has_transaction(txid).await?
            {
                forgotten.push(payout.payment.id.clone());
            }
        }
        Ok(forgotten)
    }
}

/// What a ledger proves by itself, also a copy of one.
pub fn of_ledger(proof: &Proof) -> [Check; 4] {
    [
        conservation(proof),
        replay(proof),
        positive(proof),
        charges(proof),
    ]
}

/// What the wallet shows of the ledger.
#[derive(Clone, Debug)]
pub struct Mirror {
    pub checks: Vec<Check>,
    /// Whose account of the wallet holds more than the ledger says, and how much.
    pub excess: BTreeMap<UserName, Amount>,
}

/// How often in a row a disagreement has to be seen.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(100);
/// How many of the last sends are looked for: an older copy of a wallet lacks the newest.
const SENDS: u32 = 20;

const SENT: &str = "I7 every payment that was sent is in the wallet";
const DEPOSITS: &str = "I7 every credited deposit is on the chain";
const COINS: &str = "I7 the wallet holds what the ledger owes";

fn conservation(proof: &Proof) -> Check {
    let sum: i128 = proof
        .accounts
        .values()
        .map(|balance| i128::from(balance.halfords()))
        .sum();
    Check {
        name: "I1 all accounts sum to zero",
        ok: sum == 0,
        detail: format!("{} accounts, sum {sum} halfords", proof.accounts.len()),
    }
}

fn replay(proof: &Proof) -> Check {
    let wrong: Vec<String> = proof
        .accounts
        .iter()
        .filter(|(account, balance)| proof.replayed.get(account) != Some(balance))
        .map(|(account, _)| account.to_string())
        .collect();
    Check {
        name: "I2 balances equal the replayed transfers",
        ok: wrong.is_empty() && proof.accounts.len() == proof.replayed.len(),
        detail: format!(
            "{} transfers, accounts that differ: {}",
            proof.transfers,
            Listing(&wrong)
        ),
    }
}

fn positive(proof: &Proof) -> Check {
    Check {
        name: "I1 every transfer is positive",
        ok: proof.not_positive == 0,
        detail: format!(
            "{} transfers, {} not positive",
            proof.transfers, proof.not_positive
        ),
    }
}

fn charges(proof: &Proof) -> Check {
    Check {
        name: "I4 every closed session cost its price times its CPU time",
        ok: proof.mischarged.is_empty(),
        detail: format!(
            "{} closed sessions, wrong: {}",
            proof.closed_sessions,
            Listing(&proof.mischarged)
        ),
    }
}

/// Judges the newest grants. Where a limit was lowered, a deposit taken back or a fee larger than what was kept for it,
/// older and larger ones are counted until their nodes give them back, which is told and is no fault.
fn grants(desk: &Desk) -> Check {
    let mut promised: BTreeMap<UserName, Amount> = BTreeMap::new();
    for session in desk.bank.sessions() {
        let sum = promised.entry(session.user.clone()).or_default();
        *sum = sum.saturating_add(session.promised());
    }
    let (mut over, mut waiting) = (Vec::new(), Vec::new());
    let mut granted = Amount::ZERO;
    for view in desk.bank.views() {
        let room = view.user.settings.funds(view.balance).whole;
        let name = view.user.name;
        granted = granted.saturating_add(view.granted);
        if promised.get(&name).is_some_and(|promised| *promised > room) {
            over.push(name.to_string());
        } else if view.granted > room {
            waiting.push(name.to_string());
        }
    }
    Check {
        name: "I5 grants are covered by balance and debt limit",
        ok: over.is_empty(),
        detail: format!(
            "{granted} GRC granted, over: {}, being given back: {}",
            Listing(&over),
            Listing(&waiting)
        ),
    }
}

fn owners(desk: &Desk) -> BTreeMap<Address, UserName> {
    let views = desk.bank.views().into_iter();
    views.map(|view| (view.user.address, view.user.name)).collect()
}

/// Compares the deposits that the ledger holds with those that the chain shows.
fn on_chain(credited: &[TransferId], deposits: &[(UserName, Deposit)], confirmations: u32) -> Check {
    let present: BTreeSet<String> = deposits
        .iter()
        .filter(|(_, deposit)| deposit.confirmations >= 0)
        .map(|(_, deposit)| TransferId::deposit_without_round(&deposit.id))
        .collect();
    let confirmed = deposits
        .iter()
        .filter(|(_, deposit)| deposit.confirmations >= i64::from(confirmations))
        .count();
    let missing: Vec<&str> = credited
        .iter()
        .map(TransferId::without_round)
        .filter(|id| !present.contains(*id))
        .collect();
    Check {
        name: DEPOSITS,
        ok: missing.is_empty(),
        detail: format!(
            "{} credited, {confirmed} confirmed on the chain, missing there: {}",
            credited.len(),
            Listing(&missing)
        ),
    }
}

/// The daemon counts coins into its balance from this depth on, even where fewer confirmations are asked for.
const BALANCE_DEPTH: i64 = 3;

/// What may be credited by now and does not count in the wallet's balance yet: deposits that are not deep enough for it,
/// among them those that a reorganisation lifted up again.
fn young(deposits: &[(UserName, Deposit)], confirmations: u32) -> Amount {
    let depth = i64::from(confirmations).max(BALANCE_DEPTH);
    let young = deposits
        .iter()
        .filter(|(_, deposit)| (0..depth).contains(&deposit.confirmations));
    young.map(|(_, deposit)| deposit.id.amount).sum()
}

/// What the ledger says the wallet has, and how much of it may be under way, fees included.
struct Owed {
    coins: Amount,
    under_way: Amount,
}

fn owed(desk: &Desk) -> Owed {
    let sends = desk
        .bank
        .payouts()
        .filter(|payout| matches!(payout.payment.route, Route::Send { .. }));
    // A fee may have left with each.
    let leaving = sends.map(|payout| payout.payment.amount.saturating_add(FEE_RESERVE));
    Owed {
        coins: Amount::ZERO.saturating_sub(desk.bank.balances().of(&Account::Chain)),
        under_way: leaving.sum(),
    }
}

/// The wallet may hold more: deposits not credited yet, and the provider's own coins. A payment that is under way, and
/// its fee, may have left it already.
fn covered(balance: Amount, young: Amount, owed: &Owed) -> Check {
    let least = owed.coins.saturating_sub(owed.under_way);
    Check {
        name: COINS,
        ok: balance.saturating_add(young) >= least,
        detail: format!(
            "wallet {balance} GRC and {young} GRC too young to count there, ledger {} GRC, under way {} GRC",
            owed.coins, owed.under_way
        ),
    }
}
