//! The disk under everything: full, or not to be written.

use std::fs::{self, File};
use std::io::Write as _;

use rustix::mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount};

use crate::world::World;

/// The base image, packed and unpacked, and some room.
const DISK: &std::ffi::CStr = c"size=400m,mode=700";
/// Long enough for what is done meanwhile.
const SCRIPT: &str = "sleep 3; echo done >\"$2/result\"";

/// A world in which one task runs and one waits, what spoils its disk, and what mends that.
fn spoilt(spoil: impl FnOnce(&World), said_of_store: &str, said_of_node: &str, mend: impl FnOnce(&World)) {
    let Some(world) = World::start(1, Some(DISK)) else {
        return;
    };
    world.function("slow", "alice", SCRIPT);
    let file = |name: &str| world.file(name, "x");
    let (first, second, later) = (file("first"), file("second"), file("later"));
    // Too large for the store's index, which is open.
    let refused = world.file("refused", &"x".repeat(20 << 10));
    world.text(&["submit", "slow", &first, &second]);
    world.until("a running task", &["ps"], |tasks| {
        tasks["tasks"][0]["state"] == "running"
    });

    spoil(&world);
    let said = world.error(&["submit", "slow", &refused]);
    assert!(said.contains(said_of_store), "{said}");
    // What can be read is, and the node says what keeps it from going on.
    world.text(&["balance", "alice"]);
    world.until_problem("slow", said_of_node);
    assert!(world.log().contains(said_of_node), "{}", world.log());

    mend(&world);
    world.until_done("slow", 2);
    world.text(&["submit", "slow", &later, "--wait"]);
    world.text(&["user", "add", "bob"]);
    let keys = world.keys("slow");
    for name in ["first", "second", "later"] {
        assert!(keys.contains(&format!("results/{name}/result")), "{keys:?}");
    }
    assert!(!keys.iter().any(|key| key.ends_with("/refused")), "{keys:?}");
    world.end();
}

pub(crate) fn a_full_disk_refuses_new_work_loses_nothing_and_is_no_more_when_there_is_room_again() {
    let ballast = |world: &World| world.path("ballast");
    let fill = |world: &World| {
        let mut file = File::create(ballast(world)).unwrap();
        for size in [1 << 20, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        let said = world.error(&["user", "set", "alice", "--min-balance", "0"]);
        assert!(said.contains("the ledger cannot be written"), "{said}");
    };
    let free = |world: &World| fs::remove_file(ballast(world)).unwrap();
    spoilt(fill, "the disk of the store is full", "full", free);
}

/// Nothing can be made or opened for writing. What is open stays so, which a disk that went bad would not allow.
pub(crate) fn a_read_only_disk_refuses_new_work_loses_nothing_and_is_no_more_when_it_can_be_written() {
    let lock = |world: &World| {
        mount_bind(world.folder(), world.folder()).unwrap();
        mount_remount(world.folder(), MountFlags::BIND | MountFlags::RDONLY, c"").unwrap();
    };
    let unlock = |world: &World| unmount(world.folder(), UnmountFlags::DETACH).unwrap();
    spoilt(lock, "the disk of the store is read-only", "ead-only", unlock);
}
