//! The container runtime with the real Apptainer: the script contract, the isolation, and what survives whom.
//!
//! Needs root, and the image that `images/build.sh base target/images/base.dir` makes.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod stage;

use std::fs;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use container_manager::container::{ContainerError, ContainerRuntime, LogBytes, Outcome, RunRequest};
use container_manager::results;
use rustix::process::Pid;
use stage::{DEADLINE, Stage, WORK_BYTES, eventually, image, is_root, record_in, tool, within};

const WAIT_FOR_GO: &str = r#"while [ ! -e "$(dirname "$0")/go" ]; do sleep 0.01; done"#;

#[tokio::test]
async fn a_script_gets_what_its_contract_says() {
    if !is_root() {
        return;
    }
    let stage = Stage::start().await;
    let script = r#"
        echo "arguments: $#"
        echo "task: $(basename "$1"): $(cat "$1")"
        echo "stdin: $(wc -c)"
        echo "ids: $(id -u) $(id -g)"
        echo "variable: $GRIDFAAS_TASK"
        echo "environment: $(env | sed 's/=.*//' | sort | tr '\n' ' ')"
        echo "here: $PWD $(ls | wc -l)"
        echo "staging: $(cat /staging/reference)"
        echo "error output" >&2
        mkdir -p "$2/folder" && echo result > "$2/folder/file" && ln -s /etc/passwd "$2/link"
    "#;
    let log = stage.run_well("contract", script).await;
    let uid = stage.spec.uid;
    let expected = format!(
        "arguments: 2\ntask: a task.txt: task content\nstdin: 0\nids: {uid} {uid}\nvariable: dir/a task.txt\n\
         environment: GRIDFAAS_TASK HOME OLDPWD PATH PWD SHLVL TMPDIR _ \nhere: /work/0/scratch 0\n\
         staging: reference data\nerror output\n"
    );
    assert_eq!(log.replace("OLDPWD ", ""), expected.replace("OLDPWD ", ""));

    let collected = results::collect(
        within(stage.container.results(0)).await.unwrap(),
        &results::Caps::default(),
    );
    assert_eq!(collected.skipped, ["link: it is a symbolic link"]);
    let [file] = &collected.files[..] else {
        panic!("{:?}", collected.files)
    };
    assert_eq!(file.name, "folder/file");
    assert_eq!(
        std::io::read_to_string(file.open().unwrap().unwrap()).unwrap(),
        "result\n"
    );
}

#[tokio::test]
async fn a_script_has_no_privileges_and_sees_nothing_of_the_host() {
    if !is_root() {
        return;
    }
    let stage = Stage::start().await;
    let script = r#"
        grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status
        for file in /in/x /in/0/x /staging/x /x /etc/x /gridfaas/x /sys/x; do
            if touch "$file" 2>/dev/null; then echo "wrote $file"; fi
        done
        if unshare -U true 2>/dev/null; then echo "made a user namespace"; fi
        if (exec 3<>/dev/tcp/127.0.0.1/PORT) 2>/dev/null; then echo "reached a service of the host"; fi
        echo "processes: $(ls -d /proc/[0-9]* | wc -l)"
        echo "core: $(ulimit -c)"
        echo "cgroups: $(ls /sys/fs/cgroup 2>/dev/null)"
        echo "home: $(ls /root 2>&1 | grep -c 'Permission denied')"
    "#;
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = service.local_addr().unwrap().port().to_string();
    let log = stage.run_well("privileges", &script.replace("PORT", &port)).await;
    let zero = "0000000000000000";
    let expected = format!(
        "CapInh:\t{zero}\nCapPrm:\t{zero}\nCapEff:\t{zero}\nCapBnd:\t{zero}\nCapAmb:\t{zero}\nNoNewPrivs:\t1\n\
         Seccomp:\t2\n"
    );
    let rest = log.strip_prefix(&expected).unwrap_or_else(|| panic!("{log}"));
    let processes = rest
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("processes: "))
        .and_then(|n| n.parse::<usize>().ok());
    let processes = processes.unwrap_or_else(|| panic!("{rest}"));
    // Init, runner, supervisor, script and its command substitution.
    assert!(processes <= 8, "{rest}");
    assert_eq!(
        rest.lines().skip(1).collect::<Vec<_>>(),
        ["core: 0", "cgroups: ", "home: 1"]
    );
}

#[tokio::test]
async fn a_script_cannot_reach_the_record_of_its_end() {
    if !is_root() {
        return;
    }
    let stage = Stage::start().await;
    // Another task in another slot has to be as closed as our own supervisor.
    let other = stage.begin(stage.request("other", 1, WAIT_FOR_GO)).await;
    let script = r#"
        closed=0
        for process in /proc/[0-9]*; do
            name=$(cat "$process/comm" 2>/dev/null) || continue
            case $name in runner|appinit) ;; *) continue ;; esac
            for secret in fd mem environ maps cwd; do
                if ls "$process/$secret/" >/dev/null 2>&1 || head -c 1 "$process/$secret" >/dev/null 2>&1; then
                    echo "open: $name $secret"
                fi
            done
            closed=$((closed + 1))
        done
        echo "closed: $closed"
        echo "mine: $(cd /proc/self/fd && echo *)"
    "#;
    let log = stage.run_well("reach", script).await;
    // Init, runner, two supervisors. Besides its three descriptors the shell has the one of the directory it lists.
    assert_eq!(log, "closed: 4\nmine: 0 1 2 3\n");
    drop(other);
}

#[tokio::test]
async fn every_end_is_recorded_as_what_it_was() {
    if !is_root() {
        return;
    }
    let stage = Stage::start().await;
    for (name, script, expected) in [
        ("good", "exit 0", Outcome::Exited { code: 0 }),
        ("bad", "exit 3", Outcome::Exited { code: 3 }),
        ("empty", "", Outcome::Exited { code: 0 }),
        ("killed", "kill -9 $$", Outcome::Killed { signal: 9 }),
        ("aborted", "kill -ABRT $$", Outcome::Killed { signal: 6 }),
    ] {
        assert_eq!(stage.run(name, script).await.0.outcome, expected, "{name}");
    }
    let busy = stage
        .run("busy", "for ((i = 0; i < 100000; i++)); do :; done")
        .await
        .0;
    assert!(busy.user_us > 0);

    let mut request = stage.request("no-bash", 0, "exit 0");
    request.env.push(("PATH".to_owned(), "/nowhere".to_owned()));
    let record = within(stage.begin(request).await.wait()).await.unwrap();
    assert!(matches!(record.outcome, Outcome::ExecFailed { program, .. } if program == "bash"));
}

#[tokio::test]
async fn a_log_is_cut_at_its_limit_and_says_so() {
    if !is_root() {
        return;
    }
    let stage = Stage::start().await;
    let mut request = stage.request("flood", 0, "head -c 10000000 /dev/zero | tr '\\0' x; exit 4");
    request.limits.log_bytes_max = 1000;
    let log = request.log.clone();
    let record = within(stage.begin(request).await.wait()).await.unwrap();
    assert_eq!(
        record.outcome,
        Outcome::Exited { code: 4 },
        "the script does not feel the cut"
    );
    assert_eq!(
        record.log,
        LogBytes {
            written: 1000,
            cut: 9_999_000
        }
    );
    let expected = format!(
        "{}\ngridfaas: the log ends here, 9999000 bytes cut\n",
        "x".repeat(1000)
    );
    assert_eq!(fs::read_to_string(log).unwrap(), expected);
}

#[tokio::test]
async fn a_run_whose_manager_is_gone_ends_in_its_record_and_the_container_is_adopted() {
    if !is_root() {
        return;
    }
    let stage = Stage::start().await;
    let request = stage.request("orphan", 0, &format!("{WAIT_FOR_GO}\necho still here\nexit 5"));
    let (record, log) = (request.exit_record.clone(), request.log.clone());
    // The connection ends as it would with the manager's process.
    drop(stage.begin(request).await);
    let adopted = within(stage.runtime.adopt(stage.spec.id, &stage.spec.folder))
        .await
        .unwrap()
        .unwrap();
    assert!(adopted.is_alive());
    assert_eq!(record_in(&record), None, "an unknown end is not an end");

    stage.go(0);
    eventually("the record is written", || record_in(&record).is_some()).await;
    assert_eq!(record_in(&record).unwrap().outcome, Outcome::Exited { code: 5 });
    assert_eq!(fs::read_to_string(log).unwrap(), "still here\n");
    within(adopted.results(0)).await.unwrap();

    adopted.kill().unwrap();
    within(stage.container.ended()).await;
    assert!(
        within(stage.runtime.adopt(stage.spec.id, &stage.spec.folder))
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn the_death_of_a_container_ends_its_runs_without_a_record() {
    if !is_root() {
        return;
    }
    let stage = Stage::start().await;
    let request = stage.request("lost", 0, "sleep 1000");
    let record = request.exit_record.clone();
    let mut task = stage.begin(request).await;
    assert!(stage.container.is_alive());
    stage.container.kill().unwrap();
    assert_eq!(within(task.wait()).await, None);
    within(stage.container.ended()).await;
    assert!(!stage.container.is_alive());
    assert_eq!(record_in(&record), None);
    eventually("nothing of the container is left", || stage.processes() == 0).await;
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(stage.spec.folder.to_str().unwrap()), "{mounts}");

    let again = stage
        .container
        .run(stage.request("late", 0, ""), &|_| Ok(()))
        .await;
    assert!(matches!(again, Err(ContainerError::Ended)));
}

#[tokio::test]
async fn two_slots_run_at_once() {
    if !is_root() {
        return;
    }
    let stage = Stage::start().await;
    // Each waits for the other.
    let meet = |own: u32, other: u32| {
        format!("touch /tmp/{own}; until [ -e /tmp/{other} ]; do sleep 0.01; done; echo met > \"$2/file\"")
    };
    let mut first = stage.request("first", 0, &meet(0, 1));
    first.alone = false;
    let mut first = stage.begin(first).await;
    let mut second = stage.begin(stage.request("second", 1, &meet(1, 0))).await;
    for task in [&mut first, &mut second] {
        assert_eq!(
            within(task.wait()).await.unwrap().outcome,
            Outcome::Exited { code: 0 }
        );
    }
    for slot in [0, 1] {
        let folder = within(stage.container.results(slot)).await.unwrap();
        assert_eq!(results::collect(folder, &results::Caps::default()).files.len(), 1);
    }
}

/// A cgroup made by hand in the v2 tree, which is there on every kind of host.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let unified = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .find(|fields| fields[2] == "cgroup2");
        let unified = unified.expect("no cgroup v2 tree is mounted")[1];
        let path = Path::new(unified).join(format!("gridfaas-test-{}-{name}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn procs(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }

    fn place(&self, pid: Pid) -> std::io::Result<()> {
        fs::write(self.procs(), pid.as_raw_nonzero().to_string())
    }

    fn pids(&self) -> Vec<String> {
        fs::read_to_string(self.procs())
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    fn cpu_us(&self) -> u64 {
        let stat = fs::read_to_string(self.0.join("cpu.stat")).unwrap();
        stat.lines()
            .find_map(|line| line.strip_prefix("usage_usec "))
            .unwrap()
            .parse()
            .unwrap()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        let gone = (0..2000).any(|_| {
            std::thread::sleep(Duration::from_millis(1));
            fs::remove_dir(&self.0).is_ok()
        });
        assert!(
            gone || std::thread::panicking(),
            "`{}` cannot be removed",
            self.0.display()
        );
    }
}

#[tokio::test]
async fn all_of_a_task_is_in_its_cgroup_and_nothing_else() {
    if !is_root() {
        return;
    }
    let (launcher, group) = (Cgroup::new("launcher"), Cgroup::new("task"));
    let stage = Stage::start_with(|spec| spec.launcher_procs = vec![launcher.procs()])
        .await
        .unwrap();
    eventually(
        "Apptainer, init and runner are where the launcher was put",
        || launcher.pids().len() == 3,
    )
    .await;
    let resident = launcher.pids();

    let script = "setsid bash -c 'while :; do :; done' & (setsid sleep 1000 &) & wait %2; exit 0";
    let request = stage.request("daemons", 0, script);
    let before = group.cpu_us();
    let mut task = within(stage.container.run(request, &|pid| group.place(pid)))
        .await
        .unwrap();
    let record = within(task.wait()).await.unwrap();
    assert_eq!(
        record.outcome,
        Outcome::Exited { code: 0 },
        "daemons are not waited for"
    );
    assert_eq!(before, 0);
    assert!(group.cpu_us() > 0);
    eventually("both daemons, and only they, stay in the task's cgroup", || {
        group.pids().len() == 2
    })
    .await;
    assert_eq!(launcher.pids(), resident);
    stage.container.kill().unwrap();
    eventually("the container's end is also theirs", || group.pids().is_empty()).await;
}

#[tokio::test]
async fn a_run_that_cannot_be_placed_does_not_start() {
    if !is_root() {
        return;
    }
    let stage = Stage::start().await;
    let request = stage.request("nowhere", 0, "touch /tmp/started");
    let refuse = |_| Err(std::io::Error::other("the cgroup is gone"));
    let result = within(stage.container.run(request.clone(), &refuse)).await;
    assert!(matches!(result, Err(ContainerError::Place { .. })));
    // Its record's name is still free.
    let mut task = stage
        .begin(RunRequest {
            alone: false,
            ..request
        })
        .await;
    within(task.wait()).await.unwrap();
}

#[tokio::test]
async fn a_slot_is_clean_whatever_the_last_task_left() {
    if !is_root() {
        return;
    }
    let stage = Stage::start().await;
    let wreck = r#"
        nest() { for ((i = 0; i < 300; i++)); do mkdir d && cd d || exit 0; done; }
        touch /tmp/left /var/tmp/left /dev/shm/left "$2/left"; mkdir -m 0 /tmp/locked "$2/locked"
        (cd "$2" && nest) 2>/dev/null
        chmod 0 "$2" /work/0/scratch; mkfifo /work/pipe
    "#;
    stage.run("wreck", wreck).await;
    let log = stage
        .run_well(
            "next",
            r#"find /work/0 /tmp /var/tmp /dev/shm -mindepth 1 | sort"#,
        )
        .await;
    assert_eq!(log, "/work/0/results\n/work/0/scratch\n");
}

#[tokio::test]
async fn everything_writable_together_has_one_limit() {
    if !is_root() {
        return;
    }
    let stage = Stage::start().await;
    let script = r#"
        for folder in /tmp /var/tmp /dev/shm "$2" .; do
            head -c 10000000 /dev/zero > "$folder/fill" 2>/dev/null || true
        done
        cat /tmp/fill /var/tmp/fill /dev/shm/fill "$2/fill" ./fill | wc -c
    "#;
    let written: u64 = stage.run_well("fill", script).await.trim().parse().unwrap();
    assert!(written <= WORK_BYTES && written > WORK_BYTES / 2, "{written}");
    let inodes = stage
        .run_well(
            "inodes",
            "i=0; while : > $i; do i=$((i + 1)); done 2>/dev/null; echo $i",
        )
        .await;
    let inodes: u64 = inodes.lines().last().unwrap().parse().unwrap();
    assert!(inodes <= WORK_BYTES / 4096, "{inodes}");
}

#[tokio::test]
async fn a_results_directory_that_was_replaced_is_not_followed() {
    if !is_root() {
        return;
    }
    let stage = Stage::start().await;
    stage.run_well("replace", "rmdir \"$2\"; ln -s /etc \"$2\"").await;
    let refused = within(stage.container.results(0))
        .await
        .map(|folder| folder.as_fd().try_clone_to_owned());
    assert!(
        matches!(refused, Err(ContainerError::NoResults { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn an_environment_beyond_a_message_is_refused_and_harms_nothing() {
    if !is_root() {
        return;
    }
    let stage = Stage::start().await;
    let mut request = stage.request("huge", 0, "exit 0");
    request.env.push(("HUGE".to_owned(), "x".repeat(200_000)));
    let record = request.exit_record.clone();
    let refused = within(stage.container.run(request, &|_| Ok(()))).await;
    assert!(matches!(refused, Err(ContainerError::Connection { .. })));
    assert!(!record.exists());
    stage.run_well("after", "true").await;
}

#[tokio::test]
async fn a_container_that_cannot_start_says_why() {
    if !is_root() {
        return;
    }
    let err = Stage::start_with(|spec| spec.image = "/nonexistent/image".into())
        .await
        .err()
        .unwrap();
    let ContainerError::NotStarted { said } = &err else {
        panic!("{err:?}")
    };
    assert!(said.contains("/nonexistent/image"), "{said}");

    let gone = PathBuf::from("/sys/fs/cgroup/no-such-group/cgroup.procs");
    let err = Stage::start_with(|spec| spec.launcher_procs = vec![gone])
        .await
        .err()
        .unwrap();
    assert!(
        err.to_string()
            .contains("failed to join `/sys/fs/cgroup/no-such-group"),
        "{err}"
    );
}

#[tokio::test]
async fn an_image_file_is_unpacked_whole_or_not_at_all() {
    if !is_root() {
        return;
    }
    let (folder, tool) = (tempfile::tempdir().unwrap(), tool().await);
    let good = folder.path().join("good");
    within(tool.unpack(&image("base.sif"), &good, u64::MAX))
        .await
        .unwrap();
    assert!(good.join("bin/bash").exists());
    assert!(
        !good.join(".singularity.d").exists(),
        "nothing of it runs at a start"
    );

    let whole = fs::read(image("base.sif")).unwrap();
    let marker = folder.path().join("marker");
    // To Apptainer a text file is a definition, whose setup part runs on the host.
    let definition = format!("Bootstrap: scratch\n%setup\n  touch {}\n", marker.display());
    for (name, content) in [
        ("empty", &b""[..]),
        ("text", definition.as_bytes()),
        ("short", &whole[..whole.len() / 2]),
        ("header", &whole[..10_000]),
    ] {
        let (sif, unpacked) = (
            folder.path().join(format!("{name}.sif")),
            folder.path().join(name),
        );
        fs::write(&sif, content).unwrap();
        let err = within(tool.unpack(&sif, &unpacked, u64::MAX)).await.unwrap_err();
        assert!(err.to_string().contains(&format!("{name}.sif")), "{err}");
        eprintln!("{name}: {err}");
        assert!(!unpacked.exists());
    }
    assert!(!marker.exists());
    let mut left: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["empty.sif", "good", "header.sif", "short.sif", "text.sif"]);
}

#[tokio::test]
async fn a_definition_is_built_by_nobody() {
    if !is_root() {
        return;
    }
    // The building user has to reach the base image.
    let everybody = fs::Permissions::from_mode(0o755);
    let folder = tempfile::Builder::new().permissions(everybody).tempdir().unwrap();
    let (base, marker) = (folder.path().join("base.sif"), folder.path().join("marker"));
    fs::copy(image("base.sif"), &base).unwrap();
    let definition = |setup: &str, post: &str| {
        let path = folder.path().join("image.def");
        let header = format!("Bootstrap: localimage\nFrom: {}\n", base.display());
        fs::write(&path, format!("{header}%setup\n  {setup}\n%post\n  {post}\n")).unwrap();
        path
    };
    let (tool, sif) = (tool().await, folder.path().join("built.sif"));

    let attack = format!(
        "touch {0} || true; cat /etc/shadow > {0} || true",
        marker.display()
    );
    let good = definition(&attack, "id -u > /built; chown 33:33 /built");
    within(tool.build(&good, &sif, DEADLINE)).await.unwrap();
    assert!(!marker.exists(), "its setup has no power over the host");
    let unpacked = folder.path().join("built");
    within(tool.unpack(&sif, &unpacked, u64::MAX)).await.unwrap();
    assert_eq!(fs::read_to_string(unpacked.join("built")).unwrap(), "0\n");
    assert_eq!(fs::metadata(unpacked.join("built")).unwrap().uid(), 33);

    let bad = definition("true", "echo no such package >&2; exit 7");
    let err = within(tool.build(&bad, &folder.path().join("bad.sif"), DEADLINE))
        .await
        .unwrap_err();
    assert!(err.to_string().contains("no such package"), "{err}");
    assert!(!folder.path().join("bad.sif").exists());
}

#[tokio::test]
async fn a_build_without_end_is_ended() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let definition = folder.path().join("image.def");
    fs::write(&definition, "Bootstrap: scratch\n%setup\n  sleep 86399\n").unwrap();
    let limit = Duration::from_secs(2);
    let built = tool()
        .await
        .build(&definition, &folder.path().join("image.sif"), limit)
        .await;
    assert!(
        matches!(built, Err(ContainerError::ToolTooSlow { .. })),
        "{built:?}"
    );
    let sleeps = || {
        let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
        processes
            .filter(|path| fs::read(path.join("cmdline")).is_ok_and(|line| line == b"sleep\x0086399\0"))
            .count()
    };
    eventually("its processes are gone", || sleeps() == 0).await;
}

/// Prints what starts and runs take here; a busy machine is no failure.
#[tokio::test]
async fn starts_and_runs_are_measured() {
    if !is_root() {
        return;
    }
    let mut starts = Vec::new();
    let mut runs = Vec::new();
    for round in 0..10 {
        let begun = Instant::now();
        let stage = Stage::start().await;
        starts.push(begun.elapsed());
        for number in 0..20 {
            let request = stage.request(&format!("{round}-{number}"), 0, "true");
            let begun = Instant::now();
            within(stage.begin(request).await.wait()).await.unwrap();
            runs.push(begun.elapsed());
        }
    }
    for (what, times) in [
        ("start until it answers", &mut starts),
        ("run of `true`", &mut runs),
    ] {
        times.sort();
        let (p50, p90) = (times[times.len() / 2], times[times.len() * 9 / 10]);
        println!(
            "{what}: p50 {p50:.1?}, p90 {p90:.1?}, least {:.1?}, of {}",
            times[0],
            times.len()
        );
    }
}
