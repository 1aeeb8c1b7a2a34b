#!/usr/bin/env bash
# Kills the services at random under load, for real: every two seconds one of two nodes, credit-manager, the store or the
# chain, or all of them; or the network stalls, or the disk fills up. Then it audits what is left.
#
# usage: chaos.sh [MINUTES]      10 minutes unless told otherwise
#
# As root, with Apptainer and the base image (test.sh installs both). Ends with `chaos ok`, or with what is not as it should
# be and where the logs are. CHAOS_SEED=N chooses the same misfortunes, though not the same moments of the services.
set -euo pipefail
cd "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../.."
images/build.sh base >/dev/null
export CHAOS_SECONDS=$((${1:-10} * 60))
exec cargo test --locked --workspace --test chaos
