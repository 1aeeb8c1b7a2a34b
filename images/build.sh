#!/usr/bin/env bash
# Builds an image of this folder from Debian packages alone; no container registry is asked.
#
# usage: images/build.sh [--force] NAME [OUTPUT]
#   NAME      a folder beside this script that holds an image.def
#   OUTPUT    default target/images/NAME.sif; a name that ends in .dir is made an unpacked image folder
#   --force   builds even if the cache has this image, to take in newer packages
#
# Prints the path of the result. Images are cached by the digest of their definition in
# ${XDG_CACHE_HOME:-~/.cache}/gridfaas/images, so the second call is a copy, and the third does nothing.
set -euo pipefail
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
root=$(dirname "$here")
# shellcheck source-path=SCRIPTDIR source=../deployment/scripts/lib.sh
. "$root/deployment/scripts/lib.sh"

take_options 'force' "$@"
force=${option[force]:-}
if [ "${#arguments[@]}" -lt 1 ] || [ "${#arguments[@]}" -gt 2 ]; then wrong_usage 'one image name and at most one output are wanted'; fi
name=${arguments[0]}
output=${arguments[1]:-$root/target/images/$name.sif}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/gridfaas/images

definition() { printf '%s\n' "$here/$1/image.def"; }
# Whether an image starts from the base image; the name of the build argument is the contract.
starts_from_base() { grep -q '{{ base }}' "$(definition "$1")"; }

# image_key NAME: prints a digest of everything of ours that goes into the image.
image_key() {
  {
    cat "$(definition "$1")"
    if starts_from_base "$1"; then image_key base; fi
  } | sha256sum | cut -c 1-16
}
cached() { printf '%s/%s-%s.sif\n' "$cache" "$1" "$(image_key "$1")"; }

# in_user_namespace COMMAND…: runs it as root of a user namespace with the ids mapped to themselves. There Apptainer has
# every capability it asks for, also where the machine's root lacks some, and a definition has no power over the machine.
in_user_namespace() {
  local gate child own status=0
  gate=$(mktemp -u)
  mkfifo -m 600 "$gate"
  own=$(readlink /proc/self/ns/user)
  # Only the first program started after the map is written gets the capabilities; till then the gate holds it.
  # shellcheck disable=SC2016 # For the inner shell.
  unshare --user --mount bash -c 'read -r _ <"$0"; exec "$@"' "$gate" "$@" &
  child=$!
  while [ "$(readlink "/proc/$child/ns/user" || echo "$own")" = "$own" ]; do
    kill -0 "$child" 2>/dev/null || die 'no user namespace could be made' 'see /proc/sys/user/max_user_namespaces'
    sleep 0.01
  done
  # Not the whole range of ids: by that Apptainer would take the namespace for the machine's own.
  echo '0 0 65536' >"/proc/$child/uid_map"
  echo '0 0 65536' >"/proc/$child/gid_map"
  echo go >"$gate"
  rm -f "$gate"
  wait "$child" || status=$?
  return "$status"
}

# build_cached NAME: puts the image in the cache unless it is there.
build_cached() {
  local name=$1 sif work log
  local -a build_arguments
  sif=$(cached "$name")
  if [ -f "$sif" ] && [ -z "$force" ]; then return; fi

  need_root "building the image \`$name\`"
  "$root/deployment/scripts/install-apptainer.sh" --check 2>/dev/null || "$root/deployment/scripts/install-apptainer.sh"
  if starts_from_base "$name"; then
    build_cached base
    build_arguments=(--build-arg "base=$(cached base)")
  else
    apt_install debootstrap
    build_arguments=(--build-arg "mirror=$(debian_mirror)")
  fi
  work=$(mktemp -d "$cache/build.XXXXXX")
  at_exit rm -rf --one-file-system "$work"
  log=$work/log
  say "building the image \`$name\`"
  APPTAINER_TMPDIR=$work APPTAINER_CACHEDIR=$work/cache TMPDIR=$work in_user_namespace \
    apptainer build "${build_arguments[@]}" "$work/$name.sif" "$(definition "$name")" </dev/null >"$log" 2>&1 || {
    cat "$log" >&2
    die "the image \`$name\` could not be built" "apptainer's output is above"
  }
  find "$cache" -maxdepth 1 -name "$name-*.sif" -delete
  mv "$work/$name.sif" "$sif"
}

# unpack SIF FOLDER: as an image folder that `apptainer exec` takes in place of the file, with a faster start.
unpack() {
  local offset
  offset=$(apptainer sif list "$1" | awk -F '|' '/FS \(Squashfs/ { split($4, range, "-"); print range[1] + 0 }')
  [ -n "$offset" ] || die "\`$1\` holds no squashfs" 'is it encrypted?'
  unsquashfs -n -q -f -o "$offset" -d "$2" "$1" >/dev/null
}

[ -f "$(definition "$name")" ] || die "no image \`$name\`" "there are: $(cd "$here" && echo */image.def | sed 's|/image.def||g')"
mkdir -p "$cache" "$(dirname "$output")"
# One build at a time: the second of two finds the first one's result.
exec {lock}>"$cache/lock"
flock "$lock"

build_cached "$name"
sif=$(cached "$name")
case $output in
  *.dir)
    stamp=$output/.singularity.d/gridfaas-image
    if [ "$(cat "$stamp" 2>/dev/null)" != "$(stat -c '%n %Y' "$sif")" ]; then
      rm -rf --one-file-system "$output" "$output.new"
      unpack "$sif" "$output.new"
      stat -c '%n %Y' "$sif" >"$output.new/.singularity.d/gridfaas-image"
      mv "$output.new" "$output"
    fi
    ;;
  *)
    if ! cmp -s "$sif" "$output"; then
      cp --reflink=auto "$sif" "$output.new"
      mv "$output.new" "$output"
    fi
    ;;
esac
printf '%s\n' "$output"
