//! Recordings as tables, for whoever plots them with other tools.
//!
//! | File | Columns |
//! |---|---|
//! | `funds.csv` | seconds, user, balance, debt limit (GRC), standing |
//! | `cpu.csv` | seconds, container, maximum, allocation, used (millicores, an average since its last row), throttled (seconds so far), restriction |
//! | `tasks.csv` | seconds, function, pending, running |

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use container_manager::recording::{Entry, Record};
use units::{ContainerId, CpuTime, MilliCores, Restriction};

/// A container that does not change has a row this often.
const ROW_PAUSE_US: u64 = 1_000_000;

#[derive(Debug, thiserror::Error)]
#[error("failed to write `{path}`")]
pub struct CsvError {
    path: PathBuf,
    #[source]
    err: csv::Error,
}

/// Writes the three tables into `folder`, which has to be there. Files of these names are replaced; after an error one may
/// be cut off.
pub fn write(entries: &[Entry], folder: &Path) -> Result<(), CsvError> {
    table(folder, "funds.csv", |to| funds(entries, to))?;
    table(folder, "cpu.csv", |to| cpu(entries, to))?;
    table(folder, "tasks.csv", |to| tasks(entries, to))
}

type Writer = csv::Writer<BufWriter<File>>;

fn table(
    folder: &Path,
    name: &str,
    fill: impl FnOnce(&mut Writer) -> Result<(), csv::Error>,
) -> Result<(), CsvError> {
    let path = folder.join(name);
    let write = || {
        let mut to = csv::Writer::from_writer(BufWriter::new(File::create(&path)?));
        fill(&mut to)?;
        to.into_inner().map_err(|err| err.into_error())?.flush()?;
        Ok(())
    };
    write().map_err(|err| CsvError { path, err })
}

/// Seconds with three decimals.
fn seconds(at_us: u64) -> String {
    format!("{}.{:03}", at_us / 1_000_000, at_us / 1000 % 1000)
}

fn funds(entries: &[Entry], to: &mut Writer) -> Result<(), csv::Error> {
    to.write_record(["seconds", "user", "balance_grc", "debt_limit_grc", "standing"])?;
    for entry in entries {
        if let Record::Funds {
            user,
            balance,
            debt_limit,
            standing,
            ..
        } = &entry.record
        {
            to.write_record([
                seconds(entry.at_us),
                user.to_string(),
                balance.to_string(),
                debt_limit.to_string(),
                standing.to_string(),
            ])?;
        }
    }
    Ok(())
}

/// A container's last row.
struct Row {
    at_us: u64,
    used: CpuTime,
    allocation: MilliCores,
    restriction: Restriction,
}

fn cpu(entries: &[Entry], to: &mut Writer) -> Result<(), csv::Error> {
    to.write_record([
        "seconds",
        "container",
        "max_millicores",
        "allocation_millicores",
        "used_millicores",
        "throttled_seconds",
        "restriction",
    ])?;
    let (mut max, mut rows) = (BTreeMap::new(), BTreeMap::<ContainerId, Row>::new());
    for entry in entries {
        match &entry.record {
            Record::ContainerStarted {
                container,
                max_millicores,
                ..
            } => {
                max.insert(*container, *max_millicores);
            }
            Record::Sample {
                container,
                used_us,
                throttled_us,
                allocation_millicores,
                restriction,
                ..
            } => {
                let before = rows.get(container);
                let is_due = before.is_none_or(|row| {
                    entry.at_us >= row.at_us + ROW_PAUSE_US
                        || row.allocation != *allocation_millicores
                        || row.restriction != *restriction
                });
                if !is_due {
                    continue;
                }
                let used = before.map_or(MilliCores::ZERO, |row| {
                    let wall = Duration::from_micros(entry.at_us - row.at_us);
                    MilliCores::that_delivers(used_us.saturating_sub(row.used), wall)
                });
                to.write_record([
                    seconds(entry.at_us),
                    container.to_string(),
                    max.get(container)
                        .map_or_else(String::new, |max| max.millicores().to_string()),
                    allocation_millicores.millicores().to_string(),
                    used.millicores().to_string(),
                    seconds(*throttled_us),
                    restriction.to_string(),
                ])?;
                let row = Row {
                    at_us: entry.at_us,
                    used: *used_us,
                    allocation: *allocation_millicores,
                    restriction: *restriction,
                };
                rows.insert(*container, row);
            }
            _ => {}
        }
    }
    Ok(())
}

fn tasks(entries: &[Entry], to: &mut Writer) -> Result<(), csv::Error> {
    to.write_record(["seconds", "function", "pending", "running"])?;
    for entry in entries {
        if let Record::Tasks {
            function,
            pending,
            running,
        } = &entry.record
        {
            to.write_record([
                seconds(entry.at_us),
                function.to_string(),
                pending.to_string(),
                running.to_string(),
            ])?;
        }
    }
    Ok(())
}
