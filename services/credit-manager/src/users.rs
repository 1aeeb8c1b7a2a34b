//! Users: their settings, and what their live sessions do to their funds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use units::{
    Amount, Billing, CpuPrice, FunctionName, MilliCores, OnShortage, Policy, SessionId, Standing, Timestamp,
    UserName,
};

use crate::alert::Alarm;
use crate::grant::{Funds, Purse};
use crate::settlement::wallet::Address;
use crate::shortage;
use crate::standing;
use crate::webhook::Webhook;

/// New work is refused where the funds buy less CPU time than this: it would be stopped before it did anything, and
/// with a debt limit of zero start again at once, for ever.
const START_MICROS: u64 = 100_000;

/// What can be set per user at run time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub min_balance: Amount,
    /// Not negative.
    pub debt_limit: Amount,
    pub policy: Policy,
    pub billing: Billing,
    /// For sessions opened from now on.
    pub price: CpuPrice,
    /// Off: sessions opened from now on are never billed and never restricted, and always may start.
    pub accounting: bool,
    /// New work is refused if the balance would not last this long. Zero: off.
    pub min_runway: Duration,
    pub on_shortage: OnShortage,
    /// The most that everything may cost an hour.
    pub max_spend: Option<Amount>,
    /// The balance at which an alert is raised; `None`: `min_balance`.
    pub alert_at: Option<Amount>,
    pub alert_webhook: Option<Webhook>,
}

/// Changes of [`Settings`]; what is absent stays.
#[derive(Clone, Debug, Default)]
pub struct SettingsPatch {
    pub min_balance: Option<Amount>,
    pub debt_limit: Option<Amount>,
    pub policy: Option<Policy>,
    pub billing: Option<Billing>,
    pub price: Option<CpuPrice>,
    pub accounting: Option<bool>,
    pub min_runway: Option<Duration>,
    pub on_shortage: Option<OnShortage>,
    pub max_spend: Option<Option<Amount>>,
    pub alert_at: Option<Amount>,
    pub alert_webhook: Option<Option<Webhook>>,
}

impl Settings {
    pub fn patched(&self, patch: &SettingsPatch) -> Self {
        Self {
            min_balance: patch.min_balance.unwrap_or(self.min_balance),
            debt_limit: patch.debt_limit.unwrap_or(self.debt_limit),
            policy: patch.policy.unwrap_or(self.policy),
            billing: patch.billing.unwrap_or(self.billing),
            price: patch.price.unwrap_or(self.price),
            accounting: patch.accounting.unwrap_or(self.accounting),
            min_runway: patch.min_runway.unwrap_or(self.min_runway),
            on_shortage: patch.on_shortage.unwrap_or(self.on_shortage),
            max_spend: patch.max_spend.unwrap_or(self.max_spend),
            alert_at: patch.alert_at.or(self.alert_at),
            alert_webhook: match &patch.alert_webhook {
                Some(changed) => changed.clone(),
                None => self.alert_webhook.clone(),
            },
        }
    }

    /// The balance at which an alert is raised.
    pub fn alert_threshold(&self) -> Amount {
        self.alert_at.unwrap_or(self.min_balance)
    }

    /// How long the balance has to last for new work to start.
    pub fn runway_needed(&self) -> Duration {
        match self.on_shortage {
            OnShortage::Together => self.min_runway,
            OnShortage::NewestFirst => shortage::threshold(self.min_runway),
        }
    }

    pub fn standing(&self, balance: Amount) -> Standing {
        standing::standing(balance, self.min_balance, self.debt_limit)
    }

    pub fn funds(&self, balance: Amount) -> Funds {
        Funds::of(balance, self.debt_limit)
    }

    /// Whether new work may start with this balance; if not, why not, for people.
    pub fn may_start(&self, name: &UserName, balance: Amount) -> Result<(), String> {
        if !self.accounting {
            return Ok(());
        }
        let standing = self.standing(balance);
        let runway = self.price.affordable(self.funds(balance).whole);
        if !standing::may_start(standing, self.policy) {
            Err(match standing {
                Standing::Good | Standing::Low => format!(
                    "account {name} is low on funds (balance {balance} GRC, minimum {} GRC) and its policy is {}",
                    self.min_balance, self.policy
                ),
                Standing::InDebt | Standing::Exhausted => {
                    format!("account {name} is out of funds (balance {balance} GRC)")
                }
            })
        } else if runway.micros() < START_MICROS {
            Err(format!(
                "account {name} is all but out of funds (balance {balance} GRC)"
            ))
        } else {
            Ok(())
        }
    }
}

/// A user as the journal has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: UserName,
    pub address: Address,
    pub settings: Settings,
    pub created_at: Timestamp,
}

/// A function as the journal has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    pub name: FunctionName,
    pub user: UserName,
    /// The most that its work may cost an hour.
    pub max_spend: Option<Amount>,
    /// It runs nothing any more; its name stays its user's, as what it ran does.
    pub is_deleted: bool,
}

/// A user and what its live sessions make of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserState {
    pub user: User,
    /// In the order they were opened.
    pub sessions: BTreeSet<SessionId>,
    /// The claims of the billed ones of them.
    pub purse: Purse,
    /// What they reported and is not posted.
    pub unposted: Amount,
    /// Seen on chain, not yet confirmed often enough.
    pub pending: Amount,
    /// What everybody was told last.
    pub told: Option<Gate>,
    pub alarm: Alarm,
    /// What the sessions cost an hour at their present pace.
    pub burn: Amount,
    /// Those that funds do not last for.
    pub dismissed: BTreeSet<SessionId>,
    /// Whether any of the user's functions has a spending limit of its own.
    pub has_limited_functions: bool,
    /// Of the sessions that a spending limit covers.
    pub ceilings: BTreeMap<SessionId, MilliCores>,
}

/// What others are told about a user whenever it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    pub standing: Standing,
    pub may_start: bool,
}

impl UserState {
    pub fn new(user: User) -> Self {
        Self {
            user,
            sessions: BTreeSet::new(),
            purse: Purse::default(),
            unposted: Amount::ZERO,
            pending: Amount::ZERO,
            told: None,
            alarm: Alarm::default(),
            burn: Amount::ZERO,
            dismissed: BTreeSet::new(),
            has_limited_functions: false,
            ceilings: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn settings() -> Settings {
        Settings {
            min_balance: Amount::from_halfords(200),
            debt_limit: Amount::ZERO,
            policy: Policy::Greedy,
            billing: Billing::Used,
            price: CpuPrice::DEFAULT,
            accounting: true,
            min_runway: Duration::ZERO,
            on_shortage: OnShortage::Together,
            max_spend: None,
            alert_at: None,
            alert_webhook: None,
        }
    }

    #[test]
    fn work_that_could_not_even_begin_is_refused() {
        let alice = "alice".parse().unwrap();
        // 100 ms cost 16,666 halfords.
        for (balance, may) in [(16_667, true), (16_000, false), (1, false), (0, false)] {
            let found = settings().may_start(&alice, Amount::from_halfords(balance));
            assert_eq!(found.is_ok(), may, "at {balance}: {found:?}");
        }
    }

    #[test]
    fn without_accounting_everybody_may_start() {
        let free = settings().patched(&SettingsPatch {
            accounting: Some(false),
            ..SettingsPatch::default()
        });
        assert_eq!(
            free.may_start(&"alice".parse().unwrap(), Amount::from_halfords(-1)),
            Ok(())
        );
    }
}
