//! The service's settings.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use access::tls::TlsFiles;
use serde::Deserialize;
use service_kit::telemetry::{LogFilter, LogFormat};
use units::{MilliCores, NodeId};

use crate::meter::MeterConfig;
use crate::scaler::ScalerConfig;
use crate::store::StoreConfig;

/// Every key of the configuration file; the environment variable of `store.endpoint` is
/// `GRIDFAAS_CONTAINER__STORE__ENDPOINT`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This node's name, the same after a restart.
    pub node: NodeId,
    /// Where the gRPC service listens.
    pub listen: SocketAddr,
    /// The node's own files: journal, images, containers. Its folder of containers must not be readable by users.
    pub state_dir: PathBuf,
    /// credit-manager, for example `http://127.0.0.1:7402`.
    pub credit_url: String,
    /// The token that credit-manager leaves on its own machine for nodes there. Not with `tls`, where the certificate says
    /// which node this is.
    pub credit_token_file: Option<PathBuf>,
    /// Certificates for the gRPC service, and for calls to credit-manager at `https://…`. Absent: no TLS, which is refused
    /// where other machines could hear.
    pub tls: Option<TlsFiles>,
    pub store: StoreConfig,
    /// The `apptainer` program; absent: the one on `PATH`.
    pub apptainer: Option<PathBuf>,
    /// The CPU that this node gives to containers, in millicores; absent: all of its cores.
    pub capacity_millicores: Option<u32>,
    /// The memory that this node gives to containers, each of which has its limit set aside; absent: all of its memory.
    pub memory_capacity_mib: Option<u64>,
    /// The name of this node's control group tree, below the root of each hierarchy.
    #[serde(default = "default_cgroup_tree")]
    pub cgroup_tree: PathBuf,
    #[serde(default)]
    pub scaler: ScalerConfig,
    /// How often a busy function's `input/` is listed.
    #[serde(default = "default_poll_busy_ms")]
    pub poll_busy_ms: u64,
    /// How often an idle function's `input/` is listed.
    #[serde(default = "default_poll_idle_ms")]
    pub poll_idle_ms: u64,
    /// How often meters are read.
    #[serde(default = "default_sample_ms")]
    pub sample_ms: u64,
    /// How often usage is reported while nothing happens.
    #[serde(default = "default_report_ms")]
    pub report_ms: u64,
    /// Where the run is written down; absent: nowhere. A file that is there is replaced.
    pub record: Option<PathBuf>,
    /// How often the log of a running task is uploaded, if it grew.
    #[serde(default = "default_log_upload_ms")]
    pub log_upload_ms: u64,
    /// How long a task stays frozen at the debt limit, waiting for a deposit, before it is stopped.
    #[serde(default = "default_hold_ms")]
    pub hold_ms: u64,
    /// How long a container goes on taking tasks while others wait for its memory.
    #[serde(default = "default_turn_ms")]
    pub turn_ms: u64,
    /// The memory that frozen tasks may hold together; beyond it those frozen longest are stopped.
    #[serde(default = "default_frozen_memory_mib")]
    pub frozen_memory_mib: u64,
    /// The most that is kept of one attempt's output.
    #[serde(default = "default_log_bytes_max")]
    pub log_bytes_max: u64,
    /// The most that one task's file, one image unpacked, or one function's staging data may take of this node's disk.
    #[serde(default = "default_fetch_mib_max")]
    pub fetch_mib_max: u64,
    /// How long containers go on when no manager is heard of, and tasks when credit-manager is told nothing of them. Four fifths
    /// of credit-manager's `lease_ms` at most, after which another node may run their tasks.
    #[serde(default = "default_orphan_ms")]
    pub orphan_ms: u64,
    /// The first of the user ids that containers run under; each live container has one of its own.
    #[serde(default = "default_uid_first")]
    pub uid_first: u32,
    /// Whether an image may be built from a definition, which runs the user's commands on this node.
    #[serde(default)]
    pub build_definitions: bool,
    /// What unpacked images may take of the disk, in MiB; beyond it those that no container uses are removed, and unpacked
    /// again when they are needed.
    #[serde(default = "default_images_max_mib")]
    pub images_max_mib: u64,
    /// Empty containers that are kept ready for the images used last.
    #[serde(default)]
    pub spare_containers: usize,
    /// Where Prometheus finds `/metrics`; absent: no metrics.
    #[serde(default)]
    pub metrics_listen: Option<SocketAddr>,
    /// Where the store posts that objects were created, as S3 event messages; absent: nowhere.
    #[serde(default)]
    pub notify_listen: Option<SocketAddr>,
    /// Where the node tells of itself over HTTP; absent: nowhere.
    #[serde(default)]
    pub http_listen: Option<SocketAddr>,
    /// gRPC reflection, for development.
    #[serde(default)]
    pub reflection: bool,
    /// What is logged until a setting says otherwise.
    #[serde(default)]
    pub log: LogFilter,
    #[serde(default)]
    pub log_format: LogFormat,
}

fn default_cgroup_tree() -> PathBuf {
    PathBuf::from("gridfaas")
}

const fn default_poll_busy_ms() -> u64 {
    50
}

const fn default_poll_idle_ms() -> u64 {
    1000
}

const fn default_sample_ms() -> u64 {
    25
}

const fn default_report_ms() -> u64 {
    1000
}

const fn default_log_upload_ms() -> u64 {
    5000
}

/// Ten confirmations of 90 seconds, and five minutes to notice.
const fn default_hold_ms() -> u64 {
    1_200_000
}

/// A hundred times what a start takes.
const fn default_turn_ms() -> u64 {
    10_000
}

const fn default_frozen_memory_mib() -> u64 {
    4096
}

const fn default_log_bytes_max() -> u64 {
    16 << 20
}

const fn default_fetch_mib_max() -> u64 {
    20_480
}

/// Four fifths of the lease that credit-manager gives by default.
const fn default_orphan_ms() -> u64 {
    240_000
}

const fn default_images_max_mib() -> u64 {
    32 << 10
}

/// Above what Linux distributions give to people and to subordinate ranges.
const fn default_uid_first() -> u32 {
    1_700_000_000
}

#[derive(Debug, thiserror::Error)]
#[error("`{key}` must be {must}")]
pub struct ConfigValueError {
    key: &'static str,
    must: &'static str,
}

impl Config {
    /// Checks what the types cannot say.
    pub fn validate(&self) -> Result<(), ConfigValueError> {
        let check = |ok: bool, key, must| {
            if ok {
                Ok(())
            } else {
                Err(ConfigValueError { key, must })
            }
        };
        check(
            self.capacity_millicores.is_none_or(|m| m > 0),
            "capacity_millicores",
            "above 0",
        )?;
        check(
            self.memory_capacity_mib.is_none_or(|mib| mib > 0),
            "memory_capacity_mib",
            "above 0",
        )?;
        check(
            (10..=10_000).contains(&self.sample_ms),
            "sample_ms",
            "from 10 to 10000",
        )?;
        check(
            (100..=60_000).contains(&self.report_ms),
            "report_ms",
            "from 100 to 60000",
        )?;
        check(
            (1..=60_000).contains(&self.poll_busy_ms),
            "poll_busy_ms",
            "from 1 to 60000",
        )?;
        check(
            self.poll_idle_ms >= self.poll_busy_ms,
            "poll_idle_ms",
            "at least poll_busy_ms",
        )?;
        check(
            (100..=10_000).contains(&self.log_upload_ms),
            "log_upload_ms",
            "from 100 to 10000",
        )?;
        check(
            (1000..=86_400_000).contains(&self.orphan_ms),
            "orphan_ms",
            "from 1000 to 86400000",
        )?;
        check(
            self.orphan_ms >= self.report_ms.saturating_mul(8),
            "orphan_ms",
            "at least 8 times report_ms",
        )?;
        check(self.fetch_mib_max > 0, "fetch_mib_max", "above 0")?;
        check(self.log_bytes_max >= 1024, "log_bytes_max", "at least 1024")?;
        check(
            self.uid_first >= 1000,
            "uid_first",
            "at least 1000, so that no task runs as a system user",
        )?;
        Ok(())
    }

    /// The CPU that containers share.
    pub fn capacity(&self) -> MilliCores {
        self.capacity_millicores
            .map(MilliCores::from_millicores)
            .unwrap_or_else(|| {
                let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
                MilliCores::from_cores(u32::try_from(cores).unwrap_or(u32::MAX))
            })
    }

    /// The memory that containers share, in MiB; without a bound where the machine does not tell what it has.
    pub(crate) fn memory_capacity(&self) -> u64 {
        let of_machine = || {
            let text = std::fs::read_to_string("/proc/meminfo").ok()?;
            let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
            let kib: u64 = total.trim().strip_suffix("kB")?.trim().parse().ok()?;
            Some(kib / 1024)
        };
        self.memory_capacity_mib.or_else(of_machine).unwrap_or(u64::MAX)
    }

    pub(crate) fn poll_busy(&self) -> Duration {
        Duration::from_millis(self.poll_busy_ms)
    }

    pub(crate) fn poll_idle(&self) -> Duration {
        Duration::from_millis(self.poll_idle_ms)
    }

    /// With the scaler's rules that are in force.
    pub(crate) fn meter(&self, scaler: ScalerConfig) -> MeterConfig {
        MeterConfig {
            capacity: self.capacity(),
            scaler,
            sample: Duration::from_millis(self.sample_ms),
            report: Duration::from_millis(self.report_ms),
            orphan: self.orphan(),
        }
    }

    pub(crate) fn fetch_bytes_max(&self) -> u64 {
        self.fetch_mib_max.saturating_mul(1 << 20)
    }

    pub(crate) fn orphan(&self) -> Duration {
        Duration::from_millis(self.orphan_ms)
    }

    pub(crate) fn hold(&self) -> Duration {
        Duration::from_millis(self.hold_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn example() -> Config {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deployment/config/container-manager.toml");
        service_kit::config::load(Some(&path), "GRIDFAAS_CONTAINER_TEST").unwrap()
    }

    #[test]
    fn the_example_configuration_is_valid_and_shows_the_defaults() {
        let config = example();
        config.validate().unwrap();
        assert_eq!(config.poll_idle_ms, default_poll_idle_ms());
        assert_eq!(config.log_bytes_max, default_log_bytes_max());
        assert_eq!(config.hold_ms, default_hold_ms());
        assert_eq!(config.frozen_memory_mib, default_frozen_memory_mib());
        assert_eq!(config.fetch_mib_max, default_fetch_mib_max());
        assert_eq!(config.orphan_ms, default_orphan_ms());
        assert_eq!(config.uid_first, default_uid_first());
        assert_eq!(config.images_max_mib, default_images_max_mib());
        assert_eq!(config.scaler, ScalerConfig::default());
        assert_eq!(config.log, LogFilter::default());
    }

    #[test]
    fn a_value_that_cannot_work_is_named() {
        for (change, named) in [
            (
                Box::new(|c: &mut Config| c.sample_ms = 0) as Box<dyn Fn(&mut Config)>,
                "`sample_ms`",
            ),
            (
                Box::new(|c| c.poll_idle_ms = 1),
                "`poll_idle_ms` must be at least poll_busy_ms",
            ),
            (Box::new(|c| c.uid_first = 0), "`uid_first`"),
            (
                Box::new(|c| c.capacity_millicores = Some(0)),
                "`capacity_millicores` must be above 0",
            ),
            (
                Box::new(|c| c.memory_capacity_mib = Some(0)),
                "`memory_capacity_mib` must be above 0",
            ),
        ] {
            let mut config = example();
            change(&mut config);
            assert!(
                config.validate().unwrap_err().to_string().contains(named),
                "{named}"
            );
        }
    }
}
