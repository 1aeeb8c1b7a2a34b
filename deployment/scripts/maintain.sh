#!/usr/bin/env bash
# Looks after a machine that deploy.sh set up: new versions and the way back, backups, and its end.
#
# usage: maintain.sh backup FOLDER        copies the ledger, keys, tokens and configuration to a folder below FOLDER
#        maintain.sh upgrade PACKAGE      another version, after a backup; running tasks go on
#        maintain.sh rollback [PACKAGE]   the version of before the last upgrade, or of PACKAGE
#        maintain.sh remove [--purge]     stops everything and takes the package away; tasks go back to the queue
#
#   --purge     with `remove`: the ledger, keys and configuration too. What users own is then known to nobody; back up first
#   --dry-run   says what would be done, and does nothing
#
# Each can be run again. Needs root. The wallet is gridcoin.sh's matter, and the buckets are the object store's.
set -euo pipefail
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"
# shellcheck source-path=SCRIPTDIR source=host.sh
. "$here/host.sh"

readonly BACKUPS=$STATE/backups
# The version that an upgrade replaced.
readonly BEFORE=$STATE/packages/before

take_command 'backup upgrade rollback remove' "$@"
take_options 'purge dry-run' "${@:2}"
arguments_at_most 1
purge=${option[purge]:-} argument=${arguments[0]:-}
[ -n "$DRY_RUN" ] || need_root "maintain.sh $command"

# copy FROM… TO: those that are there, with owner and mode.
copy() {
  local to=${!#} from
  for from in "${@:1:$#-1}"; do
    if [ -n "$DRY_RUN" ] || [ -e "$from" ]; then run cp -a "$from" "$to/"; fi
  done
}

# back_up FOLDER: sets `backup` to a new folder with all that this machine cannot make again.
back_up() {
  backup=$1/gridfaas-$(date -u +%Y%m%dT%H%M%SZ)
  run install -d -m 700 "$backup"
  copy "$CONFIG" "$STATE"/container-manager/{receipt-key.pk8,settings.json} "$STATE/credit/access.json" "$backup"
  if [ -n "$DRY_RUN" ] || [ -d "$STATE/credit" ]; then
    run operator --quiet ledger backup "$backup/ledger.db" >&2
    run gridfaas ledger verify "$backup/ledger.db" >&2
  fi
  [ -n "$DRY_RUN" ] || say "backed up to $backup"
}

upgrade() {
  local version
  [ -n "$argument" ] || wrong_usage 'upgrade needs a package'
  need_package
  version=$(installed_version) || version='(the version of now)'
  if [ -n "$DRY_RUN" ] || [ -f "$OPERATOR_ENV" ]; then back_up "$BACKUPS"; fi
  [ -f "$STATE/packages/gridfaas_$version.deb" ] || [ -n "$DRY_RUN" ] ||
    warn "the package of $version is not in $STATE/packages: name it if you want to go back"
  install_package "$argument"
  [ "$(installed_version)" = "$version" ] || write_file "$BEFORE" 644 root <<<"$version"
  say "the way back: maintain.sh rollback"
  check_services
}

rollback() {
  local version
  need_package
  if [ -z "$argument" ]; then
    version=$(cat "$BEFORE" 2>/dev/null) || [ -n "$DRY_RUN" ] || die 'no upgrade is known here' 'name the package to go back to'
    argument=$STATE/packages/gridfaas_${version:-VERSION}.deb
    if [ -n "$DRY_RUN" ] && [ ! -f "$argument" ]; then
      say "would install: $argument"
      return 0
    fi
  fi
  install_package "$argument"
  say "if a service refuses its database as one of a newer version: go forward again, or restore a backup of $BACKUPS"
  check_services
}

remove() {
  local how=remove
  [ -z "$purge" ] || how=purge
  if [ -z "$DRY_RUN" ] && ! dpkg-query -W gridfaas >/dev/null 2>&1; then
    say 'gridfaas is not installed'
    return 0
  fi
  apt_options
  run env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 apt-get "${APT_OPTIONS[@]}" -o Dpkg::Use-Pty=0 "$how" -y gridfaas >&2
  [ -n "$purge" ] || say "kept: $CONFIG and $STATE, for another installation; --purge deletes them"
}

case $command in
  backup)
    [ -n "$argument" ] || wrong_usage 'backup needs a folder'
    back_up "$argument"
    ;;
  *) "$command" ;;
esac
