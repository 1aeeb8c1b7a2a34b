#!/usr/bin/env bash
# Brings a user's balance to an amount, by coins: what is missing is sent to the user's deposit address, what is too much is
# withdrawn.
#
# usage: set-balance.sh USER AMOUNT [--to ADDRESS --token-file FILE] [--wait SECONDS] [--dry-run]
#   --to ADDRESS        where coins go that are too many; an address outside of the platform's wallet
#   --token-file FILE   a token of the user, who alone may withdraw
#   --wait SECONDS      how long coins may take to be confirmed; default 3600
#   --dry-run           says what would be sent, and sends nothing
#
# AMOUNT is in GRC. Balances change by coins alone, so that the ledger and the wallet always agree. On a development chain the
# coins come from nowhere; on a real one this says what to send where, and waits. Nothing is sent if the balance is right, so it
# can be run again. gridfaas has to find the stack, by its environment or the data folder.
set -euo pipefail
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"

# What the chain takes for a small payment, in halfords.
readonly FEE=100000

take_options 'to= token-file= wait= dry-run' "$@"
to=${option[to]:-} token_file=${option[token-file]:-} wait_s=${option[wait]:-3600}
[ ${#arguments[@]} -eq 2 ] || wrong_usage 'expected USER and AMOUNT'
user=${arguments[0]} goal=${arguments[1]}
[[ $goal =~ ^[0-9]{1,9}(\.[0-9]{1,8})?$ ]] || wrong_usage "\`$goal\` is not an amount of GRC"
[[ $wait_s =~ ^[0-9]{1,6}$ ]] || wrong_usage "\`$wait_s\` is not a number of seconds"
have gridfaas || [ -n "${GRIDFAAS:-}" ] || die 'no gridfaas on PATH' 'install the package, or set GRIDFAAS to the program'
gridfaas=${GRIDFAAS:-gridfaas}

# Amounts are reckoned in halfords, as integers.
halfords() {
  local sign='' whole fraction
  whole=${1%%.*} fraction=
  [[ $1 != *.* ]] || fraction=${1#*.}
  [[ $whole != -* ]] || sign=- whole=${whole#-}
  fraction=$(printf '%-8s' "$fraction")
  printf '%d' "$sign$((10#$whole * 100000000 + 10#${fraction// /0}))"
}
grc() { printf '%d.%08d' $(($1 / 100000000)) $(($1 % 100000000)); }

balance() {
  local answer
  answer=$("$gridfaas" --output json balance "$user") || exit 1
  [[ $answer =~ \"balance\":\ *\"(-?[0-9.]+)\" ]] || die 'gridfaas told no balance' "it said: $answer"
  halfords "${BASH_REMATCH[1]}"
}

have_now=$(balance)
missing=$(($(halfords "$goal") - have_now))
if [ "$missing" -eq 0 ]; then
  say "$user has $goal GRC"
elif [ "$missing" -gt 0 ]; then
  amount=$(grc "$missing")
  address=$("$gridfaas" user address "$user")
  if [ -n "$DRY_RUN" ]; then
    say "would send: $amount GRC to $address, the deposit address of $user"
    exit 0
  fi
  "$gridfaas" --quiet user fund "$user" "$amount" --mine >&2 || say 'waiting for them'
  for ((waited = 0; $(balance) < have_now + missing; waited++)); do
    [ "$waited" -lt "$wait_s" ] || die "the coins were not credited within $wait_s s" 'run this again to go on waiting'
    sleep 1
  done
  say "$user has $(grc "$(balance)") GRC"
elif [ $((-missing)) -le "$FEE" ]; then
  say "$user has $(grc "$have_now") GRC: what is too much would go to the chain as a fee"
else
  amount=$(grc $((-missing - FEE)))
  if [ -n "$DRY_RUN" ]; then
    say "would withdraw: $amount GRC to ${to:-an address}, and $(grc "$FEE") GRC for the chain's fee"
    exit 0
  fi
  if [ -z "$to" ] || [ -z "$token_file" ]; then
    die "$user has $amount GRC too many" "only $user may withdraw: name an address with --to and a token of $user with --token-file"
  fi
  "$gridfaas" --token-file "$token_file" withdraw "$user" "$to" "$amount" >&2
  say "$user has $(grc "$(balance)") GRC"
fi
