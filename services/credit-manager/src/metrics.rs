//! What the service measures of itself.

use std::sync::LazyLock;
use std::time::Duration;

use service_kit::metrics::{Catalogue, Counter, CounterVec, Gauge, GaugeVec, Histogram, Parts};
use tokio_util::sync::CancellationToken;
use units::{Amount, Standing};

use crate::bank::UserView;
use crate::ledger::transfers::Kind;
use crate::writer::{CommandError, Writer};

/// How often what can only be looked up is looked up: as often as Prometheus usually asks.
const SURVEY_PAUSE: Duration = Duration::from_secs(15);

/// Money is counted in halfords and shown in GRC.
const HALFORDS: u32 = 100_000_000;

pub static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics::new(Catalogue::default()));

pub struct Metrics {
    pub catalogue: Catalogue,
    transfers: CounterVec,
    transferred: CounterVec<HALFORDS>,
    commands: Counter,
    commits: CounterVec,
    pub(crate) commit_duration: Histogram,
    users: GaugeVec,
    sessions: Gauge,
    balance: GaugeVec<HALFORDS>,
    granted: Gauge<HALFORDS>,
    pub(crate) deposits: CounterVec,
    pub(crate) payouts: CounterVec,
    pub(crate) outbox: GaugeVec,
    pub(crate) reconciliations: CounterVec,
    pub(crate) reconciliation_ok: Gauge,
    pub(crate) reconciliation_time: Gauge<1000>,
    pub(crate) reconciliation_duration: Histogram,
}

impl Metrics {
    fn new(catalogue: Catalogue) -> Self {
        let kinds = Kind::ALL.map(Kind::as_str);
        Self {
            transfers: catalogue.counter_vec(
                "gridfaas_transfers_total",
                "Transfers in the ledger, since the service started.",
                &[("kind", &kinds)],
            ),
            transferred: catalogue.counter_vec(
                "gridfaas_transferred_grc_total",
                "What those transfers moved.",
                &[("kind", &kinds)],
            ),
            commands: catalogue.counter(
                "gridfaas_ledger_commands_total",
                "Commands that the ledger carried out, such as usage reports, each session's for itself.",
            ),
            commits: catalogue.counter_vec(
                "gridfaas_ledger_commits_total",
                "Commits of the ledger, each of all commands that waited.",
                &[("result", &["done", "failed"])],
            ),
            commit_duration: catalogue.histogram(
                "gridfaas_ledger_commit_duration_seconds",
                "How long a commit of the ledger takes, its flush to disk included.",
            ),
            users: catalogue.gauge_vec(
                "gridfaas_users",
                "Users, by standing; `unbilled` are those without accounting.",
                &[("standing", &STANDINGS.map(|(label, _)| label))],
            ),
            sessions: catalogue.gauge(
                "gridfaas_sessions",
                "Charging sessions that are open: attempts that run, on every node.",
            ),
            balance: catalogue.gauge_vec(
                "gridfaas_balance_grc",
                "What users have together, and what they owe together.",
                &[("side", &["funds", "debt"])],
            ),
            granted: catalogue.gauge("gridfaas_granted_grc", "Money set aside for open sessions."),
            deposits: catalogue.counter_vec(
                "gridfaas_deposits_total",
                "Deposits that were credited, and those that a reorganisation of the chain took back.",
                &[("result", &["credited", "taken-back"])],
            ),
            payouts: catalogue.counter_vec(
                "gridfaas_payouts_total",
                "What became of payments. An unclear one is asked after, and found done or sent again.",
                &[
                    ("purpose", &["settlement", "earnings", "withdrawal"]),
                    ("result", &["unsent", "in-flight", "unclear", "done", "failed"]),
                ],
            ),
            outbox: catalogue.gauge_vec(
                "gridfaas_outbox_payments",
                "Payments that are not known to be made, by how far they came.",
                &[("state", &["unsent", "in-flight", "unclear"])],
            ),
            reconciliations: catalogue.counter_vec(
                "gridfaas_reconciliations_total",
                "Comparisons of wallet and ledger; `unknown` where the wallet did not answer.",
                &[("result", &["agrees", "disagrees", "unknown"])],
            ),
            reconciliation_ok: catalogue.gauge(
                "gridfaas_reconciliation_ok",
                "1 if the last comparison found no disagreement, else 0, also before the first.",
            ),
            reconciliation_time: catalogue.gauge(
                "gridfaas_reconciliation_time_seconds",
                "When that was, since 1970. If it is old, the wallet does not answer, which proves nothing.",
            ),
            reconciliation_duration: catalogue.histogram(
                "gridfaas_reconciliation_duration_seconds",
                "How long a comparison of wallet and ledger takes.",
            ),
            catalogue,
        }
    }

    /// Counts a commit that was made, its commands, and what it posted.
    pub(crate) fn committed(&self, commands: usize, posted: &[(Kind, Amount)]) {
        self.commits.with_label_values(&["done"]).inc();
        self.commands.inc_by(Parts::new(commands));
        for (kind, amount) in posted {
            let kind = &[kind.as_str()];
            self.transfers.with_label_values(kind).inc();
            let moved = Parts::new(amount.halfords());
            self.transferred.with_label_values(kind).inc_by(moved);
        }
    }

    pub(crate) fn commit_failed(&self) {
        self.commits.with_label_values(&["failed"]).inc();
    }

    fn survey(&self, views: &[UserView]) {
        for (label, standing) in STANDINGS {
            let of = views.iter().filter(|view| {
                let is_billed = view.user.settings.accounting;
                is_billed.then_some(view.standing) == standing
            });
            let gauge = self.users.with_label_values(&[label]);
            gauge.set(Parts::new(of.count()));
        }
        let sessions: usize = views.iter().map(|view| view.live_sessions).sum();
        self.sessions.set(Parts::new(sessions));
        let (funds, debts): (Vec<_>, Vec<_>) = views
            .iter()
            .map(|view| view.balance)
            .partition(|balance| balance.is_positive());
        let sum = |amounts: Vec<Amount>| amounts.into_iter().sum::<Amount>().halfords();
        for (side, halfords) in [("funds", sum(funds)), ("debt", -sum(debts))] {
            let gauge = self.balance.with_label_values(&[side]);
            gauge.set(Parts::new(halfords));
        }
        let granted = views.iter().map(|view| view.granted).collect();
        self.granted.set(Parts::new(sum(granted)));
    }
}

/// Users without accounting have none.
const STANDINGS: [(&str, Option<Standing>); 5] = [
    ("good", Some(Standing::Good)),
    ("low", Some(Standing::Low)),
    ("in-debt", Some(Standing::InDebt)),
    ("exhausted", Some(Standing::Exhausted)),
    ("unbilled", None),
];

/// Looks up until shutdown what is not counted as it happens.
pub(crate) async fn survey(writer: Writer, shutdown: CancellationToken) -> Result<(), CommandError> {
    let mut timer = tokio::time::interval(SURVEY_PAUSE);
    while shutdown.run_until_cancelled(timer.tick()).await.is_some() {
        METRICS.survey(&writer.call(|desk| Ok(desk.bank.views())).await?);
    }
    Ok(())
}
