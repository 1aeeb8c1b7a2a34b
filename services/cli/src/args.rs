//! The command line: what can be said, and the help that says it.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};
use service_kit::telemetry::LogFilter;

use crate::commands::{
    audit, balance, completions, config, dashboard, doctor, experiment, function, invoke, ledger, logs, man,
    node, pki, ps, quote, receipt, results, statement, submit, task, token, top, up, user, version, withdraw,
};
use crate::output::Format;

/// Pay-as-you-go batch functions: drop a file into a bucket, pay for the CPU time it takes.
#[derive(Debug, Parser)]
#[command(
    name = "gridfaas",
    version,
    arg_required_else_help = true,
    max_term_width = 100
)]
#[command(after_help = "Start with `gridfaas up`. Exit status: 0 done, 1 failed, 2 wrong usage.")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Folder of the stack's data [default: gridfaas in the XDG data folder]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "GRIDFAAS_DATA_DIR",
        hide_env_values = true
    )]
    pub(crate) data_dir: Option<PathBuf>,
    /// Print a table for people, one JSON value, or lines of JSON; amounts are then decimal strings
    #[arg(
        long,
        short,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    pub(crate) output: Format,
    /// Say less
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say more; twice, still more
    #[arg(long, short, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    #[command(flatten)]
    pub(crate) addresses: Addresses,
}

/// Where to find a stack that `gridfaas up` did not start in the data folder.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Another stack than the one in the data folder")]
pub(crate) struct Addresses {
    /// credit-manager's gRPC address
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "GRIDFAAS_CREDIT_URL",
        hide_env_values = true
    )]
    pub(crate) credit_url: Option<String>,
    /// container-manager's gRPC address
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "GRIDFAAS_CONTAINER_URL",
        hide_env_values = true
    )]
    pub(crate) container_url: Option<String>,
    /// The object store's address
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "GRIDFAAS_S3_URL",
        hide_env_values = true
    )]
    pub s3_url: Option<String>,
    /// An AWS shared credentials file with the key for it
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "GRIDFAAS_S3_CREDENTIALS_FILE",
        hide_env_values = true
    )]
    pub s3_credentials_file: Option<PathBuf>,
    /// A file with the token that says who you are [default: the operator's, of the stack in the data folder]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "GRIDFAAS_TOKEN_FILE",
        hide_env_values = true
    )]
    pub(crate) token_file: Option<PathBuf>,
    /// The authority to believe where addresses are https, `ca.pem` of `gridfaas pki`
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "GRIDFAAS_CA_FILE",
        hide_env_values = true
    )]
    pub(crate) ca_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole stack in this process, until it is interrupted
    Up(up::UpArgs),
    /// Deploy and list functions
    #[command(subcommand)]
    Function(function::FunctionCommand),
    /// Add, list, fund and set users
    #[command(subcommand)]
    User(user::UserCommand),
    /// Make, list and revoke the tokens that let people in
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Drop files into a function's input
    Submit(submit::SubmitArgs),
    /// Run one task and wait for what it writes and leaves
    Invoke(invoke::InvokeArgs),
    /// List tasks: waiting, running and done
    Ps(ps::PsArgs),
    /// Describe, wait for, cancel and retry tasks
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// Print what a task wrote
    Logs(logs::LogsArgs),
    /// List or fetch what a task left
    Results(results::ResultsArgs),
    /// Tell what a file would cost, without running it
    Quote(quote::QuoteArgs),
    /// Verify receipts
    #[command(subcommand)]
    Receipt(receipt::ReceiptCommand),
    /// Ask a node about itself
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Make the certificates that services know each other by
    #[command(subcommand)]
    Pki(pki::PkiCommand),
    /// Show and change a node's settings while it runs
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Show a user's money
    Balance(balance::BalanceArgs),
    /// Send a user's coins to an address
    Withdraw(withdraw::WithdrawArgs),
    /// Show every entry of a user's account
    Statement(statement::StatementArgs),
    /// Show, export, copy and prove the ledger
    #[command(subcommand)]
    Ledger(ledger::LedgerCommand),
    /// Run experiments and draw what happened
    #[command(subcommand)]
    Experiment(experiment::ExperimentCommand),
    /// Serve pages for a browser: funds, CPU, tasks, live
    Dashboard(dashboard::DashboardArgs),
    /// Watch users' funds and containers' CPU in the terminal
    Top(top::TopArgs),
    /// Prove that the ledger and the wallet agree
    Audit(audit::AuditArgs),
    /// Find out what is wrong with this machine or the stack, and how to mend it
    Doctor(doctor::DoctorArgs),
    /// Print completions for a shell
    Completions(completions::CompletionsArgs),
    /// Print the manual page, or write one for each command
    Man(man::ManArgs),
    /// Print the version
    Version(version::VersionArgs),
}

impl Cli {
    /// Which log lines the process writes. A stack tells of its work; every other command speaks for itself.
    pub(crate) fn log_filter(&self) -> LogFilter {
        let serves = matches!(self.command, Command::Up(_) | Command::Dashboard(_));
        let filter = match (self.global.quiet, self.global.verbose, serves) {
            (true, ..) => "error",
            (false, 0, false) => "warn",
            (false, 0, true) | (false, 1, false) => "info",
            (false, 1, true) | (false, 2, false) => {
                "info,cli=debug,container_manager=debug,credit_manager=debug,chain=debug,store=debug"
            }
            _ => "debug",
        };
        LogFilter::new(filter).expect("a filter")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    use clap::CommandFactory as _;
    use clap::error::ErrorKind;
    use snapbox::assert::DEFAULT_ACTION_ENV;
    use snapbox::{Assert, Data};

    #[test]
    fn the_command_line_has_no_contradictions() {
        Cli::command().debug_assert();
    }

    /// What `--help` says of a command and of each of its verbs; what all have in common only at the top.
    fn help(words: &[&str], command: &clap::Command) -> String {
        let arguments = words.iter().chain(&["--help"]);
        let said = Cli::command().term_width(100).try_get_matches_from(arguments);
        let said = said.unwrap_err().to_string();
        let mut is_own = true;
        let of_command = |paragraph: &&str| {
            // What begins with a space goes on with the same.
            is_own = match paragraph.split(' ').next() {
                Some("Global" | "Another") => words.len() == 1,
                Some("") => is_own,
                _ => true,
            };
            is_own
        };
        let own: Vec<&str> = said.split("\n\n").filter(of_command).collect();
        let own = own.join("\n\n");
        let mut page = format!("$ {} --help\n{}\n", words.join(" "), own.trim_end());
        for verb in command.get_subcommands().filter(|_| words.len() > 1) {
            page.push('\n');
            page.push_str(&help(&[words, &[verb.get_name()]].concat(), verb));
        }
        page
    }

    /// The whole text, so that a change of what a user reads is made on purpose and read by whoever makes it.
    /// `SNAPSHOTS=overwrite cargo test` writes it anew.
    #[test]
    fn every_help_reads_as_it_was_meant() {
        let cli = Cli::command();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/text/help");
        let check = |name: &str, text: String| {
            let expected = Data::read_from(&folder.join(format!("{name}.txt")), None).raw();
            Assert::new().action_env(DEFAULT_ACTION_ENV).eq(text, expected);
        };
        check("gridfaas", help(&["gridfaas"], &cli));
        for command in cli.get_subcommands() {
            check(
                command.get_name(),
                help(&["gridfaas", command.get_name()], command),
            );
        }
    }

    #[test]
    fn every_argument_says_what_it_is() {
        let mut open = vec![Cli::command()];
        while let Some(command) = open.pop() {
            for argument in command.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "{}: {}",
                    command.get_name(),
                    argument.get_id()
                );
            }
            open.extend(command.get_subcommands().cloned());
        }
    }

    #[test]
    fn the_reference_has_every_command() {
        let page = include_str!("../../../docs/cli.md");
        let has = |name: &str| assert!(page.contains(&format!("`{name}`")), "docs/cli.md has no `{name}`");
        for command in Cli::command().get_subcommands() {
            match command.get_subcommands().next() {
                None => has(command.get_name()),
                Some(_) => command
                    .get_subcommands()
                    .for_each(|verb| has(&format!("{} {}", command.get_name(), verb.get_name()))),
            }
        }
    }

    #[test]
    fn amounts_that_make_no_sense_are_refused_before_anything_is_asked() {
        for (arguments, problem) in [
            (["user", "fund", "alice", "-5"], "must be more than 0"),
            (["user", "fund", "alice", "0"], "must be more than 0"),
            (["user", "fund", "alice", "1e3"], "is not an amount of GRC"),
            (
                ["user", "set", "alice", "--debt-limit=-1"],
                "must not be negative",
            ),
            (["user", "fund", "Alice", "5"], "is not a user name"),
            (["withdraw", "alice", "m1", "0"], "must be more than 0"),
        ] {
            let err = Cli::try_parse_from([&["gridfaas"][..], &arguments].concat()).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::ValueValidation, "{arguments:?}");
            assert_eq!(err.exit_code(), 2, "{arguments:?}");
            assert!(err.to_string().contains(problem), "{err}");
        }
    }

    #[test]
    fn a_mistyped_command_is_told_the_one_meant() {
        let err = Cli::try_parse_from(["gridfaas", "sumbit"]).unwrap_err();
        assert!(err.to_string().contains("'submit'"), "{err}");
    }
}
