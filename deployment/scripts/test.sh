#!/usr/bin/env bash
# Installs what the tests need and runs every one of them, those with real containers and control groups included.
#
# usage: test.sh
#
# As root on Debian, where nothing but Rust, git and apt has to be there. Running it again is quick: what is installed
# and built stays. Stops at the first step that fails; the last line of a good run is `tests ok`.
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

step() { say "== $*"; }

step 'installing what the tests need'
need_root 'testing with real containers and control groups'
have cargo || die 'no cargo on PATH' 'install Rust, for example with rustup'
for component in fmt clippy; do
  cargo "$component" --version >/dev/null 2>&1 || die "cargo has no \`$component\`" 'rustup component add rustfmt clippy'
done
# A C compiler for SQLite and ring; stock S3 clients to test the store with; jq for the demo; a browser for
# the dashboard; Prometheus for the metrics.
apt_install gcc libc6-dev shellcheck jq procps bsdextrautils curl python3-venv rclone chromium chromium-driver prometheus
"$here/install-apptainer.sh"
for image in base stress; do images/build.sh "$image" >/dev/null; done
images/build.sh base target/images/base.dir >/dev/null

step 'formatting'
cargo fmt --all --check

step 'shell scripts'
git ls-files -z -- '*.sh' deployment/debian .ci/run | xargs -0 shellcheck --external-sources

step 'lints'
cargo clippy --locked --workspace --all-targets -- -D warnings

step 'tests'
cargo test --locked --workspace

step 'the deployment scripts'
"$here/test-deployment.sh" --binary "${CARGO_TARGET_DIR:-target}/debug/gridfaas"

step 'control groups on pure cgroup v2'
"$here/test-cgroup-v2.sh"

step 'the demo'
"$here/demo.sh" --binary "${CARGO_TARGET_DIR:-target}/debug/gridfaas"
echo 'tests ok'
