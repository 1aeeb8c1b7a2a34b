# shellcheck shell=bash
# Shared by the scripts of this repository; sourced, not run.
#
# Messages go to stderr, so that a script's stdout stays what its caller asked for.

say() { printf '%s\n' "$*" >&2; }
warn() { printf 'warning: %s\n' "$*" >&2; }

# die MESSAGE [HINT]: says what failed and how to mend it, and ends with exit status 1.
die() {
  printf 'error: %s\n' "$1" >&2
  [ -z "${2:-}" ] || printf 'hint: %s\n' "$2" >&2
  exit 1
}

# wrong_usage MESSAGE: as `die`, for a command line that cannot be meant; exit status 2.
wrong_usage() {
  printf 'error: %s\nhint: see --help\n' "$1" >&2
  exit 2
}

# run COMMAND…: runs it; with `--dry-run`, which scripts turn into DRY_RUN=1, it only says so.
DRY_RUN=
run() {
  if [ -n "$DRY_RUN" ]; then say "would run: $(printf '%q ' "$@")"; else "$@"; fi
}

# usage FILE: prints the comment block at the head of a script, which is its manual page.
usage() { awk 'NR == 1 { next } !/^#/ { exit } { sub(/^# ?/, ""); print }' "$1"; }

# take_options NAMES ARGUMENT…: takes a command line apart. NAMES are options: `name` is a switch, `name=` has a value, `name*=` may
# be said again. What they say is in `option` by their names, a switch as 1 and values on lines of their own; the rest is in
# `arguments`. Answers --help, and refuses what it does not know.
declare -A option=()
arguments=()
take_options() {
  local names name
  read -r -d '' -a names <<<"$1" || true
  names=" ${names[*]} "
  shift
  while [ $# -gt 0 ]; do
    name=${1#--}
    case $1 in
      -h | --help)
        usage "$0"
        exit 0
        ;;
      --*)
        case $names in
          *" $name "*) option[$name]=1 ;;
          *" $name= "* | *" $name*= "*)
            [ $# -ge 2 ] || wrong_usage "$1 needs a value"
            [[ $names == *" $name= "* ]] || set -- "$1" "${option[$name]:-}${option[$name]:+$'\n'}$2" "${@:3}"
            option[$name]=$2
            shift
            ;;
          *) wrong_usage "unknown option \`$1\`" ;;
        esac
        ;;
      -*) wrong_usage "unknown option \`$1\`" ;;
      *) arguments+=("$1") ;;
    esac
    shift
  done
  DRY_RUN=${option[dry-run]:-}
}

# arguments_at_most N: refuses what stands beside the options beyond that.
arguments_at_most() { [ ${#arguments[@]} -le "$1" ] || wrong_usage "unknown argument \`${arguments[$1]}\`"; }

# take_command NAMES WORD…: sets `command` to the first word if it is one of NAMES; answers --help.
take_command() {
  command=${2:-}
  case $command in
    -h | --help)
      usage "$0"
      exit 0
      ;;
    '') wrong_usage 'say what to do' ;;
  esac
  [[ " $1 " == *" $command "* ]] || wrong_usage "unknown command \`$command\`"
}

have() { command -v "$1" >/dev/null 2>&1; }

need_root() { [ "$(id -u)" -eq 0 ] || die "$1 needs root" 'run it with sudo, or as root'; }

# version_at_least HAVE WANTED: compares dotted versions; `1.10` is newer than `1.9`.
version_at_least() { printf '%s\n' "$2" "$1" | sort -V -C; }

# Options for every apt call of ours. Waiting for the lock lets two scripts run side by side. Packages are downloaded
# to a folder of our own, because some images have an apt hook that empties the shared one under a running install.
APT_FOLDER=
apt_options() {
  if [ -z "$APT_FOLDER" ]; then
    APT_FOLDER=$(mktemp -d)
    mkdir "$APT_FOLDER/partial"
    # apt downloads as the user `_apt`, who has to be able to reach the folder.
    chmod 755 "$APT_FOLDER"
    at_exit rm -rf "$APT_FOLDER"
  fi
  APT_OPTIONS=(-qq -o DPkg::Lock::Timeout=300 -o Dir::Cache::archives="$APT_FOLDER")
}

# at_exit COMMAND…: runs it when the script ends, last registered first, however it ends. In a subshell it runs at the
# end of that, and what the parent registered is left to the parent.
AT_EXIT=()
AT_EXIT_OWNER=$BASHPID
at_exit() {
  [ "$BASHPID" -eq "$AT_EXIT_OWNER" ] || AT_EXIT=()
  AT_EXIT_OWNER=$BASHPID
  AT_EXIT=("$(printf '%q ' "$@")" "${AT_EXIT[@]}")
  trap run_at_exit EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
}
run_at_exit() {
  local command
  for command in "${AT_EXIT[@]}"; do eval "$command" || true; done
}

APT_UPDATED=
apt_update() {
  [ -z "$APT_UPDATED" ] || return 0
  apt_options
  say 'apt: updating the package lists'
  apt-get "${APT_OPTIONS[@]}" update >&2 || die 'apt-get update failed' 'check the apt sources and the network'
  APT_UPDATED=1
}

is_installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# missing_packages NAME…: prints those that are not installed.
missing_packages() {
  local name
  for name in "$@"; do is_installed "$name" || printf '%s\n' "$name"; done
}

# apt_install PACKAGE-OR-FILE…: installs what is not there yet. The package lists are updated only if it fails
# without, since lists that are too old name files the mirror no longer has.
apt_install() {
  local -a wanted
  mapfile -t wanted < <(missing_packages "$@")
  [ "${#wanted[@]}" -gt 0 ] || return 0
  have apt-get || die "${wanted[*]} not found, and this system has no apt" 'install them with its own package manager'
  need_root "installing ${wanted[*]}"
  apt_options
  say "apt: installing ${wanted[*]}"
  apt_install_once "${wanted[@]}" && return 0
  [ -z "$APT_UPDATED" ] || die "apt-get could not install ${wanted[*]}" 'its own message is above'
  say 'apt: that failed; once more with fresh package lists'
  apt_update
  apt_install_once "${wanted[@]}" || die "apt-get could not install ${wanted[*]}" 'its own message is above'
}
# Quiet unless it fails.
apt_install_once() {
  DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 apt-get "${APT_OPTIONS[@]}" -o Dpkg::Use-Pty=0 \
    install -y --no-install-recommends "$@" >"$APT_FOLDER/log" 2>&1 && return 0
  cat "$APT_FOLDER/log" >&2
  return 1
}

# debian_mirror: prints the address of the Debian archive this machine's apt is configured with, without a closing
# slash. `GRIDFAAS_DEBIAN_MIRROR` overrides it.
debian_mirror() {
  local mirror=${GRIDFAAS_DEBIAN_MIRROR:-}
  if [ -z "$mirror" ] && have apt-get; then
    mirror=$(debian_mirror_from_apt)
    if [ -z "$mirror" ] && [ "$(id -u)" -eq 0 ]; then
      # apt knows whose archive it is only from a downloaded list.
      apt_update
      mirror=$(debian_mirror_from_apt)
    fi
  fi
  [ -n "$mirror" ] || die 'no Debian mirror in the apt configuration' 'set GRIDFAAS_DEBIAN_MIRROR to the address of one'
  printf '%s\n' "${mirror%/}"
}
# The label tells the archive itself (`Debian`) from `Debian-Security` and from third parties.
# shellcheck disable=SC2016 # apt's own variable, not the shell's.
debian_mirror_from_apt() {
  apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' 'Component: main' \
    2>/dev/null | head -n 1 || true
}

# debian_keyring: prints the file that holds the archive's public keys.
debian_keyring() {
  local keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  [ -f "$keyring" ] || apt_install debian-archive-keyring
  [ -f "$keyring" ] || die "\`$keyring\` not found" 'install the package debian-archive-keyring'
  printf '%s\n' "$keyring"
}

# unstable_download FOLDER PACKAGE…: puts packages of Debian's unstable suite in the folder, from the mirror of this
# machine. apt does it, so signature and checksums are verified, but with lists of its own: the system's apt never hears of
# unstable.
UNSTABLE=
unstable_download() {
  local folder=$1 mirror keyring
  shift
  if [ -z "$UNSTABLE" ]; then
    mirror=$(debian_mirror)
    keyring=$(debian_keyring)
    UNSTABLE=$(mktemp -d)
    at_exit rm -rf "$UNSTABLE"
    mkdir -p "$UNSTABLE"/{lists,archives}/partial
    : >"$UNSTABLE/status"
    printf 'Types: deb\nURIs: %s\nSuites: sid\nComponents: main\nSigned-By: %s\n' "$mirror" "$keyring" >"$UNSTABLE/sid.sources"
    # Read after the system's configuration, whose hooks after an update are meant for the system's cache.
    cat >"$UNSTABLE/apt.conf" <<END
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Dir::Etc::SourceList "$UNSTABLE/sid.sources";
Dir::Etc::SourceParts "/dev/null";
Dir::State::Lists "$UNSTABLE/lists";
Dir::State::Status "$UNSTABLE/status";
Dir::Cache "$UNSTABLE";
Acquire::Languages "none";
// A mirror kept at a date has a Release file whose end has passed; its signature is checked all the same.
Acquire::Check-Valid-Until "false";
// The folders are ours alone, so the download needs no user of its own.
APT::Sandbox::User "root";
END
    apt-get -qq -c "$UNSTABLE/apt.conf" -o APT::Update::Error-Mode=any update >&2 ||
      die 'the package list of Debian unstable could not be read' 'does the mirror of apt carry the suite sid?'
  fi
  (cd "$folder" && apt-get -qq -c "$UNSTABLE/apt.conf" download "$@" >&2) ||
    die "$* of Debian unstable could not be downloaded" "apt's own message is above"
}
