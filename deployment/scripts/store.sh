#!/usr/bin/env bash
# Tries whether an object store does what gridfaas asks of one, with the key that gridfaas will have.
#
# usage: store.sh --store URL --access-key KEY --secret-key-file FILE [--region REGION] [--dry-run]
#
# Makes a bucket with a name of its own, puts, lists, reads a part, copies and deletes in it, and removes it again. The last
# line is `store ok`, and the exit status 0, only if all of that worked. docs/deployment.md shows how to make the key in
# MinIO, Garage and AWS.
set -euo pipefail
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"

take_options 'store= access-key= secret-key-file= region= dry-run' "$@"
arguments_at_most 0
url=${option[store]:-} access_key=${option[access-key]:-} secret_key_file=${option[secret-key-file]:-}
region=${option[region]:-us-east-1}
if [ -z "$url" ] || [ -z "$access_key" ] || [ -z "$secret_key_file" ]; then
  wrong_usage '--store, --access-key and --secret-key-file have to be said'
fi
bucket=gridfaas-check-$$-$RANDOM
if [ -n "$DRY_RUN" ]; then
  say "would make and remove: the bucket $bucket at $url"
  exit 0
fi

have rclone || apt_install rclone
work=$(mktemp -d)
at_exit rm -rf "$work"
# rclone, told everything by its environment: the secret is no argument.
# Nothing else of the environment may choose another store or key.
unset "${!AWS_@}" "${!RCLONE_@}"
secret=$(head -n 1 "$secret_key_file") || die "\`$secret_key_file\` cannot be read"
export RCLONE_CONFIG=$work/rclone.conf RCLONE_LOG_LEVEL=ERROR RCLONE_RETRIES=1 RCLONE_LOW_LEVEL_RETRIES=2
export RCLONE_CONFIG_STORE_TYPE=s3 RCLONE_CONFIG_STORE_PROVIDER=Other RCLONE_CONFIG_STORE_ENDPOINT=$url
export RCLONE_CONFIG_STORE_REGION=$region RCLONE_CONFIG_STORE_ACCESS_KEY_ID=$access_key
export RCLONE_CONFIG_STORE_SECRET_ACCESS_KEY=$secret RCLONE_S3_FORCE_PATH_STYLE=true
: >"$RCLONE_CONFIG"

# try WHAT COMMAND…
try() {
  local what=$1
  shift
  "$@" >"$work/said" 2>&1 || die "the store does not let this key $what" "it said: $(tail -n 3 "$work/said")"
}
# Once: the second time there is nothing to remove.
remove_bucket() { [ -n "$bucket" ] && rclone purge "store:$bucket" 2>/dev/null && bucket=; }

head -c 100000 /dev/urandom >"$work/file"
try 'list buckets' rclone lsd store:
try 'make a bucket' rclone mkdir "store:$bucket"
at_exit remove_bucket
try 'put an object' rclone copyto "$work/file" "store:$bucket/input/a b+ü.bin"
try 'list objects' rclone lsf -R "store:$bucket"
grep -qxF 'input/a b+ü.bin' "$work/said" || die 'the store does not list what was put' "it lists: $(cat "$work/said")"
try 'copy an object' rclone copyto "store:$bucket/input/a b+ü.bin" "store:$bucket/processing/a b+ü.bin"
try 'delete an object' rclone deletefile "store:$bucket/input/a b+ü.bin"
rclone cat --offset 50000 --count 1000 "store:$bucket/processing/a b+ü.bin" | cmp --silent - <(tail -c +50001 "$work/file" | head -c 1000) ||
  die 'the store does not give back what was put'
remove_bucket || die "the store does not let this key remove a bucket"
echo 'store ok'
