//! Runs the task files of a bucket in metered containers.
//!
//! To follow one object from `input/` to a settled charge, read on in this order:
//!
//! | Step | Module |
//! |---|---|
//! | a user drops an object; the function's loop lists it, now and then or when told | [`intake`], [`store`], [`webhook`], [`event_message`], [`function_loop`], [`queue`] |
//! | it is read, while others run; a session makes it this node's task | [`ahead`], [`claim`] |
//! | a container is there, or is started from the function's image | [`workplace`], [`warm`], [`spare`], [`memory`], [`reservation`], [`image`], [`staging`], [`container`] |
//! | it moves to `processing/`, and the script runs in a cgroup of its own | [`start`], [`attempt`], [`task`], [`cgroup`] |
//! | its CPU time is read, its grant enforced, its limit scaled, its total reported | [`meter`], [`restriction`], [`scaler`] |
//! | or it may never run: it goes to `failed/` | [`park`] |
//! | it ends; its results leave the container | [`attempt`], [`spool`] |
//! | the session is closed and charged | [`finish`], [`credit`] |
//! | results and log go to the bucket, results also to the next function of a chain | [`publish`], [`chain`], [`layout`] |
//! | then the receipt, and then the object goes to `output/` | [`publish`], [`documents`] |
//! | a file under `quote/` is answered with what it would cost | [`quote`] |
//! | what the user has to know is said under `status/` | [`bulletin`], [`balance`], [`problem`] |
//! | somebody waits for one task and what it leaves | [`invoke`] |
//! | an operator changes how containers are scaled | [`settings`] |
//! | what the node has, and what of it is allocated, promised and free | [`capacity`] |
//! | whoever looks for a node, watches it or runs it asks over HTTP | [`http`] |
//! | what happens is written down, for the laboratory | [`recorder`], [`recording`] |
//! | after a crash, the journal tells where to go on | [`journal`], [`recover`] |

pub mod ahead;
pub mod api;
pub mod attempt;
pub mod balance;
pub mod bulletin;
pub mod capacity;
pub mod cgroup;
pub mod chain;
pub mod claim;
pub mod config;
pub mod container;
pub mod credit;
pub mod documents;
pub mod event_message;
pub mod finish;
pub mod freezer;
pub mod function;
pub mod function_loop;
pub mod image;
pub mod intake;
pub mod invoke;
pub mod journal;
pub mod layout;
pub mod memory;
pub mod meter;
pub mod metrics;
pub mod node;
pub mod park;
pub mod problem;
pub mod publish;
pub mod queue;
pub mod quote;
pub mod recorder;
pub mod recording;
pub mod recover;
pub mod reservation;
pub mod restriction;
pub mod results;
pub mod scaler;
pub mod settings;
pub mod spare;
pub mod spool;
pub mod staging;
pub mod start;
pub mod store;
pub mod task;
pub mod utils;
pub mod warm;
pub mod webhook;
pub mod workplace;

mod authority;
mod http;
mod live_log;
mod serve;

pub use config::Config;
pub use serve::{Edges, Listeners, run};
