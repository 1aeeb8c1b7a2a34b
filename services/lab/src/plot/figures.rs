//! What each figure shows of a recording.

use std::collections::BTreeMap;

use container_manager::recording::{Entry, Record};
use units::{ContainerId, FunctionName, MilliCores, Restriction, UserName};

use super::chart::{Axis, Chart, Line, Shade, Step, Style};

const BLUE: &str = "#0072b2";
const VERMILION: &str = "#d55e00";
const BLACK: &str = "black";

/// The time axis is cut into this many parts; usage is shown as the mean of each.
const USAGE_PARTS: u32 = 400;

/// The figure's common parts: titles, and times in microseconds of the run described.
struct Run {
    name: String,
    speed: u32,
    end: i64,
}

impl Run {
    fn of(entries: &[Entry]) -> Self {
        let found = entries.iter().find_map(|entry| match &entry.record {
            Record::Run { name, speed, .. } => Some((name.clone(), *speed)),
            _ => None,
        });
        let (name, speed) = found.unwrap_or_default();
        let mut run = Self {
            name,
            speed: speed.max(1),
            end: 0,
        };
        run.end = entries.last().map_or(0, |last| run.time(last));
        run
    }

    fn time(&self, entry: &Entry) -> i64 {
        let described = entry.at_us.saturating_mul(self.speed.into());
        i64::try_from(described).unwrap_or(i64::MAX)
    }

    fn chart(&self, what: &str, y: Axis, lines: Vec<Line>) -> Chart {
        let x = Axis {
            name: match self.speed {
                1 => "time (s)".to_owned(),
                _ => "time (s of the run described)".to_owned(),
            },
            decimals: 6,
        };
        Chart {
            title: format!("{what}: {}", self.name),
            x,
            y,
            end: self.end,
            lines,
            shade: None,
            marks: Vec::new(),
        }
    }
}

fn axis(name: &str, decimals: u32) -> Axis {
    Axis {
        name: name.to_owned(),
        decimals,
    }
}

fn line(name: &'static str, colour: &'static str, dash: &'static str, steps: Vec<Step>) -> Line {
    let style = Style {
        colour,
        dash,
        width: 20,
        filled: false,
    };
    Line { name, style, steps }
}

fn filled(name: &'static str, steps: Vec<Step>) -> Line {
    let style = Style {
        colour: BLUE,
        dash: "",
        width: 14,
        filled: true,
    };
    Line { name, style, steps }
}

/// Balance and debt limit of the run's users together, the zero line, and each deposit.
pub(super) fn funds(entries: &[Entry]) -> Chart {
    let run = Run::of(entries);
    let mut latest: BTreeMap<&UserName, (i64, i64)> = BTreeMap::new();
    let (mut balance, mut limit, mut marks) = (Vec::new(), Vec::new(), Vec::new());
    for entry in entries {
        let at = run.time(entry);
        match &entry.record {
            Record::Funds {
                user,
                balance: held,
                debt_limit,
                ..
            } => {
                latest.insert(user, (held.halfords(), debt_limit.halfords().saturating_neg()));
                balance.push((at, Some(latest.values().map(|(held, _)| held).sum())));
                limit.push((at, Some(latest.values().map(|(_, limit)| limit).sum())));
            }
            Record::Deposit { amount, .. } => {
                let amount = amount.to_string();
                let amount = amount.trim_end_matches('0').trim_end_matches('.');
                marks.push((at, format!("+{amount} GRC")));
            }
            _ => {}
        }
    }
    let lines = vec![
        line("debt limit", VERMILION, "90 50", limit),
        line("zero", BLACK, "20 40", vec![(0, Some(0))]),
        line("balance", BLUE, "", balance),
    ];
    Chart {
        marks,
        ..run.chart("Funds", axis("funds (GRC)", 8), lines)
    }
}

/// What the containers may get at most, were allocated and used; where one of them was restricted, the ground is grey.
pub(super) fn cpu(entries: &[Entry]) -> Chart {
    let run = Run::of(entries);
    let mut live: BTreeMap<ContainerId, (MilliCores, MilliCores)> = BTreeMap::new();
    let mut restricted = Restricted::default();
    let (mut max, mut allocated) = (Vec::new(), Vec::new());
    for entry in entries {
        let at = run.time(entry);
        match &entry.record {
            Record::ContainerStarted {
                container,
                max_millicores,
                ..
            } => {
                live.insert(*container, (*max_millicores, MilliCores::ZERO));
            }
            Record::ContainerEnded { container } => {
                live.remove(container);
                restricted.tell(at, *container, Restriction::None);
            }
            Record::Sample {
                container,
                allocation_millicores,
                restriction,
                ..
            } => {
                if let Some((_, allocation)) = live.get_mut(container) {
                    *allocation = *allocation_millicores;
                }
                restricted.tell(at, *container, *restriction);
            }
            _ => continue,
        }
        max.push((at, sum(live.values().map(|(max, _)| *max))));
        allocated.push((at, sum(live.values().map(|(_, allocation)| *allocation))));
    }
    let lines = vec![
        filled("used", usage(entries, &run)),
        line("allocated", VERMILION, "70 30", allocated),
        line("max", BLACK, "110 40 20 40", max),
    ];
    Chart {
        shade: Some(Shade {
            name: "restricted",
            stretches: restricted.until(run.end),
        }),
        ..run.chart("CPU", axis("CPU (cores)", 3), lines)
    }
}

/// `None` where no container lives.
fn sum(parts: impl ExactSizeIterator<Item = MilliCores>) -> Option<i64> {
    (parts.len() > 0).then(|| parts.sum::<MilliCores>().millicores().into())
}

/// When any container was throttled or stopped.
#[derive(Default)]
struct Restricted {
    since: BTreeMap<ContainerId, i64>,
    began: i64,
    stretches: Vec<(i64, i64)>,
}

impl Restricted {
    fn tell(&mut self, at: i64, container: ContainerId, restriction: Restriction) {
        let was_any = !self.since.is_empty();
        match restriction {
            Restriction::None => self.since.remove(&container),
            Restriction::Throttle | Restriction::Stop => self.since.insert(container, at),
        };
        match (was_any, self.since.is_empty()) {
            (false, false) => self.began = at,
            (true, true) => self.stretches.push((self.began, at)),
            _ => {}
        }
    }

    fn until(mut self, end: i64) -> Vec<(i64, i64)> {
        if !self.since.is_empty() {
            self.stretches.push((self.began, end));
        }
        self.stretches
    }
}

/// Millicores used by all containers, as the mean of each part of the time axis. The counters are exact at their samples; in
/// between, usage is taken as even.
fn usage(entries: &[Entry], run: &Run) -> Vec<Step> {
    let width = (run.end / i64::from(USAGE_PARTS)).max(1);
    let mut parts = vec![0_i64; usize::try_from(USAGE_PARTS).unwrap_or(0) + 1];
    let mut last: BTreeMap<ContainerId, (i64, i64)> = BTreeMap::new();
    for entry in entries {
        let at = run.time(entry);
        match &entry.record {
            Record::ContainerStarted { container, .. } => {
                last.insert(*container, (at, 0));
            }
            Record::Sample {
                container, used_us, ..
            } => {
                // A second of the recording stands for many of the run described, and so does what was used in it.
                let described = used_us.micros().saturating_mul(run.speed.into());
                let used = i64::try_from(described).unwrap_or(i64::MAX);
                if let Some((since, before)) = last.insert(*container, (at, used)) {
                    spread(&mut parts, width, (since, at), used.saturating_sub(before));
                }
            }
            _ => {}
        }
    }
    let parts = parts.into_iter().zip(0_i64..);
    parts
        .map(|(used, number)| {
            let millicores = i128::from(used) * 1000 / i128::from(width);
            (number * width, i64::try_from(millicores).ok())
        })
        .collect()
}

/// Adds what was used between two moments to the parts it falls into, nothing lost to rounding.
fn spread(parts: &mut [i64], width: i64, (from, to): (i64, i64), used: i64) {
    let share = |at: i64| {
        let share = i128::from(used) * i128::from(at - from) / i128::from((to - from).max(1));
        i64::try_from(share).unwrap_or(used)
    };
    let mut begin = from;
    let mut before = 0;
    while begin < to {
        let part = begin / width;
        let end = ((part + 1) * width).min(to);
        let after = share(end);
        if let Some(part) = usize::try_from(part).ok().and_then(|part| parts.get_mut(part)) {
            *part += after - before;
        }
        (begin, before) = (end, after);
    }
}

/// Tasks of all functions, pending and running.
pub(super) fn tasks(entries: &[Entry]) -> Chart {
    let run = Run::of(entries);
    let mut latest: BTreeMap<&FunctionName, (u32, u32)> = BTreeMap::new();
    let (mut pending, mut running) = (vec![(0, Some(0))], vec![(0, Some(0))]);
    for entry in entries {
        if let Record::Tasks {
            function,
            pending: waits,
            running: runs,
        } = &entry.record
        {
            let at = run.time(entry);
            latest.insert(function, (*waits, *runs));
            pending.push((
                at,
                Some(latest.values().map(|(waits, _)| i64::from(*waits)).sum()),
            ));
            running.push((at, Some(latest.values().map(|(_, runs)| i64::from(*runs)).sum())));
        }
    }
    let lines = vec![
        filled("running", running),
        line("pending", VERMILION, "70 30", pending),
    ];
    run.chart("Tasks", axis("tasks", 0), lines)
}
