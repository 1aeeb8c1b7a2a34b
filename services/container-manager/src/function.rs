//! What a user says about a function: `utils/function.toml` and `utils/timeout.txt`. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use units::{FunctionName, MilliCores};

use crate::layout;
use crate::scaler::PolicyName;

/// Where `utils/timeout.txt` is missing or says nothing usable.
const IDLE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);

/// The most tasks that run at once in one container.
const CONCURRENCY_MAX: u32 = 64;

/// How a function's container and tasks are run.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FunctionSettings {
    /// The image among `utils/`, where there are several: a `.sif` or a `.def`.
    pub image: Option<String>,
    /// Tasks that run at once in the container.
    pub concurrency: u32,
    /// The least and most CPU the scaler may allot, in millicores. The node's capacity bounds both.
    pub cpu_min_millicores: u32,
    pub cpu_max_millicores: Option<u32>,
    /// How the limit follows what the container uses; absent, as the next: what the node does.
    pub policy: Option<PolicyName>,
    /// The distance that `guardian` keeps from usage; in debt a container gets its minimum and twice this.
    pub boundary_millicores: Option<u32>,
    /// Memory for each task, in MiB; what the task keeps in its scratch and results directories counts.
    pub memory_mib: u64,
    /// The container's scratch and results directories together, in MiB.
    pub scratch_mib: u64,
    /// Processes and threads that one task may have at once.
    pub pids: u32,
    /// Wall time after which a task is stopped and counted as failed, in seconds.
    pub timeout_s: u64,
    /// Attempts before a failing task is parked in `failed/`.
    pub max_attempts: u32,
    /// Extra environment of the script.
    pub env: BTreeMap<String, String>,
    /// Where the results go on to.
    pub chain: Option<Chain>,
}

/// Every result of a task that succeeded becomes a task of another function.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chain {
    /// A function of the same user; it may be the same function.
    pub to: FunctionName,
}

impl Default for FunctionSettings {
    fn default() -> Self {
        Self {
            image: None,
            concurrency: 1,
            cpu_min_millicores: 0,
            cpu_max_millicores: None,
            policy: None,
            boundary_millicores: None,
            memory_mib: 1024,
            scratch_mib: 512,
            pids: 512,
            timeout_s: 24 * 3600,
            max_attempts: 3,
            env: BTreeMap::new(),
            chain: None,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error(
        "`{}` is not valid TOML, or has an unknown key or a value of the wrong kind",
        layout::SETTINGS
    )]
    Syntax(#[source] toml::de::Error),
    #[error("`{}`: `{key}` must be {must}", layout::SETTINGS)]
    Value { key: &'static str, must: &'static str },
}

impl FunctionSettings {
    pub fn parse(text: &str) -> Result<Self, SettingsError> {
        let settings: Self = toml::from_str(text).map_err(SettingsError::Syntax)?;
        let check = |ok: bool, key, must| {
            if ok {
                Ok(())
            } else {
                Err(SettingsError::Value { key, must })
            }
        };
        check(
            (1..=CONCURRENCY_MAX).contains(&settings.concurrency),
            "concurrency",
            "from 1 to 64",
        )?;
        check(
            settings.cpu_max().is_none_or(|max| max > MilliCores::ZERO),
            "cpu_max_millicores",
            "above 0",
        )?;
        check(
            settings.cpu_max().is_none_or(|max| max >= settings.cpu_min()),
            "cpu_max_millicores",
            "at least cpu_min_millicores",
        )?;
        check(
            settings.boundary_millicores != Some(0),
            "boundary_millicores",
            "above 0",
        )?;
        check(settings.memory_mib >= 16, "memory_mib", "at least 16")?;
        check(
            (1..=1 << 20).contains(&settings.scratch_mib),
            "scratch_mib",
            "from 1 to 1048576",
        )?;
        check(settings.pids >= 1, "pids", "at least 1")?;
        check(settings.timeout_s >= 1, "timeout_s", "at least 1")?;
        check(
            (1..=100).contains(&settings.max_attempts),
            "max_attempts",
            "from 1 to 100",
        )?;
        check(
            settings.env.keys().all(|name| is_env_name(name)),
            "env",
            "of names such as MY_NAME, not GRIDFAAS_…",
        )?;
        check(
            settings.env.values().all(|value| !value.contains('\0')),
            "env",
            "free of NUL",
        )?;
        Ok(settings)
    }

    pub fn cpu_min(&self) -> MilliCores {
        MilliCores::from_millicores(self.cpu_min_millicores)
    }

    pub fn cpu_max(&self) -> Option<MilliCores> {
        self.cpu_max_millicores.map(MilliCores::from_millicores)
    }

    pub fn boundary(&self) -> Option<MilliCores> {
        self.boundary_millicores.map(MilliCores::from_millicores)
    }

    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_s)
    }
}

fn is_env_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(plain)
        && !name.starts_with("GRIDFAAS_")
}

/// Reads `utils/timeout.txt`: whole seconds on the first line; missing or anything else: 60.
pub fn idle_timeout(text: Option<&str>) -> Duration {
    let first_line = text.and_then(|text| text.lines().next());
    first_line
        .and_then(|line| line.trim().parse().ok())
        .map_or(IDLE_TIMEOUT_DEFAULT, Duration::from_secs)
}

/// The retry delay after a task's n-th failure: 1 s, 4 s, 16 s, at most 5 minutes.
pub fn retry_delay(failures: u32) -> Duration {
    let secs = 4u64.saturating_pow(failures.saturating_sub(1));
    Duration::from_secs(secs.min(300))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_means_the_defaults() {
        assert_eq!(FunctionSettings::parse("").unwrap(), FunctionSettings::default());
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        for (text, named) in [
            ("concurrency = 0", "`concurrency` must be from 1 to 64"),
            ("cpu_max_millicores = 0", "`cpu_max_millicores` must be above 0"),
            (
                "cpu_min_millicores = 2000\ncpu_max_millicores = 1000",
                "at least cpu_min_millicores",
            ),
            ("boundary_millicores = 0", "`boundary_millicores`"),
            ("policy = 'magic'", "wrong kind"),
            ("memory_mib = 1", "`memory_mib`"),
            ("[env]\nGRIDFAAS_TASK = \"x\"", "`env`"),
            ("[env]\n\"a,LD_PRELOAD\" = \"x\"", "`env`"),
            ("concurency = 2", "unknown key"),
            ("[chain]\nto = \"No Bucket\"", "wrong kind"),
            ("[chain]\nfrom = \"next\"", "unknown key"),
        ] {
            let err = FunctionSettings::parse(text).unwrap_err().to_string();
            assert!(err.contains(named), "{text}: {err}");
        }
    }

    #[test]
    fn the_idle_timeout_is_the_first_line_or_sixty() {
        for (text, secs) in [
            (Some("10"), 10),
            (Some(" 10 \nten"), 10),
            (Some("0"), 0),
            (Some("ten"), 60),
            (Some("-1"), 60),
            (Some("1.5"), 60),
            (Some(""), 60),
            (None, 60),
        ] {
            assert_eq!(idle_timeout(text), Duration::from_secs(secs), "{text:?}");
        }
    }

    #[test]
    fn retries_come_ever_later_but_come() {
        let delays: Vec<u64> = [1, 2, 3, 9, u32::MAX].map(|n| retry_delay(n).as_secs()).to_vec();
        assert_eq!(delays, [1, 4, 16, 300, 300]);
    }
}
