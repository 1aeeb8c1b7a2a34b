#!/usr/bin/env bash
# Shows that the tests of credit-manager take every branch of the code that decides about money.
#
# usage: coverage.sh
#
# Unit, property and component tests run with LLVM's source-based coverage; its report names each branch that is never
# taken or always taken, and the exit status is 1 if there is one. Needs the `llvm-cov` and `llvm-profdata` of the LLVM
# that rustc is built with; on Debian they are installed where they are missing.
set -euo pipefail
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"
cd "$here/../.."
readonly SOURCE=services/credit-manager/src

case ${1:-} in
  '') ;;
  -h | --help)
    usage "$0"
    exit 0
    ;;
  *) wrong_usage "unknown argument \`$1\`" ;;
esac

# What decides how much is charged, granted, stopped and paid, and the ledger that keeps it. The rest of credit-manager
# carries messages between these and the outside.
readonly FILES=("$SOURCE"/ledger/*.rs "$SOURCE"/{rating,grant,standing,settlement/split}.rs)

llvm=$(rustc -vV | sed -nE 's/^LLVM version: ([0-9]+).*/\1/p')
have "llvm-cov-$llvm" || apt_install "llvm-$llvm"
have jq || apt_install jq

work=$(mktemp -d)
at_exit rm -rf "$work"
# Branches are still an unstable option of rustc; only the crates of this workspace are compiled with it. bash, because
# dash drops variables with a hyphen in their name, such as CARGO_BIN_EXE_credit-manager.
wrapper=$PWD/target/coverage/rustc
mkdir -p "$(dirname "$wrapper")"
cat >"$wrapper" <<'WRAPPER'
#!/usr/bin/env bash
exec env RUSTC_BOOTSTRAP=1 "$@" -C instrument-coverage -Z coverage-options=branch
WRAPPER
chmod +x "$wrapper"
export RUSTC_WORKSPACE_WRAPPER=$wrapper LLVM_PROFILE_FILE=$work/%p-%m.profraw

targets=(--lib --bin credit-manager)
for test in services/credit-manager/tests/*.rs; do targets+=(--test "$(basename "$test" .rs)"); done
say 'building the tests of credit-manager'
cargo test --locked --workspace "${targets[@]}" --no-run --message-format json-render-diagnostics |
  jq -r 'select(.executable and .profile.test and (.manifest_path | endswith("/credit-manager/Cargo.toml"))) | .executable' \
    >"$work/tests"
say 'running them'
while read -r test; do
  (cd services/credit-manager && "$test" --quiet </dev/null >"$work/log" 2>&1) || {
    cat "$work/log" >&2
    die "$(basename "$test") failed"
  }
done <"$work/tests"

"llvm-profdata-$llvm" merge --sparse "$work"/*.profraw -o "$work/profile"
mapfile -t objects < <(sed 's/^/--object=/' "$work/tests")
"llvm-cov-$llvm" export --format=lcov --instr-profile="$work/profile" "${objects[@]}" \
  --sources "${FILES[@]}" >"$work/lcov"
# BRDA:LINE,BLOCK,BRANCH,TAKEN: `-` and 0 are branches never taken. Tests are no part of what they test.
awk -F'[:,]' '
  /^SF:/ { file = substr($0, 4); sub(/.*\/credit-manager\/src\//, "", file); tests = 0
           while ((getline text < substr($0, 4)) > 0) { number[file]++; if (text == "#[cfg(test)]" && !end[file]) end[file] = number[file] } }
  /^BRDA:/ && (!end[file] || $2 < end[file]) {
    found[file]++; if ($5 != "-" && $5 != 0) hit[file]++; else printf "%s:%d: a branch is never taken\n", file, $2 }
  END { for (file in found) { printf "%-24s %d of %d branches\n", file, hit[file], found[file]; all += found[file]; taken += hit[file] }
        printf "all %d of %d branches\n", taken, all; exit taken < all }' "$work/lcov"
