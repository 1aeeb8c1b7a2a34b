//! What a node measures of itself.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures::StreamExt as _;
use service_kit::metrics::{Catalogue, Counter, CounterVec, Gauge, GaugeVec, Histogram, Parts};
use tokio_util::sync::CancellationToken;
use units::{MilliCores, Restriction};

use crate::intake::Registry;
use crate::meter::ContainerView;
use crate::node::Node;
use crate::queue;
use crate::task::{Attempt, Verdict};

/// How often what can only be looked up is looked up: as often as Prometheus usually asks.
const SURVEY_PAUSE: Duration = Duration::from_secs(15);
/// Buckets that are listed at once.
const LISTINGS_AT_ONCE: usize = 8;

pub static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics::new(Catalogue::default()));

pub struct Metrics {
    pub catalogue: Catalogue,
    attempts: CounterVec,
    start: Histogram,
    duration: Histogram,
    pub(crate) cpu: Counter<1_000_000>,
    pub(crate) throttled: Counter<1_000_000>,
    pub(crate) reports: CounterVec,
    containers: GaugeVec,
    running: Gauge,
    waiting: Gauge,
    functions: GaugeVec,
    cpu_capacity: Gauge<1000>,
    cpu_allocated: Gauge<1000>,
    cpu_used: Gauge<1000>,
    memory_capacity: Gauge,
    memory_reserved: Gauge,
}

impl Metrics {
    fn new(catalogue: Catalogue) -> Self {
        let outcomes = Verdict::ALL.map(outcome);
        Self {
            attempts: catalogue.counter_vec(
                "gridfaas_attempts_total",
                "Attempts that ended, by how.",
                &[("outcome", &outcomes)],
            ),
            start: catalogue.histogram(
                "gridfaas_attempt_start_seconds",
                "From taking a task to the first instruction of its script, of attempts that ended.",
            ),
            duration: catalogue.histogram(
                "gridfaas_attempt_duration_seconds",
                "From the first instruction of a script to its end.",
            ),
            cpu: catalogue.counter(
                "gridfaas_container_cpu_seconds_total",
                "CPU time that containers used, as the kernel counted it.",
            ),
            throttled: catalogue.counter(
                "gridfaas_container_throttled_seconds_total",
                "Time that containers were held back by their CPU limit, summed over the CPUs.",
            ),
            reports: catalogue.counter_vec(
                "gridfaas_usage_reports_total",
                "Usage reports to credit-manager, by how they went. One that failed is made up for by the next.",
                &[("result", &["taken", "failed"])],
            ),
            containers: catalogue.gauge_vec(
                "gridfaas_containers",
                "Containers, by what their user's standing costs them.",
                &[("restriction", &["none", "throttle", "stop"])],
            ),
            running: catalogue.gauge("gridfaas_tasks_running", "Tasks that run."),
            waiting: catalogue.gauge(
                "gridfaas_tasks_waiting",
                "Objects in `input/` of every function, each counted up to 999.",
            ),
            functions: catalogue.gauge_vec(
                "gridfaas_functions",
                "Functions that the node serves, by whether something keeps their tasks from running.",
                &[("state", &["ready", "blocked"])],
            ),
            cpu_capacity: catalogue.gauge(
                "gridfaas_cpu_capacity_cores",
                "CPU that the node gives to containers together.",
            ),
            cpu_allocated: catalogue.gauge("gridfaas_cpu_allocated_cores", "CPU that containers may use now."),
            cpu_used: catalogue.gauge(
                "gridfaas_cpu_used_cores",
                "CPU that containers used over the last second.",
            ),
            memory_capacity: catalogue.gauge(
                "gridfaas_memory_capacity_bytes",
                "Memory that the node gives to containers together.",
            ),
            memory_reserved: catalogue.gauge(
                "gridfaas_memory_reserved_bytes",
                "Memory that is set aside for containers.",
            ),
            catalogue,
        }
    }

    /// Counts an attempt that is over.
    pub(crate) fn attempt_over(&self, attempt: &Attempt) {
        let Some(verdict) = attempt.verdict() else { return };
        self.attempts.with_label_values(&[outcome(verdict)]).inc();
        let seconds = |ms: i64| Duration::from_millis(u64::try_from(ms).unwrap_or(0)).as_secs_f64();
        if let (Some(run), Some(ending)) = (attempt.run(), attempt.ending()) {
            self.start
                .observe(seconds(run.started_at.ms_since(attempt.claimed_at)));
            self.duration.observe(seconds(ending.at.ms_since(run.started_at)));
        }
    }

    fn survey_node(&self, node: &Node) {
        let containers = node.meter.containers();
        for (label, restriction) in [
            ("none", Restriction::None),
            ("throttle", Restriction::Throttle),
            ("stop", Restriction::Stop),
        ] {
            let of = containers
                .iter()
                .filter(|container| container.restriction == restriction);
            let gauge = self.containers.with_label_values(&[label]);
            gauge.set(Parts::new(of.count()));
        }
        let running: u32 = containers.iter().map(|container| container.running_tasks).sum();
        self.running.set(Parts::new(running));
        let sum = |of: fn(&ContainerView) -> MilliCores| -> u64 {
            let parts = containers.iter().map(|container| of(container).millicores());
            parts.map(u64::from).sum()
        };
        let allocated = sum(|container| container.allocation);
        self.cpu_capacity
            .set(Parts::new(node.meter.capacity().millicores()));
        self.cpu_allocated.set(Parts::new(allocated));
        self.cpu_used.set(Parts::new(sum(|container| container.used)));
        let bytes = |mib: u64| Parts::new(mib.saturating_mul(1 << 20));
        self.memory_capacity.set(bytes(node.memory.capacity_mib()));
        self.memory_reserved.set(bytes(node.memory.reserved_mib()));
    }

    async fn survey_queues(&self, node: &Node, registry: &Registry) {
        let functions = registry.functions();
        let is_blocked = |function: &&_| node.problems.of(function).is_some();
        let blocked = functions.iter().filter(is_blocked).count();
        for (state, count) in [("blocked", blocked), ("ready", functions.len() - blocked)] {
            self.functions.with_label_values(&[state]).set(Parts::new(count));
        }
        // An idle function's loop looks by itself.
        let waiting = futures::stream::iter(registry.busy_functions())
            .map(async |function| queue::count(node.store.as_ref(), &function).await)
            .buffer_unordered(LISTINGS_AT_ONCE)
            .fold(0_u64, async |sum, count| {
                sum + count.map_or(0, |count| u64::from(count.tasks))
            })
            .await;
        self.waiting.set(Parts::new(waiting));
    }
}

const fn outcome(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Succeeded => "succeeded",
        Verdict::Failed => "failed",
        Verdict::GaveUp => "gave-up",
        Verdict::Aborted => "aborted",
        Verdict::Cancelled => "cancelled",
        Verdict::CapSpent => "cap-spent",
        Verdict::PlatformFault => "platform-fault",
    }
}

/// Looks up until shutdown what is not counted as it happens.
pub(crate) async fn survey(
    node: Arc<Node>,
    registry: Arc<Registry>,
    shutdown: CancellationToken,
) -> Result<(), std::convert::Infallible> {
    let mut timer = tokio::time::interval(SURVEY_PAUSE);
    while shutdown.run_until_cancelled(timer.tick()).await.is_some() {
        METRICS.survey_node(&node);
        let queues = METRICS.survey_queues(&node, &registry);
        let _stopped = shutdown.run_until_cancelled(queues).await;
    }
    Ok(())
}
