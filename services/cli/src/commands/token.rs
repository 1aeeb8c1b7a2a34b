//! `gridfaas token`: what lets people in.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use proto::credit::v1::{self as credit, CreateTokenRequest, ListTokensRequest, RevokeTokenRequest};
use schema::Rfc3339;
use serde::Serialize;
use service_kit::Secret;
use units::{Timestamp, UserName};

use crate::output::{Output, Show, columns, printable};
use crate::stack::{Stack, told};

const DAY_SECS: u64 = 24 * 3600;

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token and write it into a file
    ///
    /// Its secret is in that file and nowhere else. Name the file in GRIDFAAS_TOKEN_FILE to use it.
    Create(CreateArgs),
    /// List the tokens that open something
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Take a token back
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Who holds it: an operator does everything, an auditor reads everything, a user does what concerns its own
    #[arg(value_enum)]
    role: Role,
    /// Whose it is, for the role user
    #[arg(long, required_if_eq("role", "user"))]
    user: Option<UserName>,
    /// Where it goes, for its owner only
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// What it is used for
    #[arg(long, value_name = "TEXT", default_value = "")]
    label: String,
    /// How long it is good for
    #[arg(long, value_name = "DAYS", default_value = "90", value_parser = clap::value_parser!(u32).range(1..=3660))]
    days: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    User,
    Auditor,
    Operator,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only this user's
    #[arg(long)]
    user: Option<UserName>,
}

#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// As `token list` shows it
    id: String,
}

#[derive(Serialize)]
struct Token {
    id: String,
    role: &'static str,
    /// Whose, for the role user.
    user: Option<String>,
    label: String,
    created_at: Rfc3339,
    expires_at: Rfc3339,
}

impl From<credit::Token> for Token {
    fn from(token: credit::Token) -> Self {
        let time = |ms| Rfc3339(Timestamp::from_unix_ms(ms));
        Self {
            role: match token.role() {
                credit::Role::Operator => "operator",
                credit::Role::Auditor => "auditor",
                credit::Role::User => "user",
                credit::Role::Node => "node",
                credit::Role::Unspecified => "",
            },
            id: token.token_id,
            user: Some(token.user).filter(|user| !user.is_empty()),
            label: token.label,
            created_at: time(token.created_at_ms),
            expires_at: time(token.expires_at_ms),
        }
    }
}

#[derive(Serialize)]
#[serde(transparent)]
struct Tokens(Vec<Token>);

impl Show for Tokens {
    fn text(&self) -> String {
        columns(
            ["ID", "ROLE", "USER", "EXPIRES", "LABEL"],
            self.0.iter().map(|token| {
                [
                    token.id.clone(),
                    token.role.to_owned(),
                    token.user.clone().unwrap_or_default(),
                    token.expires_at.to_string(),
                    printable(&token.label),
                ]
            }),
        )
    }
}

pub(crate) async fn run(command: TokenCommand, stack: &Stack, output: Output) -> anyhow::Result<()> {
    let mut access = stack.access().await?;
    let tokens = match command {
        TokenCommand::Create(args) => {
            let role = match args.role {
                Role::User => credit::Role::User,
                Role::Auditor => credit::Role::Auditor,
                Role::Operator => credit::Role::Operator,
            };
            let request = CreateTokenRequest {
                role: role.into(),
                user: args.user.map(String::from).unwrap_or_default(),
                label: args.label,
                lifetime_s: u64::from(args.days) * DAY_SECS,
            };
            let reply = access.create_token(request).await.map_err(told)?.into_inner();
            access::token::write(&args.to, &Secret::new(reply.secret))
                .with_context(|| format!("failed to write the token to `{}`", args.to.display()))?;
            vec![reply.token.unwrap_or_default()]
        }
        TokenCommand::List(args) => {
            let user = args.user.map(String::from).unwrap_or_default();
            let reply = access.list_tokens(ListTokensRequest { user }).await;
            reply.map_err(told)?.into_inner().tokens
        }
        TokenCommand::Revoke(args) => {
            let request = RevokeTokenRequest { token_id: args.id };
            let reply = access.revoke_token(request).await.map_err(told)?;
            vec![reply.into_inner().token.unwrap_or_default()]
        }
    };
    output.show(&Tokens(tokens.into_iter().map(Token::from).collect()))
}
