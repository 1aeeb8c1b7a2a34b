//! What the services do when something they need fails: take no new work, keep the money right, say what is wrong, and go on
//! by themselves when it is mended.
//!
//! Each service is a process of its own, with real containers. Needs root, Apptainer, and the image that `images/build.sh
//! base` makes.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a panic is how a failure is reported"
)]

#[path = "../common/mod.rs"]
mod common;
mod disk;
mod edges;
mod outage;
mod world;

/// The program of each of the processes, which are told what to do by the environment.
#[test]
#[ignore = "no test, but the program of the processes that the tests start"]
fn process() {
    world::process();
}
