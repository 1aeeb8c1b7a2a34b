//! What the machine is and how busy it is: from the texts that the kernel shows to the JSON that others know.
//!
//! Keys and units are those of aleph-vm's `/about/usage/system` and `/about/capability`, so that whoever reads its nodes can
//! read ours: a kB is 1000 bytes, frequencies are in MHz here and in Hz there. What the machine does not tell is left out.

use std::path::Path;

use rustix::fs::statvfs;
use serde::Serialize;
use units::Timestamp;

const KIB: u64 = 1024;
const KB: u64 = 1000;
/// The figures are told of the minute they are asked in.
const PERIOD_S: u32 = 60;

/// What the kernel shows of the machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    loadavg: String,
    meminfo: String,
    cpuinfo: String,
    /// Of each group of cores that change their frequency together: the lowest and the highest, in kHz.
    frequencies_khz: Vec<(u32, u32)>,
    disk: Option<Disk>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) total_bytes: u64,
    pub(crate) available_bytes: u64,
}

impl Machine {
    /// As it is now. The disk is the one with the folder `disk` on it.
    pub(crate) fn read(disk: &Path) -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Self {
            loadavg: text("/proc/loadavg"),
            meminfo: text("/proc/meminfo"),
            cpuinfo: text("/proc/cpuinfo"),
            frequencies_khz: read_frequencies(Path::new("/sys/devices/system/cpu/cpufreq")),
            disk: Disk::read(disk),
        }
    }

    /// How busy it is; `active` tells whether the node takes tasks.
    pub(crate) fn usage(&self, now: Timestamp, active: bool) -> SystemUsage {
        let processors = processors(&self.cpuinfo);
        SystemUsage {
            cpu: CpuUsage {
                count: processors.count,
                load_average: load_average(&self.loadavg),
                core_frequencies: core_frequencies(&self.frequencies_khz),
            },
            mem: memory(&self.meminfo),
            disk: self
                .disk
                .map(|disk| Space::of(disk.total_bytes, disk.available_bytes)),
            period: period(now),
            properties: Properties {
                cpu: CpuProperties {
                    architecture: std::env::consts::ARCH,
                    vendor: processors.vendor,
                },
            },
            active,
        }
    }

    /// What it is made of.
    pub(crate) fn capability(&self) -> Capability {
        let processors = processors(&self.cpuinfo);
        let highest = self.frequencies_khz.iter().map(|(_, max)| u64::from(*max)).max();
        Capability {
            cpu: CpuCapability {
                architecture: std::env::consts::ARCH,
                vendor: processors.vendor,
                model: processors.model,
                frequency: highest.map(|khz| khz * 1000),
                count: processors.count,
            },
            memory: meminfo_bytes(&self.meminfo, "MemTotal")
                .map(|size| MemoryCapability { size, units: "bytes" }),
        }
    }
}

impl Disk {
    /// The file system with `folder` on it; `None` if it cannot be looked at.
    pub(crate) fn read(folder: &Path) -> Option<Self> {
        let stat = statvfs(folder).ok()?;
        Some(Self {
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            available_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct SystemUsage {
    cpu: CpuUsage,
    #[serde(skip_serializing_if = "Option::is_none")]
    mem: Option<Space>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk: Option<Space>,
    period: Period,
    properties: Properties,
    active: bool,
}

#[derive(Debug, Serialize)]
struct CpuUsage {
    count: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    load_average: Option<LoadAverage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    core_frequencies: Option<CoreFrequencies>,
}

#[derive(Debug, PartialEq, Serialize)]
struct LoadAverage {
    load1: f64,
    load5: f64,
    load15: f64,
}

/// In MHz.
#[derive(Debug, PartialEq, Serialize)]
struct CoreFrequencies {
    min: f64,
    max: f64,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Space {
    #[serde(rename = "total_kB")]
    total_kb: u64,
    #[serde(rename = "available_kB")]
    available_kb: u64,
}

impl Space {
    fn of(total_bytes: u64, available_bytes: u64) -> Self {
        Self {
            total_kb: total_bytes.div_ceil(KB),
            available_kb: available_bytes / KB,
        }
    }
}

#[derive(Debug, Serialize)]
struct Period {
    start_timestamp: String,
    duration_seconds: f64,
}

#[derive(Debug, Serialize)]
struct Properties {
    cpu: CpuProperties,
}

#[derive(Debug, Serialize)]
struct CpuProperties {
    architecture: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    vendor: Option<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Capability {
    cpu: CpuCapability,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<MemoryCapability>,
}

#[derive(Debug, Serialize)]
struct CpuCapability {
    architecture: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    vendor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// The highest, in Hz.
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency: Option<u64>,
    count: usize,
}

#[derive(Debug, Serialize)]
struct MemoryCapability {
    size: u64,
    units: &'static str,
}

/// `/proc/loadavg`.
fn load_average(text: &str) -> Option<LoadAverage> {
    let mut numbers = text.split_ascii_whitespace().map(|number| number.parse().ok());
    Some(LoadAverage {
        load1: numbers.next()??,
        load5: numbers.next()??,
        load15: numbers.next()??,
    })
}

/// A line of `/proc/meminfo`, whose kB are of 1024 bytes.
fn meminfo_bytes(text: &str, key: &str) -> Option<u64> {
    let value = |line: &str| -> Option<u64> {
        let value = line.strip_prefix(key)?.strip_prefix(':')?;
        value.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    text.lines().find_map(value)?.checked_mul(KIB)
}

fn memory(meminfo: &str) -> Option<Space> {
    Some(Space::of(
        meminfo_bytes(meminfo, "MemTotal")?,
        meminfo_bytes(meminfo, "MemAvailable")?,
    ))
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Processors {
    count: usize,
    vendor: Option<String>,
    model: Option<String>,
}

/// `/proc/cpuinfo`. Which keys there are differs from one architecture to the next.
fn processors(text: &str) -> Processors {
    let fields = || {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        lines.map(|(key, value)| (key.trim(), value.trim()))
    };
    let first = |wanted| {
        let mut found = fields().filter(|(key, value)| *key == wanted && !value.is_empty());
        found.next().map(|(_, value)| value.to_owned())
    };
    Processors {
        count: fields().filter(|(key, _)| *key == "processor").count(),
        vendor: first("vendor_id"),
        model: first("model name"),
    }
}

fn core_frequencies(khz: &[(u32, u32)]) -> Option<CoreFrequencies> {
    Some(CoreFrequencies {
        min: f64::from(khz.iter().map(|(min, _)| *min).min()?) / 1000.0,
        max: f64::from(khz.iter().map(|(_, max)| *max).max()?) / 1000.0,
    })
}

/// The groups of cores of a `cpufreq` folder; none on machines, mostly virtual ones, that leave frequencies to others.
fn read_frequencies(folder: &Path) -> Vec<(u32, u32)> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let number =
        |path: std::path::PathBuf| -> Option<u32> { std::fs::read_to_string(path).ok()?.trim().parse().ok() };
    let frequencies = entries.flatten().filter_map(|entry| {
        let (min, max) = ("cpuinfo_min_freq", "cpuinfo_max_freq");
        Some((number(entry.path().join(min))?, number(entry.path().join(max))?))
    });
    frequencies.collect()
}

/// The minute that `now` is in.
fn period(now: Timestamp) -> Period {
    let minute_ms = i64::from(PERIOD_S) * 1000;
    let start_ms = now.unix_ms() - now.unix_ms().rem_euclid(minute_ms);
    let start = jiff::Timestamp::from_millisecond(start_ms).unwrap_or_default();
    Period {
        start_timestamp: start.display_with_offset(jiff::tz::Offset::UTC).to_string(),
        duration_seconds: f64::from(PERIOD_S),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const MEMINFO: &str =
        "MemTotal:       65759677 kB\nMemFree:         1000000 kB\nMemAvailable:   63651044 kB\n";
    const CPUINFO: &str = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R) CPU\nflags\t\t: fpu vme\n\n\
                           processor\t: 1\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R) CPU\n";

    fn machine() -> Machine {
        Machine {
            loadavg: "0.71 0.82 0.74 1/234 567\n".to_owned(),
            meminfo: MEMINFO.to_owned(),
            cpuinfo: CPUINFO.to_owned(),
            frequencies_khz: vec![(800_000, 4_800_000), (400_000, 3_600_000)],
            disk: Some(Disk {
                total_bytes: 500_673_051_500,
                available_bytes: 470_017_478_900,
            }),
        }
    }

    /// 2023-12-13T09:31:07.5Z
    fn now() -> Timestamp {
        Timestamp::from_unix_ms(1_702_459_867_500)
    }

    /// The same keys with values of the same types, at every depth.
    fn shape(value: &Value) -> Value {
        match value {
            Value::Object(fields) => fields
                .iter()
                .map(|(key, value)| (key.clone(), shape(value)))
                .collect(),
            Value::Number(number) => if number.is_f64() { "float" } else { "integer" }.into(),
            Value::String(_) => "text".into(),
            Value::Bool(_) => "boolean".into(),
            Value::Null => "null".into(),
            Value::Array(items) => items.iter().map(shape).collect(),
        }
    }

    #[test]
    fn the_answer_has_the_keys_and_types_of_the_published_sample() {
        let sample = json!({"cpu": {"count": 12, "load_average": {"load1": 0.71, "load5": 0.82, "load15": 0.74},
            "core_frequencies": {"min": 800.0, "max": 4800.0}}, "mem": {"total_kB": 67337909, "available_kB": 65178669},
            "disk": {"total_kB": 500673052, "available_kB": 470017478},
            "period": {"start_timestamp": "2023-12-13T09:31:00+00:00", "duration_seconds": 60.0},
            "properties": {"cpu": {"architecture": "x86_64", "vendor": "GenuineIntel"}}, "active": true});
        let told = serde_json::to_value(machine().usage(now(), true)).unwrap();
        assert_eq!(shape(&told), shape(&sample));
        assert_eq!(told["period"], sample["period"]);
        assert_eq!(told["disk"], sample["disk"]);
        assert_eq!(told["cpu"]["load_average"], sample["cpu"]["load_average"]);
        assert_eq!(
            told["cpu"]["core_frequencies"],
            json!({"min": 400.0, "max": 4800.0})
        );
        assert_eq!(
            told["mem"],
            json!({"total_kB": 67_337_910, "available_kB": 65_178_669}),
            "of 1000 bytes"
        );
    }

    #[test]
    fn what_the_machine_does_not_tell_is_left_out() {
        let silent = Machine::default();
        let told = serde_json::to_value(silent.usage(now(), false)).unwrap();
        assert_eq!(told["cpu"], json!({"count": 0}));
        assert!(told.get("mem").is_none() && told.get("disk").is_none(), "{told}");
        assert_eq!(told["active"], false);
        let capability = serde_json::to_value(silent.capability()).unwrap();
        let architecture = std::env::consts::ARCH;
        assert_eq!(
            capability,
            json!({"cpu": {"architecture": architecture, "count": 0}})
        );
    }

    #[test]
    fn a_machine_says_what_it_is_made_of() {
        let told = serde_json::to_value(machine().capability()).unwrap();
        assert_eq!(
            told,
            json!({"cpu": {"architecture": std::env::consts::ARCH, "vendor": "GenuineIntel",
                "model": "Intel(R) Xeon(R) CPU", "frequency": 4_800_000_000_u64, "count": 2},
                "memory": {"size": 67_337_909_248_u64, "units": "bytes"}})
        );
    }

    #[test]
    fn texts_of_another_form_tell_nothing() {
        for text in ["", "0.71", "0.71 0.82", "a b c"] {
            assert_eq!(load_average(text), None, "{text}");
        }
        for text in [
            "",
            "MemTotal: 1 MB\n",
            "MemTotal: x kB\n",
            "MemTotals: 1 kB\n",
            "MemTotal: 18446744073709551615 kB\n",
        ] {
            assert_eq!(meminfo_bytes(text, "MemTotal"), None, "{text}");
        }
        let arm = "processor\t: 0\nBogoMIPS\t: 108.00\nCPU implementer\t: 0x41\n\nprocessor\t: 1\n";
        let processors = processors(arm);
        assert_eq!(
            (processors.count, processors.vendor, processors.model),
            (2, None, None)
        );
        assert_eq!(core_frequencies(&[]), None);
    }

    #[test]
    fn this_machine_can_be_read() {
        let told = serde_json::to_value(Machine::read(Path::new("/")).usage(now(), true)).unwrap();
        assert!(told["cpu"]["count"].as_u64().unwrap() > 0, "{told}");
        assert!(told["mem"]["total_kB"].as_u64() >= told["mem"]["available_kB"].as_u64());
        assert!(told["disk"]["total_kB"].as_u64().unwrap() > 0, "{told}");
        assert!(!told.to_string().contains("null"), "{told}");
    }
}
