#!/usr/bin/env bash
# Measures the way of a task through a whole stack of this machine, beside the floors under it.
#
# usage: bench.sh [queue]      queue: 100,000 tasks in one bucket and 1,000 functions instead of the rest
#
# As root, with Apptainer and the base image (test.sh and demo.sh install both). Builds for release, takes a few minutes,
# prints a table and writes target/bench/summary.json, where what was measured before stays until it is measured again.
# Nothing is asserted: a busy machine is slower.
set -euo pipefail
cd "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../.."
images/build.sh base >/dev/null
BENCH_FOLDER=$PWD/target/bench exec cargo bench --locked --workspace --bench tasks -- "$@"
