//! The credit-manager service.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use credit_manager::{Config, Edges};
use service_kit::{shutdown, telemetry};
use tokio::net::TcpListener;

/// Bills CPU time against wallets and says what a balance allows.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// The configuration file; variables such as GRIDFAAS_CREDIT__LISTEN override it.
    #[arg(long, value_name = "FILE")]
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
    let config: Config = service_kit::config::load(args.config.as_deref(), "GRIDFAAS_CREDIT")
        .context("failed to load the configuration")?;
    telemetry::start(&config.log, config.log_format)?;
    let edges = Edges::real(&config)?;
    let shutdown = shutdown::on_signal().context("failed to listen for signals")?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("failed to listen on {}", config.listen))?;
    credit_manager::run(config, edges, listener, shutdown).await
}
