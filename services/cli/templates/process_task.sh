#!/usr/bin/env bash
# Called for each file that is dropped into `input/`. Exit status 0 is success; all it prints is the task's log.
#
# usage: process_task.sh TASK-FILE RESULTS-FOLDER
set -euo pipefail

echo "attempt $GRIDFAAS_ATTEMPT of $GRIDFAAS_TASK"
wc "$1" >"$2/counts.txt"
