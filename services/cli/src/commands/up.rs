//! `gridfaas up`

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use dev_stack::{Endpoints, Port, Ports, S3Credentials, UpConfig};
use serde::Serialize;
use units::MilliCores;

use crate::output::{Output, Show, pairs};
use crate::stack::Stack;

/// The store, the development chain and both services, in this process. Interrupt it once to stop it in order, which
/// hands running tasks back; twice to stop at once.
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// The S3 store's port; 0 for any [default: 9000, or any if it is taken]
    #[arg(long, value_name = "PORT")]
    s3_port: Option<u16>,
    /// container-manager's port; 0 for any [default: 7403, or any]
    #[arg(long, value_name = "PORT")]
    container_port: Option<u16>,
    /// credit-manager's port; 0 for any [default: 7402, or any]
    #[arg(long, value_name = "PORT")]
    credit_port: Option<u16>,
    /// The development chain's port; 0 for any [default: 7401, or any]
    #[arg(long, value_name = "PORT")]
    chain_port: Option<u16>,
    /// The dashboard's port; 0 for any [default: 7404, or any]
    #[arg(long, value_name = "PORT")]
    dashboard_port: Option<u16>,
    /// The port where the node tells of itself over HTTP; 0 for any [default: 7407, or any]
    #[arg(long, value_name = "PORT")]
    node_port: Option<u16>,
    /// Show metrics for Prometheus at /metrics on this port; 0 for any, which the log then tells
    #[arg(long, value_name = "PORT")]
    metrics_port: Option<u16>,
    /// Milliseconds between two blocks of the development chain; 0 makes them only on demand
    #[arg(long, value_name = "MS", default_value = "1000")]
    block_interval_ms: u64,
    /// The CPU for containers, such as 1.5 or 1500m [default: every core]
    #[arg(long, value_name = "CORES")]
    capacity: Option<MilliCores>,
    /// How long a task stays frozen at the debt limit, waiting for a deposit, before it goes back to the queue
    #[arg(long, value_name = "SECONDS", default_value = "20")]
    hold: u32,
    /// Write down what every container uses and is given, who pays, and which tasks wait and run: JSON lines
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Find new objects by listing alone, as with a store that does not tell of them
    #[arg(long)]
    no_notify: bool,
    /// Speak gRPC with TLS only, by the certificates in this folder; made there if there are none
    #[arg(long, value_name = "DIR")]
    pki: Option<PathBuf>,
    /// The apptainer program [default: the one on PATH]
    #[arg(long, value_name = "FILE")]
    apptainer: Option<PathBuf>,
}

impl UpArgs {
    fn into_config(self, data_dir: PathBuf) -> std::io::Result<UpConfig> {
        let usual = Ports::default();
        let port = |told: Option<u16>, usual| told.map_or(usual, Port::Exactly);
        Ok(UpConfig {
            ports: Ports {
                s3: port(self.s3_port, usual.s3),
                container: port(self.container_port, usual.container),
                credit: port(self.credit_port, usual.credit),
                chain: port(self.chain_port, usual.chain),
                dashboard: port(self.dashboard_port, usual.dashboard),
                node: port(self.node_port, usual.node),
            },
            block_interval: (self.block_interval_ms > 0)
                .then(|| Duration::from_millis(self.block_interval_ms)),
            apptainer: self.apptainer,
            capacity_millicores: self.capacity.map(MilliCores::millicores),
            hold: Duration::from_secs(self.hold.into()),
            record: self.record,
            notify: !self.no_notify,
            // Each service reads them by itself.
            pki: self.pki.map(std::path::absolute).transpose()?,
            metrics: self
                .metrics_port
                .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            ..UpConfig::new(data_dir)
        })
    }
}

#[derive(Serialize)]
struct Ready {
    #[serde(flatten)]
    endpoints: Endpoints,
    s3_access_key: String,
}

impl Show for Ready {
    fn text(&self) -> String {
        let Endpoints {
            data_dir,
            s3_url,
            s3_credentials_file,
            credit_url,
            container_url,
            dashboard_url,
            node_url,
            operator_token_file,
            ca_file: _,
            dev_chain,
        } = &self.endpoints;
        let chain = dev_chain
            .as_ref()
            .map_or_else(String::new, |chain| chain.url.clone());
        pairs([
            ("S3 store", s3_url.clone()),
            ("S3 key", self.s3_access_key.clone()),
            ("S3 credentials", s3_credentials_file.display().to_string()),
            ("container-manager", container_url.clone()),
            ("credit-manager", credit_url.clone()),
            ("operator's token", operator_token_file.display().to_string()),
            ("development chain", chain),
            ("dashboard", dashboard_url.clone().unwrap_or_default()),
            ("node", node_url.clone().unwrap_or_default()),
            ("data", data_dir.display().to_string()),
        ])
    }
}

pub(crate) async fn run(args: UpArgs, stack: &Stack, output: Output) -> anyhow::Result<()> {
    let shutdown = service_kit::shutdown::on_signal()?;
    let config = args.into_config(stack.data_dir().clone())?;
    dev_stack::up(config, shutdown, |endpoints| {
        output.show(&Ready {
            s3_access_key: S3Credentials::read(&endpoints.s3_credentials_file)?.access_key,
            endpoints: endpoints.clone(),
        })?;
        output.say("ready; interrupt to stop");
        Ok(())
    })
    .await
}
