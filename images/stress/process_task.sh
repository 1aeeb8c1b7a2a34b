#!/usr/bin/env bash
# Keeps a number of cores busy for a number of seconds. Both are told by the name of the task file:
#
#   NNN.CORES-SECONDS.txt      100.1-150.txt: one core for 150 s      101.0.5-7.5.txt: half a core for 7.5 s
#
# The seconds are wall time: under a CPU limit the task ends at the same moment and uses less CPU time.
#
# unless every line of it is CORES-SECONDS. Each of those is work: it ends when every core has used its seconds of CPU time,
# later under a limit, and the next begins then. 0-SECONDS is a pause.
#
# usage: process_task.sh TASK-FILE RESULTS-FOLDER
# Leaves GNU time's report in usage.txt. Exit status 2: neither name nor lines say what to do.
set -euo pipefail

name=$(basename "$1")
results=$2

# A process for each core. The kernel tells each what it used; a part of a core is used in bursts, each 10 ms.
# shellcheck disable=SC2016 # Perl's variables.
work='
  sub used { open my $file, "<", "/proc/self/schedstat" or die "$!"; (split " ", <$file>)[0] / 1e9 }
  sub core {
    my ($load, $left) = ($_[0], $_[0] * $_[1]);
    my ($slice, $goal) = ($load < 1 ? 0.01 * $load : 0.1, used());
    while ($left > 0) {
      $goal += $slice < $left ? $slice : $left;
      $left -= $slice;
      while (used() < $goal) { my $sum = 0; $sum += $_ for 1 .. 2000 }
      select undef, undef, undef, 0.01 * (1 - $load) if $load < 1;
    }
    exit 0;
  }
  while (<>) {
    my ($cores, $seconds) = /^([0-9.]+)-([0-9.]+)$/ or exit 2;
    select undef, undef, undef, $seconds if $cores == 0;
    for (; $cores > 0.0005; $cores -= 1) { fork or core($cores < 1 ? $cores : 1, $seconds) }
    1 while wait > 0;
  }'
if [ -s "$1" ] && ! grep -qvE '^[0-9]+(\.[0-9]+)?-[0-9]+(\.[0-9]+)?$' "$1"; then
  echo "task $name: $(wc -l <"$1") phases of work"
  /usr/bin/time --verbose --output "$results/usage.txt" perl -e "$work" "$1"
  echo "task $name: done"
  exit
fi

if [[ ! $name =~ ^[0-9]+\.([0-9]+(\.[0-9]+)?)-([0-9]+(\.[0-9]+)?)\.txt$ ]]; then
  echo "error: task file \`$name\` is not named NNN.CORES-SECONDS.txt, nor is each of its lines CORES-SECONDS" >&2
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
