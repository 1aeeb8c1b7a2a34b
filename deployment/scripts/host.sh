# shellcheck shell=bash
# shellcheck disable=SC2034 # Some of it is for those who source this.
# A machine that the services run on: its files, its configuration, its services; sourced after lib.sh, not run.
#
# Everything here can be done again without harm, and is only said with DRY_RUN.

# What ends a pipeline may set `changed`.
shopt -s lastpipe

readonly CONFIG=/etc/gridfaas
readonly STATE=/var/lib/gridfaas
readonly CREDIT_CONFIG=$CONFIG/credit-manager.toml
readonly NODE_CONFIG=$CONFIG/container-manager.toml
# What `gridfaas` reads from its environment on this machine.
readonly OPERATOR_ENV=$CONFIG/operator.env
readonly CREDIT=gridfaas-credit-manager.service
readonly NODE=gridfaas-container-manager.service
# The user credit-manager runs as, made by the package.
readonly OWNER=gridfaas
# A slow disk with a ledger to replay takes a part of this.
readonly START_S_MAX=90

has_systemd() { [ -d /run/systemd/system ]; }

# write_file PATH MODE OWNER: replaces a file with standard input, at once and only if that changes it. Says so, and adds
# it to `changed`.
changed=
write_file() {
  local path=$1 mode=$2 owner=$3 new
  if [ -n "$DRY_RUN" ]; then
    cat >/dev/null
    say "would write: $path (mode $mode, of $owner)"
    return 0
  fi
  new=$(mktemp "$path.XXXXXX")
  cat >"$new"
  chown "$owner" "$new"
  chmod "$mode" "$new"
  if cmp --silent "$new" "$path" && [ "$(stat -c '%a %U' "$new")" = "$(stat -c '%a %U' "$path")" ]; then
    rm "$new"
  else
    mv "$new" "$path"
    case $changed in *"<$path>"*) ;; *) say "wrote: $path" ;; esac
    changed+="<$path>"
  fi
}

# set_key FILE SECTION KEY VALUE: gives a key of a configuration file a value, as it is written there; none comments the key
# out. All else stays as it is, a commented-out key or section comes to life. SECTION is empty above the first one.
set_key() {
  local file=$1 section=$2 key=$3 value=$4
  if [ -n "$DRY_RUN" ]; then
    say "would set: $file: ${section:+$section.}$key = ${value:-(nothing)}"
    return 0
  fi
  SECTION=$section KEY=$key VALUE=$value awk '
    BEGIN { section = ENVIRON["SECTION"]; key = ENVIRON["KEY"]; value = ENVIRON["VALUE"] }
    function put() {
      if (!done && value != "") print key " = " value
      done = 1
    }
    /^(# )?\[\[?[a-z_.]+\]\]?$/ {
      if (here == section) put()
      here = $0
      gsub(/[][# ]/, "", here)
      if (here == section && value != "") sub(/^# /, "")
    }
    here == section && index($0, key " = ") == 1 && value == "" { $0 = "# " $0 }
    here == section && (index($0, key " = ") == 1 || index($0, "# " key " = ") == 1) && value != "" {
      put()
      next
    }
    { print }
    END {
      if (!done && here != section && value != "") print "\n[" section "]"
      put()
    }' "$file" | write_file "$file" 644 root
}

# set_text FILE SECTION KEY TEXT: as `set_key`, for text.
set_text() {
  case $4 in *[\"\\]* | *[[:cntrl:]]*) die "\`$4\` has characters that cannot be meant" ;; esac
  set_key "$1" "$2" "$3" "\"$4\""
}

# get_key FILE SECTION KEY: prints the value that is set, without its quotes; fails if there is none.
get_key() {
  SECTION=$2 KEY=$3 awk '
    /^(# )?\[\[?[a-z_.]+\]\]?$/ { here = $0; gsub(/[][# ]/, "", here) }
    here == ENVIRON["SECTION"] && index($0, ENVIRON["KEY"] " = ") == 1 {
      sub(/^[^=]*= /, "")
      gsub(/^"|"$/, "")
      print
      found = 1
      exit
    }
    END { exit !found }' "$1" 2>/dev/null
}

# put_secret FROM TO OWNER: a secret file of its owner alone.
put_secret() {
  [ -s "$1" ] || die "\`$1\` is no file with a secret in it" 'write the secret into a file of mode 600 and name that'
  head -n 1 "$1" | write_file "$2" 400 "$3"
}

# installed_version: prints the version of the package; nothing if it is not installed.
installed_version() { is_installed gridfaas && dpkg-query -W -f '${Version}' gridfaas; }

# install_package FILE: installs a package of gridfaas, newer or older than what is there, and keeps the file for a way back.
# A configuration file that was changed here stays as it is.
install_package() {
  local file=$1 version kept
  version=$(dpkg-deb -f "$file" Version 2>/dev/null) || die "\`$file\` is no Debian package" 'package.sh builds one'
  [ "$(dpkg-deb -f "$file" Package)" = gridfaas ] || die "\`$file\` is the package of something else"
  if [ "$(installed_version)" = "$version" ]; then
    say "gridfaas $version is installed"
    return 0
  fi
  kept=$STATE/packages/gridfaas_$version.deb
  if [ "$(realpath "$file")" != "$kept" ]; then
    run install -D -m 644 "$file" "$kept"
  fi
  apt_options
  say "apt: installing gridfaas $version"
  run env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 apt-get "${APT_OPTIONS[@]}" -o Dpkg::Use-Pty=0 \
    -o Dpkg::Options::=--force-confold install -y --no-install-recommends --allow-downgrades "$(realpath "$file")" >&2 ||
    die "gridfaas $version could not be installed" "apt's own message is above"
}

need_package() {
  [ -n "$DRY_RUN" ] || [ -n "$(installed_version)" ] ||
    die 'the package gridfaas is not installed' 'name one with --package; package.sh builds it'
}

# start_services UNIT…: starts them now and at each boot, again if something was changed; running tasks go on.
start_services() {
  local unit
  if ! has_systemd; then
    [ -n "$DRY_RUN" ] || die 'all is set up, but there is no systemd here to start the services' \
      'start them yourself, by User and ExecStart of /usr/lib/systemd/system/gridfaas-*-manager.service'
    say 'there is no systemd here: you would have to start the services yourself'
    return 0
  fi
  run systemctl --quiet enable "$@"
  for unit in "$@"; do
    if [ -n "$changed" ]; then run systemctl restart "$unit"; else run systemctl start "$unit"; fi
  done
}

# operator COMMAND…: `gridfaas`, told where this machine's services are.
operator() (
  # shellcheck disable=SC1090 # Written by deploy.sh.
  . "$OPERATOR_ENV"
  exec gridfaas "$@"
)

# wait_for WHAT COMMAND…: until the command succeeds; its last words are the error otherwise.
wait_for() {
  local what=$1 waited said
  shift
  for ((waited = 0; waited < START_S_MAX; waited++)); do
    if said=$("$@" 2>&1); then return 0; fi
    sleep 1
  done
  die "$what does not answer" "$said; see also: journalctl -u 'gridfaas-*'"
}

# check_services: waits until what is set up here answers.
check_services() {
  [ -z "$DRY_RUN" ] || return 0
  [ -f "$OPERATOR_ENV" ] || die "there is no \`$OPERATOR_ENV\`" 'deploy.sh single, or join, writes it'
  if [ -d "$STATE/credit" ]; then
    wait_for credit-manager operator --quiet user list
    say 'credit-manager answers'
  fi
  # Anybody may ask for the key.
  wait_for container-manager operator --quiet node key
  say 'container-manager answers'
}
