//! What has to be true once everything is at rest. What is not, is told.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use units::Amount;

use crate::World;
use crate::load::{FUNDS, USERS};
use crate::processes::roles::{self, NODES, Role, tree};

/// What was killed is gone when its parent, by now the machine's first process, has heard of it.
const REAPING: Duration = Duration::from_secs(5);
const HALFORDS_PER_GRC: u64 = 100_000_000;

pub(crate) fn audit(world: &mut World) -> Vec<String> {
    let mut found = Vec::new();
    tasks(world, &mut found);
    ledger(world, &mut found);
    nothing_left(world, &mut found);
    found
}

/// Each accepted file is done, once, and its bill is what the kernel counted.
fn tasks(world: &World, found: &mut Vec<String>) {
    let load = &world.load;
    let Some(keys) = load.keys() else {
        return found.push("the store does not answer".to_owned());
    };
    let mut spent: BTreeMap<String, Amount> = BTreeMap::new();
    let (mut done, mut attempts) = (0u64, 0usize);
    for (function, keys) in &keys {
        for key in keys {
            if let Some(task) = key.strip_prefix("output/") {
                done += 1;
                let receipt = load.object(function, &format!("results/{task}/receipt.json"));
                let receipt: Option<Value> = receipt.and_then(|text| serde_json::from_slice(&text).ok());
                let Some(receipt) = receipt else {
                    found.push(format!("{function}: `{task}` is done and has no receipt"));
                    continue;
                };
                attempts += receipt["attempts"].as_array().map_or(0, Vec::len);
                found.extend(
                    bill(&receipt)
                        .into_iter()
                        .map(|what| format!("{function}: `{task}` {what}")),
                );
                if load.object(function, &format!("results/{task}/copy")).as_deref() != Some(task.as_bytes())
                {
                    found.push(format!(
                        "{function}: `{task}` has another task's results, or none"
                    ));
                }
                let sum = spent
                    .entry(receipt["user"].as_str().unwrap_or_default().to_owned())
                    .or_default();
                *sum = sum.checked_add(grc(&receipt["task_amount_grc"])).unwrap();
            } else if ["input/", "processing/", "failed/"]
                .iter()
                .any(|place| key.starts_with(place))
            {
                found.push(format!("{function}: `{key}` never came to its end"));
            }
        }
    }
    for (function, task) in &load.accepted {
        if !keys[function].contains(&format!("output/{task}")) {
            found.push(format!("{function}: `{task}` was accepted and is lost"));
        }
    }
    println!("{:>20} {done} tasks in {attempts} attempts", "done");
    for user in USERS {
        let spent = spent.get(user).copied().unwrap_or_default();
        let funds: Amount = FUNDS.parse().unwrap();
        match load.gridfaas(&["balance", user]) {
            Ok(account) if Some(grc(&account["balance"])) == funds.checked_sub(spent) => {}
            Ok(account) => found.push(format!(
                "{user} had {funds}, spent {spent} by the receipts, has {}",
                account["balance"]
            )),
            Err(err) => found.push(format!("{user}'s balance: {err}")),
        }
    }
}

/// What is wrong with a receipt.
fn bill(receipt: &Value) -> Option<String> {
    let number = |key: &str| receipt[key].as_u64().unwrap_or_default();
    let is_success = |attempt: &&Value| attempt["outcome"] == "succeeded";
    let successes = receipt["attempts"]
        .as_array()
        .map_or(0, |all| all.iter().filter(is_success).count());
    if successes != 1 || receipt["outcome"] != "succeeded" {
        return Some(format!("succeeded {successes} times: {receipt}"));
    }
    if number("billed_us") != number("cpu_time_us") || number("cpu_time_us") == 0 {
        return Some(format!(
            "is billed for {} of {} us",
            receipt["billed_us"], receipt["cpu_time_us"]
        ));
    }
    let due = number("billed_us") * HALFORDS_PER_GRC / number("cpu_time_us_per_grc").max(1);
    let billed = grc(&receipt["amount_grc"]);
    (billed.halfords() != i64::try_from(due).unwrap()).then(|| format!("costs {billed}, not {due} halfords"))
}

fn grc(amount: &Value) -> Amount {
    amount.as_str().unwrap_or_default().parse().unwrap_or_default()
}

/// The ledger's own proof, which needs a moment until the wallet has followed.
fn ledger(world: &mut World, found: &mut Vec<String>) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let audited = world.load.gridfaas(&["audit"]);
        match audited {
            Ok(report) if report["ok"] == true => return,
            _ if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(500)),
            Ok(report) => return found.push(format!("the ledger's audit: {report:#}")),
            Err(err) => return found.push(format!("the ledger's audit: {err}")),
        }
    }
}

/// Stops everything in order, and looks for what is still there.
fn nothing_left(world: &mut World, found: &mut Vec<String>) {
    for role in Role::all(crate::NODES).rev() {
        let process = world.processes.iter_mut().find(|process| process.role == role);
        let status = process.unwrap().stop();
        if status != Some(0) {
            found.push(format!("{} stopped with {status:?}", role.name()));
        }
    }
    for (number, node) in NODES.into_iter().take(crate::NODES).enumerate() {
        let groups = groups_below(&tree(&world.folder, number));
        found.extend(
            groups
                .iter()
                .map(|group| format!("a control group of {node} is left: {}", group.display())),
        );
        let state = world.folder.join(format!("state-{node}"));
        for folder in ["containers", "staging"] {
            let files = fs::read_dir(state.join(folder)).into_iter().flatten().flatten();
            found.extend(files.map(|file| format!("{node} left {}", file.path().display())));
        }
        found.extend(
            stray(&state)
                .into_iter()
                .map(|path| format!("{node} left {}", path.display())),
        );
    }
    let deadline = Instant::now() + REAPING;
    while !roles::contained().is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    found.extend(
        roles::contained()
            .into_iter()
            .map(|(pid, _)| format!("process {pid} of a container is left")),
    );
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let below = format!("{}/", world.folder.display());
    found.extend(
        mounts
            .lines()
            .filter(|line| line.contains(&below))
            .map(|line| format!("a mount is left: {line}")),
    );
}

/// Files that are there only while something is done.
fn stray(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if name.starts_with(".tmp") || name.ends_with(".partial") || name == "results.json" {
            found.push(path);
        } else if path.is_dir()
            && !path.is_symlink()
            && folder.file_name().is_none_or(|name| name != "images")
        {
            found.extend(stray(&path));
        }
    }
    found
}

/// Container groups of a tree, in every hierarchy.
fn groups_below(tree: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let folders = |path: PathBuf| {
        fs::read_dir(path)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
    };
    for hierarchy in folders(PathBuf::from("/sys/fs/cgroup")).chain([PathBuf::from("/sys/fs/cgroup")]) {
        found.extend(folders(hierarchy.join(tree)).filter(|path| path.is_dir()));
    }
    found
}
