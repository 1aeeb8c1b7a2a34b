//! What every service starts and stops with: configuration, logs, clock, files, database, supervision, shutdown.

pub mod clock;
pub mod config;
pub mod database;
pub mod error;
pub mod file;
pub mod metrics;
pub mod secret;
pub mod shutdown;
pub mod spelling;
pub mod supervisor;
pub mod telemetry;

pub use clock::{Clock, ManualClock, SystemClock};
pub use error::Chain;
pub use secret::Secret;
pub use supervisor::{EssentialTaskEnded, OnExit, Supervisor};
