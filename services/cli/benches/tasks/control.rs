//! How soon limits act: by the recording and the log of a stack of their own.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::time::Duration;

use container_manager::recording::{self, Entry, Record};
use units::{ContainerId, MilliCores, Restriction};

use crate::common::Stack;
use crate::figures::{Figures, Samples};
use crate::latency::{logged, strip_colours};

const REPETITIONS: usize = 5;
/// Nine tenths of two cores.
const RAISED: MilliCores = MilliCores::from_millicores(1800);
/// Money for so much CPU time, in microseconds, at the usual price.
const FUNDS: &str = "0.0025";
const FUNDS_US: f64 = 1_500_000.0;
/// Spins until it is stopped or a hundred thousand rounds have passed.
const SPIN: &str = "for i in {1..1500000}; do :; done";
const SPIN_TWO: &str = "for n in 1 2; do (for i in {1..400000}; do :; done) & done; wait";
/// Twenty processes that do not go when asked to.
const STUBBORN: &str = "trap '' TERM; for i in {1..20}; do (trap '' TERM; sleep 60) & done; wait";

pub(crate) fn measure(figures: &mut Figures) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.jsonl");
    let Some(mut stack) = Stack::start_with(&["--verbose", "--record", path.to_str().unwrap()]) else {
        return;
    };
    stack.text(&["user", "add", "rich"]);
    stack.text(&["user", "fund", "rich", "10", "--mine", "--wait"]);
    for number in 0..REPETITIONS {
        let name = format!("poor{number}");
        stack.text(&["user", "add", &name]);
        stack.text(&["user", "fund", &name, FUNDS, "--mine", "--wait"]);
        stack.function(&name, &name, SPIN);
        stack.put_object(&name, "input/a", "x");
        stack.until("its throttling", &["node", "containers"], |containers| {
            let mut all = containers.as_array().unwrap().iter();
            all.any(|container| container["function"] == name && container["restriction"] == "throttle")
        });
        stack.text(&["user", "fund", &name, "1", "--mine", "--wait"]);
        stack.until_object(&name, "results/a/receipt.json");
    }
    stack.function("step", "rich", SPIN_TWO);
    for number in 0..=REPETITIONS {
        stack.put_object("step", &format!("input/{number}"), "x");
        stack.until_object("step", &format!("results/{number}/receipt.json"));
        // The limit follows usage down meanwhile.
        std::thread::sleep(Duration::from_secs(2));
    }
    stack.function("stubborn", "rich", STUBBORN);
    let settings = "timeout_s = 1\nmax_attempts = 1\nconcurrency = 5\nmemory_mib = 64";
    stack.put_object("stubborn", "utils/function.toml", settings);
    for number in 0..REPETITIONS * 4 {
        stack.put_object("stubborn", &format!("input/{number:02}"), "x");
    }
    let last = format!("failed/{:02}.reason.json", REPETITIONS * 4 - 1);
    stack.until_object("stubborn", &last);
    let mut emptied = Samples::default();
    let log = stack.log();
    let stopped: Vec<String> = sessions_of(&log, "stubborn");
    for line in log
        .lines()
        .map(strip_colours)
        .filter(|line| line.contains("emptied_us="))
    {
        if stopped.iter().any(|session| line.contains(session)) {
            emptied.add(logged(&line, "emptied_us") / 1000.0);
        }
    }
    figures.samples("stop_to_empty_ms", emptied);
    stack.stop();
    let entries = read(&path);
    figures.samples("throttle_after_zero_ms", throttle_after_zero(&entries));
    figures.samples("scale_up_90pct_ms", scale_up(&entries));
}

fn sessions_of(log: &str, function: &str) -> Vec<String> {
    let opened =
        |line: &String| line.contains("session opened") && line.contains(&format!("function={function}"));
    let lines = log.lines().map(strip_colours).filter(opened);
    let session = |line: String| {
        let (_, after) = line.split_once("session_id=").unwrap();
        after.split_whitespace().next().unwrap().to_owned()
    };
    lines.map(session).collect()
}

fn read(path: &Path) -> Vec<Entry> {
    let file = BufReader::new(File::open(path).unwrap());
    recording::read(file).map(Result::unwrap).collect()
}

/// From when a container had used what there was money for to the sample that shows it throttled.
fn throttle_after_zero(entries: &[Entry]) -> Samples {
    let mut samples = Samples::default();
    for (at, container) in task_starts(entries, "poor") {
        let seen = |entry: &&Entry| matches!(&entry.record, Record::Sample { container: of, .. } if *of == container);
        let point = |entry: &Entry| match &entry.record {
            Record::Sample {
                used_us, restriction, ..
            } => (entry.at_us as f64, used_us.micros() as f64, *restriction),
            _ => (0.0, 0.0, Restriction::None),
        };
        // What the launcher used is not the task's.
        let before = entries[..at]
            .iter()
            .rev()
            .find(seen)
            .map_or(0.0, |entry| point(entry).1);
        let (mut last, mut crossed) = ((0.0, before), None);
        for entry in entries[at..].iter().filter(seen) {
            let (now, used, restriction) = point(entry);
            let mark = before + FUNDS_US;
            if crossed.is_none() && used >= mark {
                let part = (mark - last.1) / (used - last.1).max(1.0);
                crossed = Some(last.0 + part * (now - last.0));
            }
            if restriction == Restriction::Throttle {
                // Throttled before it was spent to the last microsecond.
                samples.add(crossed.map_or(0.0, |crossed| (now - crossed) / 1000.0));
                break;
            }
            last = (now, used);
        }
    }
    samples
}

/// From a task's start to when its container has nine tenths of what it wants; the first start is left out.
fn scale_up(entries: &[Entry]) -> Samples {
    let mut samples = Samples::default();
    for (at, container) in task_starts(entries, "step").into_iter().skip(1) {
        let given = |entry: &Entry| match &entry.record {
            Record::Sample {
                container: of,
                allocation_millicores,
                ..
            } if *of == container => Some(*allocation_millicores),
            _ => None,
        };
        let before = entries[..at].iter().rev().find_map(given);
        let raised = entries[at..]
            .iter()
            .find(|entry| given(entry).is_some_and(|given| given >= RAISED));
        if before.is_some_and(|before| before >= RAISED) {
            samples.add(0.0);
        } else if let Some(raised) = raised {
            samples.add((raised.at_us - entries[at].at_us) as f64 / 1000.0);
        }
    }
    samples
}

/// Where tasks of functions so named start, and in which containers.
fn task_starts(entries: &[Entry], name: &str) -> Vec<(usize, ContainerId)> {
    let start = |(at, entry): (usize, &Entry)| match &entry.record {
        Record::TaskStarted {
            function, container, ..
        } if function.as_str().starts_with(name) => Some((at, *container)),
        _ => None,
    };
    entries.iter().enumerate().filter_map(start).collect()
}
