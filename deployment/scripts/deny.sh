#!/usr/bin/env bash
# Checks the crates that gridfaas is built from, by .deny.toml: their licences, crates that are not to be used, where they come
# from.
#
# usage: deny.sh [--advisories]
#   --advisories    looks for known defects as well; fetches the advisory database from GitHub
#
# Installs cargo-deny if it is missing, which takes as long as a build of gridfaas. Exit status 1 if something is found.
set -euo pipefail
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"
cd "$here/../.."

checks=(licenses bans sources)
case ${1:-} in
  '') ;;
  --advisories) checks+=(advisories) ;;
  -h | --help)
    usage "$0"
    exit 0
    ;;
  *) wrong_usage "unknown argument \`$1\`" ;;
esac
have cargo || die 'no cargo on PATH' 'install Rust, for example with rustup'
cargo deny --version >/dev/null 2>&1 || cargo install --locked cargo-deny
exec cargo deny --locked check --hide-inclusion-graph "${checks[@]}"
