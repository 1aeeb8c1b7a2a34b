//! Builds the runner as a static program, for `src/container/apptainer.rs` to carry inside this one.
//!
//! A container may hold any C library or none, so the runner brings its own. It has a build of its own because flags for
//! the target would otherwise rebuild the whole workspace.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let var = |name: &str| env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let root = Path::new(&var("CARGO_MANIFEST_DIR")).join("../..");
    let (out, target) = (PathBuf::from(var("OUT_DIR")), var("TARGET"));
    for source in ["services/runner/src", "services/runner/Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }

    let mut cargo = Command::new(var("CARGO"));
    cargo
        .current_dir(&root)
        .args([
            "build",
            "--quiet",
            "--locked",
            "--release",
            "--package",
            "runner",
            "--bin",
            "runner",
        ])
        .args(["--target", &target])
        .arg("--target-dir")
        .arg(out.join("runner-target"))
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
        // It is mapped once per container and forks for every task: small beats fast.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s")
        .env("CARGO_PROFILE_RELEASE_LTO", "true")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_STRIP", "true");
    // Wrappers such as clippy's are meant for the build around this one.
    for wrapper in ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
        cargo.env_remove(wrapper);
    }
    let status = cargo.status().expect("failed to run cargo");
    assert!(status.success(), "failed to build the static runner: {status}");
    let built = out.join("runner-target").join(&target).join("release/runner");
    std::fs::copy(&built, out.join("runner")).expect("failed to copy the static runner");
}
