//! Where things are, inside a container and in its folder on the host.
//!
//! The input side looks the same from both: `root` is `/` inside and the container's folder outside. The writable side
//! is one sized tmpfs, so that no part of it is without a limit; it exists only in the container's mount namespace.

use std::path::{Path, PathBuf};

/// Scripts and task files, read-only inside; one folder per slot.
pub const INPUT: &str = "/in";
/// Reference data of the function, read-only inside.
pub const STAGING: &str = "/staging";
/// One folder per slot, with `results` and `scratch`.
pub const WORK: &str = "/work";
/// This program, read-only inside.
pub const RUNNER: &str = "/gridfaas/runner";
/// What programs expect to be writable whatever their working directory, shared by the slots of a container.
pub const SHARED: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];

/// The function body for the next run in `slot`.
pub fn script(root: &Path, slot: u32) -> PathBuf {
    root.join(format!("in/{slot}/process_task.sh"))
}

/// The folder that holds nothing but the task file, so that a task file may have any name.
pub fn task_dir(root: &Path, slot: u32) -> PathBuf {
    root.join(format!("in/{slot}/task"))
}

/// Where the script leaves its results; `root` is `/` inside a container.
pub fn results(root: &Path, slot: u32) -> PathBuf {
    root.join(format!("work/{slot}/results"))
}

/// The script's working directory; `root` is `/` inside a container.
pub fn scratch(root: &Path, slot: u32) -> PathBuf {
    root.join(format!("work/{slot}/scratch"))
}
