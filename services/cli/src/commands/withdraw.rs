//! `gridfaas withdraw`: coins of a user leave for an address of the user's choice.

use std::time::Duration;

use anyhow::bail;
use clap::Args;
use proto::credit::v1::{GetWithdrawalRequest, WithdrawRequest, WithdrawalState};
use schema::Withdrawal;
use units::{Amount, UserName};
use uuid::Uuid;

use super::more_than_zero;
use crate::output::Output;
use crate::stack::{Stack, told};

/// A payment takes the wallet a fraction of a second.
const POLL: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(crate) struct WithdrawArgs {
    /// Whose coins
    user: UserName,
    /// Where to; not an address of this platform
    address: String,
    /// What arrives, in GRC; the chain's fee comes on top
    #[arg(required_unless_present = "all", allow_negative_numbers = true, value_parser = more_than_zero)]
    amount: Option<Amount>,
    /// All that is free, less the fee
    #[arg(long, conflicts_with = "amount")]
    all: bool,
    /// Names the withdrawal, so that asking again cannot send twice [default: a new one]
    #[arg(long, value_name = "UUID")]
    id: Option<Uuid>,
    /// Return when it is written down, before the wallet has made the payment
    #[arg(long)]
    no_wait: bool,
}

pub(crate) async fn run(args: WithdrawArgs, stack: &Stack, output: Output) -> anyhow::Result<()> {
    let mut accounts = stack.accounts().await?;
    let id = args.id.unwrap_or_else(Uuid::now_v7).to_string();
    // Said before it is asked for: whoever hears nothing more can ask again without sending twice.
    output.say(format!("withdrawal {id}"));
    let request = WithdrawRequest {
        withdrawal_id: id.clone(),
        user: args.user.into(),
        address: args.address,
        amount_halfords: args.amount.map_or(0, Amount::halfords),
    };
    let reply = accounts.withdraw(request).await.map_err(told)?;
    let mut withdrawal = reply.into_inner().withdrawal.unwrap_or_default();
    while !args.no_wait && withdrawal.state() == WithdrawalState::UnderWay {
        tokio::time::sleep(POLL).await;
        let request = GetWithdrawalRequest {
            withdrawal_id: id.clone(),
        };
        let reply = accounts.get_withdrawal(request).await.map_err(told)?;
        withdrawal = reply.into_inner().withdrawal.unwrap_or_default();
    }
    if withdrawal.state() == WithdrawalState::Failed {
        bail!(
            "nothing was sent: {} (hint: the coins are in the balance again)",
            withdrawal.failure
        );
    }
    output.show(&Withdrawal::from(withdrawal))
}
