//! The quantities and names that every part of gridfaas shares: money, CPU time, CPU capacity, instants and ids.
//!
//! No I/O, no async, no clock. Every quantity is an integer with its unit in the type, a named constructor, a named
//! reader, checked arithmetic and one `Display`.

mod amount;
mod capacity;
mod cpu_time;
mod ids;
mod price;
mod standing;
mod timestamp;

pub use amount::{Amount, AmountError};
pub use capacity::{MilliCores, MilliCoresError};
pub use cpu_time::CpuTime;
pub use ids::{ContainerId, FunctionName, NameError, NodeId, ReceiverName, SessionId, TaskId, UserName};
pub use price::{CpuPrice, PriceError};
pub use standing::{Billing, Grant, OnShortage, Policy, Restriction, Standing, UnknownWord};
pub use timestamp::Timestamp;
