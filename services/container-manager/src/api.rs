//! gRPC for people's tools: tasks, containers, logs, hints. The one place where errors become status codes.

mod reservations;

use std::collections::{HashMap, HashSet};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use access::Caller;
use futures::{Stream, StreamExt as _};
use proto::container::v1::container_service_server::ContainerService;
use proto::container::v1::{self as wire};
use proto::parse;
use tokio::io::AsyncReadExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tracing::debug;
use units::{FunctionName, SessionId};

use crate::intake::Registry;
use crate::invoke::{self, Event, Invocation, InvokeError};
use crate::journal::JournalError;
use crate::layout::TaskKey;
use crate::meter::Progress;
use crate::node::Node;
use crate::publish::RECEIPT_BYTES_MAX;
use crate::queue::{self, Count};
use crate::settings::{Setting, SettingError};
use crate::store::StoreError;
use crate::task::{Attempt, State, Verdict};

/// Entries in an answer, where the caller does not say.
const LIMIT_DEFAULT: u32 = 100;
/// Records in an answer: anybody may ask.
const RECORDS_MAX: u32 = 1000;
/// How often a followed log is read.
const FOLLOW_PAUSE: Duration = Duration::from_millis(200);
/// Chunks read ahead of a slow reader of a log, of up to 64 KiB each.
const CHUNKS_AHEAD: usize = 4;

/// So that one slow bucket does not hold up the rest.
const LISTINGS_AT_ONCE: usize = 8;

#[derive(Clone)]
pub struct Api {
    node: Arc<Node>,
    registry: Arc<Registry>,
}

impl Api {
    pub fn new(node: Arc<Node>, registry: Arc<Registry>) -> Self {
        Self { node, registry }
    }

    fn invoked(&self, function: &FunctionName, event: Event) -> wire::invoke_response::Event {
        use wire::invoke_response::Event as Told;
        match event {
            Event::Accepted(key) => Told::AcceptedObjectKey(key.to_string()),
            Event::Log(chunk) => Told::Log(chunk),
            Event::Result { name, chunk } => Told::Result(wire::ResultChunk { name, data: chunk }),
            Event::Ended { attempt, succeeded } => {
                let ended = attempt.and_then(|attempt| self.tasks(vec![*attempt]).pop());
                let state = if succeeded {
                    wire::TaskState::Succeeded
                } else {
                    wire::TaskState::Failed
                };
                Told::Ended(ended.unwrap_or_else(|| wire::Task {
                    function: function.to_string(),
                    state: state.into(),
                    ..wire::Task::default()
                }))
            }
        }
    }

    fn state(&self, attempt: &Attempt) -> wire::TaskState {
        match state(attempt) {
            wire::TaskState::Running if self.node.meter.is_frozen(attempt.session) => wire::TaskState::Frozen,
            state => state,
        }
    }

    /// The functions of which a caller may see the tasks; `None` stands for all. A user sees nothing of a function whose
    /// owner this node does not know.
    fn reached(
        &self,
        caller: &Caller,
        asked: Option<FunctionName>,
    ) -> Result<Option<Vec<FunctionName>>, Status> {
        match (caller, asked) {
            (Caller::User(user), None) => Ok(Some(self.registry.functions_of(user))),
            (Caller::User(_), Some(function)) => match self.registry.owner(&function) {
                Some(owner) => caller.check_owner(&owner).map(|()| Some(vec![function])),
                None => Ok(Some(Vec::new())),
            },
            (_, asked) => Ok(asked.map(|function| vec![function])),
        }
    }

    /// Errors if a caller may not reach a function, or if nobody here knows whose it is.
    async fn check_reach(&self, caller: &Caller, function: &FunctionName) -> Result<(), Status> {
        if !matches!(caller, Caller::User(_)) {
            return Ok(());
        }
        let owner = self.registry.find(function).await;
        let owner =
            owner.ok_or_else(|| Status::not_found(format!("{function} is not known to this node")))?;
        caller.check_owner(&owner)
    }

    /// The newest attempts of some functions, newest first.
    async fn newest(&self, functions: Option<Vec<FunctionName>>, limit: u32) -> Result<Vec<Attempt>, Status> {
        let journal = &self.node.journal;
        let Some(functions) = functions else {
            return journal.newest(None, limit).await.map_err(status);
        };
        let mut newest = Vec::new();
        for function in functions {
            newest.extend(journal.newest(Some(function), limit).await.map_err(status)?);
        }
        newest.sort_by_key(|attempt| std::cmp::Reverse(attempt.session));
        newest.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(newest)
    }

    /// The tasks of some functions that are under way, newest first.
    pub(crate) async fn live(&self, functions: Option<Vec<FunctionName>>) -> Result<Vec<wire::Task>, Status> {
        let mut live = self.node.journal.under_way().await.map_err(status)?;
        live.retain(|attempt| {
            let reached = functions.as_ref();
            reached.is_none_or(|functions| functions.contains(&attempt.function))
        });
        live.reverse();
        Ok(self.tasks(live))
    }

    /// What ran and is over, without names, newest first.
    pub(crate) async fn records(&self, limit: u32) -> Result<Vec<wire::Record>, Status> {
        let finished = self.node.journal.finished(limit).await.map_err(status)?;
        Ok(finished.iter().filter_map(record).collect())
    }

    /// Attempts, newest first, as tasks, newest first, with their attempts oldest first.
    fn tasks(&self, attempts: Vec<Attempt>) -> Vec<wire::Task> {
        let mut tasks: Vec<wire::Task> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        for attempt in attempts {
            // Before its licence an attempt has no task yet, and stands for itself.
            let id = attempt
                .licence()
                .map_or_else(|| attempt.session.to_string(), |licence| licence.task.to_string());
            let place = *places.entry(id.clone()).or_insert_with(|| {
                tasks.push(wire::Task {
                    task_id: id,
                    user: attempt
                        .licence()
                        .map(|licence| licence.user.to_string())
                        .unwrap_or_default(),
                    function: attempt.function.to_string(),
                    object_key: attempt.key.to_string(),
                    state: self.state(&attempt).into(),
                    attempts: Vec::new(),
                });
                tasks.len() - 1
            });
            tasks[place].attempts.insert(
                0,
                wire_attempt(&attempt, self.node.meter.progress(attempt.session)),
            );
        }
        tasks
    }
}

fn invoke_status(err: &InvokeError) -> Status {
    let message = service_kit::Chain(err).to_string();
    match err {
        InvokeError::Exists { .. } => Status::already_exists(message),
        InvokeError::Waits { .. } => Status::failed_precondition(message),
        InvokeError::Store(StoreError::NoSuchBucket { .. }) => Status::not_found(message),
        InvokeError::Store(_) => Status::unavailable(message),
        InvokeError::CallerGone => Status::cancelled(message),
        InvokeError::Journal(_) | InvokeError::Disk { .. } => Status::internal(message),
    }
}

/// The function that a request names, if any.
fn asked(function: &str) -> Result<Option<FunctionName>, Status> {
    match function {
        "" => Ok(None),
        name => Ok(Some(parse("function", name)?)),
    }
}

fn limit(asked: u32) -> u32 {
    if asked == 0 { LIMIT_DEFAULT } else { asked }
}

fn status(err: JournalError) -> Status {
    Status::internal(service_kit::Chain(&err).to_string())
}

#[tonic::async_trait]
impl ContainerService for Api {
    async fn list_tasks(
        &self,
        request: Request<wire::ListTasksRequest>,
    ) -> Result<Response<wire::ListTasksResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let functions = self.reached(&caller, asked(&request.function)?)?;
        let tasks = if request.live_only {
            self.live(functions).await?
        } else {
            self.tasks(self.newest(functions, limit(request.limit)).await?)
        };
        Ok(Response::new(wire::ListTasksResponse { tasks }))
    }

    async fn list_records(
        &self,
        request: Request<wire::ListRecordsRequest>,
    ) -> Result<Response<wire::ListRecordsResponse>, Status> {
        let limit = limit(request.into_inner().limit).min(RECORDS_MAX);
        let records = self.records(limit).await?;
        Ok(Response::new(wire::ListRecordsResponse { records }))
    }

    async fn list_containers(
        &self,
        request: Request<wire::ListContainersRequest>,
    ) -> Result<Response<wire::ListContainersResponse>, Status> {
        let user = Caller::of(&request)?.narrow(None)?;
        let container = |view: crate::meter::ContainerView| wire::Container {
            container_id: view.id.to_string(),
            function: view.info.function.to_string(),
            user: view.info.user.to_string(),
            millicores: view.allocation.millicores(),
            used_millicores: view.used.millicores(),
            started_at_ms: view.info.started_at.unix_ms(),
            running_tasks: view.running_tasks,
            image_digest: view.info.image_digest,
            restriction: view.restriction.to_string(),
            max_millicores: view.max.millicores(),
            policy: view.policy.to_string(),
            cpu_time_us: view.stat.usage.total.micros(),
            throttled_us: view.stat.throttled().micros(),
        };
        let containers = self.node.meter.containers().into_iter();
        let reached = containers.filter(|view| user.as_ref().is_none_or(|user| view.info.user == *user));
        Ok(Response::new(wire::ListContainersResponse {
            containers: reached.map(container).collect(),
        }))
    }

    type ReadLogStream = Pin<Box<dyn Stream<Item = Result<wire::ReadLogResponse, Status>> + Send>>;

    async fn read_log(
        &self,
        request: Request<wire::ReadLogRequest>,
    ) -> Result<Response<Self::ReadLogStream>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let function: FunctionName = parse("function", &request.function)?;
        self.check_reach(&caller, &function).await?;
        let no_task = || {
            Status::not_found(format!(
                "this node has not run `{}` of {function}",
                request.object_key
            ))
        };
        let key = TaskKey::from_name(&request.object_key).ok_or_else(no_task)?;
        let newest = self
            .node
            .journal
            .newest_of(&function, &key)
            .await
            .map_err(status)?
            .ok_or_else(no_task)?;
        let (sender, receiver) = tokio::sync::mpsc::channel(CHUNKS_AHEAD);
        let node = self.node.clone();
        tokio::spawn(async move {
            if let Err(err) = send_log(&node, &function, &key, newest.session, request.follow, &sender).await
            {
                let _reader_gone = sender.send(Err(err)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    type InvokeStream = Pin<Box<dyn Stream<Item = Result<wire::InvokeResponse, Status>> + Send>>;

    async fn invoke(
        &self,
        request: Request<wire::InvokeRequest>,
    ) -> Result<Response<Self::InvokeStream>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let function: FunctionName = parse("function", &request.function)?;
        self.check_reach(&caller, &function).await?;
        let key = match request.object_key.as_str() {
            "" => None,
            name => Some(
                TaskKey::from_name(name)
                    .ok_or_else(|| Status::invalid_argument(format!("`{name}` is no name of a task")))?,
            ),
        };
        let invocation = Invocation {
            function: function.clone(),
            key,
            input: request.input,
        };
        let (events, told) = tokio::sync::mpsc::channel(CHUNKS_AHEAD);
        let (node, registry) = (self.node.clone(), self.registry.clone());
        tokio::spawn(async move {
            if let Err(err) = invoke::invoke(&node, &registry, invocation, &events).await {
                let _caller_gone = events.send(Err(err)).await;
            }
        });
        let this = self.clone();
        let stream = ReceiverStream::new(told).map(move |event| match event {
            Ok(event) => Ok(wire::InvokeResponse {
                event: Some(this.invoked(&function, event)),
            }),
            Err(err) => Err(invoke_status(&err)),
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn notify(
        &self,
        request: Request<wire::NotifyRequest>,
    ) -> Result<Response<wire::NotifyResponse>, Status> {
        let caller = Caller::of(&request)?;
        let function: FunctionName = parse("function", &request.into_inner().function)?;
        if let Some(owner) = self.registry.owner(&function) {
            caller.check_owner(&owner)?;
        }
        self.registry.hint(&function);
        Ok(Response::new(wire::NotifyResponse {}))
    }

    async fn cancel_task(
        &self,
        request: Request<wire::CancelTaskRequest>,
    ) -> Result<Response<wire::CancelTaskResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let function: FunctionName = parse("function", &request.function)?;
        if let Some(owner) = self.registry.owner(&function) {
            caller.check_owner(&owner)?;
        }
        let under_way = self.node.journal.under_way().await.map_err(status)?;
        let mut wanted = under_way
            .iter()
            .filter(|attempt| attempt.function == function && attempt.key.as_str() == request.object_key);
        if wanted.any(|attempt| self.node.meter.cancel(attempt.session)) {
            return Ok(Response::new(wire::CancelTaskResponse {}));
        }
        Err(Status::not_found(format!(
            "`{}` of {function} does not run on this node",
            request.object_key
        )))
    }

    async fn get_node(
        &self,
        _request: Request<wire::GetNodeRequest>,
    ) -> Result<Response<wire::GetNodeResponse>, Status> {
        let key = self.node.signing_key.public();
        Ok(Response::new(wire::GetNodeResponse {
            node_id: self.node.config.node.to_string(),
            receipt_key_pem: key.to_pem(),
            receipt_key_id: key.id(),
            capacity_millicores: self.node.meter.capacity().millicores(),
            memory_capacity_mib: self.node.memory.capacity_mib(),
            memory_reserved_mib: self.node.memory.reserved_mib(),
        }))
    }

    async fn list_queues(
        &self,
        request: Request<wire::ListQueuesRequest>,
    ) -> Result<Response<wire::ListQueuesResponse>, Status> {
        let caller = Caller::of(&request)?;
        let asked = asked(&request.into_inner().function)?;
        let reached = self.reached(&caller, asked.clone())?;
        let mut functions = self.registry.functions();
        functions.retain(|function| {
            let reached = reached.as_ref();
            reached.is_none_or(|reached| reached.contains(function))
        });
        functions.sort();
        // An idle function's loop looks by itself; listing a thousand of them for everybody who asks is not worth it.
        let busy: HashSet<_> = self.registry.busy_functions().into_iter().chain(asked).collect();
        let queues = futures::stream::iter(functions)
            .map(|function| queue(&self.node, busy.contains(&function), function))
            .buffered(LISTINGS_AT_ONCE);
        Ok(Response::new(wire::ListQueuesResponse {
            queues: queues.collect().await,
        }))
    }

    async fn get_receipt(
        &self,
        request: Request<wire::GetReceiptRequest>,
    ) -> Result<Response<wire::GetReceiptResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let function: FunctionName = parse("function", &request.function)?;
        self.check_reach(&caller, &function).await?;
        let no_receipt =
            || Status::not_found(format!("`{}` of {function} has no receipt", request.object_key));
        let key = TaskKey::from_name(&request.object_key).ok_or_else(no_receipt)?;
        let (store, bucket) = (self.node.store.as_ref(), function.as_str());
        match store.get(bucket, &key.receipt(), RECEIPT_BYTES_MAX).await {
            Ok(Some(receipt)) => Ok(Response::new(wire::GetReceiptResponse {
                receipt: receipt.body,
            })),
            Ok(None) | Err(StoreError::NoSuchBucket { .. }) => Err(no_receipt()),
            Err(err) => Err(Status::unavailable(service_kit::Chain(&err).to_string())),
        }
    }

    async fn reserve_capacity(
        &self,
        request: Request<wire::ReserveCapacityRequest>,
    ) -> Result<Response<wire::ReserveCapacityResponse>, Status> {
        self.reserve(request).await
    }

    async fn release_reservation(
        &self,
        request: Request<wire::ReleaseReservationRequest>,
    ) -> Result<Response<wire::ReleaseReservationResponse>, Status> {
        self.release(request).await
    }

    async fn list_reservations(
        &self,
        request: Request<wire::ListReservationsRequest>,
    ) -> Result<Response<wire::ListReservationsResponse>, Status> {
        self.reservations(&request)
    }

    async fn list_settings(
        &self,
        _request: Request<wire::ListSettingsRequest>,
    ) -> Result<Response<wire::ListSettingsResponse>, Status> {
        let settings = self.node.settings.list().into_iter().map(wire_setting).collect();
        Ok(Response::new(wire::ListSettingsResponse { settings }))
    }

    async fn set_setting(
        &self,
        request: Request<wire::SetSettingRequest>,
    ) -> Result<Response<wire::SetSettingResponse>, Status> {
        let (node, request) = (self.node.clone(), request.into_inner());
        // It waits for the disk.
        let set = tokio::task::spawn_blocking(move || {
            let apply = |settable| node.apply(settable);
            node.settings.set(&request.key, request.value.as_deref(), apply)
        });
        let setting = set
            .await
            .map_err(|err| Status::internal(err.to_string()))?
            .map_err(refused)?;
        Ok(Response::new(wire::SetSettingResponse {
            setting: Some(wire_setting(setting)),
        }))
    }
}

/// Sends a log from its beginning; if followed, until the attempt has ended and all is sent, or the reader is gone.
async fn send_log(
    node: &Node,
    function: &FunctionName,
    key: &TaskKey,
    session: SessionId,
    follow: bool,
    sender: &tokio::sync::mpsc::Sender<Result<wire::ReadLogResponse, Status>>,
) -> Result<(), Status> {
    let unreadable = |err: io::Error| Status::internal(format!("failed to read the log of `{key}`: {err}"));
    let mut log = None;
    loop {
        // Asked before reading: what was written before the end is then read after it.
        let newest = node.journal.newest_of(function, key).await.map_err(status)?;
        let ended = newest.is_none_or(|newest| newest.session != session || newest.ending().is_some());
        if log.is_none() {
            match tokio::fs::File::open(node.spool(session).log()).await {
                Ok(opened) => log = Some(opened),
                Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                Err(err) => return Err(unreadable(err)),
            }
        }
        if let Some(log) = &mut log {
            loop {
                let mut chunk = vec![0; 64 << 10];
                let read = log.read(&mut chunk).await.map_err(unreadable)?;
                if read == 0 {
                    break;
                }
                chunk.truncate(read);
                if sender
                    .send(Ok(wire::ReadLogResponse { chunk: chunk.into() }))
                    .await
                    .is_err()
                {
                    return Ok(());
                }
            }
        }
        if ended || !follow || sender.is_closed() {
            return Ok(());
        }
        tokio::time::sleep(FOLLOW_PAUSE).await;
    }
}

/// What waits for a function, and what keeps it from running. Nothing waits for one that is idle.
async fn queue(node: &Node, is_busy: bool, function: FunctionName) -> wire::Queue {
    let waiting = if is_busy {
        let counted = queue::count(node.store.as_ref(), &function).await;
        counted
            .inspect_err(
                |err| debug!(%function, error = %service_kit::Chain(err), "waiting tasks not counted"),
            )
            .ok()
    } else {
        Some(Count::default())
    };
    let problem = node.problems.of(&function);
    let (problem, hint) = problem
        .map(|problem| (problem.error, problem.hint))
        .unwrap_or_default();
    wire::Queue {
        function: function.into(),
        waiting: waiting.map(|waiting| waiting.tasks),
        has_more: waiting.is_some_and(|waiting| waiting.has_more),
        problem,
        hint,
    }
}

/// `None` for an attempt that never ran.
fn record(attempt: &Attempt) -> Option<wire::Record> {
    let (licence, ending) = (attempt.licence()?, attempt.ending()?);
    Some(wire::Record {
        task_id: licence.task.to_string(),
        attempt: licence.attempt,
        started_at_ms: attempt.run()?.started_at.unix_ms(),
        ended_at_ms: ending.at.unix_ms(),
        succeeded: attempt.verdict() == Some(Verdict::Succeeded),
        cpu_time_us: ending.usage.total.micros(),
        amount_halfords: attempt
            .bill()
            .map(|bill| bill.amount)
            .unwrap_or_default()
            .halfords(),
    })
}

fn wire_setting(setting: Setting) -> wire::Setting {
    wire::Setting {
        key: setting.key,
        value: setting.value,
        configured: setting.configured,
    }
}

fn refused(err: SettingError) -> Status {
    let message = service_kit::Chain(&err).to_string();
    match err {
        SettingError::Unknown { .. } => Status::not_found(message),
        SettingError::Refused { .. } | SettingError::Misfit { .. } => Status::invalid_argument(message),
        SettingError::File { .. } => Status::internal(message),
    }
}

fn state(attempt: &Attempt) -> wire::TaskState {
    match &attempt.state {
        // Until credit-manager has said yes it waits like any other.
        State::Claimed => wire::TaskState::Queued,
        State::Licensed { .. } => wire::TaskState::Claimed,
        State::Running { .. } => wire::TaskState::Running,
        State::Ended { .. } => wire::TaskState::Finishing,
        State::Over { .. } => match attempt.verdict() {
            Some(Verdict::Succeeded) => wire::TaskState::Succeeded,
            Some(Verdict::GaveUp | Verdict::Cancelled | Verdict::CapSpent) => wire::TaskState::Failed,
            Some(Verdict::Failed | Verdict::Aborted | Verdict::PlatformFault) | None => {
                wire::TaskState::Queued
            }
        },
    }
}

/// `running` is the meter of an attempt that has not ended.
fn wire_attempt(attempt: &Attempt, running: Option<Progress>) -> wire::Attempt {
    let cost_so_far = || attempt.licence()?.price.cost(running?.billed);
    let amount = attempt
        .bill()
        .map(|bill| bill.amount)
        .or_else(cost_so_far)
        .unwrap_or_default();
    let cpu_time = attempt
        .ending()
        .map(|ending| ending.usage.total)
        .or(running.map(|running| running.billed))
        .unwrap_or_default();
    let (run, ending) = (attempt.run(), attempt.ending());
    let throttled_so_far = || {
        let before = run?.throttled_before;
        Some(running?.container_throttled.saturating_sub(before))
    };
    let throttled = ending
        .map(|ending| ending.usage.throttled)
        .or_else(throttled_so_far)
        .unwrap_or_default();
    wire::Attempt {
        number: attempt.licence().map_or(0, |licence| licence.attempt),
        session_id: attempt.session.to_string(),
        container_id: run.map(|run| run.container.to_string()).unwrap_or_default(),
        claimed_at_ms: attempt.claimed_at.unix_ms(),
        started_at_ms: run.map_or(0, |run| run.started_at.unix_ms()),
        ended_at_ms: ending.map_or(0, |ending| ending.at.unix_ms()),
        exit_code: ending.and_then(|ending| ending.how.exit_code()),
        cpu_time_us: cpu_time.micros(),
        amount_halfords: amount.halfords(),
        reason: ending.map(|ending| ending.how.reason()).unwrap_or_default(),
        throttled_us: throttled.micros(),
    }
}
