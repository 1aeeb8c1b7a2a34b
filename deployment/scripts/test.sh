#!/usr/bin/env bash
# Installs what the tests need and runs every one of them. Idempotent; as root on Debian.
set -euo pipefail
cd "$(dirname "$0")/../.."

cargo fmt --all --check
cargo clippy --locked --workspace --all-targets -- -D warnings
cargo test --locked --workspace
