//! `container-manager`: arguments to exit code.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use container_manager::{Config, Edges, Listeners};
use service_kit::{config, shutdown, telemetry};
use tokio::net::TcpListener;

/// Runs the task files of S3 buckets in metered containers.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Configuration file; the environment overrides it (GRIDFAAS_CONTAINER__NODE, …).
    #[arg(long)]
    config: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match start(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("error: {err:#}");
            ExitCode::FAILURE
        }
    }
}

async fn start(args: Args) -> anyhow::Result<()> {
    let config: Config = config::load(args.config.as_deref(), "GRIDFAAS_CONTAINER")
        .context("failed to load the configuration")?;
    telemetry::start(&config.log, config.log_format)?;
    config.validate().context("the configuration is not valid")?;
    let listeners = Listeners {
        grpc: bind(config.listen).await?,
        http: match config.http_listen {
            Some(address) => Some(bind(address).await?),
            None => None,
        },
    };
    let edges = Edges::real(&config).await?;
    container_manager::run(config, edges, listeners, shutdown::on_signal()?).await
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.with_context(|| format!("failed to listen on {address}"))
}
