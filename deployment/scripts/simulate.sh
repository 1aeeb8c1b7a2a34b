#!/usr/bin/env bash
# Runs the simulation of credit-manager with its nodes, a bad network and a lying wallet, over many seeds.
#
# usage: simulate.sh [SEEDS [FIRST]]      10000 seeds from 0 on, unless told otherwise
#
# A seed that fails is named with the invariant it broke; `simulate.sh 1 SEED` runs it again, exactly.
set -euo pipefail
cd "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../.."
export SIMULATION_SEEDS=${1:-10000} SIMULATION_FIRST=${2:-0} RUST_BACKTRACE=0
exec cargo test --release --locked --workspace --test simulation -- --nocapture money_stays_right_whatever_fails
