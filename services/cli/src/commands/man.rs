//! `gridfaas man`

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};
use clap_mangen::Man;

use crate::args::Cli;
use crate::output::write_out;

/// To read it: `gridfaas man | man -l -`
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Write a page for each command into this folder, made if missing, such as /usr/local/share/man/man1
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

pub(crate) fn run(args: ManArgs) -> anyhow::Result<()> {
    let Some(folder) = args.to else {
        let mut page = Vec::new();
        Man::new(Cli::command()).render(&mut page)?;
        return write_out(&page);
    };
    std::fs::create_dir_all(&folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), &folder))
        .with_context(|| format!("failed to write the pages to `{}`", folder.display()))
}
