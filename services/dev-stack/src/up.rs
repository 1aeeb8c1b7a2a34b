//! Starts a stack, tells where it is, and stops it in order.

use std::fs::{File, OpenOptions, TryLockError};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use access::client::Meant;
use access::pki::{self, Pki, Plan};
use access::{Target, book};
use anyhow::{Context as _, bail, ensure};
use backon::{ConstantBuilder, Retryable as _};
use chain::{Chain, ChainConfig};
use container_manager::Listeners;
use container_manager::cgroup::KernelCpuController;
use container_manager::cgroup::hierarchy::Hierarchies;
use container_manager::scaler::ScalerConfig;
use service_kit::{Clock as _, Secret, SystemClock};
use store::{Buckets, Credential, Store, StoreConfig};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tracing::info;

use crate::endpoints::{DevChainEndpoint, Endpoints};
use crate::ports::Ports;
use crate::secrets::{self, Keys};
use crate::services::Services;
use crate::settings;
use crate::user_keys::UserKeys;

/// Nobody goes on with a multipart upload begun this long ago.
const STALE_UPLOAD_MS: i64 = 7 * 24 * 3600 * 1000;
/// A start on a slow disk, with a ledger to replay, is over by then.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Ten confirmations of a second each, and as long again to notice.
const HOLD: Duration = Duration::from_secs(20);
const HEALTH_PAUSE: Duration = Duration::from_millis(20);
/// For each service; container-manager may be uploading results.
const STOP_GRACE: Duration = Duration::from_secs(30);

/// What may differ between two stacks.
#[derive(Clone, Debug)]
pub struct UpConfig {
    /// Everything the stack keeps; made if missing.
    pub data_dir: PathBuf,
    pub ports: Ports,
    /// Between two blocks of the development chain; `None` makes blocks only on demand.
    pub block_interval: Option<Duration>,
    /// The `apptainer` program; `None` for the one on `PATH`.
    pub apptainer: Option<PathBuf>,
    /// The CPU for containers; `None` for all of the machine's.
    pub capacity_millicores: Option<u32>,
    /// How long a task stays frozen at the debt limit.
    pub hold: Duration,
    /// Where the run is written down.
    pub record: Option<PathBuf>,
    /// Whether the node listens to the store, which tells of new objects.
    pub notify: bool,
    /// A folder of certificates for the gRPC services, made if missing; `None`: no TLS.
    pub pki: Option<PathBuf>,
    /// Where Prometheus finds the metrics of every service; `None` shows none.
    pub metrics: Option<SocketAddr>,
    /// How containers are scaled where their function says nothing, and by which constants.
    pub scaler: ScalerConfig,
}

impl UpConfig {
    /// The defaults on a data folder: the usual ports, and a block every second.
    pub fn new(data_dir: PathBuf) -> Self {
        Self {
            data_dir,
            ports: Ports::default(),
            block_interval: Some(Duration::from_secs(1)),
            apptainer: None,
            capacity_millicores: None,
            hold: HOLD,
            record: None,
            notify: true,
            pki: None,
            metrics: None,
            scaler: ScalerConfig::default(),
        }
    }
}

/// Runs a stack until `shutdown`, then stops it in order: work is handed back before the ledger closes, and the ledger
/// closes before the store and the chain do.
///
/// Calls `ready` once, when every service answers. Errors if a service cannot start or ends by itself.
pub async fn up(
    config: UpConfig,
    shutdown: CancellationToken,
    ready: impl FnOnce(&Endpoints) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "a stack makes control groups and containers, which needs root (hint: run it with sudo)"
    );
    // Addresses and settings travel as JSON.
    ensure!(
        config.data_dir.to_str().is_some(),
        "the data folder `{}` has a name that is not UTF-8",
        config.data_dir.display()
    );
    secrets::make_private_folder(&config.data_dir)?;
    let _lock = lock(&config.data_dir)?;
    let mut services = Services::default();
    let served = serve(&config, &mut services, shutdown, ready).await;
    services.stop(STOP_GRACE).await;
    Endpoints::remove(&config.data_dir)?;
    served
}

/// The exclusive right to a data folder, held as long as the file is open.
fn lock(data_dir: &Path) -> anyhow::Result<File> {
    let path = data_dir.join("up.lock");
    let failed = || format!("failed to lock `{}`", path.display());
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "a stack is running on `{}` already (hint: use that one, or choose another folder with --data-dir)",
            data_dir.display()
        ),
        Err(TryLockError::Error(err)) => Err(err).with_context(failed),
    }
}

async fn serve(
    config: &UpConfig,
    services: &mut Services,
    shutdown: CancellationToken,
    ready: impl FnOnce(&Endpoints) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let endpoints = start(config, services).await?;
    tokio::select! {
        err = services.failed() => return Err(err),
        serving = wait_until_serving(&endpoints) => serving?,
        () = shutdown.cancelled() => return Ok(()),
    }
    endpoints.write()?;
    info!(
        s3 = endpoints.s3_url,
        credit = endpoints.credit_url,
        container = endpoints.container_url,
        "stack ready"
    );
    ready(&endpoints)?;
    tokio::select! {
        err = services.failed() => Err(err),
        () = shutdown.cancelled() => Ok(()),
    }
}

/// Starts every service, each after those it needs. Listeners come first, so that a taken port is told before any work.
async fn start(config: &UpConfig, services: &mut Services) -> anyhow::Result<Endpoints> {
    let UpConfig { data_dir, ports, .. } = config;
    let s3 = Listening::on(ports.s3.listen().await?)?;
    let chain = Listening::on(ports.chain.listen().await?)?;
    let credit = Listening::on(ports.credit.listen().await?)?;
    let container = Listening::on(ports.container.listen().await?)?;
    let dashboard = Listening::on(ports.dashboard.listen().await?)?;
    let node_http = Listening::on(ports.node.listen().await?)?;

    let key = dashboard::Key::random().context("failed to make a key for the dashboard")?;
    let keys = Keys::read_or_make(data_dir)?;
    let pki = config.pki.as_deref().map(certificates).transpose()?;
    let scheme = if pki.is_some() { "https" } else { "http" };
    let endpoints = Endpoints {
        data_dir: data_dir.clone(),
        s3_url: s3.url("http"),
        s3_credentials_file: keys.s3_credentials_file.clone(),
        credit_url: credit.url(scheme),
        container_url: container.url(scheme),
        dashboard_url: Some(key.address(dashboard.address)),
        node_url: Some(node_http.url("http")),
        operator_token_file: settings::credit_folder(data_dir).join(book::OPERATOR_TOKEN),
        ca_file: pki.as_ref().map(Pki::ca_file),
        dev_chain: Some(DevChainEndpoint {
            url: chain.url("http"),
            user: secrets::CHAIN_RPC_USER.to_owned(),
            password_file: keys.chain_password_file.clone(),
        }),
    };

    let user_keys = UserKeys::new(&endpoints, &keys, pki.as_ref())?;
    let store = open_store(data_dir, &keys, user_keys).await?;
    let served = store.clone();
    services.spawn("store", |stop| async move {
        Ok(store::serve(served, s3.listener, stop).await?)
    });

    let chain_url = chain.url("http");
    let node = open_chain(config, &keys)?;
    services.spawn("chain", |stop| async move {
        Ok(chain::serve(node, chain.listener, stop).await?)
    });

    let credit_config =
        settings::credit_manager(&endpoints, &keys, pki.as_ref(), &chain_url, credit.address)?;
    let edges = credit_manager::Edges::real(&credit_config)?;
    services.spawn("credit-manager", |stop| async move {
        credit_manager::run(credit_config, edges, credit.listener, stop).await
    });

    let container_config =
        settings::container_manager(config, &endpoints, &keys, pki.as_ref(), container.address)?;
    let listeners = Listeners {
        grpc: container.listener,
        http: Some(node_http.listener),
    };
    services.spawn("container-manager", |stop| async move {
        let tree = container_config.cgroup_tree.clone();
        let ran = run_node(container_config, listeners, stop).await;
        // The tree has this stack's name, so nobody else would ever remove it.
        let removed = remove_cgroups(&tree).await;
        ran.and(removed)
    });

    let watched = dashboard::Services::new(
        endpoints.target(Meant::CreditManager)?.connect_lazy()?,
        endpoints.target(Meant::Node)?.connect_lazy()?,
    );
    services.spawn("dashboard", |stop| async move {
        dashboard::serve(dashboard.listener, watched, &key, stop).await
    });
    Ok(endpoints)
}

struct Listening {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listening {
    fn on(listener: TcpListener) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }
}

/// The certificates in a folder, made there if there are none for this stack.
fn certificates(folder: &Path) -> anyhow::Result<Pki> {
    let node = settings::NODE.parse()?;
    if let Ok(pki) = Pki::open(folder)
        && pki.plan().nodes.contains(&node)
    {
        return Ok(pki);
    }
    let plan = Plan {
        nodes: [node].into(),
        days: pki::DAYS,
        ..Plan::default()
    };
    Pki::init(folder, plan).context("failed to make certificates")
}

async fn open_store(data_dir: &Path, keys: &Keys, user_keys: UserKeys) -> anyhow::Result<Arc<Store>> {
    let credential = |access_key: &str, secret: &Secret| Credential {
        access_key: access_key.to_owned(),
        secret_key: secret.clone(),
        buckets: Buckets::All,
    };
    let people = &keys.s3_credentials;
    let credentials = vec![
        credential(&people.access_key, &people.secret_key),
        credential(secrets::NODE_ACCESS_KEY, &keys.node_secret),
    ];
    let config = StoreConfig {
        access_keys: Some(Arc::new(user_keys)),
        ..StoreConfig::new(data_dir.join("store"), credentials)
    };
    let store = Store::open(config).context("failed to open the store")?;
    store
        .remove_stale_uploads(SystemClock.now().plus_ms(-STALE_UPLOAD_MS))
        .await?;
    Ok(store)
}

fn open_chain(config: &UpConfig, keys: &Keys) -> anyhow::Result<Chain> {
    Chain::open(ChainConfig {
        data_file: Some(config.data_dir.join("chain.json")),
        block_interval: config.block_interval,
        rpc_user: secrets::CHAIN_RPC_USER.to_owned(),
        rpc_password: keys.chain_password.clone(),
        ..ChainConfig::default()
    })
    .context("failed to open the development chain")
}

async fn run_node(
    config: container_manager::Config,
    listeners: Listeners,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let edges = container_manager::Edges::real(&config).await?;
    container_manager::run(config, edges, listeners, stop).await
}

async fn remove_cgroups(tree: &Path) -> anyhow::Result<()> {
    let cgroups = KernelCpuController::new(Hierarchies::of_this_machine()?, tree)?;
    Ok(cgroups.remove_tree().await?)
}

/// Waits until both gRPC services say that they serve.
async fn wait_until_serving(endpoints: &Endpoints) -> anyhow::Result<()> {
    for (meant, service) in [
        (Meant::CreditManager, "credit-manager"),
        (Meant::Node, "container-manager"),
    ] {
        // Nobody has to say who they are to ask this.
        let target = Target {
            token_file: None,
            ..endpoints.target(meant)?
        };
        let asked = || is_serving(target.clone());
        let pauses = ConstantBuilder::new()
            .with_delay(HEALTH_PAUSE)
            .without_max_times();
        tokio::time::timeout(START_TIMEOUT, asked.retry(pauses))
            .await
            .with_context(|| format!("{service} did not serve within {} s", START_TIMEOUT.as_secs()))??;
    }
    Ok(())
}

async fn is_serving(target: Target) -> anyhow::Result<()> {
    // The empty name stands for the server as a whole.
    let request = HealthCheckRequest {
        service: String::new(),
    };
    let reply = HealthClient::new(target.connect().await?).check(request).await?;
    match reply.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        other => bail!("it answers that it is {}", other.as_str_name()),
    }
}
