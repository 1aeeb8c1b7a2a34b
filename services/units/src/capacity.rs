//! CPU capacity, in millicores.

use std::fmt;
use std::iter::Sum;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::CpuTime;

/// CPU capacity; 1000 millicores are one core. The prototype's *shares* are 100 a core, so one share is ten of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MilliCores(u32);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a number of cores (such as 1.5) or millicores (such as 1500m)")]
pub struct MilliCoresError(String);

impl MilliCores {
    pub const ZERO: Self = Self(0);
    pub const ONE_CORE: Self = Self(1000);

    pub const fn from_millicores(millicores: u32) -> Self {
        Self(millicores)
    }

    pub const fn from_cores(cores: u32) -> Self {
        Self(cores.saturating_mul(1000))
    }

    pub const fn millicores(self) -> u32 {
        self.0
    }

    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Zero where `other` is larger.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The most CPU time this capacity delivers in `wall`, rounded down. Saturates.
    pub fn over(self, wall: Duration) -> CpuTime {
        let micros = wall.as_micros().saturating_mul(u128::from(self.0)) / 1000;
        CpuTime::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    /// The capacity that delivers `time` in `wall`, rounded up; zero for an empty `wall`.
    pub fn that_delivers(time: CpuTime, wall: Duration) -> Self {
        let wall = wall.as_micros();
        if wall == 0 {
            return Self::ZERO;
        }
        let millicores = (u128::from(time.micros()) * 1000).div_ceil(wall);
        Self(u32::try_from(millicores).unwrap_or(u32::MAX))
    }

    /// The shortest wall time in which this capacity can deliver `time`; `None` for no capacity.
    pub fn time_to_deliver(self, time: CpuTime) -> Option<Duration> {
        let micros = (u128::from(time.micros()) * 1000).checked_div(u128::from(self.0))?;
        Some(Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)))
    }
}

impl Sum for MilliCores {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::ZERO, Self::saturating_add)
    }
}

impl fmt::Display for MilliCores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}m", self.0))
    }
}

impl FromStr for MilliCores {
    type Err = MilliCoresError;

    /// Reads `1500m` as millicores and `1`, `1.5` or `0.25` as cores, with at most three decimals.
    fn from_str(text: &str) -> Result<Self, MilliCoresError> {
        let refuse = || MilliCoresError(text.to_owned());
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if let Some(millicores) = text.strip_suffix('m') {
            return digits(millicores)
                .then(|| millicores.parse().ok())
                .flatten()
                .map(Self)
                .ok_or_else(refuse);
        }
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        if !digits(whole) || !digits(decimals) || decimals.len() > 3 {
            return Err(refuse());
        }
        let whole: u32 = whole.parse().map_err(|_| refuse())?;
        let thousandths: u32 = format!("{decimals:0<3}").parse().map_err(|_| refuse())?;
        whole
            .checked_mul(1000)
            .and_then(|m| m.checked_add(thousandths))
            .map(Self)
            .ok_or_else(refuse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_cores_and_millicores() {
        for (text, millicores) in [
            ("1", 1000),
            ("1.5", 1500),
            ("0.25", 250),
            ("1500m", 1500),
            ("0", 0),
        ] {
            assert_eq!(text.parse(), Ok(MilliCores(millicores)), "{text}");
        }
        for text in ["", "m", "-1", "1.2345", "1e3", "1.5m", "4294967296", "4294968"] {
            assert!(text.parse::<MilliCores>().is_err(), "{text}");
        }
    }

    #[test]
    fn capacity_times_wall_is_cpu_time() {
        let half = MilliCores::from_millicores(500);
        assert_eq!(half.over(Duration::from_secs(10)), CpuTime::from_secs(5));
        assert_eq!(
            half.time_to_deliver(CpuTime::from_secs(5)),
            Some(Duration::from_secs(10))
        );
        assert_eq!(MilliCores::ZERO.time_to_deliver(CpuTime::from_secs(5)), None);
        assert_eq!(
            MilliCores::that_delivers(CpuTime::from_secs(5), Duration::from_secs(10)),
            half
        );
        assert_eq!(
            MilliCores::that_delivers(CpuTime::from_micros(1), Duration::from_secs(1)).millicores(),
            1
        );
    }
}
