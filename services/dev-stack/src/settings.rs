//! What the services of a stack are told: what differs from their defaults, by the keys of their configuration files.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use access::book;
use access::identity::Identity;
use access::pki::Pki;
use anyhow::Context as _;
use serde_json::{Value, json};
use units::NodeId;

use crate::endpoints::Endpoints;
use crate::secrets::{self, Keys};
use crate::up::UpConfig;

/// The node of a stack.
pub(crate) const NODE: &str = "local";

/// Where credit-manager keeps what it keeps.
pub(crate) fn credit_folder(data_dir: &Path) -> PathBuf {
    data_dir.join("credit-manager")
}

fn tls(pki: &Pki, identity: &Identity) -> Value {
    let files = pki.files(identity);
    json!({ "identity_file": files.identity_file, "ca_file": files.ca_file })
}

pub(crate) fn credit_manager(
    endpoints: &Endpoints,
    keys: &Keys,
    pki: Option<&Pki>,
    chain_url: &str,
    listen: SocketAddr,
) -> anyhow::Result<credit_manager::Config> {
    serde_json::from_value(json!({
        "listen": listen,
        "database": credit_folder(&endpoints.data_dir).join("ledger.db"),
        "tls": pki.map(|pki| tls(pki, &Identity::CreditManager)),
        "s3_master_key_file": keys.s3_master_key_file,
        "wallet": {
            "url": chain_url,
            "user": secrets::CHAIN_RPC_USER,
            "password_file": keys.chain_password_file,
            // Charges then move within the wallet at once, which costs no fee and can be watched.
            "mode": "accounts",
        },
        "deposit_poll_ms": 200,
        // Whoever is a user here may reach this machine's loopback interface anyway.
        "alert_webhook_private": true,
        "reflection": true,
    }))
    .context("the settings of credit-manager")
}

pub(crate) fn container_manager(
    config: &UpConfig,
    endpoints: &Endpoints,
    keys: &Keys,
    pki: Option<&Pki>,
    listen: SocketAddr,
) -> anyhow::Result<container_manager::Config> {
    let node: NodeId = NODE.parse()?;
    let token_file = credit_folder(&config.data_dir).join(book::NODE_TOKEN);
    let id = secrets::read_or_make_id(&config.data_dir)?;
    let settings = serde_json::from_value(json!({
        "node": node,
        "listen": listen,
        "state_dir": config.data_dir.join("container-manager"),
        "credit_url": endpoints.credit_url,
        "credit_token_file": pki.is_none().then_some(token_file),
        "tls": pki.map(|pki| tls(pki, &Identity::Node(node))),
        "store": {
            "endpoint": endpoints.s3_url,
            "access_key": secrets::NODE_ACCESS_KEY,
            "secret_key_file": keys.node_secret_file,
            "listen": config.notify,
        },
        "apptainer": config.apptainer,
        "capacity_millicores": config.capacity_millicores,
        "hold_ms": u64::try_from(config.hold.as_millis())?,
        "record": config.record,
        // Of every service: they share the process.
        "metrics_listen": config.metrics,
        "cgroup_tree": format!("gridfaas-{id}"),
        // Whoever may write to a bucket here is whoever started the stack, or was let in by them.
        "build_definitions": true,
        "reflection": true,
    }));
    let settings: container_manager::Config = settings.context("the settings of container-manager")?;
    Ok(container_manager::Config {
        scaler: config.scaler.clone(),
        ..settings
    })
}
