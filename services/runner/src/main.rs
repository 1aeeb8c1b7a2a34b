//! `runner launch PLAN` outside a container, `runner serve MS` inside.

mod launch;
mod log;
mod script;
mod serve;
mod supervise;
mod sys;
mod workspace;

use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        ["launch", plan] => launch::launch(plan).map(|never| match never {}),
        ["serve", orphan_ms] if let Ok(orphan_ms) = orphan_ms.parse() => {
            serve::serve(Duration::from_millis(orphan_ms)).map(|never| match never {})
        }
        ["can-fence"] => {
            return if sys::can_fence() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            };
        }
        _ => {
            eprintln!("usage: runner launch PLAN | runner serve MS | runner can-fence");
            return ExitCode::from(2);
        }
    };
    let Err(err): anyhow::Result<std::convert::Infallible> = result;
    // Standard error is the container's launch log.
    eprintln!("error: {err:#}");
    ExitCode::FAILURE
}
