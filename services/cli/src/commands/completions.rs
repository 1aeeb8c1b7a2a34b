//! `gridfaas completions`

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::args::Cli;
use crate::output::write_out;

#[derive(Debug, Args)]
#[command(after_help = "\
bash: gridfaas completions bash > /usr/share/bash-completion/completions/gridfaas
zsh:  gridfaas completions zsh > /usr/share/zsh/vendor-completions/_gridfaas
fish: gridfaas completions fish > /usr/share/fish/vendor_completions.d/gridfaas.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell that reads them
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "gridfaas", &mut script);
    write_out(&script)
}
