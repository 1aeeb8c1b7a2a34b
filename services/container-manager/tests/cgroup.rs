//! Control groups on the real machine, as root, under trees of their own. Every test runs on the hierarchies as they
//! are found and, where v1 alone would do, once more with the v2 tree left out.

#![expect(clippy::unwrap_used, reason = "a step that fails has failed the test")]

mod tree;

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use container_manager::cgroup::fake::FakeCpuController;
use container_manager::cgroup::hierarchy::{Hierarchies, Home, Mounts};
use container_manager::cgroup::{
    Burst, CgroupError, ContainerGroup, ContainerLimits, CpuController, KernelCpuController, TaskGroup,
    TaskLimits, Weight,
};
use rustix::process::Pid;
use tree::Tree;
use units::{ContainerId, CpuTime, MilliCores, SessionId};

const DEADLINE: Duration = Duration::from_secs(20);
const MIB: u64 = 1024 * 1024;
const SPIN: &str = "while :; do :; done";
const CONTAINER: ContainerLimits = ContainerLimits {
    cpu: MilliCores::from_cores(2),
    memory_bytes_max: 512 * MIB,
    pids_max: 500,
};
const TASK: TaskLimits = TaskLimits {
    memory_bytes_max: 256 * MIB,
    pids_max: 200,
};

impl Tree {
    fn container(&self) -> Arc<dyn ContainerGroup> {
        self.create_container(CONTAINER)
    }

    fn task(&self) -> (Arc<dyn ContainerGroup>, Arc<dyn TaskGroup>) {
        let container = self.container();
        let task = container
            .create_task(SessionId::new(), TASK)
            .expect("a task can be made");
        (container, task)
    }
}

/// Runs `test` on each arrangement of hierarchies that this machine can offer.
fn on_each_arrangement(test: impl AsyncFn(&Tree)) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: making control groups needs root");
        return;
    }
    let found = Hierarchies::of_this_machine().expect("control groups are mounted");
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let v1_only = Mounts {
        unified: None,
        ..Mounts::parse(&mountinfo)
    }
    .resolve("")
    .ok();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    for hierarchies in [Some(found), v1_only].into_iter().flatten() {
        eprintln!("hierarchies: {hierarchies}");
        runtime.block_on(test(&Tree::new(hierarchies)));
    }
}

/// A shell script that waits until it has been placed. Killed when dropped, wherever it is by then: without its
/// standard input it would go on by itself.
struct Script(Child);

impl Drop for Script {
    fn drop(&mut self) {
        self.0
            .kill()
            .and_then(|()| self.0.wait())
            .expect("the script can be killed");
    }
}

impl Script {
    fn spawn(body: &str) -> Self {
        let child = Command::new("sh")
            .args(["-c", &format!("read go\n{body}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        Self(child)
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    fn go(&mut self) {
        self.0
            .stdin
            .take()
            .unwrap()
            .write_all(b"\n")
            .expect("the script waits");
    }

    fn start_in(task: &Arc<dyn TaskGroup>, body: &str) -> Self {
        let mut script = Self::spawn(body);
        task.place(script.pid()).expect("a waiting process can be placed");
        script.go();
        script
    }

    /// Waits for the end and returns what it printed.
    fn output(mut self) -> String {
        let mut text = String::new();
        let mut stdout = self.0.stdout.take().expect("it is piped");
        stdout.read_to_string(&mut text).expect("it prints text");
        self.0.wait().expect("the script can be waited for");
        text
    }

    fn reap(mut self) {
        self.0.wait().expect("the script can be waited for");
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn has_used_cpu(task: &Arc<dyn TaskGroup>) {
    let before = task.cpu_time().unwrap();
    eventually("CPU time is used", || task.cpu_time().unwrap() > before).await;
}

fn is_gone<T>(result: Result<T, CgroupError>) -> bool {
    matches!(result, Err(CgroupError::Gone { .. }))
}

#[test]
fn a_quota_holds() {
    on_each_arrangement(async |tree| {
        let (container, task) = tree.task();
        let quota = MilliCores::from_millicores(500);
        container.set_quota(quota, Burst::None).unwrap();
        let script = Script::start_in(&task, &format!("({SPIN}) &\n{SPIN}"));
        eventually("the quota runs out", || {
            container.cpu_stat().unwrap().nr_throttled > 2
        })
        .await;

        let (started, before) = (Instant::now(), container.cpu_stat().unwrap());
        eventually("half a core-second is used", || {
            let used = container.cpu_total().unwrap().saturating_sub(before.usage.total);
            used >= CpuTime::from_micros(500_000)
        })
        .await;
        let after = container.cpu_stat().unwrap();
        let used = after.usage.total.saturating_sub(before.usage.total);
        let allowed = quota.over(started.elapsed() * 5 / 4);
        assert!(
            used <= allowed,
            "used {used} where {allowed} would be a quarter too much"
        );
        assert!(after.throttled_time > before.throttled_time);
        assert!(after.nr_periods >= after.nr_throttled);

        task.kill_and_wait_empty(DEADLINE).await.unwrap();
        script.reap();
    });
}

#[test]
fn any_quota_and_weight_can_be_set_again_and_again() {
    on_each_arrangement(async |tree| {
        let container = tree.container();
        for millicores in [0, 1, 50, 51, 500, 500, 1000, 1_000_000, 137] {
            for burst in [Burst::Quota, Burst::None, Burst::Quota] {
                container
                    .set_quota(MilliCores::from_millicores(millicores), burst)
                    .unwrap();
            }
        }
        assert_eq!(container.quota().unwrap().millicores(), 137);
        container.set_quota(MilliCores::ZERO, Burst::Quota).unwrap();
        assert_eq!(
            container.quota().unwrap().millicores(),
            50,
            "the kernel's least is a millisecond"
        );
        let of = |millicores| Weight::Of(MilliCores::from_millicores(millicores));
        for weight in [
            Weight::Lowest,
            Weight::Lowest,
            of(0),
            of(1),
            of(1000),
            of(u32::MAX),
        ] {
            container.set_weight(weight).unwrap();
        }
    });
}

#[test]
fn the_meter_equals_the_kernels_file_when_all_have_ended() {
    on_each_arrangement(async |tree| {
        let (container, task) = tree.task();
        Script::start_in(&task, "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done").reap();
        eventually("all have ended", || !task.populated().unwrap()).await;

        let home = &tree.controller.hierarchies().meter;
        let below = Path::new(&tree.path)
            .join(container.id().to_string())
            .join(task.session().to_string());
        let dir = home.mount_point().join(below);
        let kernel = match home {
            Home::V1(_) => {
                let nanos = fs::read_to_string(dir.join("cpuacct.usage")).unwrap();
                nanos.trim().parse::<u64>().unwrap() / 1000
            }
            Home::V2(_) => {
                let stat = fs::read_to_string(dir.join("cpu.stat")).unwrap();
                let usage = stat
                    .lines()
                    .find_map(|line| line.strip_prefix("usage_usec "))
                    .unwrap();
                usage.parse().unwrap()
            }
        };
        let usage = task.cpu_usage().unwrap();
        assert!(kernel > 0);
        assert_eq!(task.cpu_time().unwrap().micros(), kernel);
        assert_eq!(usage.total.micros(), kernel);
        assert_eq!(usage.user.saturating_add(usage.system), usage.total);
        // The kernel rounds each group's nanoseconds to microseconds by itself.
        let of_container = || container.cpu_total().unwrap().micros();
        assert!(
            of_container().abs_diff(kernel) <= 1,
            "nothing else ran in the container: {} beside {kernel}",
            of_container()
        );
        task.remove().await.unwrap();
        assert!(of_container() + 1 >= kernel, "a removed task stays counted");
    });
}

#[test]
fn short_forks_are_counted() {
    on_each_arrangement(async |tree| {
        let (_container, task) = tree.task();
        let times = Script::start_in(
            &task,
            "i=0; while [ $i -lt 300 ]; do /bin/true; i=$((i+1)); done; times",
        )
        .output();
        eventually("all have ended", || !task.populated().unwrap()).await;
        let by_rusage: u64 = times.split_whitespace().map(millis).sum();
        let metered = task.cpu_time().unwrap().micros() / 1000;
        // `times` counts in steps of 10 ms, in four figures.
        assert!(
            metered + 40 >= by_rusage,
            "metered {metered} ms, rusage {by_rusage} ms"
        );
    });
}

/// Reads the shell's `0m1.230s`.
fn millis(time: &str) -> u64 {
    let (minutes, seconds) = time.trim_end_matches('s').split_once('m').unwrap();
    let (whole, fraction) = seconds.split_once('.').unwrap();
    let fraction: u64 = format!("{fraction:0<3}")[..3].parse().unwrap();
    (minutes.parse::<u64>().unwrap() * 60 + whole.parse::<u64>().unwrap()) * 1000 + fraction
}

#[test]
fn a_fork_bomb_is_contained_and_killed() {
    on_each_arrangement(async |tree| {
        let (_container, task) = tree.task();
        let script = Script::start_in(&task, "bomb() { bomb | bomb & }; bomb; sleep 1000");
        eventually("forks are refused", || task.events().unwrap().forks_refused > 0).await;
        task.kill_and_wait_empty(DEADLINE).await.unwrap();
        assert!(!task.populated().unwrap());
        script.reap();
        task.remove().await.unwrap();
    });
}

#[test]
fn a_detached_grandchild_does_not_get_away() {
    on_each_arrangement(async |tree| {
        let (_container, task) = tree.task();
        let spin = format!("setsid sh -c '({SPIN}) >/dev/null </dev/null & exit'");
        Script::start_in(&task, &spin).reap();
        has_used_cpu(&task).await;
        assert!(task.populated().unwrap());
        task.kill_and_wait_empty(DEADLINE).await.unwrap();
        task.remove().await.unwrap();
    });
}

#[test]
fn freezing_stops_the_counter_and_thawing_starts_it_again() {
    on_each_arrangement(async |tree| {
        let (container, task) = tree.task();
        let script = Script::start_in(&task, SPIN);
        has_used_cpu(&task).await;

        task.freeze().await.unwrap();
        let frozen_at = task.cpu_time().unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(task.cpu_time().unwrap(), frozen_at);
        task.thaw().unwrap();
        has_used_cpu(&task).await;

        container.freeze().await.unwrap();
        let frozen_at = task.cpu_time().unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(task.cpu_time().unwrap(), frozen_at);
        container.thaw().unwrap();
        has_used_cpu(&task).await;

        task.kill_and_wait_empty(DEADLINE).await.unwrap();
        script.reap();
    });
}

#[test]
fn what_is_frozen_can_be_killed() {
    on_each_arrangement(async |tree| {
        let (container, task) = tree.task();
        let script = Script::start_in(&task, SPIN);
        task.freeze().await.unwrap();
        task.kill_and_wait_empty(DEADLINE).await.unwrap();
        script.reap();

        let other = container.create_task(SessionId::new(), TASK).unwrap();
        let script = Script::start_in(&other, SPIN);
        other.freeze().await.unwrap();
        container.kill_all(DEADLINE).await.unwrap();
        assert!(container.is_empty().unwrap());
        script.reap();
    });
}

#[test]
fn running_out_of_memory_is_counted() {
    on_each_arrangement(async |tree| {
        let container = tree.container();
        let limits = TaskLimits {
            memory_bytes_max: 16 * MIB,
            ..TASK
        };
        let task = container.create_task(SessionId::new(), limits).unwrap();
        assert_eq!(task.events().unwrap().oom_kills, 0);
        Script::start_in(&task, "head -c 100000000 /dev/zero | tail >/dev/null").reap();
        eventually("the kill is counted", || task.events().unwrap().oom_kills > 0).await;
        task.kill_and_wait_empty(DEADLINE).await.unwrap();
    });
}

#[test]
fn a_containers_memory_can_be_raised_and_lowered_around_what_it_uses() {
    on_each_arrangement(async |tree| {
        let container = tree.container();
        let task = container.create_task(SessionId::new(), TASK).unwrap();
        // A variable of 24 MiB, held while the shell sleeps.
        let script = Script::start_in(&task, "x=$(head -c 25165824 /dev/zero | tr '\\0' x); sleep 600");
        eventually("it is held", || container.memory_used().unwrap() >= 24 * MIB).await;
        for mib in [96, 80, 200, 200] {
            container.set_memory_max(mib * MIB).unwrap();
        }
        assert!(container.memory_used().unwrap() >= 24 * MIB);
        assert_eq!(task.events().unwrap().oom_kills, 0);
        task.kill_and_wait_empty(DEADLINE).await.unwrap();
        script.reap();
    });
}

#[test]
fn the_launcher_is_in_the_container_but_in_no_task() {
    on_each_arrangement(async |tree| {
        let (container, task) = tree.task();
        let join: Vec<_> = container
            .launcher_procs()
            .iter()
            .map(|procs| format!("echo 0 > {}", procs.display()))
            .collect();
        let mut script = Script::spawn(&format!("{}\n{SPIN}", join.join("\n")));
        script.go();
        eventually("the launcher's CPU is counted", || {
            container.cpu_total().unwrap() > CpuTime::ZERO
        })
        .await;
        assert_eq!(task.cpu_time().unwrap(), CpuTime::ZERO);
        assert!(!task.populated().unwrap());
        assert!(!container.is_empty().unwrap());
        container.kill_all(DEADLINE).await.unwrap();
        script.reap();
    });
}

#[test]
fn a_process_in_only_some_of_the_groups_is_killed_too() {
    on_each_arrangement(async |tree| {
        let container = tree.container();
        for procs in container.launcher_procs() {
            let script = Script::spawn(SPIN);
            fs::write(&procs, script.pid().as_raw_nonzero().to_string()).unwrap();
            assert!(!container.is_empty().unwrap(), "{}", procs.display());
            container.kill_all(DEADLINE).await.unwrap();
            script.reap();
        }
        container.remove().await.unwrap();
    });
}

#[test]
fn removing_leaves_nothing() {
    on_each_arrangement(async |tree| {
        let (container, task) = tree.task();
        let script = Script::start_in(&task, SPIN);
        let err = task.remove().await.unwrap_err();
        assert!(err.is_transient(), "{err}");
        assert!(container.remove().await.is_err());
        task.kill_and_wait_empty(DEADLINE).await.unwrap();
        script.reap();
        container.remove().await.unwrap();
        container.remove().await.unwrap();
        task.remove().await.unwrap();
        for dir in tree.dirs(container.id().to_string()) {
            assert!(!dir.exists(), "{}", dir.display());
        }
    });
}

#[test]
fn after_a_restart_everything_is_found_and_counts_on() {
    on_each_arrangement(async |tree| {
        let (container, task) = tree.task();
        let script = Script::start_in(&task, SPIN);
        has_used_cpu(&task).await;
        let (id, session, before) = (container.id(), task.session(), task.cpu_time().unwrap());
        drop((container, task));

        let restarted = KernelCpuController::new(tree.controller.hierarchies().clone(), &tree.path).unwrap();
        assert_eq!(restarted.containers().unwrap(), BTreeSet::from([id]));
        let container = restarted.open_container(id).unwrap();
        assert_eq!(container.tasks().unwrap(), BTreeSet::from([session]));
        let task = container.open_task(session).unwrap();
        assert!(task.cpu_time().unwrap() >= before);
        // A journalled step may be done twice: the counter goes on.
        let again = container.create_task(session, TASK).unwrap();
        assert!(again.cpu_time().unwrap() >= before);
        has_used_cpu(&again).await;
        restarted.create_container(id, CONTAINER).unwrap();

        assert!(is_gone(restarted.open_container(ContainerId::new())));
        assert!(is_gone(container.open_task(SessionId::new())));
        task.kill_and_wait_empty(DEADLINE).await.unwrap();
        script.reap();
    });
}

#[test]
fn a_vanished_group_is_an_error_and_never_zero() {
    on_each_arrangement(async |tree| {
        let (container, task) = tree.task();
        let script = Script::spawn("");
        for dir in tree.dirs(container.id().to_string()) {
            for child in [task.session().to_string(), "runner".to_owned(), String::new()] {
                fs::remove_dir(dir.join(child)).unwrap();
            }
        }
        assert!(is_gone(task.cpu_time()));
        assert!(is_gone(task.cpu_usage()));
        assert!(is_gone(task.events()));
        assert!(is_gone(task.populated()));
        assert!(is_gone(task.place(script.pid())));
        assert!(is_gone(task.freeze().await));
        assert!(is_gone(task.thaw()));
        assert!(is_gone(task.kill_and_wait_empty(DEADLINE).await));
        assert!(is_gone(container.cpu_stat()));
        assert!(is_gone(container.cpu_total()));
        assert!(is_gone(container.set_quota(MilliCores::ONE_CORE, Burst::None)));
        assert!(is_gone(container.set_weight(Weight::Lowest)));
        assert!(is_gone(container.tasks()));
        assert!(is_gone(container.create_task(SessionId::new(), TASK)));
        assert!(is_gone(container.kill_all(DEADLINE).await));
        assert!(is_gone(tree.controller.open_container(container.id())));
        assert!(tree.controller.containers().unwrap().is_empty());
        let mut script = script;
        script.go();
        script.reap();
    });
}

#[test]
fn a_sweep_destroys_what_nobody_knows_and_nothing_else() {
    on_each_arrangement(async |tree| {
        let (known, task) = tree.task();
        let kept = Script::start_in(&task, SPIN);
        let (orphan, orphan_task) = tree.task();
        let lost = Script::start_in(&orphan_task, SPIN);
        // Cut off while it was made: a part of it in one hierarchy only.
        let torso = ContainerId::new();
        fs::create_dir(&tree.dirs(torso.to_string())[0]).unwrap();
        let foreign = tree.dirs("not-an-id")[0].clone();
        fs::create_dir(&foreign).unwrap();

        let swept = tree
            .controller
            .sweep_orphans(&HashSet::from([known.id()]))
            .await
            .unwrap();
        assert_eq!(BTreeSet::from_iter(swept), BTreeSet::from([orphan.id(), torso]));
        lost.reap();
        assert_eq!(
            tree.controller.containers().unwrap(),
            BTreeSet::from([known.id()])
        );
        has_used_cpu(&task).await;
        fs::remove_dir(foreign).unwrap();
        known.kill_all(DEADLINE).await.unwrap();
        kept.reap();
    });
}

#[test]
fn a_tree_is_a_plain_relative_path() {
    let home = || Home::V1("/nowhere".into());
    let nowhere = Hierarchies {
        cpu: home(),
        meter: home(),
        freezer: home(),
        memory: home(),
        pids: home(),
    };
    for path in ["", "/gridfaas", "../gridfaas", "a/../b", "./a"] {
        let err = KernelCpuController::new(nowhere.clone(), Path::new(path)).unwrap_err();
        assert!(matches!(err, CgroupError::Tree { .. }), "{path}: {err}");
    }
}

/// What every implementation promises.
async fn cpu_controller_suite(controller: &dyn CpuController) {
    let id = ContainerId::new();
    assert!(is_gone(controller.open_container(id)));
    let container = controller.create_container(id, CONTAINER).unwrap();
    controller.create_container(id, CONTAINER).unwrap();
    assert_eq!(controller.containers().unwrap(), BTreeSet::from([id]));
    assert_eq!(controller.open_container(id).unwrap().id(), id);

    assert_eq!(container.quota().unwrap(), CONTAINER.cpu);
    let session = SessionId::new();
    assert!(is_gone(container.open_task(session)));
    let task = container.create_task(session, TASK).unwrap();
    container.create_task(session, TASK).unwrap();
    assert_eq!(container.tasks().unwrap(), BTreeSet::from([session]));
    assert!(!task.populated().unwrap() && container.is_empty().unwrap());

    let script = Script::spawn(SPIN);
    task.place(script.pid()).unwrap();
    assert!(task.populated().unwrap() && !container.is_empty().unwrap());
    assert!(matches!(task.remove().await, Err(CgroupError::Populated { .. })));
    assert!(matches!(
        container.remove().await,
        Err(CgroupError::Populated { .. })
    ));
    task.freeze().await.unwrap();
    task.freeze().await.unwrap();
    task.thaw().unwrap();
    container.freeze().await.unwrap();
    container.thaw().unwrap();
    task.kill_and_wait_empty(DEADLINE).await.unwrap();
    task.kill_and_wait_empty(DEADLINE).await.unwrap();
    assert!(!task.populated().unwrap());
    drop(script);

    let total = task.cpu_time().unwrap();
    task.remove().await.unwrap();
    task.remove().await.unwrap();
    assert!(is_gone(task.cpu_time()));
    assert!(container.cpu_total().unwrap() >= total);
    controller.destroy_container(id, DEADLINE).await.unwrap();
    controller.destroy_container(id, DEADLINE).await.unwrap();
    assert!(is_gone(container.cpu_total()));
    assert!(is_gone(container.create_task(session, TASK)));
    assert!(controller.containers().unwrap().is_empty());
}

#[test]
fn the_kernel_keeps_the_promises_of_the_trait() {
    on_each_arrangement(async |tree| cpu_controller_suite(&tree.controller).await);
}

#[tokio::test]
async fn the_fake_keeps_the_promises_of_the_trait() {
    let fake = FakeCpuController::default();
    cpu_controller_suite(&fake).await;
    fake.assert_quiet();
}
