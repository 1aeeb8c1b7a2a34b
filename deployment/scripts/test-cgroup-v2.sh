#!/usr/bin/env bash
# Runs the control group tests on pure cgroup v2, in the guest of guest.sh: whatever hierarchies this machine has, both
# kinds are then tested.
#
# usage: test-cgroup-v2.sh
set -euo pipefail
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"
cd "$here/../.."

case ${1:-} in
  '') ;;
  -h | --help)
    usage "$0"
    exit 0
    ;;
  *) wrong_usage "unknown argument \`$1\`" ;;
esac

# cargo names the test program where it tells people about it. With the features of the whole workspace, as the tests
# before have built it: asked for one package alone, cargo would build half of the dependencies anew.
program=$(cargo test --locked --no-run --workspace --test cgroup 2>&1 |
  sed -n 's/^ *Executable .*(\(.*\))$/\1/p')
[ -n "$program" ] || die 'the control group tests could not be built' 'cargo test --workspace --test cgroup'

share=$(mktemp -d -t gridfaas-guest.XXXXXX)
at_exit rm -rf "$share"
cp "$program" "$share/cgroup"
"$here/guest.sh" build
"$here/guest.sh" run -s "$share" "$share/cgroup" --test-threads=1
