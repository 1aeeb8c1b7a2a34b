//! `gridfaas completions`

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::args::Cli;
use crate::output::write_out;

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// For bash: `gridfaas completions bash > /etc/bash_completion.d/gridfaas`
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "gridfaas", &mut script);
    write_out(&script)
}
