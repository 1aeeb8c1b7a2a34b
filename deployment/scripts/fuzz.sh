#!/usr/bin/env bash
# Feeds bad input to everything that reads what strangers wrote: mutations of the corpus in services/fuzz/corpus.
#
# usage: fuzz.sh [SECONDS [TARGET...]]      60 seconds for each target unless told otherwise
#
# An input that breaks one is left in the corpus, where the tests find it from then on; exit status 1. The targets:
# object-keys config money receipts cgroup-files recordings usage-reports wallet-replies store-requests
set -euo pipefail
cd "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../.."
seconds=${1:-60}
[ $# -eq 0 ] || shift
exec cargo run --locked --package fuzz -- --seconds "$seconds" "$@"
