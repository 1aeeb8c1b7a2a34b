#!/usr/bin/env bash
# Measures how many usage reports one credit-manager on one core makes durable, and how long a big ledger takes to ask.
#
# usage: bench-ledger.sh [TRANSFERS]      of the big ledger; 10000000 unless told otherwise, which needs 6 GB of disk;
#                                         with 0 none is made
#
# The service runs on the first core, the nodes that report to it on the second, over gRPC: 10000 sessions on 20 nodes,
# first at 50000 reports a second, then as fast as answers come. Works in a folder below TMPDIR, which it removes.
set -euo pipefail
cd "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../.."
transfers=${1:-10000000}
cargo build --locked --release --package credit-manager --example ledger-bench
bench=target/release/examples/ledger-bench
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

measure() { # INTERVAL_MS between a node's reports
    mkdir "$folder/$1"
    coproc SERVER { exec taskset -c 0 "$bench" serve "$folder/$1" 100; }
    # The coprocess's variables are gone once it ends.
    local from="${SERVER[0]}" to="${SERVER[1]}" pid=$SERVER_PID url
    read -r url <&"$from"
    taskset -c 1 "$bench" load "$folder/$1" "$url" 100 20 10000 "$1" 10
    exec {to}>&-
    cat <&"$from"
    wait "$pid"
}

echo "== 50000 reports a second"
measure 200
echo "== as fast as answers come"
measure 0
[ "$transfers" -gt 0 ] || exit 0
echo "== a ledger of $transfers transfers"
mkdir "$folder/big"
"$bench" fill "$folder/big" "$transfers"
"$bench" read "$folder/big"
