//! Ten containers that all want the whole node, by the recording of their run.

mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;

use common::Stack;
use container_manager::recording::{self, Entry, Record};
use units::{ContainerId, MilliCores};

const FUNCTIONS: usize = 10;
const CAPACITY: &str = "1.5";

#[test]
fn ten_containers_that_want_everything_never_have_more_than_the_node() {
    let folder = tempfile::tempdir().unwrap();
    let recording = folder.path().join("run.jsonl");
    let recording = recording.to_str().unwrap();
    let Some(mut stack) = Stack::start_with(&["--capacity", CAPACITY, "--record", recording]) else {
        return;
    };
    stack.text(&["user", "add", "alice"]);
    stack.text(&["user", "fund", "alice", "5", "--mine", "--wait"]);
    let spin = "for n in 1 2; do (for i in {1..60000}; do :; done) & done; wait; sleep 0.5\n";
    let names: Vec<String> = (0..FUNCTIONS).map(|n| format!("storm{n}")).collect();
    for name in &names {
        stack.function(name, "alice", spin);
    }
    for name in &names {
        for task in ["a", "b"] {
            stack.put_object(name, &format!("input/{task}"), "x");
        }
    }
    for name in &names {
        for task in ["a", "b"] {
            stack.until_object(name, &format!("results/{task}/receipt.json"));
        }
    }
    assert_eq!(stack.stop(), Some(0), "{}", stack.log());

    let file = BufReader::new(File::open(recording).unwrap());
    let entries: Vec<Entry> = recording::read(file).map(Result::unwrap).collect();
    let capacity: MilliCores = CAPACITY.parse().unwrap();
    let mut given: BTreeMap<ContainerId, MilliCores> = BTreeMap::new();
    let (mut samples, mut most, mut together) = (0, MilliCores::ZERO, 0);
    for entry in entries {
        match entry.record {
            Record::Sample {
                container,
                allocation_millicores,
                ..
            } => {
                given.insert(container, allocation_millicores);
                samples += 1;
            }
            Record::ContainerEnded { container } => drop(given.remove(&container)),
            _ => continue,
        }
        let sum: MilliCores = given.values().copied().sum();
        assert!(sum <= capacity, "{sum} of {capacity} given at {} us", entry.at_us);
        most = most.max(sum);
        together = together.max(given.len());
    }
    assert!(
        together > FUNCTIONS / 2,
        "{together} containers at once are no storm"
    );
    assert!(
        most.saturating_add(MilliCores::from_millicores(20)) >= capacity,
        "all of it is wanted, {most} was given"
    );
    eprintln!("{samples} samples of up to {together} containers, never above {most} of {capacity}");
}
