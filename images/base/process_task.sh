#!/usr/bin/env bash
# A first function: prints the SHA-256 of the task file, and leaves it in the results.
#
# usage: process_task.sh TASK-FILE RESULTS-FOLDER
set -euo pipefail

digest=$(sha256sum <"$1" | cut -d ' ' -f 1)
printf '%s  %s\n' "$digest" "$(basename "$1")" | tee "$2/sha256.txt"
