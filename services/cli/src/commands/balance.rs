//! `gridfaas balance`

use clap::Args;
use proto::credit::v1::GetUserRequest;
use schema::User;
use units::UserName;

use crate::output::Output;
use crate::stack::{Stack, told};

#[derive(Debug, Args)]
pub(crate) struct BalanceArgs {
    /// Whose money
    user: UserName,
}

pub(crate) async fn run(args: BalanceArgs, stack: &Stack, output: Output) -> anyhow::Result<()> {
    let request = GetUserRequest {
        name: args.user.into(),
    };
    let reply = stack.accounts().await?.get_user(request).await.map_err(told)?;
    output.show(&User::from(reply.into_inner().user.unwrap_or_default()))
}
