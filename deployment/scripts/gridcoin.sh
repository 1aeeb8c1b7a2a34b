#!/usr/bin/env bash
# Runs the Gridcoin daemon that credit-manager has its wallet in, and looks after that wallet.
#
# usage: gridcoin.sh install [--program FILE] [--testnet] [--accounts]
#                                   configures and starts the daemon, as a user and a service of its own
#        gridcoin.sh status         what the daemon says about its chain and its wallet
#        gridcoin.sh encrypt        encrypts the wallet with a passphrase; afterwards back it up anew
#        gridcoin.sh unlock [SECONDS]   lets the wallet make payments for a while; default a day
#        gridcoin.sh lock           ends that
#        gridcoin.sh backup FILE    copies the wallet, which holds every coin
#        gridcoin.sh remove [--purge]   stops the daemon; --purge deletes the wallet and every coin in it
#
#   --program FILE        gridcoinresearchd, 5.5 or newer, to copy; default the one on PATH. docs/deployment.md says how to get it
#   --testnet             the chain for tests, whose coins are worth nothing
#   --accounts            credit-manager's wallet mode `accounts`: turns the daemon's accounts on and staking off
#   --url URL             a daemon elsewhere than where `install` put it, with --user USER and --password-file FILE
#   --passphrase-file FILE    with `encrypt` and `unlock`; default: asks for it
#   --dry-run             says what would be done, and does nothing
#
# Each can be run again. Locked, a wallet takes deposits and is compared with the ledger; only payments to the outside wait.
# Needs root for install, backup and remove.
set -euo pipefail
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"
# shellcheck source-path=SCRIPTDIR source=host.sh
. "$here/host.sh"

readonly WALLET_USER=gridcoin DATA=/var/lib/gridcoin UNIT=gridfaas-gridcoin.service
readonly PASSWORD=$DATA/rpc-password
# A copy, so that the service reaches it wherever it came from.
readonly PROGRAM=/usr/local/lib/gridfaas/gridcoinresearchd
readonly PORT=15715 TESTNET_PORT=25715

take_command 'install status encrypt unlock lock backup remove' "$@"
take_options 'program= testnet accounts purge url= user= password-file= passphrase-file= dry-run' "${@:2}"
arguments_at_most 1
program=${option[program]:-} testnet=${option[testnet]:-} accounts=${option[accounts]:-} purge=${option[purge]:-}
url=${option[url]:-} user=${option[user]:-gridcoinrpc} password_file=${option[password-file]:-$PASSWORD}
passphrase_file=${option[passphrase-file]:-} argument=${arguments[0]:-}

configuration() {
  cat <<END
# Written by gridcoin.sh.
server=1
rpcuser=gridcoinrpc
rpcpassword=$1
rpcport=$2
# A call that hangs holds a thread; credit-manager makes one at a time, people more.
rpcthreads=16
# No rpcallowip: with one, whatever its value, the daemon listens on every interface.
staking=0
investor=1
END
  [ -z "$accounts" ] || echo 'enableaccounts=1'
}

install_daemon() {
  local port=$PORT password
  [ -z "$testnet" ] || port=$TESTNET_PORT
  if [ -z "$program" ] && [ ! -x "$PROGRAM" ]; then
    program=$(command -v gridcoinresearchd) || [ -n "$DRY_RUN" ] ||
      die 'no gridcoinresearchd on PATH' 'docs/deployment.md says where to get it; name it with --program'
  fi
  if ! id "$WALLET_USER" >/dev/null 2>&1; then
    run useradd --system --user-group --home-dir "$DATA" --no-create-home --shell /usr/sbin/nologin "$WALLET_USER"
  fi
  run install -d -m 700 -o "$WALLET_USER" -g "$WALLET_USER" "$DATA"
  if [ -n "$program" ] && [ "$program" != "$PROGRAM" ]; then
    run install -d -m 755 "$(dirname "$PROGRAM")"
    write_file "$PROGRAM" 755 root <"$program"
  fi
  if [ -n "$DRY_RUN" ]; then
    password=
  else
    password=$(head -n 1 "$PASSWORD" 2>/dev/null) || password=$(head -c 32 /dev/urandom | base64 | tr -d '+/=\n')
  fi
  printf '%s\n' "$password" | write_file "$PASSWORD" 400 "$WALLET_USER"
  # On the command line, because it decides where the daemon looks for all else.
  printf 'OPTIONS=%s\n' "${testnet:+-testnet}" | write_file "$DATA/options" 644 root
  configuration "$password" "$port" | write_file "$DATA/gridcoinresearch.conf" 600 "$WALLET_USER"
  write_file "/etc/systemd/system/$UNIT" 644 root <"$here/../systemd/$UNIT"
  if has_systemd; then run systemctl daemon-reload; fi
  say "for deploy.sh: --wallet http://127.0.0.1:$port/ --wallet-user gridcoinrpc --wallet-password-file $PASSWORD"
  start_services "$UNIT"
}
# rpc METHOD [PARAMETER…]: calls the daemon; parameters are JSON. Neither password nor passphrase is ever an argument of a
# program. Prints the result, or dies of the daemon's own words.
rpc() {
  local method=$1 password address=$url answer port=$PORT parameters
  shift
  apt_install curl jq
  if [ -z "$address" ]; then
    [ ! -f "$DATA/gridcoinresearch.conf" ] || port=$(sed -n 's/^rpcport=//p' "$DATA/gridcoinresearch.conf")
    address=http://127.0.0.1:$port/
  fi
  password=$(head -n 1 "$password_file" 2>/dev/null) || die "\`$password_file\` cannot be read" 'run this as root, or name --password-file'
  parameters=$(printf '%s\n' "$@" | jq -sc .)
  # The daemon keeps a thread for each open connection, and answers errors with status 500.
  answer=$(printf '{"id":1,"method":"%s","params":%s}' "$method" "$parameters" |
    curl --silent --show-error --max-time 60 --header 'Connection: close' --header 'Expect:' --data-binary @- \
      --config <(printf 'user = "%s:%s"\n' "$user" "$password") "$address") ||
    die "the Gridcoin daemon at $address does not answer" "curl's own message is above"
  jq -e .error >/dev/null 2>&1 <<<"$answer" && die "$(jq -r .error.message <<<"$answer")"
  jq -er 'has("result")' >/dev/null 2>&1 <<<"$answer" || die "the daemon refused $method" 'is the password right?'
  jq .result <<<"$answer"
}

# passphrase: prints it as JSON.
passphrase() {
  local text
  apt_install jq
  if [ -n "$passphrase_file" ]; then
    text=$(head -n 1 "$passphrase_file") || exit 1
  else
    read -r -s -p 'Passphrase of the wallet: ' text </dev/tty && say ''
  fi
  [ -n "$text" ] || die 'the passphrase is empty'
  jq -R . <<<"$text"
}

# change METHOD WHAT [PARAMETER…]: as `rpc`, or only says so.
change() {
  local method=$1 what=$2
  shift 2
  if [ -n "$DRY_RUN" ]; then
    say "would call: $method"
  else
    rpc "$method" "$@" >/dev/null
    say "$what"
  fi
}

# secret_change METHOD WHAT [PARAMETER…]: as `change`, with the passphrase as the first parameter.
secret_change() {
  local method=$1 what=$2 secret='""'
  shift 2
  [ -n "$DRY_RUN" ] || secret=$(passphrase)
  change "$method" "$what" "$secret" "$@"
}

backup() {
  local made
  [ -n "$argument" ] || wrong_usage 'backup needs a file to write'
  if [ -n "$DRY_RUN" ]; then
    say "would call: backupwallet, and copy what it makes to $argument"
    return 0
  fi
  need_root 'gridcoin.sh backup'
  rpc backupwallet | jq -e '."Backup wallet success"' >/dev/null || die 'the daemon could not back the wallet up' "see $DATA/debug.log"
  made=$(find "$DATA" -path '*/walletbackups/*' -name 'wallet.dat*' -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d ' ' -f 2-)
  [ -n "$made" ] || die "the daemon left no copy below $DATA"
  (umask 077 && cp "$made" "$argument")
  say "the wallet is in $argument; keep it where this machine is not"
}

remove() {
  if has_systemd && [ -f "/etc/systemd/system/$UNIT" ]; then run systemctl --quiet disable --now "$UNIT"; fi
  run rm -f "/etc/systemd/system/$UNIT" "$PROGRAM"
  if [ -d "$(dirname "$PROGRAM")" ]; then run rmdir --ignore-fail-on-non-empty "$(dirname "$PROGRAM")"; fi
  if has_systemd; then run systemctl daemon-reload; fi
  if [ -z "$purge" ]; then
    say "kept: $DATA, with the wallet; --purge deletes it"
    return 0
  fi
  run rm -rf --one-file-system "$DATA"
  if id "$WALLET_USER" >/dev/null 2>&1; then run userdel "$WALLET_USER"; fi
}

case $command in
  install | remove) [ -n "$DRY_RUN" ] || need_root "gridcoin.sh $command" ;;
esac
case $command in
  install) install_daemon ;;
  status)
    if [ -n "$DRY_RUN" ]; then
      say 'would call: getblockchaininfo, getwalletinfo'
    else
      rpc getblockchaininfo
      rpc getwalletinfo
    fi
    ;;
  encrypt) secret_change encryptwallet 'encrypted; the daemon stops now, starts again, and needs a new backup' ;;
  unlock)
    [[ ${argument:-86400} =~ ^[0-9]{1,9}$ ]] || wrong_usage "\`$argument\` is not a number of seconds"
    secret_change walletpassphrase "unlocked for ${argument:-86400} s" "${argument:-86400}"
    ;;
  lock) change walletlock 'locked' ;;
  backup) backup ;;
  remove) remove ;;
esac
