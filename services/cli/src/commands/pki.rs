//! `gridfaas pki`: certificates for the services, from an authority of one's own.

use std::path::PathBuf;

use access::pki::{self, Pki, Plan};
use clap::{Args, Subcommand};
use serde::Serialize;
use units::NodeId;

use crate::output::{Output, Show, columns};

#[derive(Debug, Subcommand)]
pub(crate) enum PkiCommand {
    /// Make an authority, if there is none, and a certificate for credit-manager and each node
    ///
    /// Can be repeated: what is named is added to what was named before.
    Init(InitArgs),
    /// Make every certificate anew; running services notice by themselves
    Rotate(RotateArgs),
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Where the certificates and keys go, for their owner only
    folder: PathBuf,
    /// A node, by the name in its configuration
    #[arg(long = "node", value_name = "NAME")]
    nodes: Vec<NodeId>,
    /// A name or address that clients reach the services by, beside localhost
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<String>,
    /// How long a service's certificate is good for
    #[arg(long, value_name = "DAYS", default_value_t = pki::DAYS, value_parser = clap::value_parser!(u32).range(1..=825))]
    days: u32,
}

#[derive(Debug, Args)]
pub(crate) struct RotateArgs {
    /// As for `pki init`
    folder: PathBuf,
    /// Make a new authority too; the one before is believed until the next time
    #[arg(long)]
    ca: bool,
}

#[derive(Serialize)]
struct Certificate {
    holder: String,
    identity_file: PathBuf,
    ca_file: PathBuf,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Certificates(Vec<Certificate>);

impl Show for Certificates {
    fn text(&self) -> String {
        columns(
            ["HOLDER", "IDENTITY FILE", "CA FILE"],
            self.0.iter().map(|certificate| {
                [
                    certificate.holder.clone(),
                    certificate.identity_file.display().to_string(),
                    certificate.ca_file.display().to_string(),
                ]
            }),
        )
    }
}

pub(crate) fn run(command: PkiCommand, output: Output) -> anyhow::Result<()> {
    let pki = match command {
        PkiCommand::Init(args) => {
            let plan = Plan {
                hosts: args.hosts.into_iter().collect(),
                nodes: args.nodes.into_iter().collect(),
                days: args.days,
            };
            Pki::init(&args.folder, plan)?
        }
        PkiCommand::Rotate(args) => {
            let pki = Pki::open(&args.folder)?;
            pki.rotate(args.ca)?;
            pki
        }
    };
    let certificate = |identity| {
        let files = pki.files(&identity);
        Certificate {
            holder: identity.to_string(),
            identity_file: files.identity_file,
            ca_file: files.ca_file,
        }
    };
    output.show(&Certificates(pki.identities().map(certificate).collect()))
}
