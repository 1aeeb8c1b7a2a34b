//! Compares the receivers' addresses with what the wallet says of them, before anything is paid: coins sent to a mistyped
//! address are gone for ever.

use units::ReceiverName;

use super::gridcoin::Mode;
use super::outbox::Rules;
use super::split::{Receiver, label_of};
use super::wallet::{Address, AddressFacts, Wallet, WalletError};

#[derive(Debug, thiserror::Error)]
pub enum ReceiverError {
    #[error(
        "receiver `{receiver}`: the configured address `{configured}` is not one of the wallet's network"
    )]
    Invalid {
        receiver: ReceiverName,
        configured: Address,
    },
    #[error(
        "receiver `{receiver}`: the configuration says `{configured}`, the wallet knows {} as `{}` (hint: mend the \
         configuration, or tell the wallet with `setaccount {configured} {}`)",
        shown(known),
        label_of(receiver),
        label_of(receiver)
    )]
    Other {
        receiver: ReceiverName,
        configured: Address,
        /// By the receiver's label.
        known: Vec<Address>,
    },
    #[error(
        "receiver `{receiver}`: the configured address `{configured}` is the wallet's own, of its account `{account}`, so \
         coins sent there would not leave it"
    )]
    Own {
        receiver: ReceiverName,
        configured: Address,
        account: String,
    },
    #[error(transparent)]
    Wallet(#[from] WalletError),
}

impl ReceiverError {
    /// Whether the wallet could not be asked, so that nothing is known.
    pub fn is_unknown(&self) -> bool {
        match self {
            Self::Wallet(_) => true,
            Self::Invalid { .. } | Self::Other { .. } | Self::Own { .. } => false,
        }
    }
}

fn shown(addresses: &[Address]) -> String {
    if addresses.is_empty() {
        return "no address".to_owned();
    }
    let quoted: Vec<String> = addresses.iter().map(|address| format!("`{address}`")).collect();
    quoted.join(", ")
}

/// Every configured address has to be of the wallet's network. In `accounts` mode it has to belong to the receiver's
/// account. In `addresses` mode it has to be somebody else's; if the wallet's address book has an address under the
/// receiver's label, it has to be that one.
pub async fn check(wallet: &dyn Wallet, rules: &Rules) -> Result<(), ReceiverError> {
    for Receiver { name, address, .. } in rules.receivers.iter() {
        let Some(configured) = address.clone() else {
            continue;
        };
        let receiver = name.clone();
        match (rules.mode, wallet.address_facts(&configured).await?) {
            (_, AddressFacts::Invalid) => return Err(ReceiverError::Invalid { receiver, configured }),
            (Mode::Addresses, AddressFacts::Own { account }) => {
                return Err(ReceiverError::Own {
                    receiver,
                    configured,
                    account,
                });
            }
            (Mode::Accounts, AddressFacts::Own { account }) if account == label_of(name) => {}
            (Mode::Addresses, AddressFacts::Foreign { label }) => {
                let known = wallet.addresses_of(&label_of(name)).await?;
                let is_anothers = rules
                    .receivers
                    .iter()
                    .any(|other| other.name != *name && label.as_deref() == Some(&label_of(&other.name)));
                if is_anothers || !(known.is_empty() || known.contains(&configured)) {
                    return Err(ReceiverError::Other {
                        receiver,
                        configured,
                        known,
                    });
                }
            }
            (Mode::Accounts, AddressFacts::Own { .. } | AddressFacts::Foreign { .. }) => {
                return Err(ReceiverError::Other {
                    receiver,
                    configured,
                    known: wallet.addresses_of(&label_of(name)).await?,
                });
            }
        }
    }
    Ok(())
}
