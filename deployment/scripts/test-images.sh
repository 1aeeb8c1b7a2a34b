#!/usr/bin/env bash
# Builds images and runs the sample task of each as a user would: on a stack of its own, with the function's own script.
#
# usage: test-images.sh [--binary FILE] [NAME…]
#   NAME            a folder of images/; all of them if none is given
#   --binary FILE   runs this gridfaas instead of building one
#
# Not part of test.sh: an image with ffmpeg takes minutes to build. As root. Stops at the first image that does not build
# or whose sample does not succeed; the last line of a good run is `images ok`.
set -euo pipefail
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"
# shellcheck source-path=SCRIPTDIR source=stack.sh
. "$here/stack.sh"
cd "$here/../.."

take_options 'binary=' "$@"
gridfaas=${option[binary]:+$(realpath "${option[binary]}")}
names=("${arguments[@]}")
[ "${#names[@]}" -gt 0 ] || mapfile -t names < <(cd images && printf '%s\n' */image.def | sed 's|/image.def||')

need_root 'running containers'
[ -n "$gridfaas" ] || build_gridfaas
for name in "${names[@]}"; do images/build.sh "$name" >/dev/null; done

data=$(mktemp -d -t gridfaas-images.XXXXXX)
at_exit rm -rf --one-file-system "$data"
# Stopped before its folder is removed.
at_exit stop_stack
start_stack "$data"

"$gridfaas" --quiet user add images >/dev/null
"$gridfaas" --quiet user fund images 100 --mine --wait >/dev/null
for name in "${names[@]}"; do
  say "== $name"
  "$gridfaas" --quiet function create "$name" --user images --image "target/images/$name.sif" \
    --script "images/$name/process_task.sh" >/dev/null
  for sample in "images/$name/sample-input"/*; do
    "$gridfaas" --quiet submit "$name" "$sample" --wait || {
      "$gridfaas" logs "$name" "$(basename "$sample")" >&2
      die "the sample of the image \`$name\` failed" 'its log is above'
    }
    "$gridfaas" results "$name" "$(basename "$sample")"
  done
done
echo 'images ok'
