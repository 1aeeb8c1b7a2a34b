//! The daemon's help texts, which are also its answers to a wrong number of parameters.

pub(crate) const OVERVIEW: &str = "\
help [command/category]
Returns help on a specific command or category you request

help command --> Returns help for specified command; ex. help backupwallet

Categories:
wallet --------> Returns help for blockchain related commands
staking -------> Returns help for staking/cpid/beacon related commands
developer -----> Returns help for developer commands
network -------> Returns help for network related commands
voting --------> Returns help for voting related commands

You can support the development of Gridcoin by donating GRC to the
Gridcoin Foundation at this address: bc3NA8e8E3EoTL1qhRmeprbjWcmuoZ26A2
";

pub(crate) const ENCRYPT_WALLET: &str = "\
encryptwallet <passphrase>

Encrypts the wallet with <passphrase>.
";

/// The daemon has other words for an empty passphrase than for a missing one.
pub(crate) const ENCRYPT_WALLET_EMPTY: &str = "\
encryptwallet <passphrase>
Encrypts the wallet with <passphrase>.
";

pub(crate) const GET_ACCOUNT_ADDRESS: &str = "\
getaccountaddress <account>

Returns the current Gridcoin address for receiving payments to this account.
";

pub(crate) const LIST_ACCOUNTS: &str = "\
listaccounts ( minconf includeWatchonly)

Returns UniValue that has account names as keys, account balances as values.\
1. minconf          (numeric, optional, default=1) Only include transactions with at least this many confirmations
2. includeWatchonly (bool, optional, default=false) Include balances in watchonly addresses (see 'importaddress')

Result:
{                      (json object where keys are account names, and values are numeric balances
  \"account\": x.xxx,  (numeric) The property name is the account name, and the value is the total balance for the \
account.
";

pub(crate) const MOVE: &str = "\
move <fromaccount> <toaccount> <amount> [minconf=1] [comment]

Move from one account in your wallet to another.
";

pub(crate) const SEND_TO_ADDRESS: &str = "\
sendtoaddress <gridcoinaddress> <amount> [comment] [comment-to] [message]

<amount> is a real and is rounded to the nearest 0.000001
[comment] a comment used to store what the transaction is for.
         This is not part of the transaction, just kept in your wallet.
[comment_to] a comment to store the name of the person or organization
             to which you're sending the transaction. This is not part of the \n             transaction, just kept in \
your wallet.
[message] Optional message to add to the receiver.
";

pub(crate) const SET_TX_FEE: &str = "\
settxfee <amount>

<amount> is a real and is rounded to the nearest 0.00000001

Sets the txfee for transactions
";

pub(crate) const WALLET_PASSPHRASE: &str = "\
walletpassphrase <passphrase> <timeout> [stakingonly]

Stores the wallet decryption key in memory for <timeout> seconds.
if [stakingonly] is true sending functions are disabled.
";

pub(crate) const WALLET_PASSPHRASE_EMPTY: &str = "\
walletpassphrase <passphrase> <timeout>
Stores the wallet decryption key in memory for <timeout> seconds.";
