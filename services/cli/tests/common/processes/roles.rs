//! The processes: each service alone, as its own binary would run it, on the same folder.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use access::book;
use chain::{Chain, ChainConfig};
use dev_stack::{DevChainEndpoint, Endpoints, S3Credentials};
use rustix::process::{Pid, Signal, kill_process};
use service_kit::telemetry::{self, LogFilter, LogFormat};
use service_kit::{Secret, config, file, shutdown};
use store::{Buckets, Credential, Store, StoreConfig};
use tokio::net::TcpListener;

use super::network::Network;

/// What an init system waits before it starts a service again.
const RESTART_PAUSE: Duration = Duration::from_millis(500);
const CHAIN_USER: &str = "gridcoinrpc";
/// As many as a run may have.
pub(crate) const NODES: [&str; 3] = ["node-a", "node-b", "node-c"];
/// User ids of one node.
const UIDS: u32 = 1000;

/// What differs between the runs.
pub(crate) struct Terms {
    /// Of a session.
    pub(crate) lease_ms: u64,
    /// More of each node's configuration.
    pub(crate) node: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Store,
    Chain,
    Credit,
    Node(usize),
}

impl Role {
    /// Of a run with so many nodes, each after those it needs.
    pub(crate) fn all(nodes: usize) -> impl DoubleEndedIterator<Item = Self> {
        let services = [Self::Store, Self::Chain, Self::Credit];
        services.into_iter().chain((0..nodes).map(Self::Node))
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Chain => "chain",
            Self::Credit => "credit-manager",
            Self::Node(number) => NODES[number],
        }
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let role = Self::all(NODES.len()).find(|role| role.name() == text);
        role.ok_or_else(|| format!("no role `{text}`"))
    }
}

/// The name of this run's control groups.
pub(crate) fn tree(folder: &Path, node: usize) -> String {
    let id = fs::read_to_string(folder.join("id")).unwrap();
    format!("gridfaas-chaos-{id}-{}", NODES[node])
}

/// This run's user ids of a node, which tell what is left of it from others'.
pub(crate) fn uids(node: usize) -> std::ops::Range<u32> {
    let nodes = u32::try_from(NODES.len()).unwrap();
    let run = 1_960_000_000 + std::process::id() % 20_000 * nodes * UIDS;
    let first = run + u32::try_from(node).unwrap() * UIDS;
    first..first + UIDS
}

/// Writes what each role is told. Nodes reach the others through the network; each listens where it is.
pub(crate) fn configure(folder: &Path, network: &Network, terms: &Terms) {
    fs::write(folder.join("id"), std::process::id().to_string()).unwrap();
    let credentials = S3Credentials::read_or_make(&folder.join("s3-credentials")).unwrap();
    let secret = credentials.secret_key.expose().as_bytes();
    file::replace(&folder.join("s3-secret"), 0o600, secret).unwrap();
    file::replace(&folder.join("chain-password"), 0o600, b"password\n").unwrap();
    for role in [Role::Store, Role::Chain] {
        let listen = if role == Role::Store {
            network.store
        } else {
            network.chain
        };
        fs::write(folder.join(role.name()), listen.to_string()).unwrap();
    }
    let credit = format!(
        "listen = \"{}\"\ndatabase = {:?}\ndeposit_poll_ms = 200\npayout_late_ms = 2000\nlease_ms = {}\n\
         [wallet]\nurl = \"http://{}/\"\nuser = \"{CHAIN_USER}\"\npassword_file = {:?}\nmode = \"accounts\"\n",
        network.credit,
        folder.join("credit/ledger.db"),
        terms.lease_ms,
        network.to_chain,
        folder.join("chain-password"),
    );
    fs::write(folder.join(Role::Credit.name()), credit).unwrap();
    for (number, name) in NODES.into_iter().enumerate() {
        let node = format!(
            "node = \"{name}\"\nlisten = \"{}\"\nstate_dir = {:?}\ncredit_url = \"http://{}\"\n\
             credit_token_file = {:?}\ncgroup_tree = \"{}\"\nuid_first = {}\n{}\n\
             [store]\nendpoint = \"http://{}\"\naccess_key = \"{}\"\nsecret_key_file = {:?}\n",
            network.nodes[number],
            folder.join(format!("state-{name}")),
            network.to_credit,
            folder.join("credit").join(book::NODE_TOKEN),
            tree(folder, number),
            uids(number).start,
            terms.node,
            network.to_store,
            credentials.access_key,
            folder.join("s3-secret"),
        );
        fs::write(folder.join(name), node).unwrap();
    }
    let endpoints = Endpoints {
        data_dir: folder.to_owned(),
        s3_url: format!("http://{}", network.store),
        s3_credentials_file: folder.join("s3-credentials"),
        credit_url: format!("http://{}", network.credit),
        container_url: format!("http://{}", network.nodes[0]),
        dashboard_url: None,
        node_url: None,
        operator_token_file: folder.join("credit").join(book::OPERATOR_TOKEN),
        ca_file: None,
        dev_chain: Some(DevChainEndpoint {
            url: format!("http://{}", network.chain),
            user: CHAIN_USER.to_owned(),
            password_file: folder.join("chain-password"),
        }),
    };
    endpoints.write().unwrap();
}

/// The life of one process.
pub(crate) fn run(role: Role, folder: &Path) {
    telemetry::start(&LogFilter::default(), LogFormat::Text).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    if let Err(err) = runtime.block_on(serve(role, folder)) {
        eprintln!("error: {err:#}");
        std::process::exit(1);
    }
}

async fn serve(role: Role, folder: &Path) -> anyhow::Result<()> {
    let stop = shutdown::on_signal()?;
    let told = folder.join(role.name());
    match role {
        Role::Store => {
            let credentials = S3Credentials::read(&folder.join("s3-credentials"))?;
            let credential = Credential {
                access_key: credentials.access_key,
                secret_key: credentials.secret_key,
                buckets: Buckets::All,
            };
            let listener = TcpListener::bind(address(&told)).await?;
            let store = Store::open(StoreConfig::new(folder.join("store-data"), vec![credential]))?;
            Ok(store::serve(store, listener, stop).await?)
        }
        Role::Chain => {
            let listener = TcpListener::bind(address(&told)).await?;
            let chain = Chain::open(ChainConfig {
                data_file: Some(folder.join("chain.json")),
                block_interval: Some(Duration::from_secs(1)),
                rpc_user: CHAIN_USER.to_owned(),
                rpc_password: Secret::read(&folder.join("chain-password"))?,
                ..ChainConfig::default()
            })?;
            Ok(chain::serve(chain, listener, stop).await?)
        }
        Role::Credit => {
            let config: credit_manager::Config = config::load(Some(&told), "GRIDFAAS_CHAOS")?;
            let edges = credit_manager::Edges::real(&config)?;
            let listener = TcpListener::bind(config.listen).await?;
            credit_manager::run(config, edges, listener, stop).await
        }
        Role::Node(_) => {
            let config: container_manager::Config = config::load(Some(&told), "GRIDFAAS_CHAOS")?;
            let listener = TcpListener::bind(config.listen).await?;
            let edges = container_manager::Edges::real(&config).await?;
            container_manager::run(config, edges, listener, stop).await
        }
    }
}

fn address(told: &Path) -> SocketAddr {
    fs::read_to_string(told).unwrap().parse().unwrap()
}

/// One role's process, and the next after it.
pub(crate) struct Process {
    pub(crate) role: Role,
    folder: PathBuf,
    log: Arc<fs::File>,
    program: fn(Role, &Path) -> Command,
    child: Option<Child>,
    back_at: Instant,
    /// How often it ended without being killed: its disk was full, or what it needs was not there.
    pub(crate) ended: u64,
}

impl Process {
    /// `program` makes the command that [`run`]s a role on a folder.
    pub(crate) fn new(
        role: Role,
        folder: &Path,
        log: Arc<fs::File>,
        program: fn(Role, &Path) -> Command,
    ) -> Self {
        Self {
            role,
            folder: folder.to_owned(),
            log,
            program,
            child: None,
            back_at: Instant::now(),
            ended: 0,
        }
    }

    pub(crate) fn start(&mut self) {
        let mut command = (self.program)(self.role, &self.folder);
        command
            .stdin(Stdio::null())
            .stdout(self.log.try_clone().unwrap())
            .stderr(self.log.try_clone().unwrap())
            .process_group(0);
        self.child = Some(command.spawn().unwrap());
    }

    /// Whether it is started and has not ended by itself.
    pub(crate) fn runs(&mut self) -> bool {
        if let Some(child) = &mut self.child
            && child.try_wait().unwrap().is_some()
        {
            self.child = None;
            self.ended += 1;
            self.back_at = Instant::now() + RESTART_PAUSE;
        }
        self.child.is_some()
    }

    pub(crate) fn restart_if_due(&mut self) {
        self.runs();
        if self.child.is_none() && self.back_at <= Instant::now() {
            self.start();
        }
    }

    /// As a crash would; it comes back after `pause`.
    pub(crate) fn kill(&mut self, pause: Duration) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        self.back_at = Instant::now() + pause;
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            kill_process(Pid::from_child(child), signal).unwrap();
        }
    }

    /// Asks it to stop; its exit status.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.child.take()?.wait().unwrap().code()
    }
}

/// Whatever runs as a user of one of this run's containers: process and user id.
pub(crate) fn contained() -> Vec<(String, u32)> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let of_run = pids.filter_map(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:\t"))?;
        let uid: u32 = uid.split('\t').next()?.parse().ok()?;
        let is_ours = (0..NODES.len()).any(|node| uids(node).contains(&uid));
        is_ours.then_some((pid, uid))
    });
    of_run.collect()
}

/// Ends whatever is left of a run that failed.
pub(crate) fn remove_containers() {
    for (pid, _) in contained() {
        if let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) {
            let _gone = kill_process(pid, Signal::KILL);
        }
    }
}
