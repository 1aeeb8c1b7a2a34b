//! Bad input for everything that reads what strangers wrote.
//!
//! A [`Target`] takes any bytes, hands them to the code that reads such input, and panics where a promise is broken. The
//! corpus, `corpus/TARGET/*`, holds input worth beginning with and whatever was ever found; `tests/corpus.rs` runs it with
//! some mutations of it, `deployment/scripts/fuzz.sh` goes on for longer. Mutation is blind: no coverage guides it.

#![expect(clippy::unwrap_used, reason = "a panic is how a target reports what it found")]

mod mutate;
mod pure;
mod services;

use std::path::PathBuf;

pub use mutate::mutate;

pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
}

pub const TARGETS: &[Target] = &[
    Target {
        name: "object-keys",
        run: pure::object_keys,
    },
    Target {
        name: "config",
        run: pure::config,
    },
    Target {
        name: "money",
        run: pure::money,
    },
    Target {
        name: "receipts",
        run: pure::receipts,
    },
    Target {
        name: "cgroup-files",
        run: pure::cgroup_files,
    },
    Target {
        name: "recordings",
        run: pure::recordings,
    },
    Target {
        name: "usage-reports",
        run: services::usage_reports,
    },
    Target {
        name: "wallet-replies",
        run: services::wallet_replies,
    },
    Target {
        name: "store-requests",
        run: services::store_requests,
    },
];

impl Target {
    /// The stored inputs, in the order of their names.
    pub fn corpus(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(self.name);
        let files = std::fs::read_dir(&folder).unwrap_or_else(|err| panic!("`{}`: {err}", folder.display()));
        let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
        paths.sort();
        let read = |path: PathBuf| {
            let bytes = std::fs::read(&path).unwrap();
            (path, bytes)
        };
        paths.into_iter().map(read).collect()
    }
}
