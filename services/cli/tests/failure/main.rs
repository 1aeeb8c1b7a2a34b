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

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

macro_rules! trials {
    ($($module:ident::$name:ident),* $(,)?) => {
        vec![$(Trial::test(concat!(stringify!($module), "::", stringify!($name)), || {
            $module::$name();
            Ok(())
        })),*]
    };
}

/// Runs the tests; or, started by one of them, the service that the environment names.
fn main() -> ExitCode {
    if world::is_a_service() {
        return ExitCode::SUCCESS;
    }
    let trials = trials![
        disk::a_full_disk_refuses_new_work_loses_nothing_and_is_no_more_when_there_is_room_again,
        disk::a_read_only_disk_refuses_new_work_loses_nothing_and_is_no_more_when_it_can_be_written,
        edges::work_goes_on_and_is_charged_while_the_wallet_is_dead_and_what_needs_coins_is_refused,
        edges::a_running_task_outlives_a_dead_store_and_what_keeps_others_from_running_is_said,
        outage::a_task_outlives_an_outage_of_its_node_below_the_lease_and_is_run_again_after_a_longer_one,
        outage::three_nodes_share_a_bucket_and_when_one_is_gone_for_good_every_task_still_ends_once,
        outage::a_hundred_running_tasks_are_adopted_after_a_crash_and_billed_once,
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
