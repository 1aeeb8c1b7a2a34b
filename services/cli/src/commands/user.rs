//! `gridfaas user`: who pays, and on what terms.

use std::path::PathBuf;
use std::time::Duration;

use access::Channel;
use anyhow::bail;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Subcommand, ValueEnum};
use proto::credit::v1::account_service_client::AccountServiceClient;
use proto::credit::v1::{
    self as credit, CreateUserRequest, GetS3CredentialsRequest, GetUserRequest, ListTransfersRequest,
    ListUsersRequest, ListWithdrawalsRequest, UpdateUserRequest,
};
use schema::{User, Withdrawal};
use serde::Serialize;
use service_kit::Secret;
use units::{Amount, Billing, CpuTime, OnShortage, Policy, UserName};

use crate::args::Cli;
use crate::commands::{Limit, more_than_zero};
use crate::output::{Output, Show, pairs};
use crate::stack::{Stack, told};
use crate::view::{Users, Withdrawals};

/// Often enough to feel prompt beside a block every second.
const POLL: Duration = Duration::from_millis(200);

#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Add a user, with the platform's default terms and a deposit address
    Add(UserArg),
    /// List users
    #[command(visible_alias = "ls")]
    List,
    /// Print where to send a user's coins
    Address(UserArg),
    /// Send a user coins of the development chain
    Fund(FundArgs),
    /// Write a user's key to the buckets of the user's functions into a file, as S3 clients read it
    S3Credentials(S3CredentialsArgs),
    /// List what a user withdrew, the newest first
    Withdrawals(UserArg),
    /// Change a user's terms; what is not said stays
    Set(SetArgs),
}

#[derive(Debug, Args)]
pub(crate) struct UserArg {
    /// 1 to 32 of a-z, 0-9 and -, beginning with a letter
    name: UserName,
}

#[derive(Debug, Args)]
pub(crate) struct S3CredentialsArgs {
    /// Whose key
    name: UserName,
    /// Where the key goes, for its owner only
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Make a new key; the one before opens nothing from then on
    #[arg(long)]
    renew: bool,
}

#[derive(Debug, Args)]
pub(crate) struct FundArgs {
    /// Who gets them
    name: UserName,
    /// In GRC
    #[arg(allow_negative_numbers = true, value_parser = more_than_zero)]
    amount: Amount,
    /// Make this many blocks at once, so that the coins are confirmed without waiting for them
    #[arg(long, value_name = "BLOCKS", num_args = 0..=1, require_equals = true, default_missing_value = "10")]
    mine: Option<u32>,
    /// Return when the coins are credited
    #[arg(long)]
    wait: bool,
}

#[derive(Clone, Debug, Args)]
#[command(group = clap::ArgGroup::new("terms").multiple(true))]
#[command(override_usage = "gridfaas user set <NAME> <TERMS>...")]
pub(crate) struct SetArgs {
    /// Whose terms
    name: UserName,
    /// The balance, in GRC, at which the standing turns from good to low
    #[arg(long, value_name = "AMOUNT", group = "terms", allow_negative_numbers = true)]
    min_balance: Option<Amount>,
    /// How far below zero the balance may go, in GRC
    #[arg(long, value_name = "AMOUNT", group = "terms", allow_negative_numbers = true, value_parser = not_negative)]
    debt_limit: Option<Amount>,
    /// Whether tasks start while the standing is low: greedy or conservative
    #[arg(long, group = "terms")]
    policy: Option<Policy>,
    /// What is charged for: used (CPU time) or current (allocation)
    #[arg(long, group = "terms")]
    billing: Option<Billing>,
    /// What one GRC buys; tasks that run keep their price
    #[arg(long, value_name = "N", group = "terms", value_parser = clap::value_parser!(u32).range(1..))]
    core_seconds_per_grc: Option<u32>,
    /// Refuse new tasks that the balance would not last this many seconds with; 0 refuses none
    #[arg(long, value_name = "SECONDS", group = "terms")]
    min_runway: Option<u32>,
    /// When the balance does not last for all that runs: together (all come to zero) or newest-first (the newest stop)
    #[arg(long, value_name = "WHO", group = "terms")]
    on_shortage: Option<OnShortage>,
    /// The most that all tasks may cost an hour, in GRC, or off
    #[arg(long, value_name = "AMOUNT", group = "terms")]
    max_spend: Option<Limit>,
    /// The balance, in GRC, at which an alert is raised, once for each fall [default: the min balance]
    #[arg(long, value_name = "AMOUNT", group = "terms", allow_negative_numbers = true)]
    alert_at: Option<Amount>,
    /// Where alerts are posted to, as JSON, or off
    #[arg(long, value_name = "URL", group = "terms")]
    alert_webhook: Option<String>,
    /// Off: never billed and never stopped
    #[arg(long, value_name = "ON|OFF", group = "terms")]
    accounting: Option<Switch>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

fn not_negative(text: &str) -> anyhow::Result<Amount> {
    let amount: Amount = text.parse()?;
    anyhow::ensure!(!amount.is_negative(), "a debt limit must not be negative");
    Ok(amount)
}

pub(crate) async fn run(command: UserCommand, stack: &Stack, output: Output) -> anyhow::Result<()> {
    if let UserCommand::Set(args) = &command {
        args.ensure_something_is_set();
    }
    let mut accounts = stack.accounts().await?;
    match command {
        UserCommand::Add(UserArg { name }) => {
            let request = CreateUserRequest { name: name.into() };
            let reply = accounts.create_user(request).await.map_err(told)?;
            output.show(&User::from(reply.into_inner().user.unwrap_or_default()))
        }
        UserCommand::List => {
            let reply = accounts.list_users(ListUsersRequest {}).await.map_err(told)?;
            output.show(&Users(
                reply.into_inner().users.into_iter().map(User::from).collect(),
            ))
        }
        UserCommand::Address(UserArg { name }) => {
            let user = get_user(&mut accounts, &name).await?;
            output.show(&DepositAddress {
                name: user.name,
                deposit_address: user.deposit_address,
            })
        }
        UserCommand::Withdrawals(UserArg { name }) => {
            let request = ListWithdrawalsRequest {
                user: name.into(),
                limit: 0,
            };
            let reply = accounts.list_withdrawals(request).await.map_err(told)?;
            let withdrawals = reply.into_inner().withdrawals;
            output.show(&Withdrawals(
                withdrawals.into_iter().map(Withdrawal::from).collect(),
            ))
        }
        UserCommand::S3Credentials(args) => s3_credentials(args, stack, output).await,
        UserCommand::Fund(args) => fund(args, &mut accounts, stack, output).await,
        UserCommand::Set(args) => {
            let reply = accounts.update_user(args.into_request()).await.map_err(told)?;
            output.show(&User::from(reply.into_inner().user.unwrap_or_default()))
        }
    }
}

impl SetArgs {
    /// Ends the process with wrong usage otherwise. By clap, every term would stand in one long line.
    fn ensure_something_is_set(&self) {
        let nothing = UpdateUserRequest {
            name: self.name.to_string(),
            ..UpdateUserRequest::default()
        };
        if self.clone().into_request() == nothing {
            let mut cli = Cli::command();
            cli.build();
            let user = cli.find_subcommand_mut("user").expect("this command");
            let set = user.find_subcommand_mut("set").expect("this command");
            let problem = "nothing to set\n\n  tip: say at least one term, such as '--debt-limit'";
            set.error(ErrorKind::MissingRequiredArgument, problem).exit();
        }
    }

    fn into_request(self) -> UpdateUserRequest {
        UpdateUserRequest {
            name: self.name.into(),
            min_balance_halfords: self.min_balance.map(Amount::halfords),
            debt_limit_halfords: self.debt_limit.map(Amount::halfords),
            policy: self.policy.map(|policy| credit::Policy::from(policy).into()),
            billing: self.billing.map(|billing| credit::Billing::from(billing).into()),
            cpu_time_us_per_grc: self
                .core_seconds_per_grc
                .map(|seconds| CpuTime::from_secs(seconds.into()).micros()),
            accounting: self.accounting.map(|switch| switch == Switch::On),
            min_runway_s: self.min_runway.map(u64::from),
            on_shortage: self
                .on_shortage
                .map(|on_shortage| credit::OnShortage::from(on_shortage).into()),
            max_spend_halfords_per_hour: self.max_spend.map(Limit::halfords),
            alert_at_halfords: self.alert_at.map(Amount::halfords),
            alert_webhook: self.alert_webhook.map(|url| match url.as_str() {
                "off" => String::new(),
                _ => url,
            }),
        }
    }
}

pub(super) async fn get_user(
    accounts: &mut AccountServiceClient<Channel>,
    name: &UserName,
) -> anyhow::Result<User> {
    let request = GetUserRequest {
        name: name.to_string(),
    };
    let reply = accounts.get_user(request).await.map_err(told)?;
    Ok(User::from(reply.into_inner().user.unwrap_or_default()))
}

#[derive(Serialize)]
struct S3Key {
    name: String,
    access_key: String,
    file: PathBuf,
}

impl Show for S3Key {
    fn text(&self) -> String {
        pairs([
            ("S3 key", self.access_key.clone()),
            ("S3 credentials", self.file.display().to_string()),
        ])
    }
}

async fn s3_credentials(args: S3CredentialsArgs, stack: &Stack, output: Output) -> anyhow::Result<()> {
    let request = GetS3CredentialsRequest {
        user: args.name.to_string(),
        renew: args.renew,
    };
    let reply = stack
        .access()
        .await?
        .get_s3_credentials(request)
        .await
        .map_err(told)?;
    let key = reply.into_inner();
    dev_stack::S3Credentials {
        access_key: key.access_key.clone(),
        secret_key: Secret::new(key.secret_key),
    }
    .write(&args.to)?;
    output.show(&S3Key {
        name: args.name.into(),
        access_key: key.access_key,
        file: args.to,
    })
}

#[derive(Serialize)]
struct DepositAddress {
    name: String,
    deposit_address: String,
}

impl Show for DepositAddress {
    fn text(&self) -> String {
        self.deposit_address.clone()
    }
}

#[derive(Serialize)]
struct Funded {
    name: String,
    amount: Amount,
    txid: String,
    deposit_address: String,
    /// With all that is credited by now; the coins sent may still be pending.
    balance: Amount,
    pending_deposit: Amount,
}

impl Show for Funded {
    fn text(&self) -> String {
        pairs([
            ("sent", format!("{} GRC to {}", self.amount, self.deposit_address)),
            ("transaction", self.txid.clone()),
            ("balance", format!("{} GRC", self.balance)),
            ("pending deposit", format!("{} GRC", self.pending_deposit)),
        ])
    }
}

async fn fund(
    args: FundArgs,
    accounts: &mut AccountServiceClient<Channel>,
    stack: &Stack,
    output: Output,
) -> anyhow::Result<()> {
    let before = get_user(accounts, &args.name).await?;
    let Some(chain) = stack.dev_chain()? else {
        bail!(
            "coins of a real chain cannot be made (hint: send {} GRC to {}, the deposit address of {})",
            args.amount,
            before.deposit_address,
            args.name
        );
    };
    let txid = chain.deposit(&before.deposit_address, args.amount).await?;
    if let Some(blocks) = args.mine {
        chain.mine(blocks).await?;
    }
    let mut user = get_user(accounts, &args.name).await?;
    if args.wait {
        output.say("waiting for the deposit to be confirmed");
        while !is_credited(accounts, &args.name, &txid).await? {
            tokio::time::sleep(POLL).await;
        }
        user = get_user(accounts, &args.name).await?;
    }
    output.show(&Funded {
        name: user.name,
        amount: args.amount,
        txid,
        deposit_address: user.deposit_address,
        balance: user.balance,
        pending_deposit: user.pending_deposit,
    })
}

/// Whether the ledger holds the deposit of a transaction.
pub(super) async fn is_credited(
    accounts: &mut AccountServiceClient<Channel>,
    name: &UserName,
    txid: &str,
) -> anyhow::Result<bool> {
    let request = ListTransfersRequest {
        user: name.to_string(),
        limit: 0,
    };
    let transfers = accounts
        .list_transfers(request)
        .await
        .map_err(told)?
        .into_inner()
        .transfers;
    Ok(transfers
        .iter()
        .any(|transfer| transfer.kind == "deposit" && transfer.reference.contains(txid)))
}
