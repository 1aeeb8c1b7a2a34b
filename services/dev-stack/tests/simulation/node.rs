//! A node: the real meter and the real client, tasks that use virtual CPU time, and a journal that outlives the manager.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use container_manager::credit::{Credit, CreditError, GrpcCredit, OpenSession, Opened, SessionState};
use container_manager::journal::JournalError;
use container_manager::layout::TaskKey;
use container_manager::meter::{ContainerInfo, GrantBook, Meter, MeterConfig, Signal};
use container_manager::recorder::Recorder;
use container_manager::scaler::{ScalerConfig, Wishes};
use container_manager::task::{Licence, Verdict};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use units::{ContainerId, CpuTime, Grant, MilliCores, NodeId, SessionId, Timestamp};
use uuid::Uuid;

use crate::cpu::Cpu;
use crate::network::Link;
use crate::world::{World, function_name, user_name};

pub(crate) const CAPACITY: MilliCores = MilliCores::from_cores(4);
const SAMPLE: Duration = Duration::from_millis(100);
const REPORT: Duration = Duration::from_millis(500);
const HOLD: Duration = Duration::from_secs(3);
/// Four fifths of the lease.
const ORPHAN: Duration = Duration::from_millis(6_400);
/// How often a task is looked at for its end.
const POLL: Duration = Duration::from_millis(100);
const SLOTS: usize = 2;

pub(crate) struct Node {
    world: Arc<World>,
    id: NodeId,
    pub(crate) link: Arc<Link>,
    /// What is under way, as the manager's journal has it.
    journal: Mutex<BTreeMap<SessionId, Entry>>,
}

#[derive(Clone)]
struct Entry {
    cpu: Arc<Cpu>,
    phase: Phase,
}

#[derive(Clone)]
enum Phase {
    Claimed,
    /// With the state that its grant is enforced by after a restart.
    Running {
        licence: Licence,
        state: SessionState,
    },
    Ended {
        total: CpuTime,
        verdict: Verdict,
    },
}

/// One life of a node's manager: dropped, all of it ends at once.
pub(crate) struct Life {
    _tasks: JoinSet<()>,
}

#[derive(Clone)]
struct Manager {
    node: Arc<Node>,
    credit: Arc<GrpcCredit>,
    meter: Arc<Meter>,
}

impl Node {
    pub(crate) fn new(world: &Arc<World>, number: usize) -> Arc<Self> {
        Arc::new(Self {
            world: world.clone(),
            id: format!("node-{number}").parse().unwrap(),
            link: Link::new(world),
            journal: Mutex::default(),
        })
    }

    /// Takes up what an earlier life left, and works.
    pub(crate) fn start(self: &Arc<Self>) -> Life {
        let credit = GrpcCredit::over(self.link.transport(), "simulated", self.id.clone());
        let credit = Arc::new(credit);
        let meter = Meter::new(
            credit.clone(),
            self.clone(),
            Recorder::default(),
            MeterConfig {
                capacity: CAPACITY,
                scaler: ScalerConfig::default(),
                sample: SAMPLE,
                report: REPORT,
                orphan: ORPHAN,
            },
        );
        let manager = Manager {
            node: self.clone(),
            credit,
            meter: meter.clone(),
        };
        let mut tasks = JoinSet::new();
        let forever = CancellationToken::new();
        let (metering, reporting) = (meter.clone(), meter.clone());
        let (first, second, third) = (forever.clone(), forever.clone(), forever);
        tasks.spawn(async move {
            let Ok(()) = metering.run(first).await;
        });
        tasks.spawn(async move {
            let Ok(()) = reporting.report(second).await;
        });
        tasks.spawn(async move {
            loop {
                let _ended = meter.clone().listen(|_, _| {}, third.clone()).await;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let entries = self.journal.lock().unwrap().clone();
        for (session, entry) in entries {
            let manager = manager.clone();
            tasks.spawn(async move { manager.take_up(session, entry).await });
        }
        for _ in 0..SLOTS {
            let manager = manager.clone();
            tasks.spawn(async move { manager.work().await });
        }
        Life { _tasks: tasks }
    }

    /// The machine itself fails: everything on it is gone, its journal too.
    pub(crate) fn lose_everything(&self) {
        for entry in std::mem::take(&mut *self.journal.lock().unwrap()).values() {
            entry.cpu.kill();
        }
    }

    pub(crate) fn sessions(&self) -> Vec<SessionId> {
        self.journal.lock().unwrap().keys().copied().collect()
    }

    fn record(&self, session: SessionId, cpu: &Arc<Cpu>, phase: Phase) {
        let entry = Entry {
            cpu: cpu.clone(),
            phase,
        };
        self.journal.lock().unwrap().insert(session, entry);
    }

    fn forget(&self, session: SessionId) {
        self.journal.lock().unwrap().remove(&session);
    }
}

#[async_trait]
impl GrantBook for Node {
    async fn lower(&self, grants: Vec<(SessionId, Grant)>) -> Result<(), JournalError> {
        let mut journal = self.journal.lock().unwrap();
        for (session, grant) in grants {
            if let Some(Entry {
                phase: Phase::Running { state, .. },
                ..
            }) = journal.get_mut(&session)
            {
                state.grant = state.grant.tighter(grant);
            }
        }
        Ok(())
    }
}

impl Manager {
    fn world(&self) -> &World {
        &self.node.world
    }

    async fn work(&self) {
        loop {
            tokio::time::sleep(self.world().dice.ms(10..2_000)).await;
            if self.world().is_healing() {
                return;
            }
            self.attempt().await;
        }
    }

    /// One attempt at some object of some user; other nodes may want the same.
    async fn attempt(&self) {
        let dice = &self.world().dice;
        let user = dice.index(crate::world::USERS);
        let key = format!("{}.txt", dice.index(4));
        let demand = u32::try_from(dice.between(100..4_000)).unwrap();
        let session = self.world().fresh_session(user);
        let cpu = Cpu::new(
            ContainerId::from_uuid(Uuid::from_u128(self.world().fresh_number())),
            session,
            MilliCores::from_millicores(demand),
            CpuTime::from_micros(dice.between(10_000..15_000_000)),
        );
        let request = OpenSession {
            session,
            function: function_name(user),
            key: TaskKey::from_name(&key).unwrap(),
            task: None,
            is_left_behind: false,
            max_amount: None,
            input_bytes: 0,
            parent: None,
            capacity: MilliCores::from_millicores(demand),
        };
        self.node.record(session, &cpu, Phase::Claimed);
        let void_at = Instant::now() + ORPHAN;
        for _ in 0..3 {
            match self.credit.open(&request).await {
                Ok(Opened::Licensed { .. }) if Instant::now() >= void_at => break,
                Ok(Opened::Licensed { licence, state }) => {
                    let phase = Phase::Running {
                        licence: licence.clone(),
                        state: state.clone(),
                    };
                    self.world().laws().on_licence(session, &key, &cpu, &licence);
                    self.node.record(session, &cpu, phase);
                    return self.run(session, cpu, licence, state, void_at).await;
                }
                Ok(Opened::Refused { .. }) => return self.node.forget(session),
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
        self.give_back(session, &cpu).await;
    }

    async fn take_up(&self, session: SessionId, entry: Entry) {
        let Entry { cpu, phase } = entry;
        match phase {
            Phase::Claimed => self.give_back(session, &cpu).await,
            Phase::Running { licence, state } => {
                let void_at = Instant::now() + ORPHAN / 4;
                self.run(session, cpu, licence, state, void_at).await;
            }
            Phase::Ended { total, verdict } => self.settle(session, total, verdict).await,
        }
    }

    /// A session that may have been opened and was never used.
    async fn give_back(&self, session: SessionId, cpu: &Arc<Cpu>) {
        let (total, verdict) = (CpuTime::ZERO, Verdict::PlatformFault);
        self.node.record(session, cpu, Phase::Ended { total, verdict });
        self.settle(session, total, verdict).await;
    }

    async fn run(
        &self,
        session: SessionId,
        cpu: Arc<Cpu>,
        licence: Licence,
        state: SessionState,
        void_at: Instant,
    ) {
        let container = ContainerInfo {
            function: function_name(0),
            user: user_name(0),
            image_digest: String::new(),
            started_at: Timestamp::default(),
        };
        let wishes = Wishes {
            max: CAPACITY,
            ..Wishes::default()
        };
        let id = container_manager::cgroup::ContainerGroup::id(cpu.as_ref());
        self.meter.add_container(container, cpu.clone(), wishes);
        let mut signal = self.meter.add_task(id, cpu.clone(), &licence, state, void_at);
        let mut frozen_since: Option<Instant> = None;
        let verdict = loop {
            let now = *signal.borrow_and_update();
            match now {
                Signal::Lost => break Verdict::PlatformFault,
                Signal::CapSpent => break Verdict::CapSpent,
                Signal::Cancelled => break Verdict::Cancelled,
                Signal::Dismissed => break Verdict::Aborted,
                Signal::Freeze => {
                    frozen_since.get_or_insert_with(Instant::now);
                    cpu.set_frozen(true);
                }
                Signal::Run => {
                    frozen_since = None;
                    cpu.set_frozen(false);
                }
            }
            if cpu.is_finished() {
                break self.some_verdict();
            }
            if frozen_since.is_some_and(|since| since.elapsed() >= HOLD) {
                break Verdict::Aborted;
            }
            tokio::select! {
                biased;
                _ = signal.changed() => {}
                () = tokio::time::sleep(POLL) => {}
            }
        };
        cpu.kill();
        let total = cpu.used();
        self.meter.remove_task(id, session);
        self.meter.remove_container(id);
        self.world().laws().on_end(session, total, verdict);
        self.node.record(session, &cpu, Phase::Ended { total, verdict });
        self.settle(session, total, verdict).await;
    }

    fn some_verdict(&self) -> Verdict {
        match self.world().dice.between(0..10) {
            0 => Verdict::PlatformFault,
            1 => Verdict::Failed,
            2 => Verdict::Cancelled,
            _ => Verdict::Succeeded,
        }
    }

    /// Closes a session, however often that takes.
    async fn settle(&self, session: SessionId, total: CpuTime, verdict: Verdict) {
        loop {
            match self.credit.close(session, total, verdict).await {
                Ok(bill) => {
                    self.world().laws().on_bill(session, bill.amount);
                    break;
                }
                // Never opened, or lost to its lease.
                Err(CreditError::Refused { .. }) => break,
                Err(CreditError::Unreachable { .. } | CreditError::Nonsense(_)) => {
                    tokio::time::sleep(self.world().dice.ms(100..1_000)).await;
                }
            }
        }
        self.node.forget(session);
    }
}
