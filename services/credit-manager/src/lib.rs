//! Bills CPU time against wallets and says what a balance allows.
//!
//! ```text
//! api ── command ──► writer (one thread) ── changes ──► ledger::journal (SQLite)
//!                      │  bank: users, sessions, grants, balances     │
//!                      │     session → rating → standing → grant      └── one commit, then the replies
//!                      ├── news ──► watch ──► the nodes
//!                      └── posted ─► settlement: outbox, payout ◄─► wallet ◄── deposit, audit
//! ```
//!
//! A container-manager opens a [`session`] per task attempt and reports the running total of its meter. [`rating`]
//! turns the total into charges, the [`ledger`] posts them, [`standing`] says what the balance is worth and [`grant`] how
//! far each session may run. All of it is one pure state, the [`bank`]; the [`writer`] is the thread that owns it
//! together with the journal, and answers only what is on disk. [`settlement`] keeps the wallet in step.

pub mod alert;
pub mod api;
pub mod bank;
pub mod config;
pub mod governor;
pub mod grant;
pub mod ledger;
pub mod lineage;
pub mod metrics;
pub mod pace;
pub mod quote;
pub mod rating;
pub mod session;
pub mod settlement;
pub mod shortage;
pub mod standing;
pub mod users;
pub mod watch;
pub mod webhook;
pub mod writer;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use access::s3::S3Secrets;
use access::tls::{self, ServerTls};
use access::{AccessLayer, Book, listener};
use anyhow::Context as _;
use proto::credit::v1::access_service_server::AccessServiceServer;
use proto::credit::v1::account_service_server::AccountServiceServer;
use proto::credit::v1::ledger_service_server::LedgerServiceServer;
use proto::credit::v1::session_service_server::SessionServiceServer;
use service_kit::{Chain, Clock, OnExit, Secret, Supervisor, SystemClock};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tracing::{debug, info, warn};

use crate::alert::Alerts;
use crate::api::{AccessApi, AccountApi, LedgerApi, LocalAuthority, SessionApi};
use crate::bank::Now;
use crate::ledger::{Journal, Reader};
use crate::metrics::METRICS;
use crate::settlement::audit::Auditor;
use crate::settlement::deposit::Scanner;
use crate::settlement::gridcoin::{Gridcoin, GridcoinConfig};
use crate::settlement::outbox::Rules;
use crate::settlement::payout::Payouts;
use crate::settlement::receiver_check::{self, ReceiverError};
use crate::settlement::reconcile::Reconciler;
use crate::settlement::wallet::Wallet;
use crate::settlement::withdrawal::Withdrawals;
use crate::writer::{CommandError, Desk, Ledger, Writer, WriterEnd};

pub use crate::config::Config;

/// Pause before a failed background task is started again.
const BACKOFF: Duration = Duration::from_secs(1);

/// A report of every session that a large node can run fits many times over.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// A node shows its certificate anew this often: an expired one is not used for longer.
const CONNECTION_MAX: Duration = Duration::from_secs(3600);

/// The outside world.
#[derive(Clone)]
pub struct Edges {
    pub wallet: Arc<dyn Wallet>,
    pub clock: Arc<dyn Clock>,
}

impl Edges {
    /// The wallet that the configuration names, and the machine's clock.
    ///
    /// Errors if the password file cannot be read or the wallet's url is unusable; the wallet itself is asked later.
    pub fn real(config: &Config) -> anyhow::Result<Self> {
        let wallet = &config.wallet;
        let gridcoin = Gridcoin::new(GridcoinConfig {
            url: wallet.url.clone(),
            user: wallet.user.clone(),
            password: Secret::read(&wallet.password_file).context("failed to read the wallet's password")?,
            mode: wallet.mode,
            request_timeout: Duration::from_millis(wallet.request_timeout_ms),
        });
        Ok(Self {
            wallet: Arc::new(gridcoin.context("`wallet.url` is unusable")?),
            clock: Arc::new(SystemClock),
        })
    }
}

/// Serves on `listener` until `shutdown`.
///
/// Errors if the configuration makes no sense, if the ledger cannot be opened or written, and if the wallet does not
/// answer at the very first start; later the service starts without it and waits for it.
pub async fn run(
    config: Config,
    edges: Edges,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    config.validate().context("the configuration makes no sense")?;
    service_kit::metrics::start(
        config.metrics_listen,
        "credit-manager",
        &METRICS.catalogue,
        shutdown.clone(),
    )
    .await?;
    let journal = Journal::open(&config.database).context("failed to open the ledger")?;
    // After the ledger, which only one process may have open.
    let door = Door::open(&config, &edges, listener)?;
    let desk = Desk::open(journal).context("failed to load the ledger")?;
    check_wallet(&config, &edges, desk.bank.views().is_empty()).await?;

    let Parts {
        sessions,
        accounts,
        history,
        writer,
        supervisor,
        ledger,
    } = assemble(&config, &edges, desk, shutdown.clone())?;
    let writer_end = ledger.spawn().context("failed to start the ledger")?;
    let services = Services {
        access: AccessServiceServer::new(door.api(&config, &edges, writer)?),
        sessions,
        accounts,
        history,
    };
    let served = serve(&config, services, door, shutdown.clone());
    let ended = stop_with_ledger(writer_end, shutdown.clone());
    let (served, ended, drained) = tokio::join!(
        async {
            let served = served.await;
            // Whatever ended the server, nothing else makes sense without it.
            shutdown.cancel();
            served
        },
        ended,
        supervisor.drain(config.grace()),
    );
    ended.context("the ledger cannot go on")?;
    served.context("failed to serve")?;
    drained?;
    Ok(())
}

/// The service without a listener, and without the thread of its ledger.
pub struct Parts {
    pub sessions: SessionServiceServer<SessionApi>,
    pub accounts: AccountServiceServer<AccountApi>,
    pub history: LedgerServiceServer<LedgerApi>,
    pub writer: Writer,
    /// Runs the background tasks.
    pub supervisor: Supervisor,
    /// Has to be run for anything to be answered.
    pub ledger: Ledger,
}

/// Wires the service up. A simulation takes it from here, on a single thread.
pub fn assemble(
    config: &Config,
    edges: &Edges,
    desk: Desk,
    shutdown: CancellationToken,
) -> anyhow::Result<Parts> {
    let settle = Arc::new(Notify::new());
    let (writer, ledger) = Writer::new(desk, settle.clone());
    let mut supervisor = Supervisor::new(shutdown.clone());
    supervise_settlement(&mut supervisor, config, edges, &writer, settle.clone())?;
    supervise_leases(&mut supervisor, config, edges, &writer);
    supervise_alerts(&mut supervisor, config, edges, &writer);
    let reader = Reader::new(config.database.clone());
    let auditor = Auditor {
        writer: writer.clone(),
        reader: reader.clone(),
        wallet: edges.wallet.clone(),
        confirmations: config.confirmations,
    };
    let reconciler = Reconciler {
        auditor: auditor.clone(),
        clock: edges.clock.clone(),
        interval: config.reconcile(),
        wake: settle,
    };
    let on_exit = OnExit::Restart { backoff: BACKOFF };
    supervisor.spawn("reconciliation", on_exit, move |shutdown| {
        reconciler.clone().run(shutdown)
    });
    let surveyed = writer.clone();
    supervisor.spawn("metrics", on_exit, move |shutdown| {
        metrics::survey(surveyed.clone(), shutdown)
    });
    let sessions = SessionServiceServer::new(SessionApi {
        writer: writer.clone(),
        clock: edges.clock.clone(),
        shutdown,
        chain_depth_max: config.chain_depth_max,
        lease: config.lease(),
    });
    let history = LedgerServiceServer::new(LedgerApi {
        writer: writer.clone(),
        reader: reader.clone(),
    });
    let withdrawals = Withdrawals {
        writer: writer.clone(),
        wallet: edges.wallet.clone(),
        clock: edges.clock.clone(),
        mode: config.wallet.mode,
    };
    let accounts = AccountServiceServer::new(AccountApi {
        writer: writer.clone(),
        reader,
        wallet: edges.wallet.clone(),
        clock: edges.clock.clone(),
        auditor,
        withdrawals,
        settings: config.settings()?,
    });
    Ok(Parts {
        sessions: sessions.max_decoding_message_size(MESSAGE_BYTES_MAX),
        accounts,
        history,
        writer,
        supervisor,
        ledger,
    })
}

/// Where requests come in, and what knows who may send them.
struct Door {
    listener: TcpListener,
    tls: Option<Arc<ServerTls>>,
    book: Arc<Book>,
    authority: Arc<LocalAuthority>,
}

impl Door {
    /// Makes the tokens of this machine. Errors if the certificates or the tokens cannot be used, or if it is open to other
    /// machines and has no TLS.
    fn open(config: &Config, edges: &Edges, listener: TcpListener) -> anyhow::Result<Self> {
        tls::check_listen(listener.local_addr()?, config.tls.as_ref())?;
        let tls = config.tls.as_ref().map(ServerTls::server).transpose()?;
        let folder = config.database.parent().unwrap_or(Path::new("."));
        let book = Arc::new(Book::open(folder, tls.is_some()).context("failed to open the tokens")?);
        let authority = Arc::new(LocalAuthority {
            book: book.clone(),
            clock: edges.clock.clone(),
        });
        Ok(Self {
            listener,
            tls: tls.map(Arc::new),
            book,
            authority,
        })
    }

    fn api(&self, config: &Config, edges: &Edges, writer: Writer) -> anyhow::Result<AccessApi> {
        let master = config.s3_master_key_file.as_deref().map(Secret::read).transpose();
        Ok(AccessApi {
            book: self.book.clone(),
            writer,
            clock: edges.clock.clone(),
            s3: master
                .context("`s3_master_key_file`")?
                .as_ref()
                .map(S3Secrets::new),
        })
    }
}

struct Services {
    access: AccessServiceServer<AccessApi>,
    sessions: SessionServiceServer<SessionApi>,
    accounts: AccountServiceServer<AccountApi>,
    history: LedgerServiceServer<LedgerApi>,
}

/// A wallet that was never reached is more likely to be configured wrongly than to be down.
///
/// Receivers that the wallet knows otherwise are an error at any start.
async fn check_wallet(config: &Config, edges: &Edges, is_first_start: bool) -> anyhow::Result<()> {
    let checked = match edges.wallet.check().await {
        Ok(()) => receiver_check::check(&*edges.wallet, &config.rules()?).await,
        Err(err) => Err(err.into()),
    };
    match checked {
        Ok(()) => Ok(()),
        Err(err) if !err.is_unknown() => Err(err).context("a receiver's address is wrong"),
        Err(err) if is_first_start => Err(err).context("the wallet is not ready"),
        Err(err) => {
            warn!(error = %Chain(&err), "the wallet is not ready, starting without it");
            Ok(())
        }
    }
}

/// Checks the receivers when the wallet answers, and opens the outbox then. Errors if one is wrong.
async fn check_receivers(
    wallet: Arc<dyn Wallet>,
    rules: Rules,
    checked: CancellationToken,
    shutdown: CancellationToken,
) -> Result<(), ReceiverError> {
    let mut timer = tokio::time::interval(BACKOFF);
    while shutdown.run_until_cancelled(timer.tick()).await.is_some() {
        match receiver_check::check(&*wallet, &rules).await {
            Ok(()) => {
                checked.cancel();
                shutdown.cancelled().await;
            }
            Err(err) if err.is_unknown() => debug!(error = %Chain(&err), "receivers not checked yet"),
            Err(err) => return Err(err),
        }
    }
    Ok(())
}

fn supervise_settlement(
    supervisor: &mut Supervisor,
    config: &Config,
    edges: &Edges,
    writer: &Writer,
    wake: Arc<Notify>,
) -> anyhow::Result<()> {
    let scanner = Scanner {
        writer: writer.clone(),
        wallet: edges.wallet.clone(),
        clock: edges.clock.clone(),
        confirmations: config.confirmations,
        interval: config.deposit_poll(),
    };
    let checked = CancellationToken::new();
    let payouts = Payouts {
        writer: writer.clone(),
        wallet: edges.wallet.clone(),
        clock: edges.clock.clone(),
        rules: config.rules()?,
        interval: config.payout_poll(),
        late_execution: config.payout_late(),
        wake,
        receivers_checked: checked.clone(),
    };
    let (wallet, rules) = (edges.wallet.clone(), config.rules()?);
    supervisor.spawn("receivers", OnExit::Shutdown, move |shutdown| {
        check_receivers(wallet.clone(), rules.clone(), checked.clone(), shutdown)
    });
    let on_exit = OnExit::Restart { backoff: BACKOFF };
    supervisor.spawn("deposits", on_exit, move |shutdown| scanner.clone().run(shutdown));
    supervisor.spawn("payouts", on_exit, move |shutdown| payouts.clone().run(shutdown));
    Ok(())
}

fn supervise_alerts(supervisor: &mut Supervisor, config: &Config, edges: &Edges, writer: &Writer) {
    let alerts = Alerts {
        writer: writer.clone(),
        clock: edges.clock.clone(),
        interval: config.alert_poll(),
        reach: config.webhook_reach(),
    };
    let on_exit = OnExit::Restart { backoff: BACKOFF };
    supervisor.spawn("alerts", on_exit, move |shutdown| alerts.clone().run(shutdown));
}

fn supervise_leases(supervisor: &mut Supervisor, config: &Config, edges: &Edges, writer: &Writer) {
    let (lease, clock, writer) = (config.lease(), edges.clock.clone(), writer.clone());
    let on_exit = OnExit::Restart { backoff: BACKOFF };
    supervisor.spawn("leases", on_exit, move |shutdown| {
        expire_leases(writer.clone(), clock.clone(), lease, shutdown)
    });
}

/// Closes the sessions of silent nodes.
async fn expire_leases(
    writer: Writer,
    clock: Arc<dyn Clock>,
    lease: Duration,
    shutdown: CancellationToken,
) -> Result<(), CommandError> {
    // A tenth of the lease is as exact as a lease has to be.
    let mut timer = tokio::time::interval((lease / 10).max(Duration::from_millis(1)));
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            _ = timer.tick() => {}
        }
        let now = Now {
            wall: clock.now(),
            instant: Instant::now(),
        };
        let lost = writer
            .call(move |desk| {
                desk.watchers.look(now.instant);
                Ok(desk.bank.expire(lease, now)?)
            })
            .await?;
        for bill in lost {
            let closed = bill.closed;
            warn!(session_id = %closed.id, user = %closed.user, "lease expired, session closed free of charge");
        }
    }
}

async fn serve(
    config: &Config,
    services: Services,
    door: Door,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<SessionServiceServer<SessionApi>>().await;
    health.set_serving::<AccountServiceServer<AccountApi>>().await;
    health.set_serving::<LedgerServiceServer<LedgerApi>>().await;
    health.set_serving::<AccessServiceServer<AccessApi>>().await;
    let reflection = config
        .reflection
        .then(|| {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
                .build_v1()
        })
        .transpose()?;
    let (address, has_tls) = (door.listener.local_addr()?, door.tls.is_some());
    let mut server = Server::builder().layer(AccessLayer::new(door.authority));
    if has_tls {
        server = server.max_connection_age(CONNECTION_MAX);
    }
    info!(%address, has_tls, "serving");
    server
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .add_service(health_service)
        .add_optional_service(reflection)
        .add_service(services.access)
        .add_service(services.sessions)
        .add_service(services.accounts)
        .add_service(services.history)
        .serve_with_incoming_shutdown(
            listener::connections(door.listener, door.tls),
            shutdown.cancelled_owned(),
        )
        .await?;
    Ok(())
}

/// Waits for the ledger's thread. If it ends first, the service ends with it.
async fn stop_with_ledger(end: WriterEnd, shutdown: CancellationToken) -> anyhow::Result<()> {
    let ended = end.await;
    shutdown.cancel();
    ended.context("the ledger's thread failed")??;
    Ok(())
}
