//! The `gridfaas` command: runs a stack, and deploys, feeds and watches functions on one.
//!
//! Data goes to standard output, as a table or as one JSON value; everything said to people beside it goes to standard
//! error. Exit status: 0 done, 1 failed, 2 wrong usage.

mod args;
mod bucket;
mod commands;
mod dev_chain;
mod local_file;
mod output;
mod report;
mod stack;
mod time;
mod view;

use std::process::ExitCode;

use clap::Parser as _;
use tokio::runtime::Runtime;

use crate::args::Cli;
use crate::report::Report;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(err) => {
            eprintln!("{}", Report::from(&err));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    service_kit::telemetry::start(&cli.log_filter(), service_kit::telemetry::LogFormat::Text)?;
    Runtime::new()?.block_on(commands::run(cli))
}
