//! `runner launch PLAN` outside a container, `runner serve` inside.

mod launch;
mod log;
mod script;
mod serve;
mod supervise;
mod sys;
mod workspace;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        ["launch", plan] => launch::launch(plan).map(|never| match never {}),
        ["serve"] => serve::serve().map(|never| match never {}),
        _ => {
            eprintln!("usage: runner launch PLAN | runner serve");
            return ExitCode::from(2);
        }
    };
    let Err(err): anyhow::Result<std::convert::Infallible> = result;
    // Standard error is the container's launch log.
    eprintln!("error: {err:#}");
    ExitCode::FAILURE
}
