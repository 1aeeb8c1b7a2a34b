#!/usr/bin/env bash
# Builds the Debian package: the command, both services with their units, configuration, manual pages, completions and these
# scripts.
#
# usage: package.sh [--version VERSION] [--profile release|dev] [--to FOLDER]
#   --version VERSION   of the package; default the workspace's
#   --profile PROFILE   dev is quicker to build, and slow; default release
#   --to FOLDER         default target/debian
#
# Prints the package's path. Needs cargo; installs cargo-deb below target/ with `cargo install`. The package runs on systems whose
# C library is not older than the one it was built with.
set -euo pipefail
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"

readonly CARGO_DEB=3.8.0

take_options 'version= profile= to=' "$@"
arguments_at_most 0
version=${option[version]:-} profile=${option[profile]:-release} to=${option[to]:+$(realpath "${option[to]}")}
case $profile in
  release) built=release fast=() ;;
  dev) built=debug fast=(--fast) ;;
  *) wrong_usage '--profile is release or dev' ;;
esac
cd "$here/../.."
have cargo || die 'no cargo on PATH' 'install Rust, for example with rustup'
have dpkg-shlibdeps || apt_install dpkg-dev
have strip || apt_install binutils
have jq || apt_install jq
target=$(cargo metadata --locked --no-deps --format-version 1 | jq -r .target_directory)
to=${to:-$target/debian}

tools=$target/tools
if ! "$tools/bin/cargo-deb" --version 2>/dev/null | grep -qF "$CARGO_DEB"; then
  say "cargo: installing cargo-deb $CARGO_DEB in $tools"
  cargo install --quiet --locked --root "$tools" --version "=$CARGO_DEB" cargo-deb >&2
fi

# All of the workspace, so that features are the same as for everything else that is built here.
cargo build --quiet --locked --workspace --bins --profile "$profile" >&2
for shell in bash zsh fish; do
  mkdir -p "$target/$built/completions"
  case $shell in zsh) file=_gridfaas ;; *) file=gridfaas.$shell ;; esac
  "$target/$built/gridfaas" completions "$shell" >"$target/$built/completions/$file"
done
rm -rf "$target/$built/man"
"$target/$built/gridfaas" man --to "$target/$built/man"
gzip -9n "$target/$built/man"/*.1
"$tools/bin/cargo-deb" --no-build --locked --quiet --package cli --profile "$profile" --output "$to/" \
  --compress-type xz --compress-system "${fast[@]}" ${version:+--deb-version "$version"}
