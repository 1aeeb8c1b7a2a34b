//! CPU time, in microseconds.

use std::fmt;
use std::iter::Sum;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// CPU time in microseconds. As a counter it is cumulative since its cgroup was made, as the kernel reports it:
/// v2 `cpu.stat` `usage_usec` (present even where the cpu controller is off), v1 `cpuacct.usage` / 1000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CpuTime(u64);

impl CpuTime {
    pub const ZERO: Self = Self(0);
    pub const MAX: Self = Self(u64::MAX);

    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Core-seconds; for constants and tests. Saturates.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000_000))
    }

    pub const fn micros(self) -> u64 {
        self.0
    }

    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Zero where `other` is larger.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The wall time in which one core delivers this CPU time.
    pub const fn as_duration(self) -> Duration {
        Duration::from_micros(self.0)
    }
}

impl Sum for CpuTime {
    fn sum<I: Iterator<Item = Self>>(times: I) -> Self {
        times.fold(Self::ZERO, Self::saturating_add)
    }
}

impl fmt::Display for CpuTime {
    /// Core-seconds with six decimals, for example `60.000123 s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{:06} s", self.0 / 1_000_000, self.0 % 1_000_000))
    }
}
