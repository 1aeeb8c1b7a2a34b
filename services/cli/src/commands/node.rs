//! `gridfaas node`

use clap::Subcommand;
use proto::container::v1::{GetNodeRequest, GetNodeResponse, ListContainersRequest};
use schema::Container;
use serde::Serialize;

use crate::output::{Output, Show};
use crate::stack::{Stack, told};
use crate::view::Containers;

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Print the public key that the node's receipts are verified with, in PEM
    Key,
    /// List the node's containers: what each is given, uses, and was kept from using
    Containers,
}

#[derive(Serialize)]
struct NodeKey {
    node: String,
    /// What receipts call the key.
    key_id: String,
    public_key_pem: String,
}

impl From<GetNodeResponse> for NodeKey {
    fn from(node: GetNodeResponse) -> Self {
        Self {
            node: node.node_id,
            key_id: node.receipt_key_id,
            public_key_pem: node.receipt_key_pem,
        }
    }
}

impl Show for NodeKey {
    fn text(&self) -> String {
        self.public_key_pem.clone()
    }
}

pub(crate) async fn run(command: NodeCommand, stack: &Stack, output: Output) -> anyhow::Result<()> {
    let mut node = stack.containers().await?;
    match command {
        NodeCommand::Key => {
            let reply = node.get_node(GetNodeRequest {}).await.map_err(told)?;
            output.show(&NodeKey::from(reply.into_inner()))
        }
        NodeCommand::Containers => {
            let request = ListContainersRequest {};
            let reply = node.list_containers(request).await.map_err(told)?;
            let containers = reply.into_inner().containers.into_iter();
            output.show(&Containers(containers.map(Container::from).collect()))
        }
    }
}
