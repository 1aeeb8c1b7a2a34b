//! `gridfaas version`

use clap::Args;
use serde::Serialize;

use crate::output::{Output, Show};

#[derive(Debug, Args)]
pub(crate) struct VersionArgs {}

#[derive(Serialize)]
struct Version {
    version: &'static str,
}

impl Show for Version {
    fn text(&self) -> String {
        format!("gridfaas {}", self.version)
    }
}

pub(crate) fn run(output: Output) -> anyhow::Result<()> {
    output.show(&Version {
        version: env!("CARGO_PKG_VERSION"),
    })
}
