//! One function's objects from `input/` to their last place, through the real loops and journal, with the outside
//! world in memory and scripts run by bash on this machine.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use access::Caller;
use async_trait::async_trait;
use container_manager::cgroup::fake::FakeCpuController;
use container_manager::container::{ContainerError, FakeRuntime};
use container_manager::credit::fake::FakeCredit;
use container_manager::credit::{Alert, Credit as _, OpenSession, Opened, Refusal};
use container_manager::image::ImageTool;
use container_manager::layout::TaskKey;
use container_manager::recording::{self, Entry, Record, TaskOutcome};
use container_manager::store::fake::FakeStore;
use container_manager::task::Verdict;
use container_manager::{Config, Edges, Listeners};
use futures::StreamExt as _;
use proto::container::v1::container_service_client::ContainerServiceClient;
use proto::container::v1::invoke_response::Event;
use proto::container::v1::{
    CancelTaskRequest, InvokeRequest, ListContainersRequest, ListQueuesRequest, ListReservationsRequest,
    ListTasksRequest, NotifyRequest, ReadLogRequest, ReleaseReservationRequest, ReserveCapacityRequest,
    SetSettingRequest, TaskState,
};
use service_kit::SystemClock;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use units::{
    Amount, ContainerId, CpuTime, FunctionName, Grant, MilliCores, Restriction, SessionId, Timestamp,
};

const OPERATOR: &str = "operator";
const BUCKET: &str = "stress";
const DEADLINE: Duration = Duration::from_secs(30);

/// Makes an empty folder of every image but those that say they are broken.
struct FakeImageTool;

#[async_trait]
impl ImageTool for FakeImageTool {
    async fn unpack(&self, sif: &Path, folder: &Path, _bytes_max: u64) -> Result<(), ContainerError> {
        if std::fs::read_to_string(sif).is_ok_and(|text| text == "broken") {
            let what = "failed to read the image".to_owned();
            return Err(ContainerError::ToolFailed {
                what,
                said: "not a SIF".to_owned(),
            });
        }
        std::fs::create_dir_all(folder).map_err(|err| ContainerError::Disk {
            path: folder.to_owned(),
            err,
        })
    }

    async fn build(&self, _definition: &Path, sif: &Path) -> Result<(), ContainerError> {
        std::fs::write(sif, "built").map_err(|err| ContainerError::Disk {
            path: sif.to_owned(),
            err,
        })
    }
}

type Client = ContainerServiceClient<InterceptedService<Channel, Bearer>>;

/// Shows a token.
struct Bearer(&'static str);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, tonic::Status> {
        let token = format!("Bearer {}", self.0).parse().unwrap();
        request.metadata_mut().insert("authorization", token);
        Ok(request)
    }
}

struct World {
    /// Lines for the node's configuration.
    more: String,
    state: TempDir,
    store: Arc<FakeStore>,
    credit: Arc<FakeCredit>,
    cgroups: FakeCpuController,
    runtime: Arc<FakeRuntime>,
    shutdown: CancellationToken,
    address: SocketAddr,
    http: SocketAddr,
    served: Option<tokio::task::JoinHandle<anyhow::Result<()>>>,
}

impl World {
    /// A node with one function, whose script is `script`.
    async fn with_script(script: &str) -> Self {
        Self::with_config(script, "hold_ms = 0").await
    }

    /// As [`Self::with_script`], with more in the node's configuration.
    async fn with_config(script: &str, more: &str) -> Self {
        let world = Self {
            more: more.to_owned(),
            state: tempfile::tempdir().unwrap(),
            store: Arc::default(),
            credit: Arc::new(FakeCredit::new()),
            cgroups: FakeCpuController::default(),
            runtime: Arc::default(),
            shutdown: CancellationToken::new(),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            http: SocketAddr::from(([127, 0, 0, 1], 0)),
            served: None,
        };
        world.store.create_bucket(BUCKET);
        world.put("utils/process_task.sh", script);
        world.put("utils/base.sif", "an image");
        world.credit.add_function(&function(), &"alice".parse().unwrap());
        world.started().await
    }

    /// One that keeps frozen tasks for ten minutes.
    async fn with_hold(script: &str, more: &str) -> Self {
        Self::with_config(script, &format!("hold_ms = 600000\n{more}")).await
    }

    async fn started(mut self) -> Self {
        let config = config(self.state.path(), &self.more);
        let edges = Edges {
            store: self.store.clone(),
            credit: self.credit.clone(),
            cgroups: Arc::new(self.cgroups.clone()),
            runtime: self.runtime.clone(),
            images: Arc::new(FakeImageTool),
            clock: Arc::new(SystemClock),
            hints: futures::stream::pending().boxed(),
        };
        let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.address = grpc.local_addr().unwrap();
        self.http = http.local_addr().unwrap();
        let http = Some(http);
        self.shutdown = CancellationToken::new();
        self.served = Some(tokio::spawn(container_manager::run(
            config,
            edges,
            Listeners { grpc, http },
            self.shutdown.clone(),
        )));
        self
    }

    /// An operator's.
    fn client(&self) -> Client {
        self.credit.set_token(OPERATOR, Some(Caller::Operator));
        self.client_with(OPERATOR)
    }

    fn client_with(&self, token: &'static str) -> Client {
        let url = format!("http://{}", self.address);
        let channel = Endpoint::from_shared(url).unwrap().connect_lazy();
        ContainerServiceClient::with_interceptor(channel, Bearer(token))
    }

    /// A page of the node: its status and what it says.
    async fn page(&self, path: &str, token: Option<&str>) -> (u16, serde_json::Value) {
        let token = token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
        // The older version, in which a body comes in one piece.
        let request = format!("GET {path} HTTP/1.0\r\n{token}\r\n");
        let mut stream = TcpStream::connect(self.http).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap())
    }

    /// Waits until the node's check of its host says so.
    async fn until_checked(&self, expected: (u16, serde_json::Value)) {
        let wait = async {
            while self.page("/status/check/host", None).await != expected {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(DEADLINE, wait).await;
        assert!(waited.is_ok(), "not within {DEADLINE:?}: {expected:?}");
    }

    async fn notify(&self) {
        let function = BUCKET.to_owned();
        let mut client = self.client();
        client.notify(NotifyRequest { function }).await.unwrap();
    }

    /// All that is told of a task that is invoked, until it is over or refused.
    async fn invoke(&self, key: &str, input: &str) -> Result<Vec<Event>, tonic::Status> {
        let request = InvokeRequest {
            function: BUCKET.to_owned(),
            object_key: key.to_owned(),
            input: input.to_owned().into(),
        };
        let mut answers = self.client().invoke(request).await?.into_inner();
        let mut events = Vec::new();
        while let Some(answer) = answers.message().await? {
            events.push(answer.event.unwrap());
        }
        Ok(events)
    }

    /// The only container of a function.
    async fn container_of(&self, function: &str) -> ContainerId {
        let request = ListContainersRequest::default();
        let told = self.client().list_containers(request).await.unwrap();
        let containers = told.into_inner().containers;
        let mut its = containers
            .iter()
            .filter(|container| container.function == function);
        let container = its.next().unwrap();
        assert!(its.next().is_none());
        container.container_id.parse().unwrap()
    }

    async fn set(&self, key: &str, value: &str) -> Result<(), tonic::Status> {
        let mut client = self.client();
        let request = SetSettingRequest {
            key: key.to_owned(),
            value: Some(value.to_owned()),
        };
        client.set_setting(request).await.map(drop)
    }

    /// What the node says keeps its function from running.
    async fn problem(&self) -> String {
        let request = ListQueuesRequest::default();
        let told = self.client().list_queues(request).await.unwrap();
        told.into_inner().queues.remove(0).problem
    }

    fn put(&self, key: &str, body: &str) {
        self.store.drop_object(BUCKET, key, body);
    }

    fn put_with_cap(&self, key: &str, max_grc: &str) {
        let metadata = [("max-grc".to_owned(), max_grc.to_owned())].into();
        self.store.drop_with_metadata(BUCKET, key, "", metadata);
    }

    /// The session of the only task that runs, as soon as it does.
    async fn until_metered(&self) -> SessionId {
        let sessions = || self.credit.live_sessions().into_iter();
        let placed = |session: &SessionId| self.cgroups.task(*session, |_| ()).is_some();
        self.until("a running task", |_| sessions().any(|session| placed(&session)))
            .await;
        sessions().find(placed).unwrap()
    }

    fn has(&self, key: &str) -> bool {
        self.store.text(BUCKET, key).is_some()
    }

    fn text(&self, key: &str) -> String {
        self.store
            .text(BUCKET, key)
            .unwrap_or_else(|| panic!("no `{key}` in {:?}", self.store.keys(BUCKET)))
    }

    fn json(&self, key: &str) -> serde_json::Value {
        serde_json::from_str(&self.text(key)).unwrap()
    }

    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let wait = async {
            while !condition(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(DEADLINE, wait).await;
        assert!(
            waited.is_ok(),
            "not within {DEADLINE:?}: {what}; the bucket holds {:?}",
            self.store.keys(BUCKET)
        );
    }

    async fn until_there(&self, key: &str) {
        self.until(key, |world| world.has(key)).await;
    }

    async fn stopped(mut self) -> Self {
        self.shutdown.cancel();
        self.served.take().unwrap().await.unwrap().unwrap();
        self.runtime.assert_quiet();
        self
    }
}

fn function() -> FunctionName {
    BUCKET.parse().unwrap()
}

fn config(state_dir: &Path, more: &str) -> Config {
    let polls = if more.contains("poll_") {
        ""
    } else {
        "poll_busy_ms = 5\npoll_idle_ms = 20"
    };
    let text = format!(
        "node = 'n1'\nlisten = '127.0.0.1:0'\nstate_dir = '{}'\ncredit_url = 'http://127.0.0.1:1'\n\
         {polls}\nsample_ms = 10\nreport_ms = 100\nbuild_definitions = true\n\
         {more}\n[store]\naccess_key = 'k'\nsecret_key_file = '/dev/null'",
        state_dir.display()
    );
    let file = state_dir.join("config.toml");
    std::fs::write(&file, text).unwrap();
    service_kit::config::load(Some(&file), "GRIDFAAS_FLOW_TEST").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_task_leaves_results_receipt_and_log_and_ends_in_output() {
    let world =
        World::with_script(r#"echo "$# $(cat "$1")"; mkdir -p "$2/sub"; cp "$1" "$2/sub/copy.bin""#).await;
    world.put("input/dir/a b.txt", "hello");
    world.until_there("output/dir/a b.txt").await;
    assert_eq!(world.text("results/dir/a b.txt/sub/copy.bin"), "hello");
    assert_eq!(world.text("logs/out-task-dir/a b.txt"), "2 hello\n");
    let receipt = world.json("results/dir/a b.txt/receipt.json");
    assert_eq!(
        (&receipt["exit_code"], &receipt["attempt"]),
        (&0.into(), &1.into())
    );
    assert_eq!(
        receipt["sha256"]["input"],
        "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    );
    world
        .until("an empty `processing/`", |world| {
            !world.has("processing/dir/a b.txt")
        })
        .await;
    assert!(!world.has("input/dir/a b.txt"));
    assert_eq!(world.credit.closed(), [(Verdict::Succeeded, CpuTime::ZERO)]);
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_task_reuses_the_container_and_a_new_script_is_used_at_once() {
    let world = World::with_script("echo old").await;
    world.put("input/1", "");
    world.until_there("output/1").await;
    let first = world.runtime.containers()[0].spec().id;
    world.put("utils/process_task.sh", "echo new");
    world.put("input/2", "");
    world.until_there("output/2").await;
    assert_eq!(world.text("logs/out-task-2.txt"), "new\n");
    assert_eq!(world.runtime.containers()[0].spec().id, first);
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_task_is_retried_then_parked_and_never_blocks_the_next() {
    let world = World::with_script(r#"case "$1" in *bad) echo oops; exit 7;; esac"#).await;
    world.put("utils/function.toml", "max_attempts = 2");
    world.put("input/1-bad", "");
    world.put("input/2-good", "");
    world.until_there("failed/1-bad").await;
    let reason = world.json("failed/1-bad.reason.json");
    assert_eq!(
        (&reason["attempts"], &reason["exit_code"]),
        (&2.into(), &7.into())
    );
    assert_eq!(world.text("logs/out-task-1-bad.txt.error"), "oops\n");
    assert!(world.has("output/2-good"));
    let verdicts: Vec<Verdict> = world
        .credit
        .closed()
        .into_iter()
        .map(|(verdict, _)| verdict)
        .collect();
    assert_eq!(verdicts, [Verdict::Failed, Verdict::Succeeded, Verdict::GaveUp]);
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_past_its_wall_time_is_stopped_and_parked() {
    let world = World::with_script("sleep 600").await;
    world.put("utils/function.toml", "timeout_s = 1\nmax_attempts = 1");
    world.put("input/a", "");
    world.until_there("failed/a").await;
    assert!(
        world.json("failed/a.reason.json")["reason"]
            .as_str()
            .unwrap()
            .contains("timeout_s")
    );
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_said_once_and_the_task_waits() {
    let world = World::with_script("").await;
    world.put("input/a", "");
    world.until_there("status/error.json").await;
    assert!(
        world.json("status/error.json")["error"]
            .as_str()
            .unwrap()
            .contains("is empty")
    );
    assert!(world.has("input/a") && world.credit.closed().is_empty());
    world.put("utils/base.sif", "broken");
    world.put("utils/process_task.sh", "true");
    world
        .until("the next problem", |world| {
            world.text("status/error.json").contains("base.sif")
        })
        .await;
    world.put("utils/base.sif", "mended");
    world.until_there("output/a").await;
    assert!(!world.has("status/error.json"));
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_function_starts_nothing_until_it_is_started_again() {
    let world = World::with_script("sleep 0.2").await;
    world.put("input/a", "");
    world.until_metered().await;
    world.put("utils/stopped", "");
    // What runs goes on to its end.
    world.until_there("output/a").await;
    world
        .until("no container", |world| world.runtime.containers().is_empty())
        .await;
    world.put("input/b", "");
    world.until_there("status/error.json").await;
    let problem = world.json("status/error.json");
    assert!(
        problem["error"].as_str().unwrap().contains("stopped"),
        "{problem}"
    );
    assert_eq!(world.credit.closed().len(), 1);
    world.store.delete_object(BUCKET, "utils/stopped");
    world.until_there("output/b").await;
    assert!(!world.has("status/error.json"));
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_function_is_served_no_longer_and_a_new_one_of_its_name_is() {
    let world = World::with_script("true").await;
    world.put("input/a", "");
    world.until_there("output/a").await;
    world.credit.remove_function(&function());
    // Its container would have stayed for a minute.
    world
        .until("no container", |world| world.runtime.containers().is_empty())
        .await;
    world.put("input/b", "");
    world.put("input/c", "");
    world.credit.add_function(&function(), &"alice".parse().unwrap());
    world.until_there("output/b").await;
    world.until_there("output/c").await;
    assert_eq!(world.credit.closed().len(), 3);
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_grant_throttles_and_then_returns_the_task_to_input() {
    let world = World::with_script("sleep 600").await;
    world.put("input/a", "");
    world
        .until("a running task", |world| {
            world.credit.live() == 1 && !world.runtime.containers().is_empty()
        })
        .await;
    world.until_there("status/balance.json").await;
    assert_eq!(world.json("status/balance.json")["standing"], "good");
    let container = world.runtime.containers()[0].spec().id;
    let quota = |world: &World| {
        world
            .cgroups
            .container(container, |container| container.quota.millicores())
    };
    world.credit.say(
        Grant {
            throttle_at: CpuTime::ZERO,
            stop_at: CpuTime::MAX,
        },
        Restriction::None,
        false,
    );
    world.until("the floor", |world| quota(world) == Some(500)).await;
    world.credit.say(
        Grant {
            throttle_at: CpuTime::ZERO,
            stop_at: CpuTime::ZERO,
        },
        Restriction::None,
        false,
    );
    world.until_there("logs/a.aborted.json").await;
    world
        .until("the task in `input/`", |world| {
            world.has("input/a") && !world.has("processing/a")
        })
        .await;
    world
        .until("no container", |world| world.runtime.containers().is_empty())
        .await;
    assert_eq!(world.credit.closed(), [(Verdict::Aborted, CpuTime::ZERO)]);
    // With money again, the same task runs as its second attempt.
    world.put("utils/process_task.sh", r#"echo "attempt $GRIDFAAS_ATTEMPT""#);
    world.credit.say(Grant::UNLIMITED, Restriction::None, true);
    world.until_there("output/a").await;
    assert_eq!(world.text("logs/out-task-a.txt"), "attempt 2\n");
    world.stopped().await;
}

/// What says that all money is spent.
const NOTHING: Grant = Grant {
    throttle_at: CpuTime::ZERO,
    stop_at: CpuTime::ZERO,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_deposit_within_the_hold_thaws_a_task_that_then_ends_in_its_first_attempt() {
    let world = World::with_hold("sleep 600", "").await;
    world.put("input/a", "");
    let session = world.until_metered().await;
    let is_frozen = |world: &World| world.cgroups.task(session, |task| task.frozen).unwrap();
    world.credit.say(NOTHING, Restriction::Stop, false);
    world.until("the frost", is_frozen).await;
    // More of the same changes nothing, and a deposit does.
    world.credit.say(NOTHING, Restriction::Stop, false);
    assert!(world.has("processing/a") && !world.has("logs/a.aborted.json"));
    world.credit.say(Grant::UNLIMITED, Restriction::None, true);
    world.until("the thaw", |world| !is_frozen(world)).await;
    assert_eq!(world.credit.live_sessions(), [session]);
    assert_eq!(world.credit.closed(), []);
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_tasks_that_hold_too_much_memory_give_up_the_oldest() {
    let world = World::with_hold("sleep 600", "frozen_memory_mib = 1000").await;
    world.put("utils/function.toml", "concurrency = 2");
    world.put("input/a", "");
    world.put("input/b", "");
    world
        .until("two running tasks", |world| {
            let sessions = world.credit.live_sessions().into_iter();
            let hold = |session| world.cgroups.task(session, |task| task.memory_bytes = 600 << 20);
            sessions.filter_map(hold).count() == 2
        })
        .await;
    world.credit.say(NOTHING, Restriction::Stop, false);
    world
        .until("one back in `input/`", |world| {
            world.credit.closed() == [(Verdict::Aborted, CpuTime::ZERO)]
                && world.has("input/a") != world.has("input/b")
        })
        .await;
    assert_eq!(world.credit.live(), 1);
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ceiling_holds_the_container_down_until_it_is_lifted() {
    let world = World::with_script("sleep 600").await;
    world.put("input/a", "");
    world.until_metered().await;
    let container = world.runtime.containers()[0].spec().id;
    let quota = |world: &World| {
        let quota = world.cgroups.container(container, |container| container.quota);
        quota.map(MilliCores::millicores)
    };
    world.credit.limit(Some(MilliCores::from_millicores(120)));
    world
        .until("the ceiling", |world| quota(world) == Some(120))
        .await;
    world.credit.limit(None);
    world.until("the lift", |world| quota(world) > Some(120)).await;
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_is_scaled_by_the_policy_it_asks_for() {
    for (policy, expected) in [("fixed", 700), ("guardian", 350)] {
        let world = World::with_script("sleep 600").await;
        let settings = format!("policy = '{policy}'\ncpu_max_millicores = 700");
        world.put("utils/function.toml", &settings);
        world.put("input/a", "");
        world.until_metered().await;
        let container = world.runtime.containers()[0].spec().id;
        let quota = |world: &World| world.cgroups.container(container, |container| container.quota);
        world
            .until("the policy's first limit", |world| {
                quota(world) == Some(MilliCores::from_millicores(expected))
            })
            .await;
        world.stopped().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_changes_what_runs_without_a_restart_and_stays_after_one() {
    let world = World::with_config("sleep 600", "hold_ms = 0\ncapacity_millicores = 3000").await;
    world.put("input/a", "");
    world.until_metered().await;
    let quota = |world: &World| {
        let id = world.runtime.containers().last()?.spec().id;
        let quota = world.cgroups.container(id, |container| container.quota);
        quota.map(MilliCores::millicores)
    };
    world
        .until("an idle minimum", |world| quota(world) == Some(0))
        .await;
    for (key, value, code) in [
        ("scaler.guardian.window_ms", "0", tonic::Code::InvalidArgument),
        (
            "scaler.guardian.event_timeout_ms",
            "1000",
            tonic::Code::InvalidArgument,
        ),
        ("scaler.speed", "1", tonic::Code::NotFound),
    ] {
        assert_eq!(world.set(key, value).await.unwrap_err().code(), code, "{key}");
    }
    world.set("scaler.policy", "fixed").await.unwrap();
    world.until("all of it", |world| quota(world) == Some(3000)).await;

    let world = world.stopped().await.started().await;
    world.until_metered().await;
    world
        .until("all of it again", |world| quota(world) == Some(3000))
        .await;
    world.set("scaler.policy", "tracking").await.unwrap();
    world
        .until("the minimum again", |world| quota(world) == Some(0))
        .await;
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_tells_the_run_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.jsonl");
    let record = format!("record = '{}'", path.display());
    let world = World::with_config("sleep 0.3; test $(basename $1) = good", &record).await;
    world.put("utils/function.toml", "max_attempts = 1\npolicy = 'fixed'");
    world.put("input/good", "");
    world.until_there("output/good").await;
    world.put("input/bad", "");
    world.until_there("failed/bad").await;
    world.stopped().await;

    let file = std::fs::File::open(&path).unwrap();
    let entries: Vec<Entry> = recording::read(std::io::BufReader::new(file))
        .map(Result::unwrap)
        .collect();
    assert!(entries.is_sorted_by_key(|entry| entry.at_us));
    let first = |what: &str, is: &dyn Fn(&Record) -> bool| {
        let found = entries.iter().position(|entry| is(&entry.record));
        found.unwrap_or_else(|| panic!("no {what} in {entries:#?}"))
    };
    assert_eq!(first("run", &|r| matches!(r, Record::Run { .. })), 0);
    let started = first(
        "container",
        &|r| matches!(r, Record::ContainerStarted { policy, .. } if policy == "fixed"),
    );
    let ended = |name: &'static str, how: TaskOutcome| {
        let is = move |r: &Record| matches!(r, Record::TaskEnded { task, outcome, .. } if task == name && *outcome == how);
        first(name, &is)
    };
    let (good, bad) = (
        ended("good", TaskOutcome::Succeeded),
        ended("bad", TaskOutcome::Failed),
    );
    let gone = first("end", &|r| matches!(r, Record::ContainerEnded { .. }));
    assert!(started < good && good < bad && bad < gone, "{entries:#?}");
    let samples = entries[started..gone]
        .iter()
        .filter(|entry| matches!(entry.record, Record::Sample { .. }));
    assert!(samples.count() >= 4, "two tasks of 300 ms: {entries:#?}");
    first("running task", &|r| {
        matches!(
            r,
            Record::Tasks {
                pending: 0,
                running: 1,
                ..
            }
        )
    });
    first("funds", &|r| matches!(r, Record::Funds { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_does_not_fit_the_nodes_memory_waits_until_another_has_stopped() {
    let world = World::with_config("sleep 1", "memory_capacity_mib = 2000").await;
    add_function(&world, "second", "alice");
    let put = |bucket: &str, key: &str, body: &str| world.store.drop_object(bucket, key, body);
    put("second", "utils/process_task.sh", "true");
    // A GiB each and 256 MiB for themselves: one fits, two do not.
    put(BUCKET, "utils/timeout.txt", "0");
    put(BUCKET, "input/a", "");
    world.until_metered().await;
    put("second", "input/b", "");
    let problem = |world: &World| world.store.text("second", "status/error.json");
    world.until("the problem", |world| problem(world).is_some()).await;
    let text = problem(&world).unwrap();
    assert!(text.contains("a container needs 1280 MiB of memory"), "{text}");
    assert!(
        text.contains("wait until other containers have stopped"),
        "{text}"
    );
    world
        .until("its turn", |world| {
            world.store.text("second", "output/b").is_some()
        })
        .await;
    assert!(world.has("output/a"));

    put("second", "utils/function.toml", "memory_mib = 4000");
    put("second", "utils/timeout.txt", "0");
    world
        .until("no container", |world| world.runtime.containers().is_empty())
        .await;
    put("second", "input/c", "");
    world
        .until("a hint that helps", |world| {
            problem(world).is_some_and(|text| text.contains("lower `memory_mib`"))
        })
        .await;
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_finds_an_empty_container_ready_which_stops_for_those_who_need_its_memory() {
    let config = "spare_containers = 1\nmemory_capacity_mib = 3900";
    let world = World::with_config("true", config).await;
    let live = |world: &World| {
        let containers = world.runtime.containers().into_iter();
        containers
            .map(|container| container.spec().id)
            .collect::<HashSet<_>>()
    };
    world.put("input/a", "");
    world.until_there("output/a").await;
    // Its own, and one that is ready.
    world
        .until("two containers", |world| live(world).len() == 2)
        .await;
    let before = live(&world);
    let told = world.container_of("stress").await;
    assert!(before.contains(&told));

    add_function(&world, "second", "bob");
    world.store.drop_object("second", "input/b", "");
    let has_run =
        |name: &'static str, key: &'static str| move |world: &World| world.store.text(name, key).is_some();
    world.until("b", has_run("second", "output/b")).await;
    let taken = world.container_of("second").await;
    assert!(before.contains(&taken), "it was started for the task");
    world
        .until("a third container", |world| live(world).len() == 3)
        .await;
    let ready = &live(&world) - &before;

    // One of another kind finds no memory but what the one holds that is ready.
    add_function(&world, "third", "eve");
    world
        .store
        .drop_object("third", "utils/function.toml", "memory_mib = 1000");
    world.store.drop_object("third", "input/c", "");
    world.until("c", has_run("third", "output/c")).await;
    assert!(live(&world).is_disjoint(&ready));
    assert!(before.is_subset(&live(&world)), "others stopped for it");
    let world = world.stopped().await;
    assert!(live(&world).is_empty(), "one outlives the manager");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_input_is_read_while_a_task_runs() {
    let world = World::with_script(r#"[ -s "$1" ] || sleep 600; sha256sum <"$1""#).await;
    let large = "large".repeat(1 << 20);
    // Both are in line before the first may start.
    world.credit.refuse(Some(Refusal::Runway));
    world.put("input/b", &large);
    world.put("input/a", "");
    world.credit.refuse(None);
    let running = world.until_metered().await;
    let folder = world.state.path().join("ahead");
    let read = |_: &World| {
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let mut sizes = entries.map(|entry| entry.metadata().map_or(0, |of| of.len()));
        sizes.any(|size| size == large.len() as u64)
    };
    world.until("all of it", read).await;
    assert!(world.has("input/b"), "it is nobody's yet");
    world.credit.dismiss(running);
    world.until_there("output/b").await;
    assert!(!read(&world), "it is the task's file now");
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_stays_in_line_for_memory_however_seldom_it_is_listed() {
    let more = "memory_capacity_mib = 2000\npoll_busy_ms = 5\npoll_idle_ms = 60000";
    let world = World::with_config("sleep 2", more).await;
    add_function(&world, "second", "alice");
    world.store.drop_object("second", "utils/process_task.sh", "true");
    world.put("utils/timeout.txt", "0");
    world.put("input/a", "");
    world.notify().await;
    world.until_metered().await;
    world.store.drop_object("second", "input/b", "");
    let function = "second".to_owned();
    world.client().notify(NotifyRequest { function }).await.unwrap();
    world
        .until("its turn, long before the next listing", |world| {
            world.store.text("second", "output/b").is_some()
        })
        .await;
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_take_turns_where_memory_is_short() {
    let config = "memory_capacity_mib = 1500\nturn_ms = 300";
    let world = World::with_config("sleep 0.1", config).await;
    let others = ["bobs", "eves", "anns-other"];
    for (name, user) in others.into_iter().zip(["bob", "eve", "alice"]) {
        add_function(&world, name, user);
        world.store.drop_object(name, "input/x", "");
    }
    // Each has a container of its own, and there is room for one. This queue is not over before the test.
    for number in 0..500 {
        world.put(&format!("input/{number:03}"), "");
    }
    for name in others {
        let is_done = |world: &World| world.store.text(name, "output/x").is_some();
        world.until(name, is_done).await;
    }
    let left = below(&world, BUCKET, "input/").len();
    assert!(left > 0, "they waited until the long queue was over");
    // It goes on where it had to stop.
    world
        .until("its turn again", |world| {
            below(world, BUCKET, "input/").len() < left
        })
        .await;
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dismissed_task_goes_back_to_the_queue_without_a_hold() {
    let world = World::with_hold("sleep 600", "").await;
    world.put("input/a", "");
    let session = world.until_metered().await;
    // Nothing else is to start it again.
    world.credit.refuse(Some(Refusal::Runway));
    world.credit.dismiss(session);
    world.until_there("logs/a.aborted.json").await;
    let reason = world.json("logs/a.aborted.json")["reason"].to_string();
    assert!(reason.contains("beside older tasks"), "{reason}");
    world
        .until("the task in `input/`", |world| world.has("input/a"))
        .await;
    assert_eq!(world.credit.closed(), [(Verdict::Aborted, CpuTime::ZERO)]);

    // Why it does not start is said in the bucket, until it does.
    world.until_there("status/error.json").await;
    assert_eq!(world.json("status/error.json")["error"], "Runway");
    world.put("utils/process_task.sh", "true");
    world.credit.refuse(None);
    world.until_there("output/a").await;
    world
        .until("no complaint", |world| !world.has("status/error.json"))
        .await;
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_balance_in_the_bucket_tells_the_runway_and_at_rest_none() {
    let world = World::with_script("sleep 0.5").await;
    world.put("input/a", "");
    world.until_there("status/balance.json").await;
    let balance = world.json("status/balance.json");
    assert_eq!(balance["seconds_until_empty"], 3600, "{balance}");
    assert_eq!(balance["burning_grc_per_hour"], "1.00000000");
    world
        .until("a rest", |world| {
            world.json("status/balance.json")["seconds_until_empty"].is_null()
        })
        .await;
    assert!(world.has("output/a"));
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_is_in_the_bucket_until_the_balance_is_above_again_and_written_once() {
    let world = World::with_script("true").await;
    let alert = Alert {
        id: "alice-7".to_owned(),
        threshold: Amount::from_halfords(200),
        balance: Amount::from_halfords(199),
        raised_at: Timestamp::from_unix_ms(7),
    };
    world.credit.alert(Some(alert));
    world.until_there("status/alert.json").await;
    assert_eq!(world.json("status/alert.json")["threshold_grc"], "0.00000200");
    let etag = |world: &World| world.store.etag(BUCKET, "status/alert.json");
    let before = etag(&world);
    let world = world.stopped().await.started().await;
    world.put("input/a", "");
    world.until_there("output/a").await;
    assert_eq!(etag(&world), before, "not told twice");
    world.credit.alert(None);
    world
        .until("no alert", |world| !world.has("status/alert.json"))
        .await;
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_cut_off_runs_on_to_its_grant_and_bills_everything_when_it_is_back() {
    let world = World::with_hold("sleep 600", "").await;
    let six = CpuTime::from_secs(6);
    let paid = Grant {
        throttle_at: six,
        stop_at: six,
    };
    world.credit.say(paid, Restriction::None, true);
    world.put("input/a", "");
    let session = world.until_metered().await;
    world.credit.set_down(true);
    let is_frozen = |world: &World| world.cgroups.task(session, |task| task.frozen).unwrap();
    world
        .cgroups
        .set_cpu_time(session, CpuTime::from_micros(5_999_999));
    // Many looks and many reports that nobody hears.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!is_frozen(&world), "its grant is not used up");
    world.cgroups.set_cpu_time(session, six);
    world.until("the end of the grant", is_frozen).await;
    assert!(world.has("processing/a") && world.credit.closed().is_empty());
    world.credit.set_down(false);
    world
        .until("the bill", |world| world.credit.reported() == [six])
        .await;
    world.credit.say(Grant::UNLIMITED, Restriction::None, true);
    world.until("the thaw", |world| !is_frozen(world)).await;
    assert_eq!(world.credit.live_sessions(), [session], "still the first attempt");
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_spends_its_own_cap_is_charged_and_parked() {
    let world = World::with_script("sleep 600").await;
    // 0.01 GRC are 6 core-seconds.
    world.put_with_cap("input/a", "0.01");
    let session = world.until_metered().await;
    // And the microseconds that cost no further halford.
    let cap_at = CpuTime::from_micros(6_000_005);
    world.cgroups.set_cpu_time(session, cap_at);
    world.until_there("failed/a").await;
    let reason = world.json("failed/a.reason.json");
    assert!(reason["reason"].as_str().unwrap().contains("max-grc"), "{reason}");
    assert_eq!(reason["amount_grc"], "0.01000000");
    assert_eq!(world.credit.closed(), [(Verdict::CapSpent, cap_at)]);
    world
        .until("one place only", |world| {
            !world.has("input/a") && !world.has("processing/a")
        })
        .await;
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_task_is_charged_and_parked_and_the_next_one_runs() {
    let world = World::with_script("[ $(basename $1) = b ] || sleep 600").await;
    world.put("input/a", "");
    world.put("input/b", "");
    let session = world.until_metered().await;
    let used = CpuTime::from_micros(1_000);
    world.cgroups.set_cpu_time(session, used);
    let cancel = async |task: &str| {
        let request = CancelTaskRequest {
            function: BUCKET.to_owned(),
            object_key: task.to_owned(),
        };
        world.client().cancel_task(request).await.map(drop)
    };
    assert_eq!(cancel("b").await.unwrap_err().code(), tonic::Code::NotFound);
    cancel("a").await.unwrap();
    world.until_there("failed/a").await;
    world.until_there("output/b").await;
    assert_eq!(
        world.json("failed/a.reason.json")["reason"],
        "the task was cancelled"
    );
    assert_eq!(world.credit.closed()[0], (Verdict::Cancelled, used));
    assert_eq!(cancel("a").await.unwrap_err().code(), tonic::Code::NotFound);
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_has_what_the_attempts_before_it_left_of_the_cap() {
    let world = World::with_script("sleep 0.2; exit 1").await;
    world.put("utils/function.toml", "max_attempts = 100");
    world.put_with_cap("input/a", "0.01");
    let session = world.until_metered().await;
    world
        .cgroups
        .set_cpu_time(session, CpuTime::from_micros(5_900_000));
    world
        .until("the second attempt", |world| world.credit.closed().len() == 1)
        .await;
    let session = world.until_metered().await;
    world.cgroups.set_cpu_time(session, CpuTime::from_micros(110_000));
    world.until_there("failed/a").await;
    let verdicts: Vec<Verdict> = world.credit.closed().iter().map(|closed| closed.0).collect();
    assert_eq!(verdicts, [Verdict::Failed, Verdict::CapSpent]);
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cap_that_makes_no_sense_parks_the_task_before_it_runs() {
    let world = World::with_script("true").await;
    for (key, cap) in [("1", "-1"), ("2", "lots")] {
        world.put_with_cap(&format!("input/{key}"), cap);
    }
    world.put("input/3", "");
    world.until_there("output/3").await;
    for (key, cap) in [("1", "-1"), ("2", "lots")] {
        world.until_there(&format!("failed/{key}")).await;
        let reason = world.json(&format!("failed/{key}.reason.json"));
        let text = reason["reason"].as_str().unwrap();
        assert!(text.contains("`max-grc`") && text.contains(cap), "{reason}");
        world
            .until("no input", |world| !world.has(&format!("input/{key}")))
            .await;
    }
    assert_eq!(world.credit.closed().len(), 1, "nothing of them ran");
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_container_stops_after_the_timeout_in_the_bucket() {
    let world = World::with_script("true").await;
    world.put("utils/timeout.txt", "0");
    world.put("input/a", "");
    world.until_there("output/a").await;
    world
        .until("no container", |world| world.runtime.containers().is_empty())
        .await;
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_in_hand_at_shutdown_goes_back_free_of_charge() {
    let world = World::with_script("sleep 600").await;
    world.put("input/a", "");
    world
        .until("a running task", |world| {
            world.credit.live() == 1 && world.has("processing/a")
        })
        .await;
    let world = world.stopped().await;
    assert!(world.has("input/a") && !world.has("processing/a"));
    assert_eq!(world.credit.closed(), [(Verdict::PlatformFault, CpuTime::ZERO)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_now_and_then_loses_nothing() {
    let world = World::with_script("true").await;
    for number in 0..10 {
        world.put(&format!("input/{number}"), "");
        // Each time the failures begin at another step of the task.
        tokio::time::sleep(Duration::from_millis(3 * number)).await;
        world.store.fail_next(3);
    }
    world
        .until("ten outputs", |world| {
            world
                .store
                .keys(BUCKET)
                .iter()
                .filter(|key| key.starts_with("output/"))
                .count()
                == 10
        })
        .await;
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_tasks_from_being_taken_in_is_told_until_it_is_over() {
    let world = World::with_script("true").await;
    // Something the bucket says itself, which comes back.
    world.put("utils/process_task.sh", "");
    world.put("input/a", "");
    world.until_there("status/error.json").await;
    let until_told = async |what: &str| {
        let wait = async {
            while !world.problem().await.contains(what) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(DEADLINE, wait).await.expect(what);
    };
    until_told("is empty").await;
    world.store.fail_next(u32::MAX);
    until_told("the object store at fake cannot be reached").await;
    world.store.fail_next(0);
    until_told("is empty").await;
    world.put("utils/process_task.sh", "true");
    world.until_there("output/a").await;
    assert_eq!(world.problem().await, "");
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_sees_an_attempt_step_back() {
    let world = World::with_script(r#"sleep 0.05; test "$(basename "$1")" != bad"#).await;
    world.put("utils/function.toml", "max_attempts = 2\nconcurrency = 2");
    let (mut client, stop) = (world.client(), CancellationToken::new());
    let stopped = stop.clone();
    let watcher = tokio::spawn(async move {
        let mut seen: BTreeMap<String, u8> = BTreeMap::new();
        while !stopped.is_cancelled() {
            let tasks = client.list_tasks(ListTasksRequest::default()).await.unwrap();
            for task in tasks.into_inner().tasks {
                let newest = task.attempts.last().unwrap();
                let step = match task.state() {
                    // It is over, and the task waits for another.
                    TaskState::Queued if newest.ended_at_ms != 0 => 4,
                    TaskState::Queued => 0,
                    TaskState::Claimed => 1,
                    TaskState::Running | TaskState::Frozen => 2,
                    TaskState::Finishing => 3,
                    TaskState::Succeeded | TaskState::Failed => 4,
                    TaskState::Unspecified => panic!("{task:?}"),
                };
                let before = seen.insert(newest.session_id.clone(), step);
                assert!(before <= Some(step), "from step {before:?} to {step}: {task:?}");
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        seen.len()
    });
    for task in ["1", "2", "3", "bad"] {
        world.put(&format!("input/{task}"), "");
    }
    for end in ["output/1", "output/2", "output/3", "failed/bad"] {
        world.until_there(end).await;
    }
    stop.cancel();
    assert_eq!(watcher.await.unwrap(), 5, "every attempt was seen");
    world.stopped().await;
}

/// The physical memory of this process, in MiB.
fn memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_a_log_that_do_not_read_hold_up_nobody_and_take_little_memory() {
    // What is on its way to a reader is a few MiB, by the windows of HTTP/2.
    const MIB: u64 = 64;
    const READERS: u64 = 20;
    let world = World::with_script("head -c $((64 << 20)) /dev/zero | tr '\\0' x").await;
    world.put("input/a", "");
    world.until_there("output/a").await;
    let read = async || {
        let request = ReadLogRequest {
            function: BUCKET.to_owned(),
            object_key: "a".to_owned(),
            follow: true,
        };
        world.client().read_log(request).await.unwrap().into_inner()
    };
    let (before, mut idle) = (memory_mib(), Vec::new());
    for _ in 0..READERS {
        idle.push(read().await);
    }
    let (mut eager, mut bytes) = (read().await, 0);
    while let Some(answer) = eager.message().await.unwrap() {
        bytes += answer.chunk.len() as u64;
    }
    assert_eq!(bytes, MIB << 20);
    let grown = memory_mib().saturating_sub(before);
    assert!(
        grown < MIB * READERS / 4,
        "{grown} MiB for {READERS} readers of {MIB} MiB each"
    );
    drop(idle);
    world.stopped().await;
}

const QUICK: &str = "hold_ms = 0\norphan_ms = 1000";

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_that_is_gone_for_good_left_behind_is_run_where_it_is() {
    let world = World::with_config(r#"cp "$1" "$2/copy""#, QUICK).await;
    let gone = OpenSession {
        session: SessionId::new(),
        function: function(),
        key: TaskKey::from_name("a").unwrap(),
        task: None,
        is_left_behind: false,
        parent: None,
        max_amount: None,
        capacity: MilliCores::ONE_CORE,
        input_bytes: 1,
    };
    let Opened::Licensed { licence, .. } = world.credit.open(&gone).await.unwrap() else {
        panic!("refused");
    };
    let metadata = || [("gridfaas-task".to_owned(), licence.task.to_string())].into();
    world
        .store
        .drop_with_metadata(BUCKET, "processing/a", "x", metadata());
    // This one no node put there, and of this one all is there but its move.
    world.put("processing/b", "x");
    let receipt = format!(r#"{{"task_id": "{}", "outcome": "succeeded"}}"#, licence.task);
    world.put("results/done/receipt.json", &receipt);
    world
        .store
        .drop_with_metadata(BUCKET, "processing/done", "x", metadata());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(world.has("processing/a"), "it is another node's");
    world.credit.lose(gone.session);
    world.until_there("output/a").await;
    assert_eq!(world.text("results/a/copy"), "x");
    assert_eq!(world.json("results/a/receipt.json")["attempt"], 2);
    world.until("an end", |world| !world.has("processing/a")).await;
    assert!(world.has("processing/b"));
    assert!(world.has("output/done") && !world.has("processing/done") && !world.has("results/done/copy"));
    assert_eq!(
        world.store.metadata(BUCKET, "output/done"),
        Some(BTreeMap::new()),
        "whoever drops it once more wants a new task"
    );
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_given_up_before_the_results_are_there_moves_nothing() {
    let world = World::with_config("echo result >\"$2/result\"; sleep 0.5", QUICK).await;
    world.store.refuse_writes_to(Some("results/"));
    world.put("input/a", "");
    let session = world.until_metered().await;
    world
        .until("its end", |world| !world.credit.closed().is_empty())
        .await;
    world.credit.lose(session);
    // By now the node asks whether it is still its session.
    tokio::time::sleep(Duration::from_millis(500)).await;
    world.store.refuse_writes_to(None);
    world.until_there("output/a").await;
    assert_eq!(world.json("results/a/receipt.json")["attempt"], 2);
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_loses_a_session_moves_nothing_and_the_next_session_takes_it_from_there() {
    let world = World::with_config("sleep 600", QUICK).await;
    world.put("input/a", "");
    let session = world.until_metered().await;
    world.put("utils/process_task.sh", "true");
    world.credit.lose(session);
    world.until_there("output/a").await;
    assert_eq!(world.json("results/a/receipt.json")["attempt"], 2);
    assert!(!world.has("logs/a.aborted.json") && !world.has("input/a"));
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_keys_stay_in_their_own_folder() {
    let world = World::with_script(r#"cp "$1" "$2/$(basename -- "$1")""#).await;
    let keys = [
        "../../x",
        "..",
        "a//b",
        " ",
        "-rf",
        "$(id)",
        "ä\u{202e}.txt",
        "new\nline",
    ];
    for key in keys {
        world.put(&format!("input/{key}"), "x");
    }
    for key in keys {
        world.until_there(&format!("output/{key}")).await;
    }
    assert!(
        keys.iter()
            .all(|key| world.has(&format!("results/{key}/receipt.json")))
    );
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_can_be_no_task_is_parked_with_the_reason() {
    let world = World::with_config("true", "hold_ms = 0\nfetch_mib_max = 1").await;
    world.put(&format!("input/{}", "k".repeat(1010)), "x");
    world.put("input/huge", &"x".repeat((1 << 20) + 1));
    world.until_there("failed/huge").await;
    world
        .until("both are parked", |world| {
            below(world, BUCKET, "failed/").len() == 4
        })
        .await;
    let reasons = below(&world, BUCKET, "failed/")
        .into_iter()
        .filter(|key| key.ends_with(".reason.json"));
    let reasons: Vec<String> = reasons
        .map(|key| world.json(&key)["reason"].as_str().unwrap().to_owned())
        .collect();
    assert!(
        reasons.iter().any(|reason| reason.contains("at most 1000 fit")),
        "{reasons:?}"
    );
    assert!(
        reasons.iter().any(|reason| reason.contains("at most 1048576")),
        "{reasons:?}"
    );
    assert_eq!(below(&world, BUCKET, "input/"), [""; 0]);
    world.stopped().await;
}

/// A second function of a user, whose tasks say what they got.
fn add_function(world: &World, name: &str, user: &str) {
    world.store.create_bucket(name);
    world
        .store
        .drop_object(name, "utils/process_task.sh", r#"cat "$1"; cp "$1" "$2/again""#);
    world.store.drop_object(name, "utils/base.sif", "an image");
    world
        .credit
        .add_function(&name.parse().unwrap(), &user.parse().unwrap());
}

/// The keys of a bucket below a prefix.
fn below(world: &World, bucket: &str, prefix: &str) -> Vec<String> {
    let keys = world.store.keys(bucket).into_iter();
    keys.filter(|key| key.starts_with(prefix)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn results_go_on_to_the_next_function_once_and_before_the_output() {
    let world = World::with_script(r#"mkdir "$2/sub"; echo one >"$2/1"; echo two >"$2/sub/2""#).await;
    add_function(&world, "next", "alice");
    world.put("utils/function.toml", "[chain]\nto = \"next\"");
    // The node tries again and again to end the task, and chains its results each time.
    world.store.refuse_writes_to(Some("output/a"));
    world.put("input/a", "");
    world
        .until("both results run", |world| {
            below(world, "next", "output/stress/").len() == 2
        })
        .await;
    assert!(!world.has("output/a"), "chained before its end is seen");
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.store.refuse_writes_to(None);
    world.until_there("output/a").await;

    let receipt = world.json("results/a/receipt.json");
    let task = receipt["task_id"].as_str().unwrap();
    assert_eq!(
        below(&world, "next", "output/"),
        [
            format!("output/stress/{task}/1"),
            format!("output/stress/{task}/sub/2")
        ]
    );
    assert_eq!(
        (&receipt["chain"]["to"], &receipt["chain"]["objects"]),
        (&"next".into(), &2.into())
    );
    let log = world
        .store
        .text("next", &format!("logs/out-task-stress/{task}/sub/2.txt"));
    assert_eq!(log.unwrap(), "two\n");
    let metadata = world
        .store
        .metadata("next", &format!("output/stress/{task}/1"))
        .unwrap();
    assert_eq!(
        (&*metadata["gridfaas-parent"], &*metadata["gridfaas-root"]),
        (task, task)
    );
    assert_eq!(world.credit.closed().len(), 3, "each ran once");
    assert!(below(&world, "next", "input/").is_empty());
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn results_go_to_nobody_elses_function() {
    let world = World::with_script(r#"echo x >"$2/x""#).await;
    add_function(&world, "bobs", "bob");
    world.put("utils/function.toml", "[chain]\nto = \"bobs\"");
    world.put("input/a", "");
    world.until_there("status/error.json").await;
    let told = world.json("status/error.json");
    assert!(
        told["error"]
            .as_str()
            .unwrap()
            .contains("`bobs`, which is no function of alice"),
        "{told}"
    );
    assert!(world.has("input/a") && world.credit.closed().is_empty());
    world.put("utils/function.toml", "");
    world.until_there("output/a").await;
    assert!(below(&world, "bobs", "input/").is_empty());
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_starts_a_task_at_once_and_twice_starts_it_once() {
    // No listing comes by itself before the deadline of the waits.
    let polls = "poll_busy_ms = 60000\npoll_idle_ms = 60000";
    let world = World::with_config("echo run", polls).await;
    for (number, task) in ["1", "2", "3"].into_iter().enumerate() {
        world.put(&format!("input/{task}"), "");
        world.notify().await;
        world.notify().await;
        world.until_there(&format!("output/{task}")).await;
        assert_eq!(world.text(&format!("logs/out-task-{task}.txt")), "run\n");
        assert_eq!(world.credit.closed().len(), number + 1);
    }
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invoked_task_is_a_task_like_any_other_and_its_log_and_results_come_back() {
    let world = World::with_script(r#"echo "got $(cat "$1")"; cp "$1" "$2/copy"; : >"$2/empty""#).await;
    let events = world.invoke("dir/a", "hello").await.unwrap();
    assert_eq!(events[0], Event::AcceptedObjectKey("dir/a".to_owned()));
    let (mut log, mut results) = (String::new(), BTreeMap::new());
    for event in &events {
        match event {
            Event::Log(chunk) => log += std::str::from_utf8(chunk).unwrap(),
            Event::Result(chunk) => results
                .entry(chunk.name.as_str())
                .or_insert_with(Vec::new)
                .extend_from_slice(&chunk.data),
            Event::AcceptedObjectKey(_) | Event::Ended(_) => {}
        }
    }
    assert_eq!(log, "got hello\n");
    let names: Vec<&str> = results.keys().copied().collect();
    assert_eq!(names, ["copy", "empty", "receipt.json"]);
    assert_eq!((&*results["copy"], &*results["empty"]), (&b"hello"[..], &b""[..]));
    let Some(Event::Ended(task)) = events.last() else {
        panic!("{events:?}");
    };
    assert_eq!((task.state(), task.attempts.len()), (TaskState::Succeeded, 1));
    assert_eq!(world.text("output/dir/a"), "hello");
    assert_eq!(world.text("logs/out-task-dir/a.txt"), log);
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invoked_task_that_cannot_succeed_is_told_why() {
    let world = World::with_script("echo oops; exit 3").await;
    world.put("utils/function.toml", "max_attempts = 1");
    let events = world.invoke("", "x").await.unwrap();
    let Some(Event::Ended(task)) = events.last() else {
        panic!("{events:?}");
    };
    assert_eq!(task.state(), TaskState::Failed);
    assert_eq!(task.attempts[0].exit_code, Some(3));
    assert!(world.has(&format!("failed/{}", task.object_key)));

    // What nobody can run stays where it is, and its name is taken.
    world.put("utils/process_task.sh", "");
    let waits = world.invoke("b", "x").await.unwrap_err();
    assert_eq!(waits.code(), tonic::Code::FailedPrecondition, "{waits}");
    assert!(waits.message().contains("is empty"), "{waits}");
    let taken = world.invoke("b", "x").await.unwrap_err();
    assert_eq!(taken.code(), tonic::Code::AlreadyExists, "{taken}");
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_tasks_overlap_as_the_function_asks_for() {
    // Each waits for the other three.
    let script = r#"here=$(dirname "$0")/../..; : >"$here/$(basename "$1")"; until [ -e "$here/1" ] && [ -e "$here/2" ] && [ -e "$here/3" ] && [ -e "$here/4" ]; do sleep 0.01; done"#;
    let world = World::with_script(script).await;
    world.put("utils/function.toml", "concurrency = 4");
    for task in 1..=4 {
        world.put(&format!("input/{task}"), "");
    }
    for task in 1..=4 {
        world.until_there(&format!("output/{task}")).await;
    }
    assert_eq!(world.runtime.containers().len(), 1);
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn running_work_is_for_operators_and_finished_work_for_anybody() {
    let world = World::with_script("sleep 0.3").await;
    let (running, finished) = ("/about/executions", "/about/executions/records");
    world.credit.set_token(OPERATOR, Some(Caller::Operator));
    let alice = Caller::User("alice".parse().unwrap());
    world.credit.set_token("alice", Some(alice));
    world.put("input/a secret name", "");
    world.until_metered().await;
    let (status, tasks) = world.page(running, Some(OPERATOR)).await;
    assert_eq!(
        (status, &tasks[0]["task"]),
        (200, &"a secret name".into()),
        "{tasks}"
    );
    assert_eq!(world.page(finished, None).await, (200, serde_json::json!([])));

    world.until_there("output/a secret name").await;
    world
        .until("nothing under way", |world| {
            world.credit.live_sessions().is_empty()
        })
        .await;
    for (token, expected) in [(None, 401), (Some("guessed"), 401), (Some("alice"), 403)] {
        let (status, told) = world.page(running, token).await;
        assert_eq!(status, expected, "{told}");
        assert!(told["error"].is_string(), "{told}");
    }
    let (status, records) = world.page(finished, None).await;
    assert_eq!(
        (status, &records[0]["succeeded"]),
        (200, &true.into()),
        "{records}"
    );
    let text = records.to_string();
    assert!(
        !text.contains("secret") && !text.contains("alice") && !text.contains(BUCKET),
        "{text}"
    );
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_broken_is_named_and_nothing_else_is_told() {
    let world = World::with_script("").await;
    let broken = |name: &str| (503, serde_json::json!({ "error": format!("broken: {name}") }));
    world.store.fail_next(u32::MAX);
    world.until_checked(broken("store")).await;
    world.store.fail_next(0);
    world.credit.set_down(true);
    world.until_checked(broken("credit-manager")).await;
    world.credit.set_down(false);
    world.cgroups.fail_next(1);
    world.until_checked(broken("cgroups")).await;
    world.runtime.refuse_next_start("no");
    world.until_checked(broken("apptainer")).await;
    let state_dir = world.state.path();
    let aside = state_dir.with_extension("aside");
    std::fs::rename(state_dir, &aside).unwrap();
    world.store.fail_next(u32::MAX);
    world.until_checked(broken("apptainer, store, disk")).await;
    std::fs::rename(&aside, state_dir).unwrap();
    world.store.fail_next(0);
    world.runtime.accept_starts();
    let probes = [
        "kernel",
        "cgroups",
        "apptainer",
        "store",
        "credit-manager",
        "disk",
    ];
    world
        .until_checked((200, serde_json::json!({ "works": probes })))
        .await;
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_tells_what_it_is_and_has_to_anybody() {
    let world = World::with_config("", "capacity_millicores = 1500\nmemory_capacity_mib = 8192").await;
    let (status, told) = world.page("/status", None).await;
    assert_eq!(
        (status, &told["node"], &told["state"]),
        (200, &"n1".into(), &"active".into())
    );
    let (status, told) = world.page("/about/capacity", None).await;
    assert_eq!(
        (status, &told["registered"]["cpu_millicores"]),
        (200, &1500.into())
    );
    assert_eq!(
        (&told["free"]["memory_mib"], &told["compute_units"]["free"]),
        (&8192.into(), &1.into())
    );
    for page in ["/about/usage/system", "/about/capability"] {
        let (status, told) = world.page(page, None).await;
        assert!(status == 200 && told["cpu"]["count"].as_u64() > Some(0), "{told}");
        assert!(!told.to_string().contains("null"), "{told}");
    }
    let (status, told) = world.page("/about/nothing", None).await;
    assert_eq!(
        (status, told),
        (404, serde_json::json!({ "error": "there is no such page" }))
    );
    world.stopped().await;
}

impl World {
    async fn reserve(&self, user: &str, key: &str, millicores: u32, memory_mib: u64) -> Result<String, Code> {
        let request = ReserveCapacityRequest {
            user: user.to_owned(),
            key: key.to_owned(),
            millicores,
            memory_mib,
            disk_mib: 0,
            ttl_ms: 600_000,
        };
        let answer = self.client().reserve_capacity(request).await;
        let reservation = answer.map_err(|status| status.code())?.into_inner().reservation;
        Ok(reservation.unwrap().reservation_id)
    }

    async fn reservations(&self) -> usize {
        let answer = self.client().list_reservations(ListReservationsRequest {}).await;
        answer.unwrap().into_inner().reservations.len()
    }

    /// What the node says it has, after checking that it adds up.
    async fn capacity(&self) -> serde_json::Value {
        let (_, told) = self.page("/about/capacity", None).await;
        for kind in ["cpu_millicores", "memory_mib", "disk_mib"] {
            let of = |part: &str| told[part][kind].as_i64().unwrap();
            let sum = of("allocated") + of("reserved") + of("free");
            assert_eq!(sum, of("registered"), "{kind} of {told}");
        }
        told
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_reservations_at_once_as_many_are_made_as_fit_and_they_outlive_the_node() {
    let world = World::with_config("", "capacity_millicores = 4000\nmemory_capacity_mib = 8192").await;
    let keys: Vec<String> = (0..10).map(|key| key.to_string()).collect();
    let asked = || futures::future::join_all(keys.iter().map(|key| world.reserve("alice", key, 1100, 1024)));
    let made = asked().await;
    assert_eq!(made.iter().filter(|made| made.is_ok()).count(), 3, "{made:?}");
    let refused: HashSet<Code> = made
        .iter()
        .filter_map(|made| made.as_ref().err().copied())
        .collect();
    assert_eq!(refused, [Code::ResourceExhausted].into());
    assert_eq!(asked().await, made, "the same key is the same reservation");
    let before = world.capacity().await;
    assert_eq!(before["reserved"]["cpu_millicores"], 3300);
    assert_eq!(
        (&before["free"]["memory_mib"], &before["free"]["cpu_millicores"]),
        (&5120.into(), &700.into())
    );

    // A stop writes nothing of it, so that it is no better than a kill.
    let world = world.stopped().await.started().await;
    assert_eq!(world.capacity().await["reserved"], before["reserved"]);

    let id = made.into_iter().flatten().next().unwrap();
    let release = ReleaseReservationRequest { reservation_id: id };
    world
        .credit
        .set_token("bob", Some(Caller::User("bob".parse().unwrap())));
    let foreign = world
        .client_with("bob")
        .release_reservation(release.clone())
        .await;
    assert_eq!(foreign.unwrap_err().code(), Code::PermissionDenied);
    world.client().release_reservation(release.clone()).await.unwrap();
    let again = world.client().release_reservation(release).await;
    assert_eq!(again.unwrap_err().code(), Code::NotFound);
    assert_eq!(world.capacity().await["reserved"]["cpu_millicores"], 2200);
    world.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_starts_on_what_its_user_reserved_and_waits_for_what_others_did() {
    let world = World::with_config("sleep 0.2", "memory_capacity_mib = 1000").await;
    world.put("utils/function.toml", "memory_mib = 300");
    let bobs = world.reserve("bob", "a", 0, 500).await.unwrap();
    world.put("input/1", "");
    world.until_there("status/error.json").await;
    assert!(
        world.problem().await.contains("memory"),
        "{}",
        world.problem().await
    );
    let release = ReleaseReservationRequest { reservation_id: bobs };
    world.client().release_reservation(release).await.unwrap();
    world.until_there("output/1").await;
    world.capacity().await;
    world.put("utils/timeout.txt", "0");
    let given_back = async {
        while world.capacity().await["allocated"]["memory_mib"] != 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, given_back).await.unwrap();

    world.reserve("alice", "a", 500, 600).await.unwrap();
    world.reserve("bob", "b", 0, 400).await.unwrap();
    world.put("input/2", "");
    world.until_there("output/2").await;
    assert_eq!(world.reservations().await, 1, "alice's is used, bob's is not");
    world.capacity().await;
    world.stopped().await;
}
