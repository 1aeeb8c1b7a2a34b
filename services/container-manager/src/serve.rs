//! Wiring: the edges, the background tasks, the order in which they stop.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use access::client::Meant;
use access::listener::{self, Connection};
use access::tls::{self, ClientTls, ServerTls};
use access::{AccessLayer, Authority, Target};
use anyhow::Context as _;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use proto::container::v1::container_service_server::ContainerServiceServer;
use receipt::SigningKey;
use service_kit::{Chain, Clock, OnExit, Secret, Supervisor, SystemClock, telemetry};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use units::FunctionName;

use crate::api::Api;
use crate::authority::CreditAuthority;
use crate::cgroup::{CpuController, Hierarchies, KernelCpuController};
use crate::config::Config;
use crate::container::{ApptainerRuntime, ApptainerTool, ContainerError, ContainerRuntime};
use crate::credit::{Credit, GrpcCredit};
use crate::finish;
use crate::freezer::FrozenMemory;
use crate::http::{self, Pages};
use crate::image::{ImageTool, Images};
use crate::intake::{self, Registry};
use crate::journal::Journal;
use crate::memory::NodeMemory;
use crate::meter::Meter;
use crate::metrics::{self, METRICS};
use crate::node::Node;
use crate::problem::Problems;
use crate::recorder::Recorder;
use crate::recording::Record;
use crate::recover;
use crate::reservation::Reservations;
use crate::settings::{Settable, Settings};
use crate::spare::{self, Spares};
use crate::store::{ObjectStore, S3Store};
use crate::warm::Uids;
use crate::webhook;

/// How long running tasks may take to come to rest at shutdown: killing, closing and publishing each is short.
const DRAIN: Duration = Duration::from_secs(30);
/// In the state folder. Whoever loses it gets a new one, and keeps the old public key for the old receipts.
const SIGNING_KEY: &str = "receipt-key.pk8";
/// In the state folder.
const SETTINGS: &str = "settings.json";
/// In the state folder.
const RESERVATIONS: &str = "reservations.json";
const RECONNECT: Duration = Duration::from_secs(1);

/// The outside world.
pub struct Edges {
    pub store: Arc<dyn ObjectStore>,
    pub credit: Arc<dyn Credit>,
    pub cgroups: Arc<dyn CpuController>,
    pub runtime: Arc<dyn ContainerRuntime>,
    pub images: Arc<dyn ImageTool>,
    pub clock: Arc<dyn Clock>,
    /// Functions whose `input/` has news, from stores that tell. Only hints: losing any of them costs a poll interval.
    pub hints: BoxStream<'static, FunctionName>,
}

impl Edges {
    /// S3, credit-manager, the kernel's cgroups and Apptainer, each checked as far as it can be before any work.
    pub async fn real(config: &Config) -> anyhow::Result<Self> {
        let secret = Secret::read(&config.store.secret_key_file)?;
        let store = S3Store::new(&config.store, &secret);
        store.check().await?;
        let tool = ApptainerTool::find(config.apptainer.as_deref())
            .await
            .map_err(with_hint)?;
        let hierarchies = Hierarchies::of_this_machine()?;
        let runtime = ApptainerRuntime::new(tool.clone(), &config.state_dir)?;
        if !runtime.fences_tasks() {
            warn!(
                "this kernel has no Landlock with scopes (Linux 6.12), so a task can end its container and what it used \
                 is then free of charge"
            );
        }
        Ok(Self {
            hints: store.news(&config.store),
            store: Arc::new(store),
            credit: Arc::new(credit(config)?),
            cgroups: Arc::new(KernelCpuController::new(hierarchies, &config.cgroup_tree)?),
            runtime: Arc::new(runtime),
            images: Arc::new(tool),
            clock: Arc::new(SystemClock),
        })
    }
}

fn credit(config: &Config) -> anyhow::Result<GrpcCredit> {
    let tls = config.tls.as_ref().map(ClientTls::client).transpose()?;
    let target = Target {
        url: config.credit_url.clone(),
        meant: Meant::CreditManager,
        tls: tls.map(Arc::new),
        token_file: config.credit_token_file.clone(),
    };
    Ok(GrpcCredit::new(target, config.node.clone())?)
}

fn with_hint(err: ContainerError) -> anyhow::Error {
    match err.hint() {
        Some(hint) => anyhow::anyhow!("{} (hint: {hint})", Chain(&err)),
        None => err.into(),
    }
}

/// Where the node is asked.
pub struct Listeners {
    pub grpc: TcpListener,
    /// Where it tells of itself, if it does.
    pub http: Option<TcpListener>,
}

impl From<TcpListener> for Listeners {
    fn from(grpc: TcpListener) -> Self {
        Self { grpc, http: None }
    }
}

/// Serves until `shutdown`; then stops what runs, gives it back to the queue, and returns.
pub async fn run(
    config: Config,
    edges: Edges,
    listeners: impl Into<Listeners>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    config.validate().context("the configuration is not valid")?;
    let Listeners { grpc, http } = listeners.into();
    tls::check_listen(grpc.local_addr()?, config.tls.as_ref())?;
    let tls = config.tls.as_ref().map(ServerTls::server).transpose()?;
    let connections = listener::connections(grpc, tls.map(Arc::new));
    service_kit::metrics::start(
        config.metrics_listen,
        "container-manager",
        &METRICS.catalogue,
        shutdown.clone(),
    )
    .await?;
    let registry = Arc::new(Registry::default());
    webhook::start(config.notify_listen, registry.clone(), shutdown.clone())
        .await
        .context("failed to listen for notifications")?;
    let journal = Journal::open(&config.state_dir.join("journal.db"))?;
    let (recorder, writer) = recorder(&config).await?;
    let configured = Settable {
        log: telemetry::filter(),
        scaler: config.scaler.clone(),
    };
    let settings = Settings::load(config.state_dir.join(SETTINGS), configured)?;
    let Settable { log, scaler } = settings.in_force();
    telemetry::set_filter(log);
    let meter = Meter::new(
        edges.credit.clone(),
        Arc::new(journal.clone()),
        recorder.clone(),
        config.meter(scaler),
    );
    let memory = NodeMemory::new(config.memory_capacity(), Duration::from_millis(config.turn_ms));
    let reservations = Reservations::load(config.state_dir.join(RESERVATIONS), edges.clock.clone())?;
    let reservations = Arc::new(reservations);
    meter.honour(reservations.clone());
    memory.honour(reservations.clone());
    let (spares, used) = Spares::new(config.spare_containers);
    let node = Arc::new(Node {
        spares,
        images: Images::new(
            config.state_dir.join("images"),
            edges.images,
            config.build_definitions,
            config.fetch_bytes_max(),
            config.images_max_mib.saturating_mul(1 << 20),
        ),
        uids: Uids::new(config.uid_first),
        signing_key: SigningKey::read_or_make(&config.state_dir.join(SIGNING_KEY))?,
        memory,
        reservations,
        frozen: FrozenMemory::new(config.frozen_memory_mib.saturating_mul(1 << 20)),
        store: edges.store,
        credit: edges.credit,
        cgroups: edges.cgroups,
        runtime: edges.runtime,
        clock: edges.clock,
        meter: meter.clone(),
        recorder: recorder.clone(),
        settings,
        served: AtomicU32::new(0),
        problems: Problems::default(),
        journal,
        config,
    });
    let recovered = recover::recover(&node).await?;

    // Metering outlives the tasks it meters, so it stops by a token of its own.
    let metering = CancellationToken::new();
    let mut meters = Supervisor::new(metering.clone());
    let again = OnExit::Restart { backoff: RECONNECT };
    let (meter1, meter2, meter3, gates) = (meter.clone(), meter.clone(), meter, registry.clone());
    meters.spawn("meter", again, move |shutdown| meter1.clone().run(shutdown));
    meters.spawn("report", again, move |shutdown| meter2.clone().report(shutdown));
    meters.spawn("watch", again, move |shutdown| {
        let gates = gates.clone();
        meter3
            .clone()
            .listen(move |user, may_start| gates.set_gate(user, may_start), shutdown)
    });

    let (surveyor, store, credit) = (recorder.clone(), node.store.clone(), node.credit.clone());
    meters.spawn("survey", again, move |shutdown| {
        surveyor.clone().survey(store.clone(), credit.clone(), shutdown)
    });

    let mut supervisor = Supervisor::new(shutdown.clone());
    if node.config.metrics_listen.is_some() {
        let (surveyed, served) = (node.clone(), registry.clone());
        supervisor.spawn("metrics", again, move |shutdown| {
            metrics::survey(surveyed.clone(), served.clone(), shutdown)
        });
    }
    let api = Api::new(node.clone(), registry.clone());
    let authority: Arc<dyn Authority> = Arc::new(CreditAuthority::new(node.credit.clone()));
    if let Some(listener) = http {
        info!(address = %listener.local_addr()?, "telling of this node over HTTP");
        let pages = Pages {
            node: node.clone(),
            api: api.clone(),
            authority: authority.clone(),
            draining: shutdown.clone(),
        };
        let mut serving = Some((listener, pages));
        // With the meters, so that it can be asked how a drain goes.
        meters.spawn("http", OnExit::Shutdown, move |shutdown| {
            let serving = serving.take();
            async move {
                let (listener, pages) = serving.context("HTTP was started twice")?;
                anyhow::Ok(http::serve(listener, pages, shutdown).await?)
            }
        });
    }
    let (reflection, mut connections) = (node.config.reflection, Some(connections));
    supervisor.spawn("api", OnExit::Shutdown, move |shutdown| {
        serve_api(
            api.clone(),
            authority.clone(),
            reflection,
            connections.take(),
            shutdown,
        )
    });
    let (mut hints, hinted, stop) = (edges.hints, registry.clone(), shutdown.clone());
    tokio::spawn(async move {
        while let Some(Some(function)) = stop.run_until_cancelled(hints.next()).await {
            hinted.hint(&function);
        }
    });
    let (intake_node, mut adopted) = (node.clone(), recovered.adopted);
    supervisor.spawn("intake", OnExit::Shutdown, move |shutdown| {
        intake::run(
            intake_node.clone(),
            registry.clone(),
            std::mem::take(&mut adopted),
            shutdown,
        )
    });
    let (keeper, mut used) = (node.clone(), Some(used));
    supervisor.spawn("spares", OnExit::Shutdown, move |shutdown| {
        let (node, used) = (keeper.clone(), used.take());
        async move {
            spare::keep(node, used.context("the keeper was started twice")?, shutdown).await;
            anyhow::Ok(())
        }
    });
    for attempt in recovered.unfinished {
        let node = node.clone();
        tokio::spawn(async move { finish::finish(&node, attempt, None).await });
    }
    info!(node = %node.config.node, capacity = %node.meter.capacity(), "container-manager is ready");
    let drained = supervisor.drain(DRAIN).await;
    metering.cancel();
    let metered = meters.drain(Duration::from_secs(1)).await;
    if let Ok(left) = node
        .cgroups
        .sweep_orphans(&std::collections::HashSet::new())
        .await
        && !left.is_empty()
    {
        warn!(
            containers = left.len(),
            "stopped containers that were left at shutdown"
        );
    }
    recorder.end();
    if let Some(writer) = writer {
        writer.await?;
    }
    drained.and(metered)?;
    Ok(())
}

/// The recording that the settings ask for, and the task that writes it.
async fn recorder(config: &Config) -> anyhow::Result<(Recorder, Option<JoinHandle<()>>)> {
    let Some(path) = &config.record else {
        return Ok((Recorder::default(), None));
    };
    let run = Record::Run {
        name: config.node.to_string(),
        speed: 1,
        capacity_millicores: config.capacity(),
    };
    let (recorder, writer) = Recorder::create(path, run).await?;
    info!(path = %path.display(), "recording");
    Ok((recorder, Some(tokio::spawn(writer.run()))))
}

async fn serve_api(
    api: Api,
    authority: Arc<dyn Authority>,
    reflection: bool,
    connections: Option<ReceiverStream<io::Result<Connection>>>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let connections = connections.context("the API was started twice")?;
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ContainerServiceServer<Api>>().await;
    let reflection = reflection.then(|| {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .build_v1()
    });
    let reflection = reflection
        .transpose()
        .context("the services' descriptors are broken")?;
    tonic::transport::Server::builder()
        .layer(AccessLayer::new(authority))
        .add_service(health_service)
        .add_optional_service(reflection)
        .add_service(ContainerServiceServer::new(api))
        .serve_with_incoming_shutdown(connections, shutdown.cancelled_owned())
        .await
        .map_err(|err| anyhow::anyhow!("the gRPC server failed: {}", Chain(&err)))
}
