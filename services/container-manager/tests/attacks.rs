//! What a hostile script, image or file tries, for real: the real Apptainer with the whole recipe, the real control groups.
//!
//! `docs/security.md` names each attack with its test. Needs root, and the image that `images/build.sh base
//! target/images/base.dir` makes.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod stage;
mod tree;

use std::fs;
use std::io::Read;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use container_manager::cgroup::hierarchy::Hierarchies;
use container_manager::cgroup::{ContainerGroup, ContainerLimits, TaskGroup, TaskLimits};
use container_manager::container::{ContainerError, ExitRecord, Outcome};
use container_manager::results;
use stage::{Stage, eventually, image, is_root, record_in, tool, within};
use tempfile::TempDir;
use tree::Tree;
use units::{MilliCores, SessionId};

const MIB: u64 = 1 << 20;
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
const WAIT_FOR_GO: &str = r#"while [ ! -e "$(dirname "$0")/go" ]; do sleep 0.01; done"#;

/// A script of Perl, which alone in a Debian base can make any system call.
fn perl(program: &str) -> String {
    format!("perl -e '{program}'")
}

#[tokio::test]
async fn the_kernels_settings_and_the_hosts_files_are_out_of_reach() {
    if !is_root() {
        return;
    }
    let host = tempfile::tempdir().unwrap();
    let secret = host.path().join("secret");
    fs::write(&secret, "the host's secret").unwrap();
    fs::set_permissions(host.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let stage = Stage::start().await;
    let script = r#"
        for file in /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sys/vm/drop_caches /proc/sysrq-trigger \
            /proc/1/oom_score_adj /etc/hosts /etc/passwd /gridfaas/runner "$0" "$1" /staging/reference; do
            if (: >>"$file") 2>/dev/null; then echo "opened for writing: $file"; fi
        done
        for file in /proc/kcore /proc/kmsg /proc/1/environ /proc/1/mem /proc/1/root/ /proc/2/root/ /dev/mem /dev/vda \
            /dev/sda /dev/fuse /dev/kvm /dev/vsock SECRET /proc/1/root/SECRET; do
            if head -c 1 "$file" >/dev/null 2>&1 || ls "$file/" >/dev/null 2>&1; then echo "read: $file"; fi
        done
        find / -xdev -name secret -path '*tmp*' 2>/dev/null || true
        ls -A /sys
        if mknod /tmp/disk b 254 0 2>/dev/null || mknod /tmp/mem c 1 1 2>/dev/null; then echo "made a device"; fi
        if mount -t cgroup2 none /tmp 2>/dev/null || mount -t tmpfs none /tmp 2>/dev/null; then echo "mounted"; fi
        if chroot / true 2>/dev/null; then echo "changed its root"; fi
        if nice -n -5 true 2>&1 | grep -qv 'cannot set niceness'; then echo "took precedence"; fi
        if (echo -500 >/proc/self/oom_score_adj) 2>/dev/null; then echo "hid from the OOM killer"; fi
        if chrt -f 1 true 2>/dev/null; then echo "became a real-time process"; fi
    "#;
    let script = script.replace("SECRET", secret.to_str().unwrap());
    assert_eq!(stage.run_well("host", &script).await, "");
}

#[tokio::test]
async fn system_calls_that_lead_out_are_refused() {
    if !is_root() {
        return;
    }
    let stage = Stage::start().await;
    // Numbers of x86-64, with arguments that are good enough to come as far as the permission.
    let program = r#"
        my ($p, $self) = (pack("x256"), syscall(39));
        my $pidfd = syscall(434, $self, 0);
        my %calls = (
            mount => [165, $p, $p, $p, 0, 0], umount2 => [166, $p, 0], pivot_root => [155, $p, $p],
            unshare_user => [272, 0x10000000], unshare_mount => [272, 0x20000], unshare_net => [272, 0x40000000],
            setns => [308, $pidfd, 0], clone_user => [56, 0x10000011, 0, 0, 0, 0], clone_mount => [56, 0x20011, 0, 0, 0, 0],
            clone_pid => [56, 0x20000011, 0, 0, 0, 0], fsopen => [430, $p, 0], open_tree => [428, -100, $p, 0],
            move_mount => [429, -1, $p, -1, $p, 0], ptrace => [101, 0, 0, 0, 0], process_vm_readv => [310, 1, $p, 0, $p, 0, 0],
            process_vm_writev => [311, 1, $p, 0, $p, 0, 0], pidfd_getfd => [438, $pidfd, 0, 0],
            process_madvise => [440, $pidfd, $p, 0, 4, 0], kcmp => [312, $self, $self, 0, 0, 0],
            move_pages => [279, $self, 0, $p, $p, $p, 0], prlimit_of_another => [302, 1, 0, $p, 0],
            add_key => [248, $p, $p, $p, 1, -3], keyctl => [250, 0, -3, 1], bpf => [321, 0, $p, 64],
            perf_event_open => [298, $p, 0, -1, -1, 0], userfaultfd => [323, 1], init_module => [175, $p, 1, $p],
            finit_module => [313, 0, $p, 0], kexec_load => [246, 0, 0, $p, 0], reboot => [169, 0xfee1dead, 672274793, 0, 0],
            open_by_handle_at => [304, -100, $p, 0], name_to_handle_at => [303, -100, $p, $p, $p, 0],
            swapon => [167, $p, 0], syslog => [103, 3, $p, 1], acct => [163, $p], quotactl => [179, 0, $p, 0, $p],
            settimeofday => [164, $p, 0], sethostname => [170, $p, 1], memfd_secret => [447, 0],
            modify_ldt => [154, 0, $p, 16], fanotify_init => [300, 0, 0], io_uring_setup => [425, 1, $p], clone3 => [435, $p, 64],
        );
        for my $name (sort keys %calls) {
            $! = 0;
            my $answer = syscall($calls{$name}[0], @{$calls{$name}}[1 .. $#{$calls{$name}}]);
            exit 0 if $name =~ /^clone/ && $answer == 0;
            print "$name: $answer $!\n" unless $answer == -1 && ($! == 1 || $! == 38);
        }
    "#;
    assert_eq!(stage.run_well("calls", &perl(program)).await, "");
    // The other calling conventions of the machine would need filters of their own.
    let x32 = perl("exit(syscall(0x40000000 + 39) > 0 ? 3 : 4)");
    let (record, _) = stage.run("x32", &x32).await;
    assert_ne!(record.outcome, Outcome::Exited { code: 3 });
}

#[tokio::test]
async fn threads_pipes_and_sockets_of_its_own_still_work() {
    if !is_root() {
        return;
    }
    let stage = Stage::start().await;
    let script = r#"
        seq 300000 | sort --parallel=4 -S 100M -R | sort --parallel=4 -n | tail -1
        perl -MSocket -e 'socketpair(my $a, my $b, AF_UNIX, SOCK_STREAM, 0) or die; syswrite($a, "x\n"); print scalar <$b>'
        sleep 100 & kill $! && wait $! || echo "ended by $?"
        (trap "echo caught; exit" USR1; while :; do sleep 0.01; done) & sleep 0.2; kill -USR1 $!; wait $!
        bash -c 'setsid sleep 100 & echo $!' >/tmp/pid; kill -KILL $(cat /tmp/pid) && echo "ended a descendant"
    "#;
    let log = stage.run_well("own", script).await;
    assert_eq!(log, "300000\nx\nended by 143\ncaught\nended a descendant\n");
}

#[tokio::test]
async fn no_socket_leads_out() {
    if !is_root() {
        return;
    }
    let (tcp, udp) = (
        TcpListener::bind("0.0.0.0:0").unwrap(),
        UdpSocket::bind("0.0.0.0:0").unwrap(),
    );
    let name = format!("gridfaas-test-{}", std::process::id());
    let _hosts = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let own = UdpSocket::bind("0.0.0.0:0").unwrap();
    // Which of the machine's addresses leads out; nothing is sent.
    let outward = own
        .connect("192.0.2.1:9")
        .and_then(|()| own.local_addr())
        .map_or("127.0.0.1".to_owned(), |address| address.ip().to_string());
    let stage = Stage::start().await;
    let program = r#"
        use Socket;
        for my $address ("127.0.0.1", "OUTWARD", "192.0.2.1", "169.254.169.254") {
            socket(my $s, AF_INET, SOCK_STREAM, 0) or die;
            print "tcp $address\n" if connect($s, pack_sockaddr_in(TCP, inet_aton($address)));
            socket($s, AF_INET, SOCK_DGRAM, 0) or die;
            # To its own loopback interface it may send; what arrives at the host is looked at below.
            print "udp $address\n" if $address ne "127.0.0.1" && send($s, "x", 0, pack_sockaddr_in(UDP, inet_aton($address)));
        }
        socket(my $s, AF_UNIX, SOCK_STREAM, 0) or die;
        print "abstract socket\n" if connect($s, pack("S a*", AF_UNIX, "\0NAME"));
        for my $family (0 .. 60) {
            next if grep { $_ == $family } 1, 2, 10, 16;
            for my $type (1, 2, 3, 5) {
                print "family $family\n" if syscall(41, $family, $type, 0) >= 0;
            }
        }
        print "packets\n" if syscall(41, 2, 3, 1) >= 0;
        print "ping\n" if socket($s, AF_INET, SOCK_DGRAM, 1) && send($s, "x" x 8, 0, pack_sockaddr_in(0, inet_aton("192.0.2.1")));
    "#;
    let program = program
        .replace("OUTWARD", &outward)
        .replace("TCP", &tcp.local_addr().unwrap().port().to_string())
        .replace("UDP", &udp.local_addr().unwrap().port().to_string())
        .replace("NAME", &name);
    assert_eq!(stage.run_well("sockets", &perl(&program)).await, "");
    udp.set_nonblocking(true).unwrap();
    assert!(udp.recv(&mut [0]).is_err(), "a packet arrived at the host");
}

/// Everything a process with the same user id could do to another.
const ASSAULT: &str = r#"
    my $own = getpgrp;
    for my $pid (grep { /^\d+$/ && $_ != $$ && getpgrp($_) != $own } map { s{/proc/}{}r } glob("/proc/[0-9]*")) {
        for my $signal (9, 19) { print "signalled $pid\n" if kill $signal, $pid; }
        my $pidfd = syscall(434, $pid, 0);
        print "signalled $pid by pidfd\n" if $pidfd >= 0 && syscall(424, $pidfd, 9, 0, 0) == 0;
        my ($info, $none) = (pack("l l l x4 l l x104", 9, 0, -1, $$, $<), pack("QQ", 0, 0));
        print "queued to $pid\n" if syscall(129, $pid, 9, $info) == 0;
        print "limited $pid\n" if syscall(302, $pid, 0, $none, 0) == 0;
        # A pipe that tells its owner of news by a signal of our choice.
        pipe(my $r, my $w);
        fcntl($r, 8, $pid + 0); fcntl($r, 10, 9); fcntl($r, 4, 0x2000); syswrite($w, "x");
        print "looked into $pid\n" if open(my $f, "<", "/proc/$pid/environ") && sysread($f, my $x, 1) || open($f, "<", "/proc/$pid/mem");
        print "traced $pid\n" if syscall(101, 16, $pid, 0, 0) == 0;
    }
    select(undef, undef, undef, 0.2);
"#;

#[tokio::test]
async fn a_task_cannot_end_its_runner_or_touch_the_task_beside_it() {
    if !is_root() {
        return;
    }
    let stage = Stage::start().await;
    if !stage.runtime.fences_tasks() {
        eprintln!("SKIPPED: this kernel has no Landlock with scopes");
        return;
    }
    let mut beside = stage.begin(stage.request("beside", 1, WAIT_FOR_GO)).await;
    assert_eq!(stage.run_well("assault", &perl(ASSAULT)).await, "");
    // That is itself, and whatever else it reaches.
    stage.run("everybody", "kill -9 -1").await;
    assert!(stage.container.is_alive());
    stage.go(1);
    let end = within(beside.wait()).await.unwrap();
    assert_eq!(end.outcome, Outcome::Exited { code: 0 });
    stage.run_well("after", "true").await;
}

#[tokio::test]
async fn another_users_container_does_not_exist_for_a_task() {
    if !is_root() {
        return;
    }
    let (mine, theirs) = (Stage::start().await, Stage::start().await);
    assert_ne!(mine.spec.uid, theirs.spec.uid);
    let secret =
        r#"echo secret >/tmp/secret; echo secret >"$2/secret"; ipcmk -M 4096 >/dev/null; sleep 1000 & "#;
    let victim = theirs
        .begin(theirs.request("victim", 0, &format!("{secret}{WAIT_FOR_GO}")))
        .await;
    let script = format!(
        r#"
        find /tmp /work /dev/shm /var/tmp "{folder}" -name 'secret*' 2>/dev/null
        ls "{folder}" 2>/dev/null
        ipcs -m | grep 0x
        grep -l 'Uid:.*{uid}' /proc/[0-9]*/status
        for pid in {pids}; do kill -9 $pid 2>/dev/null && echo "killed $pid"; ls /proc/$pid 2>/dev/null; done
        true
        "#,
        folder = theirs.folder.path().display(),
        uid = theirs.spec.uid,
        pids = theirs.pids().join(" "),
    );
    let (record, log) = mine.run("assault", &script).await;
    assert_eq!(
        (record.outcome, log),
        (Outcome::Exited { code: 0 }, String::new())
    );
    assert!(theirs.container.is_alive());
    drop(victim);
}

/// A copy of the base image that shares its files.
fn own_image() -> (TempDir, PathBuf) {
    let base = image("base.dir");
    let folder = tempfile::tempdir_in(base.parent().unwrap()).unwrap();
    let copy = folder.path().join("image");
    let status = Command::new("cp").arg("-al").args([&base, &copy]).status();
    assert!(status.unwrap().success());
    (folder, copy)
}

#[tokio::test]
async fn an_image_cannot_start_a_program_that_no_task_pays_for() {
    if !is_root() {
        return;
    }
    let tree = tree();
    let (_folder, evil) = own_image();
    let script = evil.join(".singularity.d/env/00-first.sh");
    fs::write(
        &script,
        "/bin/bash -c 'setsid bash -c \"while :; do :; done\" >/dev/null 2>&1 &'\n",
    )
    .unwrap();
    let container = tree.create_container(CONTAINER);
    let procs = container.launcher_procs();
    let started = Stage::start_with(|spec| {
        spec.image = evil.clone();
        spec.launcher_procs = procs;
    });
    let Err(ContainerError::NotStarted { said }) = started.await else {
        panic!("a container with a stowaway started");
    };
    assert!(said.contains("programs of its own"), "{said}");
    eventually("nothing of it is left", || container.is_empty().unwrap()).await;
}

#[tokio::test]
async fn devices_and_setuid_programs_in_an_image_are_dead() {
    if !is_root() {
        return;
    }
    let (_folder, evil) = own_image();
    let mknod = |name: &str, kind: &str, numbers: [&str; 2]| {
        let mut made = Command::new("mknod");
        made.args(["-m", "666"])
            .arg(evil.join(name))
            .arg(kind)
            .args(numbers);
        assert!(made.status().unwrap().success());
    };
    mknod("mem", "c", ["1", "1"]);
    mknod("zero", "c", ["1", "5"]);
    fs::copy(evil.join("usr/bin/id"), evil.join("root-id")).unwrap();
    fs::set_permissions(evil.join("root-id"), fs::Permissions::from_mode(0o6755)).unwrap();
    let stage = Stage::start_with(|spec| spec.image = evil.clone()).await.unwrap();
    let script = "for file in /mem /zero; do head -c 1 $file 2>/dev/null | wc -c; done; /root-id -u";
    assert_eq!(
        stage.run_well("devices", script).await,
        format!("0\n0\n{}\n", stage.spec.uid)
    );
}

#[tokio::test]
async fn an_image_that_would_fill_the_disk_is_refused_before_it_does() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let unpacked = folder.path().join("unpacked");
    let err = within(tool().await.unpack(&image("base.sif"), &unpacked, MIB))
        .await
        .unwrap_err();
    assert!(err.to_string().contains("at most 1048576"), "{err}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// What a container of these tests may have.
const CONTAINER: ContainerLimits = ContainerLimits {
    cpu: MilliCores::from_cores(2),
    memory_bytes_max: 512 * MIB,
    pids_max: 200,
};

fn tree() -> Tree {
    Tree::new(Hierarchies::of_this_machine().unwrap())
}

/// A container in groups with limits, as the service makes them.
struct Bounded {
    stage: Stage,
    container: Arc<dyn ContainerGroup>,
    _tree: Tree,
}

impl Bounded {
    async fn start() -> Self {
        let tree = tree();
        let container = tree.create_container(CONTAINER);
        let procs = container.launcher_procs();
        let stage = Stage::start_with(|spec| {
            spec.launcher_procs = procs;
            spec.work_bytes_max = 1 << 30;
        });
        Self {
            stage: stage.await.unwrap(),
            container,
            _tree: tree,
        }
    }

    /// Runs a script in a task's group to its end; the group is left as the script left it.
    async fn run(&self, name: &str, script: &str) -> (ExitRecord, Arc<dyn TaskGroup>) {
        let limits = TaskLimits {
            memory_bytes_max: 64 * MIB,
            pids_max: 50,
        };
        let group = self.container.create_task(SessionId::new(), limits).unwrap();
        let placed = group.clone();
        let place = move |pid| placed.place(pid).map_err(std::io::Error::other);
        let request = self.stage.request(name, 0, script);
        let record = request.exit_record.clone();
        let mut task = within(self.stage.container.run(request, &place)).await.unwrap();
        // A supervisor that was killed with its task leaves no record.
        let ended = within(task.wait()).await.or_else(|| record_in(&record));
        let killed = ExitRecord {
            outcome: Outcome::Killed { signal: 9 },
            user_us: 0,
            system_us: 0,
            log: container_manager::container::LogBytes::default(),
        };
        (ended.unwrap_or(killed), group)
    }

    /// The container works on after the task `name` is cleared away.
    async fn works_after(&self, name: &str, group: &dyn TaskGroup) {
        within(group.kill_and_wait_empty(KILL_TIMEOUT)).await.unwrap();
        within(group.remove()).await.unwrap();
        let (record, group) = self.run(&format!("after {name}"), "echo fine").await;
        assert_eq!(record.outcome, Outcome::Exited { code: 0 });
        within(group.kill_and_wait_empty(KILL_TIMEOUT)).await.unwrap();
    }
}

#[tokio::test]
async fn a_fork_bomb_stays_in_its_group_and_dies_with_it() {
    if !is_root() {
        return;
    }
    let bounded = Bounded::start().await;
    let bomb = "bomb() { bomb & bomb & sleep 1; }; bomb 2>/dev/null; setsid setsid sleep 1000 & sleep 0.2";
    let (_, group) = bounded.run("bomb", bomb).await;
    assert!(group.events().unwrap().forks_refused > 0);
    bounded.works_after("bomb", group.as_ref()).await;
}

#[tokio::test]
async fn memory_and_files_in_memory_are_the_tasks_own_and_not_the_runners() {
    if !is_root() {
        return;
    }
    let bounded = Bounded::start().await;
    for (name, script) in [
        ("memory", perl(r#"my @x; push @x, "x" x 1000000 while 1"#)),
        (
            "files",
            "for n in 1 2 3 4 5 6 7 8; do head -c 100000000 /dev/zero >/tmp/$n; done".to_owned(),
        ),
    ] {
        let (record, group) = bounded.run(name, &script).await;
        assert_ne!(record.outcome, Outcome::Exited { code: 0 }, "{name}");
        assert!(group.events().unwrap().oom_kills > 0, "{name}");
        bounded.works_after(name, group.as_ref()).await;
    }
}

#[tokio::test]
async fn what_a_task_leaves_running_is_on_its_bill_until_it_is_killed() {
    if !is_root() {
        return;
    }
    let bounded = Bounded::start().await;
    let script = perl(
        r#"use POSIX; for (1 .. 3) { next if fork; setsid; exit if fork; 1 while 1 } select undef, undef, undef, 0.1"#,
    );
    let launcher = bounded.container.cpu_total().unwrap();
    let (record, group) = bounded.run("daemons", &script).await;
    assert_eq!(record.outcome, Outcome::Exited { code: 0 });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let seen = group.cpu_time().unwrap();
    within(group.kill_and_wait_empty(KILL_TIMEOUT)).await.unwrap();
    let bill = group.cpu_time().unwrap();
    assert!(bill >= seen && bill.micros() > 100_000, "{bill:?}");
    // Nothing of it was counted elsewhere in the container: what is left is the runner's own millisecond.
    let elsewhere = bounded
        .container
        .cpu_total()
        .unwrap()
        .saturating_sub(launcher)
        .saturating_sub(bill);
    assert!(
        elsewhere.micros() < bill.micros() / 2,
        "{elsewhere:?} beside {bill:?}"
    );
    assert_eq!(group.cpu_time().unwrap(), bill);
}

#[tokio::test]
async fn results_are_what_they_are_and_lead_nowhere() {
    if !is_root() {
        return;
    }
    let stage = Stage::start().await;
    let script = r#"
        cd "$2"
        ln -s /etc/passwd link; ln -s / root; ln -s ../.. up; mkfifo pipe; truncate -s 8T sparse
        ln "$1" hard 2>/dev/null || ln /proc/self/exe exe 2>/dev/null || echo good >good; ln good twin
        mknod device c 1 3 2>/dev/null || perl -MSocket -e 'socket(S, AF_UNIX, SOCK_STREAM, 0); bind(S, pack_sockaddr_un("socket"))'
        cp /bin/true setuid; chmod 6755 setuid
        mkdir dir; echo deep >dir/file; chmod 0 dir
        printf x >"$(printf 'a\nb\033[2J')"; printf x >"$(printf 'not\377text')"; printf x >-rf; printf x >'..  '
        true
    "#;
    stage.run_well("results", script).await;
    let collected = results::collect(
        within(stage.container.results(0)).await.unwrap(),
        &results::Caps::default(),
    );
    let names: Vec<&str> = collected.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(
        names,
        ["-rf", "..  ", "a%0Ab%1B[2J", "dir/file", "not%FFtext", "setuid"]
    );
    let said = collected.skipped.join("\n");
    for name in ["link", "root", "up", "pipe", "sparse", "good", "twin", "socket"] {
        assert!(said.contains(&format!("{name}: ")), "{name}: {said}");
    }
}

#[tokio::test]
async fn a_file_that_changes_under_the_collector_never_becomes_the_hosts() {
    if !is_root() {
        return;
    }
    let stage = Stage::start().await;
    // Longer than any line of it, so that the sizes match at times.
    let script = r#"
        cd "$2"; echo fine >plain; ln -s /etc/passwd link; mkdir real; echo fine >real/passwd; ln -s /etc linked
        (while :; do cp plain file; mv file x; cp -P link file; mv file x; done) &
        (while :; do mv -T real d; mv -T d real; mv -T linked d; mv -T d linked; done) 2>/dev/null &
        sleep 0.3
    "#;
    stage.run_well("race", script).await;
    for _ in 0..200 {
        let folder = within(stage.container.results(0)).await.unwrap();
        for found in results::collect(folder, &results::Caps::default()).files {
            let Ok(Some(mut file)) = found.open() else {
                continue;
            };
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            assert!(!text.contains("root:"), "{} was a file of the host", found.name);
        }
    }
}

#[tokio::test]
async fn a_container_whose_manager_is_gone_for_good_ends_by_itself() {
    if !is_root() {
        return;
    }
    let stage = Stage::start_with(|spec| spec.orphan = Duration::from_secs(2))
        .await
        .unwrap();
    let request = stage.request("orphan", 0, "setsid sleep 1000 & sleep 1000");
    let record = request.exit_record.clone();
    let task = stage.begin(request).await;
    // Whoever says now and then that they are there keeps it.
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        stage.container.reassure().await;
        assert!(stage.container.is_alive());
    }
    // As a manager's death would end it.
    drop(task);
    within(stage.container.ended()).await;
    eventually("nothing of it is left", || stage.processes() == 0).await;
    assert_eq!(record_in(&record), None, "an unknown end is not an end");
}
