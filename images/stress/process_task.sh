#!/usr/bin/env bash
# Keeps a number of cores busy for a number of seconds, both told by the name of the task file:
#
#   NNN.CORES-SECONDS.txt      100.1-150.txt: one core for 150 s      101.0.5-7.5.txt: half a core for 7.5 s
#
# The seconds are wall time: under a CPU limit the task ends at the same moment and uses less CPU time.
#
# usage: process_task.sh TASK-FILE RESULTS-FOLDER
# Leaves GNU time's report in usage.txt. Exit status 2: the name does not say what to do.
set -euo pipefail

name=$(basename "$1")
results=$2

if [[ ! $name =~ ^[0-9]+\.([0-9]+(\.[0-9]+)?)-([0-9]+(\.[0-9]+)?)\.txt$ ]]; then
  echo "error: task file \`$name\` is not named NNN.CORES-SECONDS.txt" >&2
  echo 'hint: 100.1-150.txt keeps one core busy for 150 s' >&2
  exit 2
fi
cores=${BASH_REMATCH[1]}
seconds=${BASH_REMATCH[3]}

# Whole cores first, the rest by a worker that sleeps between bursts; in hundredths of a core.
hundredths=$(awk -v cores="$cores" 'BEGIN { printf "%d", cores * 100 + 0.5 }')
whole=$((hundredths / 100))
percent=$((hundredths % 100))
if [ "$hundredths" -eq 0 ] || [[ ! $seconds =~ [1-9] ]]; then
  echo "error: task file \`$name\` asks for no work; cores and seconds must be more than 0" >&2
  exit 2
fi

# A worker's own clock knows whole seconds only, so another one ends it; that it did is no failure.
burn() {
  local status=0
  timeout --foreground "$seconds" stress-ng --quiet "$@" || status=$?
  [ "$status" -eq 124 ] || return "$status"
}

load() {
  local pid status=0
  local -a pids=()
  if [ "$whole" -gt 0 ]; then
    burn --cpu "$whole" &
    pids+=($!)
  fi
  if [ "$percent" -gt 0 ]; then
    burn --cpu 1 --cpu-load "$percent" --cpu-load-slice 20 &
    pids+=($!)
  fi
  for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
  return "$status"
}

echo "task $name: cores $cores, for $seconds s"
# GNU time measures a program, so the shell measured is another one with the function handed to it.
export -f burn load
export whole percent seconds
/usr/bin/time --verbose --output "$results/usage.txt" bash -c load
echo "task $name: done"
