#!/usr/bin/env bash
# Shows the whole of gridfaas once, on this machine, in about a minute after the build: files dropped into a bucket run
# in real containers, are charged by their CPU time, are throttled when the money runs out, and go on after a deposit.
#
# usage: demo.sh [--keep] [--binary FILE]
#   --keep          leaves the data folder, with the ledger, the buckets and the log, for a look afterwards
#   --binary FILE   runs this gridfaas instead of building one
#
# Installs what is missing, so it needs root; on Debian nothing but Rust, git and apt has to be there. Stops everything
# it started. The last line is `demo ok`, and the exit status 0, only if every task ended as it should, the money adds
# up, and nothing is left running.
set -euo pipefail
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
root=$(dirname "$(dirname "$here")")
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"
# shellcheck source-path=SCRIPTDIR source=stack.sh
. "$here/stack.sh"

readonly FUNCTION=stress
readonly USER_NAME=demo
# The platform's tariff, at which the amounts below are reckoned.
readonly CORE_SECONDS_PER_GRC=600
# What a container gets in debt.
readonly THROTTLED=500
# Longer than any demo that works.
readonly DEADLINE_S=240

take_options 'keep binary=' "$@"
arguments_at_most 0
keep=${option[keep]:-}
gridfaas=${option[binary]:+$(realpath "${option[binary]}")}

# step TEXT: announces a part of the demo.
step() { printf '\n== %s\n' "$*"; }

# prepare: installs, builds, and sets `gridfaas` and `image`.
prepare() {
  need_root 'the demo, which makes control groups and containers,'
  [ -n "$gridfaas" ] || have cargo || die 'no cargo on PATH' 'install Rust, for example with rustup'
  step 'installing what is missing'
  apt_install gcc libc6-dev jq procps bsdextrautils
  "$here/install-apptainer.sh"
  step 'building the image'
  image=$("$root/images/build.sh" stress)
  if [ -z "$gridfaas" ]; then
    step 'building gridfaas'
    build_gridfaas
  fi
}

# clean_up: runs however the demo ends. A failed one shows the stack's log and keeps the folder.
clean_up() {
  stop_stack
  if [ -z "$finished" ]; then
    say "-- the end of $log:"
    tail -n 40 "$log" >&2 || true
    say "-- kept: $data"
  elif [ -z "$keep" ]; then
    rm -rf --one-file-system "$data"
  fi
}

# json COMMAND…: a gridfaas command's answer as JSON.
json() { "$gridfaas" --output json --quiet "$@"; }

# core_seconds N: the price of N core-seconds in GRC, to eight decimals.
core_seconds() {
  local halfords=$(($1 * 100000000 / CORE_SECONDS_PER_GRC))
  printf '%d.%08d\n' $((halfords / 100000000)) $((halfords % 100000000))
}

# halfords AMOUNT: an amount as an integer, to reckon with.
halfords() {
  local digits=${1//./}
  case $digits in
    -*) printf '%d\n' "-$((10#${digits#-}))" ;;
    *) printf '%d\n' "$((10#$digits))" ;;
  esac
}

# watch: tells how the user's account stands at every change and every 5 s, deposits when the money has run out and the
# throttle is seen, and returns when every task is over.
watch() {
  local balance standing millicores running over now said_at=-5 said='' started=$SECONDS
  throttled=
  while true; do
    now=$((SECONDS - started))
    [ "$now" -lt "$DEADLINE_S" ] || die "the tasks were not over after $DEADLINE_S s"
    kill -0 "$stack" 2>/dev/null || die 'the stack ended by itself'
    read -r balance standing millicores running < <(json balance "$USER_NAME" |
      jq -r '"\(.balance) \(.standing) \(.millicores) \(.running_tasks)"')
    if [ "$standing $running" != "$said" ] || [ $((now - said_at)) -ge 5 ]; then
      printf '%4d s   balance %11s GRC, %-9s  %s running on %s millicores\n' "$now" "$balance" "$standing," "$running" "$millicores"
      said="$standing $running" said_at=$now
    fi
    if [ -z "$throttled" ] && [ "$standing" = in-debt ] && [ "$running" -gt 0 ] && [ "$millicores" -le "$THROTTLED" ]; then
      throttled=1
      printf '         out of money, so throttled to %s millicores; sending %s GRC\n' "$THROTTLED" "$deposit"
      json user fund "$USER_NAME" "$deposit" >/dev/null
    fi
    over=$(json ps --function "$FUNCTION" | jq '[.tasks[] | select(.state == "succeeded" or .state == "failed")] | length')
    [ "$over" -lt "${#tasks[@]}" ] || return 0
    sleep 0.5
  done
}

# check_tasks: every task has succeeded at its first attempt, and left what it should.
check_tasks() {
  local wrong task
  wrong=$(json ps --function "$FUNCTION" | jq -r '.tasks[] | select(.state != "succeeded" or (.attempts | length) != 1) | .task')
  [ -z "$wrong" ] || die "tasks that did not succeed at once: $wrong"
  [ "$(json ps --function "$FUNCTION" | jq '.waiting[0].tasks')" -eq 0 ] || die 'tasks are left in input/'
  for task in "${tasks[@]}"; do
    json results "$FUNCTION" "$task" | jq -e '[.files[].name] | contains(["usage.txt", "receipt.json"])' >/dev/null ||
      die "the results of \`$task\` are not complete"
  done
}

# check_money: what was deposited is what the tasks cost and what is left.
check_money() {
  local paid=0 amount left
  for amount in $(json ps --function "$FUNCTION" | jq -r '.tasks[].amount'); do
    paid=$((paid + $(halfords "$amount")))
  done
  left=$(halfords "$(json balance "$USER_NAME" | jq -r .balance)")
  [ $((paid + left)) -eq $(($(halfords "$funds") + $(halfords "$deposit"))) ] ||
    die "the money does not add up: $funds + $deposit GRC deposited, $paid halfords charged, $left left"
  "$gridfaas" audit || die 'the audit fails'
}

# table: the tasks and what each used.
table() {
  {
    printf 'TASK\tCORES\tCPU SECONDS\tCHARGE (GRC)\tATTEMPTS\n'
    json ps --function "$FUNCTION" | jq -r '
      .tasks | sort_by(.task)[]
      | (.attempts[-1] | .ended_at_ms - .started_at_ms) as $ms
      | [.task, (.cpu_time_us / 1000 / ([$ms, 1] | max) * 100 | round / 100), .cpu_time_us / 1000000, .amount, (.attempts | length)]
      | @tsv'
  } | column -t -s $'\t'
}

# check_nothing_left: no process, mount or control group of the stack is there any more.
check_nothing_left() {
  if pgrep --full -- "$data" >/dev/null; then die "processes are left: $(pgrep --full -- "$data" | xargs)"; fi
  if grep -q -- "$data" /proc/self/mountinfo; then die 'mounts are left' "see /proc/self/mountinfo for $data"; fi
  local tree
  tree=$(find /sys/fs/cgroup -maxdepth 2 -type d -name "gridfaas-$(cat "$data/id")" -print -quit)
  [ -z "$tree" ] || die "a control group is left: $tree"
}

finished=
prepare
cores=$(nproc)
[ "$cores" -le 2 ] || cores=2
# One task that the money lasts for, and one that it does not last for, even where other programs keep the machine busy.
tasks=("100.1-6.txt" "101.$cores-24.txt" "102.1-5.txt" "103.$cores-5.txt" "104.1-4.txt" "105.$cores-4.txt")
funds=$(core_seconds 7)
# More than all of them can use.
deposit=$(core_seconds $((15 + 33 * cores)))

step 'starting the stack'
data=$(mktemp -d -t gridfaas-demo.XXXXXX)
log=$data/up.log
at_exit clean_up
start_stack "$data"
cat "$data/up.txt"
step "a user with $funds GRC, and a function"
"$gridfaas" user add "$USER_NAME" >/dev/null
"$gridfaas" user set "$USER_NAME" --min-balance 0 --debt-limit 0.1 >/dev/null
"$gridfaas" user fund "$USER_NAME" "$funds" --mine --wait
"$gridfaas" function create "$FUNCTION" --user "$USER_NAME" --image "$image" \
  --script "$root/images/stress/process_task.sh" --timeout 10
step "dropping ${#tasks[@]} files: NNN.CORES-SECONDS.txt"
mkdir "$data/files"
for task in "${tasks[@]}"; do echo "$task" >"$data/files/$task"; done
"$gridfaas" submit "$FUNCTION" "$data"/files/*
watch
[ -n "$throttled" ] || die 'no throttling was seen'

step 'what it cost'
table
check_tasks
step 'the audit'
check_money
step 'stopping'
stop_stack
check_nothing_left
finished=1
if [ -n "$keep" ]; then say "kept: $data (start it again with: gridfaas --data-dir $data up)"; fi
echo 'demo ok'
