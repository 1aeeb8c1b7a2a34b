//! Where the kernel keeps each controller: cgroup v1, cgroup v2, or both side by side.
//!
//! A controller sits in one hierarchy at a time. v2 counts CPU time, freezes and kills without any controller, so a
//! mounted v2 tree is the first choice for those three even where cpu, memory and pids still are on v1.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

const MOUNTINFO: &str = "/proc/self/mountinfo";

#[derive(Debug, thiserror::Error)]
pub enum HierarchyError {
    #[error("failed to read `{path}`")]
    Read {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    #[error("the kernel offers no `{0}` control group (neither a v1 mount nor a v2 controller)")]
    Missing(&'static str),
}

/// The mount point of the hierarchy that a controller sits in. v1 sorts before v2.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Home {
    V1(PathBuf),
    V2(PathBuf),
}

impl Home {
    pub fn mount_point(&self) -> &Path {
        match self {
            Self::V1(path) | Self::V2(path) => path,
        }
    }

    pub fn is_v2(&self) -> bool {
        matches!(self, Self::V2(_))
    }
}

/// Where each thing we need is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchies {
    /// Quota, weight and the throttling counters.
    pub cpu: Home,
    /// The counter that is billed: v2 `cpu.stat`, else v1 `cpuacct`. Equal to the microsecond where both are there.
    pub meter: Home,
    /// Freezing, killing and telling whether anybody is left: v2 itself, else the v1 freezer.
    pub freezer: Home,
    pub memory: Home,
    pub pids: Home,
}

impl Hierarchies {
    /// Looks at the mounts of this process. Errors if something we need is nowhere.
    pub fn of_this_machine() -> Result<Self, HierarchyError> {
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|err| HierarchyError::Read {
                path: path.to_owned(),
                err,
            })
        };
        let mounts = Mounts::parse(&read(Path::new(MOUNTINFO))?);
        let controllers = match &mounts.unified {
            Some(unified) => read(&unified.join("cgroup.controllers"))?,
            None => String::new(),
        };
        mounts.resolve(&controllers)
    }

    /// The distinct hierarchies in use, v1 before v2.
    pub fn homes(&self) -> Vec<&Home> {
        let mut homes = vec![&self.cpu, &self.meter, &self.freezer, &self.memory, &self.pids];
        homes.sort();
        homes.dedup();
        homes
    }
}

impl fmt::Display for Hierarchies {
    /// One line for the log, such as `cpu v1, meter v2, freezer v2, memory v1, pids v1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = |home: &Home| if home.is_v2() { "v2" } else { "v1" };
        write!(
            f,
            "cpu {}, meter {}, freezer {}, memory {}, pids {}",
            version(&self.cpu),
            version(&self.meter),
            version(&self.freezer),
            version(&self.memory),
            version(&self.pids)
        )
    }
}

/// The control group mounts of one mount namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounts {
    /// Mount point by v1 controller.
    pub v1: BTreeMap<String, PathBuf>,
    /// Mount point of the v2 tree.
    pub unified: Option<PathBuf>,
}

impl Mounts {
    /// Reads the text of `/proc/self/mountinfo` (format: `proc(5)`). Lines that are no control group are skipped.
    ///
    /// Where a hierarchy is mounted more than once, a writable mount is preferred, and then the one that shows most
    /// of it: a container may see its own part bound over, with a root other than `/`.
    pub fn parse(mountinfo: &str) -> Self {
        let mut lines: Vec<MountLine<'_>> = mountinfo.lines().filter_map(MountLine::parse).collect();
        // A mount covers those made earlier at the same place.
        let covered = |i: usize| {
            lines[i + 1..]
                .iter()
                .any(|later| later.mount_point == lines[i].mount_point)
        };
        let visible: Vec<bool> = (0..lines.len()).map(|i| !covered(i)).collect();
        let mut visible = visible.into_iter();
        lines.retain(|_| visible.next() == Some(true));
        lines.sort_by_key(|line| (line.read_only, Path::new(line.root).components().count()));

        let mut mounts = Self::default();
        for line in lines {
            match line.fs_type {
                "cgroup2" => mounts.unified = mounts.unified.take().or(Some(line.mount_point)),
                "cgroup" => {
                    for controller in line.super_options.split(',') {
                        mounts
                            .v1
                            .entry(controller.to_owned())
                            .or_insert_with(|| line.mount_point.clone());
                    }
                }
                _ => {}
            }
        }
        mounts
    }

    /// Says where everything is. `v2_controllers` is the content of `cgroup.controllers` in the v2 tree's root.
    pub fn resolve(&self, v2_controllers: &str) -> Result<Hierarchies, HierarchyError> {
        let v1 = |name: &str| self.v1.get(name).cloned().map(Home::V1);
        let v2 = || self.unified.clone().map(Home::V2);
        let controller = |name: &'static str| {
            let in_v2 = v2_controllers.split_whitespace().any(|found| found == name);
            v1(name)
                .or_else(|| in_v2.then(v2).flatten())
                .ok_or(HierarchyError::Missing(name))
        };
        let core = |name: &'static str| v2().or_else(|| v1(name)).ok_or(HierarchyError::Missing(name));
        Ok(Hierarchies {
            cpu: controller("cpu")?,
            meter: core("cpuacct")?,
            freezer: core("freezer")?,
            memory: controller("memory")?,
            pids: controller("pids")?,
        })
    }
}

struct MountLine<'a> {
    root: &'a str,
    mount_point: PathBuf,
    read_only: bool,
    fs_type: &'a str,
    super_options: &'a str,
}

impl<'a> MountLine<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, mount_point, options) = (mount.next()?, mount.next()?, mount.next()?);
        let mut file_system = file_system.split(' ');
        let (fs_type, _source, super_options) =
            (file_system.next()?, file_system.next()?, file_system.next()?);
        Some(Self {
            root,
            mount_point: unescape(mount_point),
            read_only: options.split(',').any(|option| option == "ro"),
            fs_type,
            super_options,
        })
    }
}

/// Undoes the kernel's `\040` for space, tab, newline and backslash.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|_| first == b'\\')
            .and_then(|digits| str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID_WITH_ALL_CONTROLLERS_ON_V1: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const CLASSIC_V1: &str = "\
25 18 0:21 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
29 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:10 - cgroup cgroup rw,cpu,cpuacct
30 25 0:27 / /sys/fs/cgroup/memory rw,nosuid shared:11 - cgroup cgroup rw,memory
31 25 0:28 / /sys/fs/cgroup/freezer rw,nosuid shared:12 master:3 - cgroup cgroup rw,freezer
32 25 0:29 / /sys/fs/cgroup/pids rw,nosuid shared:13 - cgroup cgroup rw,pids
";
    const PURE_V2: &str = "\
24 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 0:27 / /sys/fs/cgroup rw,nosuid,nodev shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
";

    fn v1(path: &str) -> Home {
        Home::V1(path.into())
    }

    fn v2(path: &str) -> Home {
        Home::V2(path.into())
    }

    #[test]
    fn every_controller_is_found_where_it_is() {
        let cg = |name: &str| v1(&format!("/sys/fs/cgroup/{name}"));
        for (machine, mountinfo, controllers, expected) in [
            (
                "cpu and cpuacct apart, v2 without controllers",
                HYBRID_WITH_ALL_CONTROLLERS_ON_V1,
                "hugetlb\n",
                Hierarchies {
                    cpu: cg("cpu"),
                    meter: v2("/sys/fs/cgroup/unified"),
                    freezer: v2("/sys/fs/cgroup/unified"),
                    memory: cg("memory"),
                    pids: cg("pids"),
                },
            ),
            (
                "cpu and cpuacct joined, no v2",
                CLASSIC_V1,
                "",
                Hierarchies {
                    cpu: cg("cpu,cpuacct"),
                    meter: cg("cpu,cpuacct"),
                    freezer: cg("freezer"),
                    memory: cg("memory"),
                    pids: cg("pids"),
                },
            ),
            (
                "pure v2 under systemd",
                PURE_V2,
                "cpuset cpu io memory hugetlb pids rdma misc\n",
                Hierarchies {
                    cpu: v2("/sys/fs/cgroup"),
                    meter: v2("/sys/fs/cgroup"),
                    freezer: v2("/sys/fs/cgroup"),
                    memory: v2("/sys/fs/cgroup"),
                    pids: v2("/sys/fs/cgroup"),
                },
            ),
        ] {
            let found = Mounts::parse(mountinfo).resolve(controllers).unwrap();
            assert_eq!(found, expected, "{machine}");
        }
    }

    #[test]
    fn a_controller_that_is_nowhere_is_named() {
        let without = |controllers| {
            Mounts::parse(PURE_V2)
                .resolve(controllers)
                .unwrap_err()
                .to_string()
        };
        assert!(without("cpu pids").contains("`memory`"));
        assert!(without("memory pids").contains("`cpu`"));
        assert!(
            Mounts::parse("")
                .resolve("")
                .unwrap_err()
                .to_string()
                .contains("`cpu`")
        );
    }

    #[test]
    fn distinct_hierarchies_are_listed_once() {
        let classic = Mounts::parse(CLASSIC_V1).resolve("").unwrap();
        assert_eq!(classic.homes().len(), 4);
        let pure = Mounts::parse(PURE_V2).resolve("cpu memory pids").unwrap();
        assert_eq!(pure.homes(), [&v2("/sys/fs/cgroup")]);
    }

    #[test]
    fn the_whole_tree_and_the_writable_mount_are_preferred() {
        let nested = "\
50 40 0:30 /docker/4f /sys/fs/cgroup/cpu ro,nosuid master:15 - cgroup cgroup rw,cpu
51 40 0:30 /docker/4f /outer/cpu rw,nosuid master:15 - cgroup cgroup rw,cpu
60 40 0:27 /docker/4f /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup rw
61 40 0:27 / /host/cgroup rw,nosuid - cgroup2 cgroup rw
";
        let mounts = Mounts::parse(nested);
        assert_eq!(mounts.v1["cpu"], Path::new("/outer/cpu"));
        assert_eq!(mounts.unified.as_deref(), Some(Path::new("/host/cgroup")));
    }

    #[test]
    fn a_mount_hides_what_was_mounted_there_before() {
        let covered = "\
50 40 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
51 40 0:31 / /sys/fs/cgroup rw - tmpfs tmpfs rw
";
        assert_eq!(Mounts::parse(covered), Mounts::default());
    }

    #[test]
    fn escapes_are_undone_and_odd_lines_skipped() {
        let text = "garbage\n1 2 0:1 / /mnt/my\\040cg\\134roup rw - cgroup cgroup rw,cpu\n1 2 - cgroup\n";
        assert_eq!(Mounts::parse(text).v1["cpu"], Path::new("/mnt/my cg\\roup"));
        assert_eq!(unescape("a\\04"), Path::new("a\\04"));
    }
}
