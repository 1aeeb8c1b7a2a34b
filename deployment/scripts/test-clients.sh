#!/usr/bin/env bash
# Tries the S3 store at URL with clients that people have: boto3, aws, rclone and
# MinIO's Python client.
#
# usage: test-clients.sh URL ACCESS_KEY SECRET_KEY [OTHERS]
#
# OTHERS is a bucket with an object `secret` that the key must not open: each client is denied it.
#
# Installs what is missing: rclone and curl with apt, the others with pip in a folder under `target/`. Each client
# makes a bucket of its own, puts, gets, lists, copies, uploads 20 MiB in parts, signs a URL, deletes, and removes the
# bucket again; the last is told of an object as it is put. The last line is `clients ok`, with exit status 0, only if all of that worked.
set -euo pipefail
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"

case "${1:-}" in -h | --help) usage "$0" && exit 0 ;; esac
[ $# -eq 3 ] || [ $# -eq 4 ] || wrong_usage 'expected URL, ACCESS_KEY, SECRET_KEY and perhaps OTHERS'
url=$1 access_key=$2 secret_key=$3 others=${4:-}

# One pair that fits: aws pins the botocore that boto3 needs.
python_packages=(boto3 awscli minio)
venv=${CARGO_TARGET_DIR:-$here/../../target}/s3-clients

install_clients() {
  local -a wanted=()
  have curl || wanted+=(curl)
  have rclone || wanted+=(rclone)
  have python3 && python3 -c 'import ensurepip' 2>/dev/null || wanted+=(python3-venv)
  [ "${#wanted[@]}" -eq 0 ] || apt_install "${wanted[@]}"
  "$venv/bin/python" -c 'import awscli, boto3, minio' 2>/dev/null && return 0
  say "pip: installing ${python_packages[*]}"
  python3 -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${python_packages[@]}" ||
    die "pip could not install ${python_packages[*]}" 'check the package index and the network'
}

# same FILE FILE WHAT
same() { cmp --silent "$1" "$2" || die "$3: the bytes differ"; }

# said WANTED WHAT: whether `said`, where the last answer went, has a line with that text.
said() { grep --quiet --fixed-strings -- "$1" "$work/said" || die "$2: \`$1\` is missing"; }

# denied COMMAND...: the command fails, and says that the key may not.
denied() {
  if "$@" >"$work/said" 2>&1; then die "a bucket of others is open to: $*"; fi
  grep --quiet --extended-regexp 'AccessDenied|Forbidden' "$work/said" || die "not refused as others' bucket: $(cat "$work/said")"
}

check_boto3() { "$venv/bin/python" "$here/test-clients.py" "$url" "$work" "$others"; }

check_minio() { "$venv/bin/python" "$here/test-listening.py" "$url" "$access_key" "$secret_key" "$others"; }

check_aws() {
  local bucket=s3://from-aws
  local -a aws=("$venv/bin/aws" --endpoint-url "$url")
  "${aws[@]}" s3 mb "$bucket"
  "${aws[@]}" s3 cp "$work/small" "$bucket/input/a b+c.txt" --metadata colour=blue
  "${aws[@]}" s3 cp "$bucket/input/a b+c.txt" "$work/got"
  same "$work/small" "$work/got" 'aws s3 cp'
  "${aws[@]}" s3api head-object --bucket from-aws --key 'input/a b+c.txt' >"$work/said"
  said '"colour": "blue"' 'aws s3api head-object'
  "${aws[@]}" s3 cp "$work/large" "$bucket/large"
  "${aws[@]}" s3 cp "$bucket/large" "$work/got"
  same "$work/large" "$work/got" 'aws s3 cp, 20 MiB'
  "${aws[@]}" s3 cp "$bucket/large" "$bucket/copy"
  "${aws[@]}" s3 mv "$bucket/copy" "$bucket/moved"
  "${aws[@]}" s3 ls --recursive "$bucket" >"$work/said"
  said '20971520 moved' 'aws s3 ls'
  said 'input/a b+c.txt' 'aws s3 ls'
  "${aws[@]}" s3 ls "$bucket" >"$work/said"
  said 'PRE input/' 'aws s3 ls'
  "${aws[@]}" s3 sync "$work/tree" "$bucket/tree"
  "${aws[@]}" s3 sync "$bucket/tree" "$work/tree-got"
  diff -r "$work/tree" "$work/tree-got" >&2 || die 'aws s3 sync: the folders differ'
  curl --silent --show-error --fail "$("${aws[@]}" s3 presign "$bucket/input/a b+c.txt")" >"$work/got"
  same "$work/small" "$work/got" 'aws s3 presign'
  "${aws[@]}" s3 rb --force "$bucket"
  [ -n "$others" ] || return 0
  denied "${aws[@]}" s3 ls "s3://$others"
  denied "${aws[@]}" s3 cp "s3://$others/secret" "$work/got"
  denied "${aws[@]}" s3 cp "$work/small" "s3://$others/input/x"
}

check_rclone() {
  local bucket=store:from-rclone
  rclone mkdir "$bucket"
  rclone copyto "$work/small" "$bucket/input/a b+c.txt"
  rclone cat "$bucket/input/a b+c.txt" >"$work/got"
  same "$work/small" "$work/got" 'rclone cat'
  rclone copyto --s3-upload-cutoff 5M --s3-chunk-size 5M "$work/large" "$bucket/large"
  rclone copyto "$bucket/large" "$bucket/copy"
  rclone copyto "$bucket/copy" "$work/got"
  same "$work/large" "$work/got" 'rclone copyto, 20 MiB'
  rclone moveto "$bucket/copy" "$bucket/moved"
  rclone copy "$work/tree" "$bucket/tree"
  rclone check "$work/tree" "$bucket/tree"
  rclone lsf --recursive "$bucket" >"$work/said"
  said 'input/a b+c.txt' 'rclone lsf'
  said 'moved' 'rclone lsf'
  curl --silent --show-error --fail "$(rclone link "$bucket/input/a b+c.txt")" >"$work/got"
  same "$work/small" "$work/got" 'rclone link'
  rclone delete "$bucket/tree"
  rclone purge "$bucket"
  [ -n "$others" ] || return 0
  denied rclone --retries 1 lsf "store:$others"
  denied rclone --retries 1 cat "store:$others/secret"
}

install_clients
work=$(mktemp -d)
at_exit rm -rf "$work"
printf 'a small file\n' >"$work/small"
head -c 20971520 /dev/urandom >"$work/large"
mkdir -p "$work/tree/deep/er"
printf 'one' >"$work/tree/one"
printf 'two' >"$work/tree/deep/er/two & three"
: >"$work/tree/empty"

# Nothing of the user's own configuration may help or hinder.
unset "${!AWS_@}" "${!RCLONE_@}"
export NO_PROXY='*' no_proxy='*'
export HOME=$work AWS_CONFIG_FILE=$work/none AWS_SHARED_CREDENTIALS_FILE=$work/none
export AWS_PAGER='' AWS_EC2_METADATA_DISABLED=true
export AWS_ACCESS_KEY_ID=$access_key AWS_SECRET_ACCESS_KEY=$secret_key AWS_DEFAULT_REGION=us-east-1
export RCLONE_CONFIG=$work/none RCLONE_CONFIG_STORE_TYPE=s3 RCLONE_CONFIG_STORE_PROVIDER=Other
export RCLONE_CONFIG_STORE_ENDPOINT=$url RCLONE_CONFIG_STORE_ENV_AUTH=true
trying=
report() {
  [ -n "$trying" ] || return 0
  cat "$work/log" >&2
  say "error: $trying does not work with the store"
}
at_exit report
# Not as a condition of `if` or `||`, where the shell would go on after a command that fails.
for trying in boto3 aws rclone minio; do
  ("check_$trying") >"$work/log" 2>&1
  say "$trying: ok"
done
trying=
echo 'clients ok'
