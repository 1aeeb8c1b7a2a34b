#!/usr/bin/env bash
# Tests the deployment scripts as far as they go without installing anything: what each says it would do, how they change
# configuration files, and those that talk to a stack on one of its own.
#
# usage: test-deployment.sh [--binary FILE]
#   --binary FILE   runs this gridfaas instead of building one
#
# As root. test-package.sh tests the rest, on a machine with systemd. The last line of a good run is `deployment ok`.
set -euo pipefail
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"
# shellcheck source-path=SCRIPTDIR source=stack.sh
. "$here/stack.sh"
# shellcheck source-path=SCRIPTDIR source=host.sh
. "$here/host.sh"

take_options 'binary=' "$@"
arguments_at_most 0
gridfaas=${option[binary]:+$(realpath "${option[binary]}")}
need_root 'testing the deployment scripts'
[ -n "$gridfaas" ] || build_gridfaas
export GRIDFAAS=$gridfaas
work=$(mktemp -d)
at_exit rm -rf --one-file-system "$work"

# says TEXT COMMAND…: the command succeeds and says that.
says() {
  local text=$1
  shift
  "$@" >"$work/said" 2>&1 || die "failed: $*" "it said: $(cat "$work/said")"
  grep --quiet --fixed-strings -- "$text" "$work/said" || die "\`$text\` is missing from: $*" "it said: $(cat "$work/said")"
}
# refuses STATUS TEXT COMMAND…: the command fails with that status and says that.
refuses() {
  local code=$1 text=$2 status=0
  shift 2
  "$@" >"$work/said" 2>&1 || status=$?
  [ "$status" -eq "$code" ] || die "exit status $status instead of $code: $*" "it said: $(cat "$work/said")"
  grep --quiet --fixed-strings -- "$text" "$work/said" || die "\`$text\` is missing from: $*" "it said: $(cat "$work/said")"
}

check_usage() {
  local script
  for script in deploy maintain gridcoin store set-balance package test-package; do
    says "usage: $script.sh" "$here/$script.sh" --help
    refuses 2 'see --help' "$here/$script.sh" --no-such-option
  done
}

# A dry run says what would be done, and does none of it.
check_dry_runs() {
  local before
  before=$(ls -d "$CONFIG" "$STATE" /var/lib/gridcoin 2>/dev/null) || true
  printf 'secret\n' >"$work/secret"
  local -a single=(--store https://s3.example.org --access-key node --secret-key-file "$work/secret"
    --wallet http://127.0.0.1:15715/ --wallet-user gridcoinrpc --wallet-password-file "$work/secret")
  says 'store.endpoint = "https://s3.example.org"' "$here/deploy.sh" single --dry-run "${single[@]}"
  refuses 2 'has to be said' "$here/deploy.sh" single --dry-run "${single[@]:2}"
  says 'listen = "0.0.0.0:7402"' "$here/deploy.sh" open --dry-run --host faas.example.org
  says '--node node-2' "$here/deploy.sh" invite node-2 --to "$work/node-2" --dry-run
  says 'pki rotate' "$here/deploy.sh" renew --dry-run
  printf 'node = "node-2"\ncredit_url = "https://faas.example.org:7402"\nendpoint = "https://s3.example.org"\naccess_key = "node"\n' \
    >"$work/settings"
  touch "$work"/{ca,node}.pem
  cp "$work/secret" "$work/s3-secret"
  tar -C "$work" -cf "$work/node-2" settings ca.pem node.pem s3-secret
  says 'credit_url = "https://faas.example.org:7402"' "$here/deploy.sh" join "$work/node-2" --dry-run
  refuses 1 'deploy.sh invite' "$here/deploy.sh" join "$work/secret" --dry-run
  says 'ledger backup' "$here/maintain.sh" backup "$work" --dry-run
  says 'would install' "$here/maintain.sh" rollback --dry-run
  says 'apt-get' "$here/maintain.sh" remove --purge --dry-run
  says 'rpc-password' "$here/gridcoin.sh" install --dry-run
  says 'walletpassphrase' "$here/gridcoin.sh" unlock --dry-run
  says 'would make and remove' "$here/store.sh" --dry-run --store http://127.0.0.1:1 --access-key a --secret-key-file "$work/secret"
  [ "$before" = "$(ls -d "$CONFIG" "$STATE" /var/lib/gridcoin 2>/dev/null || true)" ] || die 'a dry run has changed something'
}

# key WANTED FILE SECTION KEY
key() {
  local found
  found=$(get_key "$2" "$3" "$4") || found=
  [ "$found" = "$1" ] || die "$3.$4 of $2 is \`$found\` instead of \`$1\`"
}

check_configuration() {
  local file=$work/container-manager.toml before
  cp "$here/../config/container-manager.toml" "$file"
  before=$(grep -c . "$file")
  set_key "$file" '' node '"node-2"'
  set_key "$file" tls identity_file '"/x/node.pem"'
  set_key "$file" tls ca_file '"/x/ca.pem"'
  set_key "$file" store endpoint '"https://s3.example.org"'
  set_key "$file" '' credit_token_file ''
  key node-2 "$file" '' node
  key /x/node.pem "$file" tls identity_file
  key https://s3.example.org "$file" store endpoint
  key '' "$file" '' credit_token_file
  # Keys of the same name in other sections, and every line of explanation, stay.
  key 10000 "$file" scaler.guardian window_ms
  [ "$(grep -c . "$file")" -eq "$before" ] || die 'setting keys has changed the number of lines'
  changed=
  set_key "$file" '' node '"node-2"'
  set_key "$file" '' credit_token_file ''
  [ -z "$changed" ] || die 'setting a key to what it is was taken for a change'
  set_key "$file" '' credit_token_file '"/x/token"'
  key /x/token "$file" '' credit_token_file
  set_key "$file" store new_key 1
  key 1 "$file" store new_key
  set_key "$file" new new_key 2
  key 2 "$file" new new_key
}

balance() { "$gridfaas" --output json balance alice | jq -r .balance; }

check_with_a_stack() {
  local url password_file
  mkdir "$work/stack"
  at_exit stop_stack
  start_stack "$work/stack"
  url=$(jq -r .s3_url "$work/stack/endpoints.json")
  says 'store ok' "$here/store.sh" --store "$url" --access-key gridfaas-node --secret-key-file "$work/stack/secrets/node-s3-secret"
  refuses 1 'list buckets' "$here/store.sh" --store "$url" --access-key gridfaas-node --secret-key-file "$work/secret"

  "$gridfaas" --quiet user add alice >/dev/null
  says 'would send: 3.50000000 GRC' "$here/set-balance.sh" alice 3.5 --dry-run
  says 'alice has 3.50000000 GRC' "$here/set-balance.sh" alice 3.5
  says 'alice has 3.5 GRC' "$here/set-balance.sh" alice 3.5
  refuses 1 'only alice may withdraw' "$here/set-balance.sh" alice 2
  "$gridfaas" --quiet token create user --user alice --to "$work/token" >/dev/null
  says 'withdraw' "$here/set-balance.sh" alice 2 --to "$ADDRESS" --token-file "$work/token"
  [ "$(balance)" = 2.00000000 ] || die "alice has $(balance) GRC instead of 2"

  url=$(jq -r .dev_chain.url "$work/stack/endpoints.json")
  password_file=$(jq -r .dev_chain.password_file "$work/stack/endpoints.json")
  local -a wallet=(--url "$url" --password-file "$password_file" --passphrase-file "$work/secret")
  says '"blocks"' "$here/gridcoin.sh" status "${wallet[@]}"
  says 'encrypted' "$here/gridcoin.sh" encrypt "${wallet[@]}"
  says 'unlocked for 60 s' "$here/gridcoin.sh" unlock 60 "${wallet[@]}"
  says 'locked' "$here/gridcoin.sh" lock "${wallet[@]}"
  printf 'wrong\n' >"$work/secret"
  refuses 1 'passphrase entered was incorrect' "$here/gridcoin.sh" unlock 60 "${wallet[@]}"
  refuses 1 'refused' "$here/gridcoin.sh" status --url "$url" --password-file "$work/secret"
}
# Of the development chain's kind, and nobody's.
readonly ADDRESS=mipcBbFg9gMiCh81Kj8tqqdgoZub1ZJRfn

check_usage
check_dry_runs
check_configuration
check_with_a_stack
echo 'deployment ok'
