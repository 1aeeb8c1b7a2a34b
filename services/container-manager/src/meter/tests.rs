use std::sync::atomic::{AtomicBool, Ordering};

use service_kit::ManualClock;
use service_kit::database::WriterEnded;

use super::*;
use crate::cgroup::fake::FakeCpuController;
use crate::cgroup::{Burst, ContainerLimits, CpuController as _, TaskLimits, Weight};
use crate::credit::fake::FakeCredit;
use crate::credit::{OpenSession, Opened};
use crate::layout::TaskKey;
use crate::memory::NodeMemory;
use crate::reservation::{Reservations, Resources, Wanted};
use crate::scaler::{GuardianRules, MemoryRules};
use units::{Amount, Billing, CpuPrice, Standing, TaskId};

/// A journal that a test can fill up.
#[derive(Default)]
struct Book {
    is_full: AtomicBool,
    lowered: Mutex<Vec<Grant>>,
}

#[async_trait]
impl GrantBook for Book {
    async fn lower(&self, grants: Vec<(SessionId, Grant)>) -> Result<(), JournalError> {
        if self.is_full.load(Ordering::SeqCst) {
            return Err(WriterEnded.into());
        }
        let grants = grants.into_iter().map(|(_, grant)| grant);
        self.lowered.lock().unwrap().extend(grants);
        Ok(())
    }
}

const ORPHAN: Duration = Duration::from_secs(240);

fn until(micros: u64) -> Grant {
    Grant {
        throttle_at: CpuTime::from_micros(micros),
        stop_at: CpuTime::from_micros(micros),
    }
}

/// One task on a node of one core, with what its meter is told.
struct OneTask {
    credit: Arc<FakeCredit>,
    book: Arc<Book>,
    cgroups: FakeCpuController,
    meter: Arc<Meter>,
    session: SessionId,
    state: SessionState,
    signal: watch::Receiver<Signal>,
}

impl OneTask {
    async fn granted(grant: Grant) -> Self {
        let (credit, book) = (Arc::new(FakeCredit::new()), Arc::new(Book::default()));
        let (function, user): (FunctionName, UserName) = ("work".parse().unwrap(), "alice".parse().unwrap());
        credit.add_function(&function, &user);
        credit.say(grant, Restriction::None, true);
        let session = SessionId::new();
        let request = OpenSession {
            session,
            function: function.clone(),
            key: TaskKey::from_name("a").unwrap(),
            task: None,
            is_left_behind: false,
            parent: None,
            max_amount: None,
            capacity: MilliCores::ONE_CORE,
            input_bytes: 0,
        };
        let Opened::Licensed { licence, state } = credit.open(&request).await.unwrap() else {
            panic!("refused");
        };
        let second = Duration::from_secs(1);
        let capacity = MilliCores::ONE_CORE;
        let meter = Meter::new(
            credit.clone(),
            book.clone(),
            Recorder::default(),
            MeterConfig {
                capacity,
                scaler: ScalerConfig::default(),
                sample: second,
                report: second,
                orphan: ORPHAN,
            },
        );
        let container_limits = ContainerLimits {
            cpu: capacity,
            memory_bytes_max: 1 << 30,
            pids_max: 100,
        };
        let task_limits = TaskLimits {
            memory_bytes_max: 1 << 30,
            pids_max: 50,
        };
        let (cgroups, container) = (FakeCpuController::default(), ContainerId::new());
        let group = cgroups.create_container(container, container_limits).unwrap();
        let task = group.create_task(session, task_limits).unwrap();
        let info = ContainerInfo {
            function,
            user,
            image_digest: String::new(),
            started_at: Timestamp::default(),
        };
        let wishes = Wishes {
            max: capacity,
            ..Wishes::default()
        };
        meter.add_container(info, group, wishes);
        let void_at = Instant::now() + ORPHAN;
        let signal = meter.add_task(container, task, &licence, state.clone(), void_at);
        Self {
            credit,
            book,
            cgroups,
            meter,
            session,
            state,
            signal,
        }
    }

    fn uses(&self, micros: u64) {
        self.cgroups
            .set_cpu_time(self.session, CpuTime::from_micros(micros));
    }

    fn is_told(&self, grant: Grant, revision: u64) {
        self.meter.on_state(SessionState {
            grant,
            revision,
            ..self.state.clone()
        });
    }

    async fn reports(&self) -> Result<(), ReportError> {
        self.meter.send(self.meter.due(Instant::now())).await
    }
}

#[tokio::test]
async fn a_smaller_grant_is_booked_before_it_is_reported() {
    let task = OneTask::granted(until(500)).await;
    task.uses(7);
    let booked = || task.book.lowered.lock().unwrap().clone();
    task.is_told(until(100), 10);
    task.book.is_full.store(true, Ordering::SeqCst);
    assert!(matches!(task.reports().await, Err(ReportError::Journal(_))));
    assert_eq!(
        task.credit.reported(),
        [CpuTime::ZERO],
        "nothing is given back yet"
    );
    task.book.is_full.store(false, Ordering::SeqCst);
    task.reports().await.unwrap();
    assert_eq!(task.credit.reported(), [CpuTime::from_micros(7)]);
    assert_eq!(booked(), [until(100)]);

    // A larger one is nothing to give back, and neither is one that is still larger than what is booked.
    for (micros, revision) in [(900, 20), (300, 30)] {
        task.is_told(until(micros), revision);
        task.reports().await.unwrap();
    }
    assert_eq!(booked(), [until(100)]);
}

#[tokio::test]
async fn a_grant_is_enforced_before_it_is_reported() {
    let task = OneTask::granted(until(500)).await;
    task.meter.look(Instant::now());
    task.uses(150);
    task.is_told(until(100), 10);
    task.reports().await.unwrap();
    assert_eq!(*task.signal.borrow(), Signal::Freeze);
    assert_eq!(task.credit.reported(), [CpuTime::from_micros(150)]);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_credit_manager_is_told_nothing_of_is_given_up_before_its_lease_ends() {
    let task = OneTask::granted(until(500)).await;
    let container = task.meter.containers()[0].id;
    let signal = || {
        task.meter.look(Instant::now());
        *task.signal.borrow()
    };
    tokio::time::advance(ORPHAN / 2).await;
    assert!(
        !task.meter.may_outlive_us(container),
        "it would run until after its lease"
    );
    task.reports().await.unwrap();
    assert!(task.meter.may_outlive_us(container));
    task.credit.set_down(true);
    tokio::time::advance(ORPHAN - Duration::from_millis(1)).await;
    assert!(task.reports().await.is_err());
    assert_eq!(signal(), Signal::Run);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(signal(), Signal::Lost);
    // Too late: another node may have it.
    task.credit.set_down(false);
    task.reports().await.unwrap();
    assert_eq!(signal(), Signal::Lost);
}

#[tokio::test]
async fn who_is_raised_is_looked_at_the_sooner() {
    let task = OneTask::granted(until(0)).await;
    let start = Instant::now();
    task.meter.look(start);
    let ContainerView { id, allocation, .. } = task.meter.containers()[0].clone();
    task.cgroups.container(id, |container| {
        container.stat.usage.total = allocation.over(Duration::from_millis(100));
        (container.stat.nr_periods, container.stat.nr_throttled) = (5, 5);
    });
    task.is_told(until(50_000), 10);
    let (_, next_look) = task.meter.look(start + Duration::from_millis(100));
    let raised_to = task.meter.containers()[0].allocation;
    assert!(raised_to > allocation);
    assert_eq!(
        Some(next_look),
        raised_to
            .time_to_deliver(CpuTime::from_micros(50_000))
            .map(|until| until.saturating_sub(Burst::Quota.head_start()).max(LOOK_MIN))
    );
}

#[tokio::test]
async fn only_who_pays_may_save_cpu_for_a_burst() {
    let task = OneTask::granted(until(100)).await;
    let id = task.meter.containers()[0].id;
    let burst = || task.cgroups.container(id, |container| container.burst);
    task.meter.look(Instant::now());
    assert_eq!(burst(), Some(Burst::Quota));
    task.uses(100);
    task.meter.look(Instant::now());
    assert_eq!(burst(), Some(Burst::None));
    task.is_told(until(1000), 10);
    task.meter.look(Instant::now());
    assert_eq!(burst(), Some(Burst::Quota));
}

/// A container of a user who pays, and the session that says so.
struct Stormy {
    id: ContainerId,
    group: Arc<dyn ContainerGroup>,
    state: SessionState,
}

fn node(capacity: MilliCores, scaler: ScalerConfig) -> Arc<Meter> {
    let second = Duration::from_secs(1);
    let config = MeterConfig {
        capacity,
        scaler,
        sample: second,
        report: second,
        orphan: ORPHAN,
    };
    let book = Arc::new(Book::default());
    Meter::new(Arc::new(FakeCredit::new()), book, Recorder::default(), config)
}

/// Everything at once, at random: containers come and go, wake and idle, fall into debt and pay, and the rules change.
fn storm(seed: u64) {
    let mut dice = fastrand::Rng::with_seed(seed);
    let capacity = MilliCores::from_cores(2);
    let meter = node(capacity, ScalerConfig::default());
    let cgroups = FakeCpuController::default();
    let (mut now, mut containers, mut revision) = (Instant::now(), Vec::new(), 0);
    for _ in 0..300 {
        match dice.u32(0..12) {
            0..3 if containers.len() < 10 => containers.push(stormy(&meter, &cgroups, &mut dice)),
            3 if !containers.is_empty() => {
                let Stormy { id, .. } = containers.swap_remove(dice.usize(..containers.len()));
                meter.remove_container(id);
                cgroups.vanish(id);
            }
            4 => {
                // A group that is gone without a word has nothing any more.
                if let Some(Stormy { id, .. }) = containers.pop() {
                    cgroups.vanish(id);
                }
            }
            5 if !containers.is_empty() => {
                let Stormy { state, .. } = &containers[dice.usize(..containers.len())];
                revision += 1;
                let restriction = [Restriction::None, Restriction::Throttle][dice.usize(..2)];
                meter.on_state(SessionState {
                    restriction,
                    revision,
                    ..state.clone()
                });
            }
            6 => {
                let policy = [PolicyName::Tracking, PolicyName::Guardian, PolicyName::Fixed][dice.usize(..3)];
                let rules =
                    ScalerConfig::new(policy, MilliCores::from_millicores(250), GuardianRules::default());
                meter.rescale(rules.unwrap());
            }
            _ => {
                for Stormy { group, .. } in &containers {
                    let (quota, share) = (group.quota().unwrap(), dice.u64(0..=100));
                    cgroups.container(group.id(), |container| {
                        let used = quota.over(Duration::from_millis(share));
                        container.stat.usage.total = container.stat.usage.total.saturating_add(used);
                        container.stat.nr_periods += 5;
                        container.stat.nr_throttled += u64::from(share > 90) * 5;
                    });
                }
            }
        }
        now += Duration::from_millis(dice.u64(20..200));
        meter.look(now);
        assert!(cgroups.quota_most() <= capacity, "seed {seed}");
        for Stormy { id, group, .. } in &containers {
            let weight = cgroups.container(*id, |container| container.weight).flatten();
            let in_debt = meter.live()[id].restriction > Restriction::None;
            let quota = group.quota().unwrap();
            let expected = if in_debt {
                Weight::Lowest
            } else {
                Weight::Of(quota)
            };
            assert_eq!(weight, Some(expected), "seed {seed}");
        }
    }
}

fn stormy(meter: &Meter, cgroups: &FakeCpuController, dice: &mut fastrand::Rng) -> Stormy {
    let (id, session) = (ContainerId::new(), SessionId::new());
    let limits = ContainerLimits {
        cpu: MilliCores::ZERO,
        memory_bytes_max: 1 << 30,
        pids_max: 100,
    };
    let group = cgroups.create_container(id, limits).unwrap();
    let info = ContainerInfo {
        function: "work".parse().unwrap(),
        user: "alice".parse().unwrap(),
        image_digest: String::new(),
        started_at: Timestamp::default(),
    };
    let wishes = Wishes {
        max: MilliCores::from_millicores(dice.u32(100..=2000)),
        ..Wishes::default()
    };
    meter.add_container(info, group.clone(), wishes);
    let limits = TaskLimits {
        memory_bytes_max: 1 << 30,
        pids_max: 50,
    };
    let task = group.create_task(session, limits).unwrap();
    let state = SessionState {
        session,
        standing: Standing::Good,
        restriction: Restriction::None,
        may_start: true,
        grant: Grant::UNLIMITED,
        balance: Amount::ZERO,
        revision: 0,
        ceiling: None,
        dismissed: false,
    };
    let licence = Licence {
        task: TaskId::new(),
        user: "alice".parse().unwrap(),
        attempt: 1,
        failures: 0,
        root: TaskId::new(),
        lineage_cap: None,
        price: CpuPrice::DEFAULT,
        billing: Billing::Used,
        cap_at: None,
    };
    let void_at = Instant::now() + ORPHAN;
    let _signal = meter.add_task(id, task, &licence, state.clone(), void_at);
    Stormy { id, group, state }
}

#[test]
fn whatever_happens_containers_never_have_more_than_the_node_not_even_between_two_changes() {
    for seed in 0..200 {
        storm(seed);
    }
}

#[test]
fn overprovisioning_gives_more_than_there_is_and_no_more_than_that() {
    let rules = ScalerConfig::default().with_overprovisioning(150).unwrap();
    let meter = node(MilliCores::from_cores(2), rules);
    let (cgroups, mut dice) = (FakeCpuController::default(), fastrand::Rng::with_seed(1));
    for _ in 0..10 {
        stormy(&meter, &cgroups, &mut dice);
    }
    let sum: MilliCores = meter.containers().iter().map(|view| view.allocation).sum();
    assert!(sum > MilliCores::from_cores(2), "{sum}");
    assert!(cgroups.quota_most() <= MilliCores::from_cores(3));
}

#[tokio::test]
async fn memory_follows_use_if_told_to_and_comes_back() {
    let task = OneTask::granted(until(100)).await;
    let id = task.meter.containers()[0].id;
    let node = NodeMemory::new(1000, Duration::ZERO);
    let user = "alice".parse().unwrap();
    let reservation = Arc::new(node.reserve(&user, 1000, &mut None).unwrap());
    task.meter.lend_memory(id, reservation.clone());
    let uses = |mib: u64| {
        let found = task
            .cgroups
            .task(task.session, |task| task.memory_bytes = mib << 20);
        found.expect("the task has a group");
    };
    let limit_mib = || {
        let limits = task.cgroups.container(id, |container| container.limits);
        limits.flatten().map(|limits| limits.memory_bytes_max >> 20)
    };
    let mut now = Instant::now();
    let mut windows = |count| {
        for _ in 0..count {
            now += Duration::from_secs(10);
            task.meter.look(now);
        }
    };
    uses(100);
    windows(20);
    assert_eq!(
        (limit_mib(), reservation.mib()),
        (Some(1024), 1000),
        "off by default"
    );

    let rules = |scale| MemoryRules {
        scale,
        ..MemoryRules::default()
    };
    task.meter
        .rescale(ScalerConfig::default().with_memory(rules(true)).unwrap());
    windows(9);
    assert_eq!((limit_mib(), reservation.mib()), (Some(196), 196));
    uses(190);
    windows(2);
    assert_eq!((limit_mib(), reservation.mib()), (Some(452), 452));
    let other = node.reserve(&user, 500, &mut None).unwrap();
    uses(450);
    windows(4);
    assert_eq!(reservation.mib(), 452, "what others have is not given");
    task.meter.rescale(ScalerConfig::default());
    windows(1);
    assert_eq!(reservation.mib(), 452);
    drop(other);
    windows(1);
    assert_eq!((limit_mib(), reservation.mib()), (Some(1000), 1000));
}

#[tokio::test]
async fn what_is_promised_is_given_to_no_container_until_it_expires() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let reservations = Reservations::load(folder.path().join("reservations"), clock.clone()).unwrap();
    let reservations = Arc::new(reservations);
    let capacity = MilliCores::from_cores(2);
    let meter = node(capacity, ScalerConfig::default());
    meter.honour(reservations.clone());
    let offered = Resources {
        cpu: capacity,
        ..Resources::default()
    };
    let wanted = Wanted {
        owner: "bob".parse().unwrap(),
        key: "a".to_owned(),
        resources: Resources {
            cpu: MilliCores::from_millicores(1500),
            ..Resources::default()
        },
        ttl: Duration::from_secs(60),
    };
    reservations.reserve(wanted, offered).unwrap();
    let cgroups = FakeCpuController::default();
    let mut dice = fastrand::Rng::with_seed(1);
    let mut now = Instant::now();
    let mut work = |containers: &[Stormy]| {
        for _ in 0..200 {
            for Stormy { group, .. } in containers {
                let used = group.quota().unwrap().over(Duration::from_millis(100));
                cgroups.container(group.id(), |container| {
                    container.stat.usage.total = container.stat.usage.total.saturating_add(used);
                    container.stat.nr_periods += 5;
                    container.stat.nr_throttled += 5;
                });
            }
            now += Duration::from_millis(100);
            meter.look(now);
        }
    };
    let containers: Vec<Stormy> = (0..4).map(|_| stormy(&meter, &cgroups, &mut dice)).collect();
    work(&containers);
    assert!(
        cgroups.quota_most() <= MilliCores::from_millicores(500),
        "{}",
        cgroups.quota_most()
    );
    clock.advance_ms(60_000);
    work(&containers);
    let most = cgroups.quota_most();
    assert!(
        most > MilliCores::from_millicores(500) && most <= capacity,
        "{most}"
    );
}
