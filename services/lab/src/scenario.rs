//! What a virtual run begins with: who pays, what runs for whom, and what happens when. Made from an experiment, or from
//! what was recorded of a run.

use std::sync::Arc;
use std::time::Duration;

use container_manager::scaler::{CpuLimits, RuleError, ScalerConfig};
use credit_manager::users::Settings;
use units::{Amount, CpuPrice, FunctionName, MilliCores, OnShortage, UserName};

use crate::experiment::{Experiment, Profile};
use crate::virtual_run::Options;

/// Whose task it is does not matter where there is only one user with one function.
const USER: &str = "user0";
const FUNCTION: &str = "stress";

#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub name: String,
    pub capacity: MilliCores,
    pub hold: Duration,
    pub users: Vec<User>,
    pub functions: Vec<Function>,
    /// In the order they happen.
    pub drops: Vec<Drop>,
    pub deposits: Vec<Deposit>,
}

#[derive(Clone, Debug)]
pub(crate) struct User {
    pub name: UserName,
    pub start: Amount,
    pub settings: Settings,
}

#[derive(Clone, Debug)]
pub(crate) struct Function {
    pub name: FunctionName,
    /// Index of its owner.
    pub user: usize,
    pub scaler: ScalerConfig,
    pub limits: CpuLimits,
    pub idle_timeout: Duration,
    /// Tasks that run at the same time.
    pub concurrency: usize,
}

/// A task file is put under `input/`.
#[derive(Clone, Debug)]
pub(crate) struct Drop {
    pub at: Duration,
    /// Index of the function.
    pub function: usize,
    pub task: String,
    pub profile: Arc<Profile>,
}

#[derive(Clone, Debug)]
pub(crate) struct Deposit {
    pub at: Duration,
    /// Index of the user.
    pub user: usize,
    pub amount: Amount,
}

/// Settings of a user for whom nothing is set but what experiments set.
pub(crate) fn settings(price: CpuPrice) -> Settings {
    Settings {
        min_balance: Amount::ZERO,
        debt_limit: Amount::ZERO,
        policy: units::Policy::Greedy,
        billing: units::Billing::Used,
        price,
        accounting: true,
        min_runway: Duration::ZERO,
        on_shortage: OnShortage::Together,
        max_spend: None,
        alert_at: None,
        alert_webhook: None,
    }
}

impl Scenario {
    /// Errors if the experiment's scaling rules could never act.
    pub(crate) fn of(experiment: &Experiment, options: &Options) -> Result<Self, RuleError> {
        let (funds, function) = (&experiment.funds, &experiment.function);
        let policy = options.policy.unwrap_or(function.policy);
        let user = User {
            name: USER.parse().expect("a user name"),
            start: funds.start,
            settings: Settings {
                min_balance: funds.min_balance,
                debt_limit: funds.debt_limit,
                policy: funds.policy,
                billing: funds.billing,
                accounting: funds.accounting,
                ..settings(options.tariff.unwrap_or_else(|| funds.price()))
            },
        };
        let limits = CpuLimits {
            min: function.cpu_min_millicores,
            max: function.cpu_max_millicores,
            boundary: function.boundary_millicores,
        };
        let function = Function {
            name: FUNCTION.parse().expect("a function name"),
            user: 0,
            scaler: ScalerConfig::new(policy, limits.boundary, function.guardian)?,
            limits,
            idle_timeout: Duration::from_secs(function.idle_timeout_s.into()),
            concurrency: 1,
        };
        let drop = |task: crate::experiment::Task| Drop {
            at: task.at,
            function: 0,
            task: task.name,
            profile: Arc::new(task.profile),
        };
        let deposit = |event: &crate::experiment::Event| {
            Some(Deposit {
                at: Duration::from_secs(event.at_s.into()),
                user: 0,
                amount: event.deposit?,
            })
        };
        let mut drops: Vec<Drop> = experiment.tasks().into_iter().map(drop).collect();
        drops.sort_by_key(|drop| drop.at);
        let mut deposits: Vec<Deposit> = experiment.events.iter().filter_map(deposit).collect();
        if let Some(sent) = &experiment.deposits {
            deposits.extend(sent.credited().into_iter().map(|at| Deposit {
                at,
                user: 0,
                amount: sent.amount,
            }));
        }
        deposits.sort_by_key(|deposit| deposit.at);
        Ok(Self {
            name: experiment.title.clone(),
            capacity: limits.max,
            hold: Duration::from_secs(funds.hold_s.into()),
            users: vec![user],
            functions: vec![function],
            drops,
            deposits,
        })
    }
}
