//! The users: files dropped all the time, and what is known of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use dev_stack::S3Credentials;
use serde_json::Value;
use tokio::runtime::Runtime;

pub(crate) const USERS: [&str; 2] = ["alice", "bob"];
/// What each user has, in GRC.
pub(crate) const FUNDS: &str = "100";
/// Function, user, more settings, script.
const FUNCTIONS: [(&str, &str, &str, &str); 3] = [
    (
        "quick",
        "alice",
        "concurrency = 3",
        "for ((i = 0; i < 20000; i++)); do :; done",
    ),
    (
        "slow",
        "bob",
        "concurrency = 3",
        "sleep 2; (for ((i = 0; i < 100000; i++)); do :; done) & wait; sleep 2",
    ),
    (
        "unsure",
        "bob",
        "concurrency = 2",
        "[ \"$GRIDFAAS_ATTEMPT\" -gt 1 ] || exit 3",
    ),
];
const SETTINGS: &str = "memory_mib = 64\nscratch_mib = 16\npids = 50\ncpu_max_millicores = 1000\n";
/// The script leaves what it was given, so that a result can be told from another's.
const END: &str = "\ncp \"$1\" \"$2/copy\"; echo done\n";

/// A file in so many of the load's ticks. The nodes take more, so that the end is soon there.
const DROPS_PERCENT: u32 = 10;

pub(crate) struct Load {
    folder: PathBuf,
    runtime: Runtime,
    pub(crate) s3: Client,
    /// Key by function: the store said that it has them.
    pub(crate) accepted: BTreeSet<(&'static str, String)>,
    /// The store did not answer.
    pub(crate) unclear: BTreeSet<(&'static str, String)>,
    number: u64,
}

impl Load {
    pub(crate) fn new(folder: &Path, store: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        Self {
            s3: client(folder, store),
            folder: folder.to_owned(),
            runtime,
            accepted: BTreeSet::new(),
            unclear: BTreeSet::new(),
            number: 0,
        }
    }

    /// What a command prints, or what it says against it.
    pub(crate) fn gridfaas(&self, arguments: &[&str]) -> Result<Value, String> {
        let output = Command::new(env!("CARGO_BIN_EXE_gridfaas"))
            .env("GRIDFAAS_DATA_DIR", &self.folder)
            .args(["--output", "json"])
            .args(arguments)
            .output()
            .unwrap();
        match serde_json::from_slice(&output.stdout) {
            Ok(answer) if output.status.success() => Ok(answer),
            _ => Err(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()),
        }
    }

    pub(crate) fn set_up(&self) {
        let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/images/base.sif");
        let image = image
            .canonicalize()
            .expect("no test image; hint: run `images/build.sh base`");
        for user in USERS {
            self.gridfaas(&["user", "add", user]).unwrap();
            self.gridfaas(&["user", "fund", user, FUNDS, "--mine", "--wait"])
                .unwrap();
        }
        for (function, user, settings, script) in FUNCTIONS {
            let file = self.folder.join(format!("{function}.sh"));
            std::fs::write(&file, format!("{script}{END}")).unwrap();
            let (file, image) = (file.to_str().unwrap(), image.to_str().unwrap());
            let create = [
                "function", "create", function, "--user", user, "--image", image, "--script", file,
            ];
            self.gridfaas(&create).unwrap();
            let settings = format!("{SETTINGS}{settings}\n");
            assert!(self.put(function, "utils/function.toml", &settings));
        }
    }

    fn put(&self, bucket: &str, key: &str, body: &str) -> bool {
        let put = self
            .s3
            .put_object()
            .bucket(bucket)
            .key(key)
            .body(body.as_bytes().to_vec().into());
        self.runtime.block_on(put.send()).is_ok()
    }

    pub(crate) fn tick(&mut self, dice: &mut fastrand::Rng) {
        if dice.u32(0..100) >= DROPS_PERCENT {
            return;
        }
        self.number += 1;
        let function = FUNCTIONS[dice.usize(..FUNCTIONS.len())].0;
        let key = format!("{}/{:05}", ["a", "b"][dice.usize(..2)], self.number);
        let is_there = self.put(function, &format!("input/{key}"), &key);
        let known = if is_there {
            &mut self.accepted
        } else {
            &mut self.unclear
        };
        known.insert((function, key));
    }

    /// Every key of every function's bucket; `None` while the store does not answer.
    pub(crate) fn keys(&self) -> Option<BTreeMap<&'static str, BTreeSet<String>>> {
        let all = FUNCTIONS.map(|(function, ..)| {
            let mut pages = self.s3.list_objects_v2().bucket(function).into_paginator().send();
            self.runtime.block_on(async {
                let mut keys = BTreeSet::new();
                while let Some(page) = pages.next().await {
                    keys.extend(
                        page.ok()?
                            .contents
                            .unwrap_or_default()
                            .into_iter()
                            .filter_map(|object| object.key),
                    );
                }
                Some((function, keys))
            })
        });
        all.into_iter().collect()
    }

    pub(crate) fn object(&self, bucket: &str, key: &str) -> Option<Vec<u8>> {
        self.runtime.block_on(async {
            let object = self.s3.get_object().bucket(bucket).key(key).send().await.ok()?;
            Some(object.body.collect().await.ok()?.into_bytes().into())
        })
    }

    /// Whether no task waits or runs.
    pub(crate) fn is_at_rest(&self) -> bool {
        let under_way = |key: &String| key.starts_with("input/") || key.starts_with("processing/");
        self.keys()
            .is_some_and(|keys| !keys.values().flatten().any(under_way))
    }
}

fn client(folder: &Path, store: SocketAddr) -> Client {
    let credentials = S3Credentials::read(&folder.join("s3-credentials")).unwrap();
    let timeouts = TimeoutConfig::builder().operation_timeout(Duration::from_secs(2));
    let config = credentials
        .client_config(format!("http://{store}"))
        // A put that is tried again could be two versions of a file, and so two tasks.
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts.build());
    Client::from_conf(config.build())
}
