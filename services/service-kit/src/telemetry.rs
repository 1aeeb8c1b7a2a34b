//! Logs.

use std::fmt;
use std::io::IsTerminal as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::metrics::COMMON;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Which events are logged: a level, or levels by module, such as `warn,credit_manager=debug`. The default is `info`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LogFilter(String);

#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a log filter (such as `info` or `warn,credit_manager=debug`)")]
pub struct LogFilterError(String);

impl LogFilter {
    pub fn new(filter: &str) -> Result<Self, LogFilterError> {
        match EnvFilter::try_new(filter) {
            Ok(_) if !filter.is_empty() => Ok(Self(filter.to_owned())),
            _ => Err(LogFilterError(filter.to_owned())),
        }
    }

    fn parsed(&self) -> EnvFilter {
        EnvFilter::new(&self.0)
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for LogFilter {
    type Err = LogFilterError;

    fn from_str(text: &str) -> Result<Self, LogFilterError> {
        Self::new(text)
    }
}

impl TryFrom<String> for LogFilter {
    type Error = LogFilterError;

    fn try_from(text: String) -> Result<Self, LogFilterError> {
        Self::new(&text)
    }
}

impl From<LogFilter> for String {
    fn from(filter: LogFilter) -> Self {
        filter.0
    }
}

/// The filter in force, and the way to replace it.
struct Running {
    filter: LogFilter,
    reload: reload::Handle<EnvFilter, Registry>,
}

static RUNNING: Mutex<Option<Running>> = Mutex::new(None);

fn running() -> MutexGuard<'static, Option<Running>> {
    // The filter is replaced whole.
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts logging to standard error, which leaves standard output to data. The variable `RUST_LOG` overrides `filter`.
/// Does nothing if logging was started before.
pub fn start(filter: &LogFilter, format: LogFormat) -> Result<(), LogFilterError> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(variable) => LogFilter::new(&variable)?,
        Err(_) => filter.clone(),
    };
    let (layer, reload) = reload::Layer::new(filter.parsed());
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        // Colours are for a terminal, and not for one whose user asked for none.
        .with_ansi(
            std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        );
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    let started = tracing_subscriber::registry()
        .with(layer)
        .with(lines)
        .with(CountLines)
        .try_init();
    if started.is_ok() {
        *running() = Some(Running { filter, reload });
    }
    Ok(())
}

/// Counts, for the metrics, the lines that somebody should look at.
struct CountLines;

impl<S: Subscriber> Layer<S> for CountLines {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        match *event.metadata().level() {
            Level::ERROR => COMMON.log_lines.with_label_values(&["error"]).inc(),
            Level::WARN => COMMON.log_lines.with_label_values(&["warn"]).inc(),
            _ => {}
        }
    }
}

/// The filter in force; the default where logging was not started.
pub fn filter() -> LogFilter {
    running()
        .as_ref()
        .map_or_else(LogFilter::default, |running| running.filter.clone())
}

/// Logs by another filter from now on, in the whole process.
pub fn set_filter(filter: LogFilter) {
    if let Some(running) = running().as_mut()
        && running.reload.reload(filter.parsed()).is_ok()
    {
        running.filter = filter;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_level_or_levels_by_module() {
        for good in ["info", "off", "warn,credit_manager=debug"] {
            assert_eq!(LogFilter::new(good).unwrap().to_string(), good);
        }
        for bad in ["", "a=b=c", "info,chatty=very"] {
            assert!(LogFilter::new(bad).is_err(), "{bad}");
        }
    }
}
