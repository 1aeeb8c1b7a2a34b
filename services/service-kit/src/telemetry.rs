//! Logs.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a log filter (such as `info` or `warn,credit_manager=debug`)")]
pub struct LogFilterError(String);

/// Starts logging to standard error, which leaves standard output to data. The variable `RUST_LOG` overrides `filter`.
/// Does nothing if logging was started before.
pub fn start(filter: &str, format: LogFormat) -> Result<(), LogFilterError> {
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| filter.to_owned());
    let parsed = EnvFilter::try_new(&filter).map_err(|_| LogFilterError(filter))?;
    let lines = fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        // Colours are for a terminal, and not for one whose user asked for none.
        .with_ansi(
            std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        )
        .with_target(true);
    let _already_started = match format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    Ok(())
}
