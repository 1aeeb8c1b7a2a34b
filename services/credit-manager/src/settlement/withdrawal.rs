//! WITHDRAWAL: a user's coins go to an address of the user's choice.
//!
//! What arrives is what was asked for; the chain's fee comes on top. What stands in the way is found before anything is
//! written: an address that is not of this network or is the wallet's own, a locked wallet, coins that are not free. Then
//! the coins leave the user's account in the same commit as their payment enters the [`outbox`](super::outbox).

use std::sync::Arc;

use service_kit::Clock;
use tracing::info;
use uuid::Uuid;

use super::gridcoin::Mode;
use super::outbox::{Payout, Purpose};
use super::wallet::{Address, AddressFacts, PaymentId, Route, Wallet, WalletError};
use crate::bank::{Sum, WithdrawalOrder};
use crate::writer::{CommandError, Desk, Writer};

/// A payment's id tells whose it is; no user's name has a dot.
const ID_PREFIX: &str = "gridfaas:withdrawal.";

/// Takes users' orders.
#[derive(Clone)]
pub struct Withdrawals {
    pub writer: Writer,
    pub wallet: Arc<dyn Wallet>,
    pub clock: Arc<dyn Clock>,
    pub mode: Mode,
}

#[derive(Debug, thiserror::Error)]
pub enum WithdrawError {
    #[error(
        "`{0}` is not an address of the wallet's network (hint: addresses of the test network and of the main one differ)"
    )]
    BadAddress(Address),
    #[error(
        "`{0}` belongs to this platform's own wallet (hint: name an address of a wallet of your own, or pay the other \
         user from there)"
    )]
    OwnAddress(Address),
    #[error("withdrawal `{0}` was asked for before with other content")]
    AskedDifferently(PaymentId),
    #[error(transparent)]
    Wallet(#[from] WalletError),
    #[error(transparent)]
    Ledger(#[from] CommandError),
}

impl Withdrawals {
    /// Takes an order, once for each id: the same order again only tells how it stands.
    pub async fn order(&self, order: WithdrawalOrder) -> Result<Payout, WithdrawError> {
        let wanted = order.clone();
        if let Some(earlier) = self.writer.call(move |desk| desk.payout(&wanted.id)).await? {
            return repeated(earlier, &order);
        }
        match self.wallet.address_facts(&order.to).await? {
            AddressFacts::Invalid => return Err(WithdrawError::BadAddress(order.to)),
            AddressFacts::Own { .. } => return Err(WithdrawError::OwnAddress(order.to)),
            AddressFacts::Foreign { .. } => {}
        }
        self.wallet.check_unlocked().await?;
        let (wanted, mode, now) = (order.clone(), self.mode, self.clock.now());
        let payout = self
            .writer
            .call(move |desk: &mut Desk| match desk.payout(&wanted.id)? {
                Some(earlier) => Ok(earlier),
                None => Ok(desk.bank.withdraw(wanted, mode, now)?),
            })
            .await?;
        let (user, amount_halfords) = (&order.user, payout.payment.amount.halfords());
        info!(%user, amount_halfords, payment_id = %order.id, to = %order.to, "withdrawal taken");
        repeated(payout, &order)
    }
}

/// The payout that an order stands for, unless it is another's.
fn repeated(payout: Payout, order: &WithdrawalOrder) -> Result<Payout, WithdrawError> {
    let is_same = payout.purpose
        == Purpose::Withdrawal {
            user: order.user.clone(),
        }
        && matches!(&payout.payment.route, Route::Send { to, .. } if *to == order.to)
        && match order.sum {
            Sum::Exactly(amount) => payout.payment.amount == amount,
            Sum::All => true,
        };
    if is_same {
        Ok(payout)
    } else {
        Err(WithdrawError::AskedDifferently(order.id.clone()))
    }
}

/// The payment of the withdrawal that its caller gave this id.
pub fn payment_id(id: Uuid) -> PaymentId {
    format!("{ID_PREFIX}{id}").parse().expect("a UUID is plain text")
}

/// The id that the caller gave to a withdrawal.
pub fn caller_id(id: &PaymentId) -> &str {
    id.as_str().strip_prefix(ID_PREFIX).unwrap_or(id.as_str())
}
