#!/usr/bin/env bash
# Measures the way of a task through a whole stack of this machine, beside the floors under it.
#
# usage: bench.sh [queue]      queue: 100,000 tasks in one bucket and 1,000 functions instead of the rest
#
# As root, with Apptainer, the base image and jq (test.sh and demo.sh install them). Builds for release, takes a few minutes,
# prints a table and writes target/bench/summary.json, where what was measured before stays until it is measured again.
# Nothing is asserted: a busy machine is slower.
set -euo pipefail
cd "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../.."
images/build.sh base >/dev/null
export BENCH_FOLDER=$PWD/target/bench
summary=$BENCH_FOLDER/summary.json

# The ledger alone, of which the other figures are a part: the last of its lines is what it makes durable at most.
if [ $# -eq 0 ]; then
  reports=$(deployment/scripts/bench-ledger.sh 0 | awk '/durable usage reports a second/ { at_most = $1 } END { print at_most }')
  mkdir -p "$BENCH_FOLDER"
  [ -s "$summary" ] || echo '{}' >"$summary"
  jq --argjson reports "$reports" '.usage_reports_per_s = $reports' "$summary" >"$summary.new"
  mv "$summary.new" "$summary"
fi
cargo bench --locked --workspace --bench tasks -- "$@"
