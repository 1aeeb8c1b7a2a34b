#!/usr/bin/env bash
# Runs a command on a machine with systemd, pure cgroup v2 and Apptainer: a Debian 13 guest under user-mode Linux, which
# needs no virtualization and no network.
#
# usage: guest.sh build [--force]
#        guest.sh run [-k] [-m MEMORY] [-s FOLDER] COMMAND [ARGUMENT…]
#
#   -s FOLDER   the guest sees this folder of ours, writable and at the same path, and starts COMMAND in it
#   -m MEMORY   of the guest; default 2G
#   -k          keeps what COMMAND changes on the guest's disk; otherwise every run starts from the same one
#
# `run` builds the guest if that is still to do. stdout, stderr and exit status are the command's; 125 means that the
# guest did not run it to its end. The guest has one core, no cpuset controller, only the loopback network, and counts CPU
# time in steps of 10 ms.
#
# GRIDFAAS_GUEST is the folder of the guest's disk and kernel; default target/guest.
set -euo pipefail
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"

guest=${GRIDFAAS_GUEST:-$(dirname "$(dirname "$here")")/target/guest}
readonly SUITE=trixie
readonly DISK=4G
# Longest time from the start to the command's; on an idle machine it takes a twentieth of this.
readonly BOOT_S_MAX=180
readonly NOT_STARTED=125

# The unit that carries out `run` inside: what to do comes from the kernel's command line and a folder of the host.
guest_unit() {
  cat <<'END'
[Unit]
Description=the command of guest.sh run
After=multi-user.target dbus.service
[Service]
Type=oneshot
ExecStart=/usr/local/sbin/guest-command
ExecStopPost=/usr/bin/systemctl poweroff --force --force
# Tests make cgroups of their own below this one.
Delegate=yes
TasksMax=infinity
[Install]
WantedBy=default.target
END
}
guest_command() {
  cat <<'END'
#!/bin/bash
word() { sed -nE "s/.*gridfaas\.$1=([^ ]*).*/\1/p" /proc/cmdline; }
mkdir -p /run/control && mount -t hostfs none /run/control -o "hostfs=$(word control)"
share=$(</run/control/share)
cd /root
if [ -n "$share" ]; then
  mkdir -p "$share" && mount -t hostfs none "$share" -o "hostfs=$share" && cd "$share"
fi
modprobe -a loop overlay squashfs
stty -F /dev/ttyS0 raw -echo
stty -F /dev/ttyS1 raw -echo
export HOME=/root
touch /run/control/started
bash /run/control/command </dev/null >/dev/ttyS0 2>/dev/ttyS1
echo $? >/run/control/status
END
}

in_root() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"; }

unmount() { ! mountpoint -q "$1" || umount "$1"; }

# Fills `$root` with the guest's system.
fill_root() {
  local mirror keyring
  mirror=$(debian_mirror)
  keyring=$(debian_keyring)
  debootstrap --variant=minbase --keyring="$keyring" \
    --include=systemd,systemd-sysv,dbus,kmod,iproute2,procps,ca-certificates "$SUITE" "$root" "$mirror"
  printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
  chmod +x "$root/usr/sbin/policy-rc.d"
  printf 'path-exclude /usr/share/%s/*\n' man doc locale >"$root/etc/dpkg/dpkg.cfg.d/slim"
  cp /etc/resolv.conf "$root/etc/resolv.conf"
  mount --bind /dev "$root/dev"
  at_exit unmount "$root/dev"
  mount -t proc proc "$root/proc"
  at_exit unmount "$root/proc"
  mkdir "$root/scripts"
  cp "$here/lib.sh" "$here/install-apptainer.sh" "$root/scripts/"
  in_root apt-get -qq -o Acquire::Check-Valid-Until=false update
  in_root /scripts/install-apptainer.sh
  in_root apt-get clean
  unmount "$root/proc"
  unmount "$root/dev"
  rm -rf "$root/scripts" "$root/usr/sbin/policy-rc.d" "$root"/var/lib/apt/lists/* "$root"/usr/share/{man,doc,locale}/*

  cp -r "$work"/uml/usr/lib/uml/modules "$root/usr/lib/"
  guest_unit >"$root/etc/systemd/system/guest-command.service"
  guest_command >"$root/usr/local/sbin/guest-command"
  chmod +x "$root/usr/local/sbin/guest-command"
  in_root systemctl -q enable guest-command
  in_root systemctl -q mask getty.target systemd-firstboot apt-daily.timer apt-daily-upgrade.timer fstrim.timer \
    e2scrub_all.timer e2scrub_reap.service dpkg-db-backup.timer systemd-networkd-wait-online
  in_root systemd-machine-id-setup
  echo gridfaas-guest >"$root/etc/hostname"
  printf '127.0.0.1 localhost gridfaas-guest\n::1 localhost\n' >"$root/etc/hosts"
  printf '/dev/ubda / ext4 rw,noatime 0 0\n' >"$root/etc/fstab"
}

# The kernel is a program that needs a newer C library than Debian 12 has; it gets the guest's.
make_kernel() {
  local loader
  cp "$work/uml/usr/bin/linux.uml" "$guest/kernel.new"
  mkdir -p "$guest/lib"
  cp -L "$root"/usr/lib/*/libc.so.6 "$guest/lib/"
  cp -L "$root"/usr/lib*/ld-linux* "$guest/lib/"
  loader=$(echo "$guest"/lib/ld-linux*)
  patchelf --set-interpreter "$loader" --force-rpath --set-rpath "$guest/lib" "$guest/kernel.new"
  mv "$guest/kernel.new" "$guest/kernel"
}

# One at a time: the second of two finds the first one's result.
build_once() {
  local lock
  if is_built; then return; fi
  mkdir -p "$guest"
  exec {lock}>"$guest/lock"
  flock "$lock"
  if ! is_built; then build; fi
  exec {lock}>&-
}
build() {
  mkdir -p "$guest"
  guest=$(realpath "$guest")
  need_root 'building the guest'
  [ "$(uname -m)" = x86_64 ] || die "no user-mode Linux for $(uname -m)" 'run the tests on a machine that boots with cgroup v2 instead'
  apt_install debootstrap e2fsprogs patchelf
  work=$(mktemp -d "$guest/build.XXXXXX")
  at_exit rm -rf --one-file-system "$work"
  root=$work/root
  say "guest: building it in $guest"
  built=
  exec {stdout}>&1 {stderr}>&2
  at_exit tell_failed_build
  exec >"$guest/build.log" 2>&1
  unstable_download "$work" user-mode-linux
  dpkg-deb -x "$work"/user-mode-linux_*.deb "$work/uml"
  fill_root
  make_kernel
  truncate -s "$DISK" "$work/disk"
  mke2fs -q -t ext4 -d "$root" "$work/disk"
  mv "$work/disk" "$guest/disk"
  key >"$guest/key"
  built=1
  exec >&"$stdout" 2>&"$stderr" {stdout}>&- {stderr}>&-
}
tell_failed_build() {
  [ -z "$built" ] || return 0
  tail -n 30 "$guest/build.log" >&"$stderr"
  printf 'error: the guest could not be built\nhint: the whole log is in %s\n' "$guest/build.log" >&"$stderr"
}

# What the guest is made from; a change of it is a reason to build again.
key() { { echo "$SUITE $DISK" && declare -f guest_unit guest_command fill_root make_kernel; } | sha256sum; }
is_built() { [ -f "$guest/disk" ] && [ "$(cat "$guest/key" 2>/dev/null)" = "$(key)" ]; }

run() {
  local keep='' memory=2G share='' control kernel disk waited option
  while getopts 'km:s:' option; do
    case $option in
      k) keep=1 ;;
      m) memory=$OPTARG ;;
      s) share=$(realpath "$OPTARG") ;;
      *) wrong_usage 'unknown option' ;;
    esac
  done
  shift $((OPTIND - 1))
  [ $# -gt 0 ] || wrong_usage 'no command to run'
  build_once
  guest=$(realpath "$guest")

  control=$(mktemp -d)
  at_exit rm -rf "$control"
  printf '%q ' "$@" >"$control/command"
  printf '%s' "$share" >"$control/share"
  # Copy on write: what the guest changes goes to a file of this run.
  disk=$control/changes,$guest/disk
  [ -z "$keep" ] || disk=$guest/disk
  # The first serial line is stdout, the second stderr; the console goes to a log.
  # seccomp=on: the older way of user-mode Linux trips over CPUs with a large register state.
  exec {console}>"$control/console"
  # The guest's memory is a file in TMPDIR, which is slow anywhere but on a tmpfs.
  # Job control gives the kernel and its helpers a process group of their own, to end them all by.
  set -m
  TMPDIR=/dev/shm "$guest/kernel" uml_dir="$control/" umid=guest "ubd0=$disk" root=/dev/ubda rw "mem=$memory" seccomp=on quiet \
    systemd.show_status=0 "con0=null,fd:$console" con=null ssl0=null,fd:1 ssl1=null,fd:2 ssl=null \
    "gridfaas.control=$control" </dev/null &
  kernel=$!
  set +m
  at_exit end_group "$kernel"
  for ((waited = 0; waited < BOOT_S_MAX * 10; waited++)); do
    if [ -f "$control/started" ] || ! kill -0 "$kernel" 2>/dev/null; then break; fi
    sleep 0.1
  done
  if [ ! -f "$control/started" ]; then
    not_finished 'the guest did not start the command'
  fi
  wait "$kernel" || true
  if [ ! -s "$control/status" ]; then
    not_finished 'the guest ended before the command did'
  fi
  exit "$(cat "$control/status")"
}
not_finished() {
  tail -n 20 "$control/console" >&2
  printf 'error: %s\nhint: the end of its console is above; is there enough memory in /dev/shm?\n' "$1" >&2
  exit "$NOT_STARTED"
}
end_group() { kill -KILL -- "-$1" 2>/dev/null; }

case ${1:-} in
  build)
    shift
    [ "${1:-}" != --force ] || rm -f "$guest/key"
    build_once
    say "guest: built, in $guest"
    ;;
  run)
    shift
    run "$@"
    ;;
  -h | --help) usage "$0" ;;
  *) wrong_usage 'the first argument is build or run' ;;
esac
