#!/usr/bin/env bash
# Tests the Debian package, its units and the deployment scripts for real: installed, started, tasks run, services restarted
# under a running task, upgraded, rolled back, joined by a second node, and purged, so that nothing is left.
#
# usage: test-package.sh [--profile release|dev]
#        test-package.sh --inside FOLDER
#
#   --profile   of the packages that are built; default release
#   --inside    runs the test on this machine, which has to have systemd and may be changed, with what the first form put in
#               FOLDER; the first form runs it so in the guest of guest.sh
#
# As root. The last line of a good run is `package ok`.
set -euo pipefail
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"
# shellcheck source-path=SCRIPTDIR source=host.sh
. "$here/host.sh"

take_options 'profile= inside=' "$@"
arguments_at_most 0
profile=${option[profile]:-release} inside=${option[inside]:-}

# Two versions of the same content: what is tested is the way from one to the other.
readonly OLD=0.0.1-1 NEW=0.0.2-1

# check_contents SHARE: the package has a manual page for every command, and completions that know them.
check_contents() {
  local page file
  for page in gridfaas gridfaas-submit gridfaas-user-fund; do
    zgrep --quiet '^\.TH' "$1/man/man1/$page.1.gz" || die "the package has no manual page $page"
  done
  for file in bash-completion/completions/gridfaas zsh/vendor-completions/_gridfaas fish/vendor_completions.d/gridfaas.fish; do
    grep --quiet submit "$1/$file" || die "the package has no completions $file"
  done
}

# make_share: sets `share` to a folder with what a machine needs for the test.
make_share() {
  cd "$here/../.."
  share=$(mktemp -d -t gridfaas-package.XXXXXX)
  at_exit rm -rf --one-file-system "$share"
  mv "$("$here/package.sh" --profile "$profile" --version "$OLD" --to "$share")" "$share/$OLD.deb"
  dpkg-deb -R "$share/$OLD.deb" "$share/tree"
  check_contents "$share/tree/usr/share"
  sed -i "s/^Version: .*/Version: $NEW/" "$share/tree/DEBIAN/control"
  dpkg-deb -Zgzip -z1 --root-owner-group -b "$share/tree" "$share/$NEW.deb" >/dev/null
  rm -r "$share/tree"
  cp "$(images/build.sh base)" "$share/base.sif"
  cp -r "$here" "$share/scripts"
}

in_guest() {
  make_share
  "$here/guest.sh" build
  "$here/guest.sh" run -s "$share" "$share/scripts/test-package.sh" --inside "$share"
}

step() { printf '%6d s  %s\n' "$SECONDS" "$*" >&2; }
failed() {
  [ -z "$done" ] || return 0
  systemctl --no-pager --full status 'gridfaas-*' >&2 || true
  journalctl --no-pager --lines 60 --unit 'gridfaas-*' >&2 || true
}

# in_time WHAT COMMAND…: waits for the command to succeed.
in_time() {
  local what=$1 waited
  shift
  for ((waited = 0; waited < 600; waited++)); do
    if "$@" >/dev/null 2>&1; then return 0; fi
    sleep 0.2
  done
  die "$what: not within two minutes"
}

# Whatever waits for a task gives up some time.
gridfaas() { timeout 120 /usr/bin/gridfaas "$@"; }

pid_of() { systemctl show --property MainPID --value "$1"; }

# attempts FUNCTION TASK: prints state and number of attempts.
attempts() { gridfaas ps --function "$1" | awk -v task="$2" '$2 == task { print $3, $4 }'; }
has_ended() { [[ $(attempts "$1" "$2") == succeeded* ]]; }
is_running() { [[ $(attempts "$1" "$2") == running* ]]; }

# once FUNCTION TASK: the task has succeeded, at its first attempt.
once() {
  in_time "task $2 of $1" has_ended "$1" "$2"
  [ "$(attempts "$1" "$2")" = 'succeeded 1' ] || die "task $2 of $1: $(attempts "$1" "$2")"
}

# run_task FUNCTION TASK
run_task() {
  printf 'hello %s\n' "$2" >"$work/$2"
  gridfaas --quiet submit "$1" "$work/$2" --wait >&2
  once "$1" "$2"
}

# begin_long TASK: a task that runs for a while, on the node.
begin_long() {
  printf '%s\n' "$1" >"$work/$1"
  gridfaas --quiet submit long "$work/$1" >/dev/null
  in_time "task $1" is_running long "$1"
}

# The whole stack in one process: the package's own trial. It is the others' store and chain, too.
start_trial() {
  local drop_in=/run/systemd/system/gridfaas-trial.service.d
  mkdir -p "$drop_in"
  printf '[Service]\nExecStart=\nExecStart=/usr/bin/gridfaas --data-dir %s/trial up %s\n' "$STATE" \
    '--credit-port 0 --container-port 0 --dashboard-port 0 --node-port 0' >"$drop_in/ports.conf"
  systemctl daemon-reload
  systemctl enable --quiet --now gridfaas-trial
  in_time 'the trial' test -s "$STATE/trial/endpoints.json"
}

make_functions() {
  local name
  gridfaas --quiet user add "$1" >/dev/null
  gridfaas --quiet user fund "$1" 5 --mine --wait >/dev/null
  # shellcheck disable=SC2016 # Scripts of their own.
  printf 'sha256sum <"$1" >"$2/digest"\n' >"$work/short.sh"
  # shellcheck disable=SC2016
  printf 'for _ in {1..20}; do sleep 1; done; echo "$$" >"$2/process"\n' >"$work/long.sh"
  for name in "${@:2}"; do
    gridfaas --quiet function create "$name" --user "$1" --image "$share/base.sif" --script "$work/$name.sh" >/dev/null
  done
}

# A machine of its own as far as files go.
second_node() {
  # shellcheck disable=SC2016 # A script of its own.
  unshare --mount bash -euo pipefail -c '
    mount -t tmpfs -o mode=755 tmpfs /var/lib/gridfaas
    mount -t tmpfs -o mode=755 tmpfs /etc/gridfaas
    cp "$1"/etc/*.toml /etc/gridfaas/
    "$2/deploy.sh" join "$1/node-2" --listen 127.0.0.1:7503 --no-start
    export GRIDFAAS_CONTAINER__CGROUP_TREE=gridfaas-second GRIDFAAS_CONTAINER__UID_FIRST=1710000000
    exec /usr/lib/gridfaas/container-manager --config /etc/gridfaas/container-manager.toml
  ' bash "$work" "$scripts" >"$work/second.log" 2>&1 &
  second=$!
}

# Everything of the name that is left anywhere; the guest's own files aside.
leftovers() {
  find / -xdev \( -path /proc -o -path /sys -o -path "$share" -o -path "$work" \) -prune -o -iname '*gridfaas*' \
    -not -path /etc/systemd/system/guest-command.service -print
  find /sys/fs/cgroup -maxdepth 2 -name 'gridfaas*' -print
  systemctl list-units --all --plain --no-legend 'gridfaas-*'
  grep -h gridfaas /etc/passwd /etc/group /proc/self/mounts | grep -vF "$share" || true
  pgrep --list-full 'credit-manager|container-manag|gridfaas|runner' | grep -v test-package || true
}

run_inside() {
  local pid left
  share=$(realpath "$inside") done='' second=''
  need_root 'testing the package'
  has_systemd || die 'there is no systemd here' 'test-package.sh without --inside brings its own machine'
  [ -z "$(installed_version)" ] || die 'gridfaas is installed here' 'this test is for a machine without it'
  at_exit failed
  work=$(mktemp -d)
  at_exit rm -rf --one-file-system "$work"
  scripts=$share/scripts

  step "installing $OLD"
  (install_package "$share/$OLD.deb")
  [ "$(systemctl list-units --plain --no-legend 'gridfaas-*')" = '' ] || die 'something was started that nobody set up'
  scripts=/usr/share/gridfaas/scripts
  cp -r "$CONFIG" "$work/etc"
  systemd-analyze verify /usr/lib/systemd/system/gridfaas-*.service

  step 'the trial, and a task in it'
  start_trial
  export GRIDFAAS_DATA_DIR=$STATE/trial
  make_functions bob short
  run_task short trial
  gridfaas audit >&2

  step 'the services, set up by deploy.sh'
  local -a single=(--node node-1 --store http://127.0.0.1:9000 --access-key gridfaas-node
    --secret-key-file "$STATE/trial/secrets/node-s3-secret" --wallet http://127.0.0.1:7401/ --wallet-user gridcoinrpc
    --wallet-password-file "$STATE/trial/secrets/chain-password")
  "$scripts/deploy.sh" single "${single[@]}"
  pid=$(pid_of "$NODE")
  "$scripts/deploy.sh" single "${single[@]}"
  [ "$(pid_of "$NODE")" = "$pid" ] || die 'setting up again what is set up restarted it'
  [ "$(ps -o user= -p "$(pid_of "$CREDIT")")" = "$OWNER" ] || die "credit-manager does not run as $OWNER"
  systemd-analyze security --no-pager "$CREDIT" "$NODE" | tail -n 1 >&2 || true
  # shellcheck disable=SC1090 # Written by deploy.sh.
  . "$OPERATOR_ENV"
  rm "$work/short.sh"
  gridfaas --quiet function list >&2
  make_functions alice long
  gridfaas --quiet function create other --user alice --image "$share/base.sif" --script "$work/long.sh" >/dev/null

  step 'a restart under a running task'
  begin_long restarted
  systemctl restart "$NODE" "$CREDIT"
  "$scripts/deploy.sh" check
  once long restarted

  step "an upgrade to $NEW under a running task"
  begin_long upgraded
  "$scripts/maintain.sh" upgrade "$share/$NEW.deb"
  [ "$(installed_version)" = "$NEW" ] || die "$(installed_version) is installed instead of $NEW"
  once long upgraded

  step "the way back to $OLD under a running task"
  begin_long back
  "$scripts/maintain.sh" rollback
  [ "$(installed_version)" = "$OLD" ] || die "$(installed_version) is installed instead of $OLD"
  once long back
  gridfaas ledger verify "$STATE"/backups/*/ledger.db >&2

  step 'TLS, and a second node that joins'
  "$scripts/deploy.sh" open --host localhost --listen 127.0.0.1
  # shellcheck disable=SC1090
  . "$OPERATOR_ENV"
  case $GRIDFAAS_CREDIT_URL in https://*) ;; *) die 'credit-manager is not spoken to by TLS' ;; esac
  begin_long secured
  once long secured
  "$scripts/deploy.sh" invite node-2 --to "$work/node-2"
  second_node
  export GRIDFAAS_CONTAINER_URL=https://127.0.0.1:7503
  in_time 'the second node' gridfaas node key
  systemctl stop "$NODE"
  begin_long joined
  once long joined
  kill -TERM "$second"
  wait "$second" || die 'the second node did not stop in order' "$(tail -n 5 "$work/second.log")"
  rmdir /sys/fs/cgroup/gridfaas-second
  # shellcheck disable=SC1090
  . "$OPERATOR_ENV"
  "$scripts/deploy.sh" renew
  systemctl start "$NODE"
  "$scripts/deploy.sh" check

  step 'a stop gives a running task back'
  begin_long stopped
  systemctl stop "$NODE"
  [ "$(systemctl is-failed "$NODE")" = inactive ] || die "a stop is $(systemctl is-failed "$NODE")"
  systemctl start "$NODE"
  "$scripts/deploy.sh" check
  in_time 'task stopped' has_ended long stopped
  "$scripts/maintain.sh" backup "$work"

  step 'the end'
  begin_long last
  "$scripts/maintain.sh" remove
  [ -f "$CONFIG/s3-secret" ] || die 'the package took its configuration with it without being told to'
  (install_package "$share/$NEW.deb")
  "$scripts/maintain.sh" remove --purge
  rm -r /run/systemd/system/gridfaas-trial.service.d
  systemctl daemon-reload
  systemctl reset-failed
  left=$(leftovers)
  [ -z "$left" ] || die 'something is left' "$left"
  done=1
  echo 'package ok'
}

if [ -n "$inside" ]; then run_inside; else in_guest; fi
