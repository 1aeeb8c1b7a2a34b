#!/usr/bin/env bash
# Sets up the machines that gridfaas runs on: one with credit-manager and a node, and others with a node each.
#
# usage: deploy.sh single [OPTION…]       credit-manager and a node, on this machine
#        deploy.sh open --host HOST…      lets other machines reach both, with TLS; HOST is a name or address of this machine
#        deploy.sh invite NODE --to FILE  writes down what another machine needs to join as NODE; the file is a secret
#        deploy.sh join FILE [OPTION…]    a node, on this machine, that joins with such a file
#        deploy.sh renew                  new certificates for this machine's services; nothing is restarted
#        deploy.sh check                  waits until the services of this machine answer
#
#   --package FILE           installs this package of gridfaas first; package.sh builds it
#   --store URL              the object store, any that speaks S3; store.sh tries one
#   --access-key KEY         the node's key there, which may use every bucket of a function
#   --secret-key-file FILE   its secret
#   --region REGION          of the store; default us-east-1
#   --wallet URL             the Gridcoin daemon's JSON-RPC; gridcoin.sh sets one up
#   --wallet-user USER       its rpcuser
#   --wallet-password-file FILE
#   --wallet-mode MODE       addresses or accounts, as gridcoin.sh set it up; default addresses
#   --node NAME              of this node; default the host's name
#   --listen ADDRESS         where the node listens; with `open` where both services do, without their ports
#   --host HOST              a name or address that clients reach the services by; repeat it for more
#   --no-start               sets all up and starts nothing
#   --dry-run                says what would be done, and does nothing
#
# Each can be run again: what is not said stays, what is there already is left alone, and running tasks go on. Needs root.
set -euo pipefail
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"
# shellcheck source-path=SCRIPTDIR source=host.sh
. "$here/host.sh"

readonly CREDIT_PORT=7402 NODE_PORT=7403
# Nobody copies files between machines every month. `renew` makes new ones long before.
readonly CERTIFICATE_DAYS=365

# What `invite` writes and `join` reads.
readonly BUNDLE=(settings ca.pem node.pem s3-secret)

take_command 'single open invite join renew check' "$@"
take_options 'host*= package= store= access-key= secret-key-file= region= wallet= wallet-user= wallet-password-file= wallet-mode=
  node= listen= to= no-start dry-run' "${@:2}"
mapfile -t hosts < <(printf '%s' "${option[host]:-}")
start=1
[ -z "${option[no-start]:-}" ] || start=
case $command in
  invite | join) [ ${#arguments[@]} -eq 1 ] || wrong_usage "$command needs one argument" ;;
  *) arguments_at_most 0 ;;
esac
[ -n "$DRY_RUN" ] || need_root "deploy.sh $command"

# set_option FILE SECTION KEY OPTION: sets a key to what an option said, if it was said.
set_option() { [ -z "${option[$4]:-}" ] || set_text "$1" "$2" "$3" "${option[$4]}"; }

install_parts() {
  [ -z "${option[package]:-}" ] || install_package "${option[package]}"
  need_package
  if [ -n "$DRY_RUN" ]; then "$here/install-apptainer.sh" --dry-run; else "$here/install-apptainer.sh"; fi
}

# set_store: the node's way to the object store.
set_store() {
  set_option "$NODE_CONFIG" store endpoint store
  set_option "$NODE_CONFIG" store region region
  set_option "$NODE_CONFIG" store access_key access-key
  [ -z "${option[secret-key-file]:-}" ] || put_secret "${option[secret-key-file]}" "$CONFIG/s3-secret" root
}

# write_s3_credentials: the node's key once more, as `gridfaas` and other S3 clients read it.
write_s3_credentials() {
  local access_key secret
  access_key=$(get_key "$NODE_CONFIG" store access_key) || access_key='(the key)'
  secret=$(cat "$CONFIG/s3-secret" 2>/dev/null) || secret=
  printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$access_key" "$secret" |
    write_file "$CONFIG/s3-credentials" 600 root
}

# address_of LISTEN: where this machine reaches a service that listens there.
address_of() {
  case $1 in
    0.0.0.0:* | '[::]:'*) printf 'localhost:%s' "${1##*:}" ;;
    *) printf '%s' "$1" ;;
  esac
}

# write_operator_env NAME=VALUE…
write_operator_env() {
  {
    printf '# Where gridfaas finds the services; to be read by a shell: . %s\n' "$OPERATOR_ENV"
    printf 'export %s\n' "$@"
  } | write_file "$OPERATOR_ENV" 644 root
}

# describe_services: tells `gridfaas` where this machine's services are, and the node where credit-manager is.
describe_services() {
  local scheme=http credit node store
  [ ! -f "$CONFIG/tls/ca.pem" ] || scheme=https
  credit=$scheme://$(address_of "$(get_key "$CREDIT_CONFIG" '' listen || echo "127.0.0.1:$CREDIT_PORT")")
  node=$scheme://$(address_of "$(get_key "$NODE_CONFIG" '' listen || echo "127.0.0.1:$NODE_PORT")")
  store=$(get_key "$NODE_CONFIG" store endpoint) || store=
  set_text "$NODE_CONFIG" '' credit_url "$credit"
  local -a lines=(
    "GRIDFAAS_CREDIT_URL=$credit"
    "GRIDFAAS_CONTAINER_URL=$node"
    "GRIDFAAS_S3_URL=$store"
    "GRIDFAAS_S3_CREDENTIALS_FILE=$CONFIG/s3-credentials"
    "GRIDFAAS_TOKEN_FILE=$STATE/credit/operator-token"
  )
  [ $scheme = http ] || lines+=("GRIDFAAS_CA_FILE=$CONFIG/tls/ca.pem")
  write_operator_env "${lines[@]}"
}

finish() {
  if [ -z "$start" ]; then
    say 'set up, and not started'
    return 0
  fi
  start_services "$@"
  check_services
  [ -n "$DRY_RUN" ] || say "ready; for gridfaas in this shell: . $OPERATOR_ENV"
}

single() {
  local needed
  if [ ! -f "$OPERATOR_ENV" ]; then
    for needed in store access-key secret-key-file wallet wallet-user wallet-password-file; do
      [ -n "${option[$needed]:-}" ] || wrong_usage "the first time --$needed has to be said"
    done
  fi
  install_parts
  set_option "$CREDIT_CONFIG" wallet url wallet
  set_option "$CREDIT_CONFIG" wallet user wallet-user
  set_option "$CREDIT_CONFIG" wallet mode wallet-mode
  [ -z "${option[wallet-password-file]:-}" ] ||
    put_secret "${option[wallet-password-file]}" "$CONFIG/wallet-password" "$OWNER"
  [ -f "$OPERATOR_ENV" ] || option[node]=${option[node]:-$(hostname)}
  set_option "$NODE_CONFIG" '' node node
  set_option "$NODE_CONFIG" '' listen listen
  # With certificates a node is who its own says.
  [ -f "$CONFIG/tls/ca.pem" ] || set_text "$NODE_CONFIG" '' credit_token_file "$STATE/credit/node-token"
  set_store
  write_s3_credentials
  describe_services
  finish "$CREDIT" "$NODE"
}

# put_certificates: this machine's certificates, where each service may read its own. They notice, so nothing has changed.
put_certificates() {
  local node before=$changed
  node=$(get_key "$NODE_CONFIG" '' node) || node=NODE
  run install -d -m 755 "$CONFIG/tls"
  if [ -n "$DRY_RUN" ]; then
    say "would copy: $CONFIG/pki/{credit-manager,node-$node,ca}.pem to $CONFIG/tls"
    return 0
  fi
  write_file "$CONFIG/tls/credit-manager.pem" 400 "$OWNER" <"$CONFIG/pki/credit-manager.pem"
  write_file "$CONFIG/tls/node.pem" 400 root <"$CONFIG/pki/node-$node.pem"
  write_file "$CONFIG/tls/ca.pem" 644 root <"$CONFIG/pki/ca.pem"
  changed=$before
}

set_tls() {
  set_text "$1" tls identity_file "$CONFIG/tls/$2"
  set_text "$1" tls ca_file "$CONFIG/tls/ca.pem"
}

pki_init() { run gridfaas --quiet pki init "$CONFIG/pki" --days "$CERTIFICATE_DAYS" "$@" >&2; }

open() {
  local node address=${option[listen]:-0.0.0.0} host
  local -a named=()
  [ ${#hosts[@]} -gt 0 ] || wrong_usage 'open needs --host, by which other machines reach this one'
  need_package
  [ -n "$DRY_RUN" ] || [ -f "$OPERATOR_ENV" ] || die 'nothing is set up here' 'run deploy.sh single first'
  node=$(get_key "$NODE_CONFIG" '' node) || node=NODE
  for host in "${hosts[@]}"; do named+=(--host "$host"); done
  case $address in 0.0.0.0 | '[::]') ;; *) named+=(--host "$address") ;; esac
  pki_init --node "$node" "${named[@]}"
  put_certificates
  set_tls "$CREDIT_CONFIG" credit-manager.pem
  set_tls "$NODE_CONFIG" node.pem
  # A certificate says which node this is; nothing else may.
  set_key "$NODE_CONFIG" '' credit_token_file ''
  set_text "$CREDIT_CONFIG" '' listen "$address:$CREDIT_PORT"
  set_text "$NODE_CONFIG" '' listen "$address:$NODE_PORT"
  printf '%s\n' "${hosts[0]}" | write_file "$CONFIG/pki/host" 600 root
  describe_services
  finish "$CREDIT" "$NODE"
}

invite() {
  local node=${arguments[0]} file=${option[to]:-} work host key value
  local -a named=()
  [ -n "$file" ] || wrong_usage 'invite needs --to, a file to write'
  if [ -n "$DRY_RUN" ]; then
    say "would run: gridfaas pki init $CONFIG/pki --node $node"
    say "would write: $file (mode 600, of root), with ${BUNDLE[*]}"
    return 0
  fi
  [ -f "$CONFIG/pki/host" ] || die 'this machine is closed to others' 'run deploy.sh open first'
  case $(get_key "$NODE_CONFIG" store endpoint) in
    *//127.* | *//localhost* | *//'[::1]'*)
      warn "the store listens on this machine's loopback interface alone, where other machines cannot reach it"
      ;;
  esac
  for host in "${hosts[@]}"; do named+=(--host "$host"); done
  pki_init --node "$node" "${named[@]}"
  put_certificates
  work=$(mktemp -d)
  at_exit rm -rf "$work"
  {
    printf 'node = "%s"\n' "$node"
    printf 'credit_url = "https://%s:%s"\n' "$(cat "$CONFIG/pki/host")" "$CREDIT_PORT"
    for key in endpoint region access_key; do
      value=$(get_key "$NODE_CONFIG" store "$key") && printf '%s = "%s"\n' "$key" "$value"
    done
  } >"$work/settings"
  cp "$CONFIG/pki/ca.pem" "$work/ca.pem"
  cp "$CONFIG/pki/node-$node.pem" "$work/node.pem"
  cp "$CONFIG/s3-secret" "$work/s3-secret"
  (umask 077 && tar -C "$work" -cf "$file" "${BUNDLE[@]}")
  say "$file lets its holder join as $node, for $CERTIFICATE_DAYS days: hand it over in secret, and delete it then"
}

join() {
  local file=${arguments[0]} work key value credit node
  [ -f "$file" ] || die "there is no \`$file\`" 'deploy.sh invite writes one, on the machine of credit-manager'
  [ ! -d "$STATE/credit" ] || die 'credit-manager is on this machine, and a node with it' 'join from another machine'
  work=$(mktemp -d)
  at_exit rm -rf "$work"
  # These and nothing else, whatever the file holds.
  tar -C "$work" --no-same-owner -xf "$file" "${BUNDLE[@]}" 2>/dev/null ||
    die "\`$file\` is none that deploy.sh invite wrote"
  install_parts
  run install -d -m 755 "$CONFIG/tls"
  write_file "$CONFIG/tls/ca.pem" 644 root <"$work/ca.pem"
  write_file "$CONFIG/tls/node.pem" 400 root <"$work/node.pem"
  put_secret "$work/s3-secret" "$CONFIG/s3-secret" root
  credit=$(get_key "$work/settings" '' credit_url)
  node=$(get_key "$work/settings" '' node)
  set_text "$NODE_CONFIG" '' node "$node"
  set_text "$NODE_CONFIG" '' credit_url "$credit"
  for key in endpoint region access_key; do
    if value=$(get_key "$work/settings" '' "$key"); then
      set_text "$NODE_CONFIG" store "$key" "$value"
    else
      set_key "$NODE_CONFIG" store "$key" ''
    fi
  done
  set_key "$NODE_CONFIG" '' credit_token_file ''
  set_text "$NODE_CONFIG" '' listen "${option[listen]:-0.0.0.0:$NODE_PORT}"
  set_tls "$NODE_CONFIG" node.pem
  write_operator_env "GRIDFAAS_CREDIT_URL=$credit" \
    "GRIDFAAS_CONTAINER_URL=https://$(address_of "${option[listen]:-0.0.0.0:$NODE_PORT}")" \
    "GRIDFAAS_CA_FILE=$CONFIG/tls/ca.pem"
  finish "$NODE"
}

renew() {
  [ -n "$DRY_RUN" ] || [ -f "$CONFIG/pki/host" ] || die 'this machine has no authority for certificates' 'run deploy.sh open first'
  run gridfaas --quiet pki rotate "$CONFIG/pki" >&2
  put_certificates
  say 'the services read the new certificates by themselves; give other nodes theirs with invite and join'
}

case $command in
  check) check_services ;;
  *) "$command" ;;
esac
