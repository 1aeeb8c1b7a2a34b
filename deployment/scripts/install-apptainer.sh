#!/usr/bin/env bash
# Installs Apptainer 1.4.5 or newer, and the tools it calls.
#
# usage: install-apptainer.sh [--check | --dry-run]
#   --check     only tells whether a good Apptainer is here: exit status 0 or 1
#   --dry-run   says what would be done, and does nothing
#
# Takes the first of these that there is:
#   1. an Apptainer on PATH that is new enough: nothing to do
#   2. the package of the apt sources of this machine
#   3. on Debian: the package of Debian's unstable suite, from the mirror that apt is configured with. Where the C library
#      is too old for it (Debian 12), the package is repacked with the newer C library inside; the system's own stays.
#
# apt checks every download against the signed Release file, by the keys of debian-archive-keyring.
set -euo pipefail
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"

# 1.4.5 mends CVE-2025-65105: before it, a `--security` flag could be silently without effect.
readonly WANTED=1.4.5
# mksquashfs for images, newuidmap for user namespaces, the network plugins for `--net`.
readonly TOOLS=(squashfs-tools uidmap containernetworking-plugins)

take_options 'check dry-run' "$@"
arguments_at_most 0
mode=install
[ -z "${option[check]:-}" ] || mode=check
[ -z "${option[dry-run]:-}" ] || mode=dry-run

# Prints the version of the Apptainer on PATH; fails if there is none that runs.
installed_version() {
  local text
  text=$(apptainer --version 2>/dev/null) || return 1
  # `apptainer version 1.4.5-2`, with a packager's suffix or without.
  text=${text##* }
  printf '%s\n' "${text%%[-+~]*}"
}

check() {
  local version
  have apptainer || die 'no apptainer on PATH' "run $0"
  version=$(installed_version) || die "\`$(command -v apptainer)\` does not run" "see what \`apptainer --version\` says, or run $0"
  version_at_least "$version" "$WANTED" ||
    die "apptainer $version at \`$(command -v apptainer)\` is too old, $WANTED or newer is needed" "run $0"
  say "apptainer $version at $(command -v apptainer)"
}

# Prints the newest version that the configured apt sources offer; nothing if none.
candidate_version() {
  have apt-cache || return 0
  LC_ALL=C apt-cache policy apptainer 2>/dev/null | awk '$1 == "Candidate:" && $2 != "(none)" { print $2 }'
}

is_debian() { (. /etc/os-release && [ "$ID" = debian ]) 2>/dev/null; }

# Puts the C library of `$work/libc` beside the binaries of the package tree at `$1`, and points them there.
bundle_libc() {
  local tree=$1 folder binary loader name
  local -a found
  found=("$tree"/usr/lib/*/apptainer)
  folder=${found[0]}/glibc
  mkdir -p "$folder"
  for name in 'ld-linux*.so.*' libc.so.6 libm.so.6 libresolv.so.2 'libnss_*.so.2' libpthread.so.0 libdl.so.2 librt.so.1; do
    # With or without the merged /usr: the libraries' own folder is the one deeper than /usr/lib64.
    find "$work/libc" -path '*/lib/*' -name "$name" -not -path '*/gconv/*' -exec cp -Lt "$folder" {} +
  done
  found=("$folder"/ld-linux*)
  loader=${found[0]}
  if [ ! -f "$loader" ] || [ ! -f "$folder/libc.so.6" ]; then
    die 'the libc6 package has no loader or no libc.so.6' 'its layout may have changed'
  fi
  for binary in "$tree/usr/bin/apptainer" "$tree"/usr/lib/*/apptainer/bin/starter; do
    # An old-style RPATH also holds for the libraries' own needs, so that no library of the older set is mixed in.
    patchelf --set-interpreter "${loader#"$tree"}" --force-rpath --set-rpath "${folder#"$tree"}" "$binary"
  done
}

# repack PACKAGE LIBC6-PACKAGE: makes `$work/apptainer.deb`, which has the C library inside and demands no newer one.
repack() {
  local tree=$work/tree
  apt_install patchelf
  say 'repacking it with the newer C library inside: the one of this system is too old for it'
  dpkg-deb -R "$1" "$tree"
  dpkg-deb -x "$2" "$work/libc"
  bundle_libc "$tree"
  # The suffix sorts before the original's version, so an upgrade to a real package stays possible.
  sed -i -E '/^Depends:/ s/libc6 \(>= [^)]*\)/libc6/; s/^(Version: .*)$/\1~gridfaas1/' "$tree/DEBIAN/control"
  (cd "$tree" && find . -type f -not -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
  # gzip at its lowest level: the package is installed from here and then thrown away.
  dpkg-deb -Zgzip -z1 --root-owner-group -b "$tree" "$work/apptainer.deb" >/dev/null
}

install_from_unstable() {
  local package libc_wanted libc_have
  work=$(mktemp -d)
  at_exit rm -rf "$work"
  say 'apptainer: not in the apt sources of this machine; taking it from Debian unstable on the same mirror'
  unstable_download "$work" apptainer
  package=$(echo "$work"/apptainer_*.deb)
  version_at_least "$(dpkg-deb -f "$package" Version)" "$WANTED" ||
    die "Debian unstable has apptainer $(dpkg-deb -f "$package" Version), $WANTED or newer is needed" 'install Apptainer by hand'

  libc_wanted=$(dpkg-deb -f "$package" Depends | sed -nE 's/.*libc6 \(>= ([^)]*)\).*/\1/p')
  libc_have=$(dpkg-query -W -f '${Version}' libc6 2>/dev/null || echo 0)
  if dpkg --compare-versions "$libc_have" ge "${libc_wanted:-0}"; then
    cp "$package" "$work/apptainer.deb"
  else
    unstable_download "$work" libc6
    repack "$package" "$(echo "$work"/libc6_*.deb)"
  fi
  # apt drops to the user `_apt` to read a local package; make it readable, or it warns.
  chmod 755 "$work"
  chmod 644 "$work/apptainer.deb"
  apt_install "$work/apptainer.deb"
}

if [ "$mode" = check ]; then
  check
  exit 0
fi

mapfile -t tools_missing < <(have dpkg-query && missing_packages "${TOOLS[@]}")
plan=()
[ "${#tools_missing[@]}" -eq 0 ] || plan+=("install ${tools_missing[*]} with apt")

if version=$(installed_version) && version_at_least "$version" "$WANTED"; then
  source=path
elif candidate=$(candidate_version) && [ -n "$candidate" ] && version_at_least "$candidate" "$WANTED"; then
  source=apt
  plan+=("install apptainer $candidate with apt")
elif is_debian; then
  source=unstable
  plan+=('download apptainer from Debian unstable on the mirror of apt, with the newer C library inside if this one is too old, and install it')
else
  die "no Apptainer $WANTED or newer here, and none in the apt sources" 'install it from the Apptainer project, then run this again'
fi

if [ "${#plan[@]}" -eq 0 ]; then
  check
  say 'nothing to do'
  exit 0
fi
if [ "$mode" = dry-run ]; then
  [ "$source" != path ] || check
  for step in "${plan[@]}"; do say "would $step"; done
  exit 0
fi

need_root 'installing Apptainer'
[ "${#tools_missing[@]}" -eq 0 ] || apt_install "${tools_missing[@]}"
case $source in
  # With the version, so that an older one that is installed does not pass for it.
  apt) apt_install "apptainer=$candidate" ;;
  unstable) install_from_unstable ;;
esac
hash -r
check
