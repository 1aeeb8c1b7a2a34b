use std::sync::atomic::{AtomicBool, Ordering};

use service_kit::database::WriterEnded;

use super::*;
use crate::cgroup::fake::FakeCpuController;
use crate::cgroup::{ContainerLimits, CpuController as _, TaskLimits};
use crate::credit::fake::FakeCredit;
use crate::credit::{OpenSession, Opened};
use crate::layout::TaskKey;

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

fn until(micros: u64) -> Grant {
    Grant {
        throttle_at: CpuTime::from_micros(micros),
        stop_at: CpuTime::from_micros(micros),
    }
}

#[tokio::test]
async fn a_smaller_grant_is_booked_before_it_is_reported() {
    let (credit, book) = (Arc::new(FakeCredit::new()), Arc::new(Book::default()));
    let (function, user): (FunctionName, UserName) = ("work".parse().unwrap(), "alice".parse().unwrap());
    credit.add_function(&function, &user);
    credit.say(until(500), Restriction::None, true);
    let session = SessionId::new();
    let request = OpenSession {
        session,
        function: function.clone(),
        key: TaskKey::from_name("a").unwrap(),
        task: None,
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
    let _signal = meter.add_task(container, task, &licence, state.clone());
    cgroups.set_cpu_time(session, CpuTime::from_micros(7));
    meter.look(Instant::now());

    let told = |grant, revision| {
        meter.on_state(SessionState {
            grant,
            revision,
            ..state.clone()
        });
    };
    let booked = || book.lowered.lock().unwrap().clone();
    told(until(100), 10);
    book.is_full.store(true, Ordering::SeqCst);
    assert!(matches!(
        meter.send(meter.due()).await,
        Err(ReportError::Journal(_))
    ));
    assert_eq!(credit.reported(), [CpuTime::ZERO], "nothing is given back yet");
    book.is_full.store(false, Ordering::SeqCst);
    meter.send(meter.due()).await.unwrap();
    assert_eq!(credit.reported(), [CpuTime::from_micros(7)]);
    assert_eq!(booked(), [until(100)]);

    // A larger one is nothing to give back, and neither is one that is still larger than what is booked.
    for (micros, revision) in [(900, 20), (300, 30)] {
        told(until(micros), revision);
        meter.send(meter.due()).await.unwrap();
    }
    assert_eq!(booked(), [until(100)]);
}
