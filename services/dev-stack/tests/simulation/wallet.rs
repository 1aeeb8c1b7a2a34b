//! A wallet that is slow, loses requests and replies, carries payments out late and refuses some; what it confirmed it
//! keeps.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use credit_manager::settlement::fake::FakeWallet;
use credit_manager::settlement::wallet::{
    Address, AddressFacts, Cursor, Deposits, Payment, Receipt, Wallet, WalletError,
};
use tokio_util::sync::CancellationToken;
use units::{Amount, UserName};

use crate::world::World;

/// A payment that is carried out at all is carried out within this; the configuration waits longer.
const LATE_MAX_MS: u64 = 2_500;

/// The wallet as one life of credit-manager sees it.
pub(crate) struct LyingWallet {
    pub(crate) world: Arc<World>,
    pub(crate) inner: Arc<FakeWallet>,
    /// The end of that life: who is dead asks for nothing.
    pub(crate) dead: CancellationToken,
}

impl LyingWallet {
    async fn asked(&self) -> Result<(), WalletError> {
        if self.dead.is_cancelled() {
            std::future::pending::<()>().await;
        }
        let dice = &self.world.dice;
        tokio::time::sleep(dice.ms(1..50)).await;
        if !self.world.is_healing() && dice.percent(10) {
            return Err(WalletError::Unreachable {
                url: "simulated".to_owned(),
                err: "connection refused".into(),
            });
        }
        Ok(())
    }
}

fn unclear() -> WalletError {
    WalletError::Unclear {
        method: "pay",
        err: "connection reset".into(),
    }
}

#[async_trait]
impl Wallet for LyingWallet {
    async fn check(&self) -> Result<(), WalletError> {
        self.inner.check().await
    }

    async fn deposit_address(&self, user: &UserName) -> Result<Address, WalletError> {
        self.inner.deposit_address(user).await
    }

    async fn deposits(&self, cursor: Option<&Cursor>, confirmations: u32) -> Result<Deposits, WalletError> {
        self.asked().await?;
        self.inner.deposits(cursor, confirmations).await
    }

    async fn pay(&self, payment: &Payment) -> Result<Receipt, WalletError> {
        self.asked().await?;
        let dice = &self.world.dice;
        let honest = self.world.is_healing() || dice.percent(40);
        if !honest && dice.percent(15) {
            return Err(WalletError::Refused {
                method: "pay",
                code: -4,
                message: "Transaction creation failed".to_owned(),
            });
        }
        if !honest && dice.percent(20) {
            return Err(unclear());
        }
        let delay = if honest { 0..20 } else { 0..LATE_MAX_MS };
        let (delay, world, inner, payment) = (
            dice.ms(delay),
            self.world.clone(),
            self.inner.clone(),
            payment.clone(),
        );
        // Carried out whoever still waits for the answer.
        let carried_out = tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            world.laws().on_payment(&payment);
            let made = inner.pay(&payment).await;
            if made.is_ok() {
                world.laws().on_paid(&payment);
            }
            made
        });
        if honest {
            return carried_out.await.map_err(|_| unclear())?;
        }
        let patience = dice.ms(0..LATE_MAX_MS);
        match tokio::time::timeout(patience, carried_out).await {
            Ok(Ok(made)) if dice.percent(50) => made,
            _ => Err(unclear()),
        }
    }

    async fn find_payment(&self, payment: &Payment) -> Result<Option<Receipt>, WalletError> {
        self.asked().await?;
        self.inner.find_payment(payment).await
    }

    async fn address_facts(&self, address: &Address) -> Result<AddressFacts, WalletError> {
        self.asked().await?;
        self.inner.address_facts(address).await
    }

    async fn addresses_of(&self, label: &str) -> Result<Vec<Address>, WalletError> {
        self.asked().await?;
        self.inner.addresses_of(label).await
    }

    async fn account_balances(
        &self,
        confirmations: u32,
    ) -> Result<Option<BTreeMap<String, Amount>>, WalletError> {
        self.asked().await?;
        self.inner.account_balances(confirmations).await
    }

    async fn has_transaction(&self, txid: &str) -> Result<bool, WalletError> {
        self.asked().await?;
        self.inner.has_transaction(txid).await
    }

    async fn check_unlocked(&self) -> Result<(), WalletError> {
        self.asked().await?;
        self.inner.check_unlocked().await
    }

    async fn balance(&self, confirmations: u32) -> Result<Amount, WalletError> {
        self.inner.balance(confirmations).await
    }
}

/// Longer than any payment is late.
pub(crate) const PATIENCE: Duration = Duration::from_millis(LATE_MAX_MS + 500);
