//! One module for each command: its arguments, what it does, what it shows.

pub(crate) mod audit;
pub(crate) mod balance;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod dashboard;
pub(crate) mod doctor;
pub(crate) mod experiment;
pub(crate) mod function;
pub(crate) mod invoke;
pub(crate) mod ledger;
pub(crate) mod logs;
pub(crate) mod man;
pub(crate) mod node;
pub(crate) mod pki;
pub(crate) mod ps;
pub(crate) mod quote;
pub(crate) mod receipt;
pub(crate) mod results;
pub(crate) mod statement;
pub(crate) mod submit;
pub(crate) mod task;
pub(crate) mod token;
pub(crate) mod top;
pub(crate) mod up;
pub(crate) mod user;
pub(crate) mod version;
pub(crate) mod withdraw;

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use schema::Function;
use service_kit::spelling;
use units::FunctionName;

use crate::args::{Cli, Command};
use crate::output::Output;
use crate::stack::Stack;

/// Runs one command. Errors are said by the caller, with exit status 1.
pub(crate) async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let output = Output {
        format: cli.global.output,
        quiet: cli.global.quiet,
    };
    let stack = Stack::new(cli.global)?;
    match cli.command {
        Command::Up(args) => up::run(args, &stack, output).await.map(done),
        Command::Function(command) => function::run(command, &stack, output).await.map(done),
        Command::User(command) => user::run(command, &stack, output).await.map(done),
        Command::Token(command) => token::run(command, &stack, output).await.map(done),
        Command::Pki(command) => pki::run(command, output).map(done),
        Command::Submit(args) => submit::run(args, &stack, output).await,
        Command::Invoke(args) => invoke::run(args, &stack, output).await,
        Command::Ps(args) => ps::run(args, &stack, output).await.map(done),
        Command::Task(command) => task::run(command, &stack, output).await,
        Command::Logs(args) => logs::run(args, &stack, output).await.map(done),
        Command::Results(args) => results::run(args, &stack, output).await.map(done),
        Command::Quote(args) => quote::run(args, &stack, output).await.map(done),
        Command::Experiment(command) => experiment::run(command, output).await.map(done),
        Command::Receipt(command) => receipt::run(command, output),
        Command::Node(command) => node::run(command, &stack, output).await.map(done),
        Command::Config(command) => config::run(command, &stack, output).await.map(done),
        Command::Balance(args) => balance::run(args, &stack, output).await.map(done),
        Command::Statement(args) => statement::run(args, &stack, output).await.map(done),
        Command::Ledger(command) => ledger::run(command, &stack, output).await,
        Command::Withdraw(args) => withdraw::run(args, &stack, output).await.map(done),
        Command::Dashboard(args) => dashboard::run(args, &stack, output).await.map(done),
        Command::Top(args) => top::run(args, &stack, output).await.map(done),
        Command::Audit(_) => audit::run(&stack, output).await,
        Command::Doctor(_) => doctor::run(&stack, output).await,
        Command::Completions(args) => completions::run(args).map(done),
        Command::Man(args) => man::run(args).map(done),
        Command::Version(_) => version::run(output).map(done),
    }
}

fn done((): ()) -> ExitCode {
    ExitCode::SUCCESS
}

/// The function of this name, as credit-manager has it.
async fn find_function(name: &FunctionName, stack: &Stack) -> anyhow::Result<Function> {
    let mut functions = stack.functions(None).await?;
    if let Some(found) = functions
        .iter()
        .position(|function| function.name == name.as_str())
    {
        return Ok(functions.swap_remove(found).into());
    }
    let names = functions.iter().map(|function| function.name.as_str());
    let advice = spelling::advice(
        name.as_str(),
        names,
        "`gridfaas function list` shows what there is, `gridfaas function create` makes one",
    );
    bail!("there is no function `{name}` (hint: {advice})")
}

/// For amounts where none at all makes no sense.
fn more_than_zero(text: &str) -> anyhow::Result<units::Amount> {
    let amount: units::Amount = text.parse()?;
    anyhow::ensure!(amount.is_positive(), "the amount must be more than 0");
    Ok(amount)
}

/// An amount that may not be exceeded, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit(Option<units::Amount>);

impl Limit {
    /// As the services are told: 0 takes the limit away.
    fn halfords(self) -> i64 {
        self.0.map_or(0, units::Amount::halfords)
    }
}

impl std::str::FromStr for Limit {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text {
            "off" => Ok(Self(None)),
            amount => more_than_zero(amount)
                .map(|limit| Self(Some(limit)))
                .context("a limit is an amount of GRC, or `off`"),
        }
    }
}
