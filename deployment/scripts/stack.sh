# shellcheck shell=bash
# A stack of a script's own; sourced after lib.sh, not run.

# build_gridfaas: sets `gridfaas` to the program, built where it is not up to date. It is the debug build: that takes a third
# of a release build's time, and the CPU that counts is that of the tasks.
build_gridfaas() {
  local manifest target
  manifest=$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../../Cargo.toml
  cargo build --locked --manifest-path "$manifest" --package cli ||
    die 'gridfaas could not be built' "cargo's own message is above"
  target=$(cargo metadata --locked --manifest-path "$manifest" --no-deps --format-version 1 | jq -r .target_directory)
  gridfaas=$target/debug/gridfaas
}

# start_stack FOLDER: starts `gridfaas up` on free ports with its data in the folder, as the stack that every gridfaas of this
# script talks to, and waits until it serves. What it prints goes to FOLDER/up.txt, its log to FOLDER/up.log.
stack=
start_stack() {
  export GRIDFAAS_DATA_DIR=$1
  "$gridfaas" up --s3-port 0 --container-port 0 --credit-port 0 --chain-port 0 --dashboard-port 0 --node-port 0 >"$1/up.txt" 2>"$1/up.log" &
  stack=$!
  while [ ! -s "$1/endpoints.json" ]; do
    kill -0 "$stack" 2>/dev/null || die 'the stack did not start' "$(tail -n 5 "$1/up.log")"
    sleep 0.1
  done
}

# stop_stack: interrupts the stack and waits for its end.
stop_stack() {
  [ -n "$stack" ] || return 0
  kill -TERM "$stack" 2>/dev/null || true
  wait "$stack" || true
  stack=
}
