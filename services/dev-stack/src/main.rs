//! `cargo run -p dev-stack`: a whole stack for whoever works on it, without the command line's comforts.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use dev_stack::UpConfig;
use service_kit::shutdown;
use service_kit::telemetry::{self, LogFilter, LogFormat};

/// Runs every service of gridfaas in one process until it is interrupted.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Where the stack keeps its data
    #[arg(default_value = "target/dev-stack")]
    data_dir: PathBuf,
    /// What to log, for example `info` or `warn,container_manager=debug`
    #[arg(long, default_value = "info")]
    log: LogFilter,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("error: {err:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    telemetry::start(&args.log, LogFormat::Text)?;
    let config = UpConfig::new(std::path::absolute(args.data_dir)?);
    dev_stack::up(config, shutdown::on_signal()?, |_| Ok(())).await
}
