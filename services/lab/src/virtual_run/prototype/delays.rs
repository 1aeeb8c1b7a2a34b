//! The prototype's constants, each with its place in the sources, and its loops that sleep.

use std::time::Duration;

use units::{Amount, MilliCores};

pub(super) const SECOND_US: u64 = 1_000_000;

/// ContainerManager.py sleeps 5 s after each round; listing buckets and instances takes the rest. Measured: 3.05 s from a
/// drop to the first instruction at the median, 4.84 s at the 90th percentile.
pub(super) const MANAGER_US: u64 = 5_600_000;
/// From a container's start to its first instruction, so that a cold start takes the 7.7 s that were measured.
pub(super) const CONTAINER_START_US: u64 = 4_000_000;
/// `sudo apptainer exec`, the script and the task file fetched before it.
pub(super) const TASK_START_US: u64 = 800_000;
/// Guardian.py: `WINDOW_TIMELAPSE`, and `WINDOW_DELAY` as the published runs had it.
pub(super) const WINDOW_US: u64 = 10 * SECOND_US;
pub(super) const WINDOW_DELAY_US: u64 = 20 * SECOND_US;
/// Guardian.py sleeps a window's length and asks the database before that. The 0.05 s are inferred: its decisions drift
/// by half a window in the course of a published run.
pub(super) const GUARDIAN_US: u64 = 10_050_000;
/// ClusterScaler.py: `POLLING_FREQUENCY`.
pub(super) const SCALER_US: u64 = 5 * SECOND_US;
/// StructuresSnapshoter.py: `POLLING_FREQUENCY`. The guardian knows a new limit only after it.
pub(super) const SNAPSHOTER_US: u64 = 10 * SECOND_US;
/// Refeeder.py: `WINDOW_TIMELAPSE`, with the same delay; it writes down what a user uses.
pub(super) const REFEEDER_US: u64 = 10 * SECOND_US;
/// CreditManager.py sleeps 10 s and asks the daemon through a child process before that; it bills `POLLING_FREQUENCY` = 10 s
/// for it. The 0.3 s are inferred from what the published balances lack.
pub(super) const CREDIT_US: u64 = 10_300_000;
pub(super) const BILLED: Duration = Duration::from_secs(10);
/// CreditManager.py: less is not billed.
pub(super) const THRESHOLD: MilliCores = MilliCores::from_millicores(100);
/// CreditManager.py: `MIN_COIN_MOVEMENT`; money moves in whole ones of these.
pub(super) const BLOCK: Amount = Amount::from_halfords(5_000_000);
/// One share. The published raises of 96 follow from a container that gets one less than its limit.
pub(super) const QUOTA_LOSS: MilliCores = MilliCores::from_millicores(10);
/// Billing goes on for so long after the last container.
pub(super) const AFTERMATH_US: u64 = 60 * SECOND_US;

/// When each loop fires first, in milliseconds after the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    pub manager_ms: u64,
    pub guardian_ms: u64,
    pub scaler_ms: u64,
    pub snapshoter_ms: u64,
    pub refeeder_ms: u64,
    pub credit_ms: u64,
}

/// A loop that sleeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timer {
    pub(super) next: u64,
    period: u64,
}

impl Timer {
    pub(super) fn new(first_ms: u64, period: u64) -> Self {
        Self {
            next: first_ms * 1000,
            period,
        }
    }

    pub(super) fn fires(&mut self, now: u64) -> bool {
        let due = now >= self.next;
        if due {
            self.next += self.period;
        }
        due
    }
}
