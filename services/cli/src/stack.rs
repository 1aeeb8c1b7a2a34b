//! The stack a command talks to: found in the data folder, or told by flags and environment.

use std::path::PathBuf;
use std::sync::Arc;

use access::client::{ConnectError, Meant};
use access::tls::ClientTls;
use access::{Channel, Target};
use anyhow::{Context as _, anyhow};
use dev_stack::Endpoints;
use etcetera::BaseStrategy as _;
use proto::container::v1::container_service_client::ContainerServiceClient;
use proto::container::v1::{ListQueuesRequest, Queue};
use proto::credit::v1 as wire;
use proto::credit::v1::access_service_client::AccessServiceClient;
use proto::credit::v1::account_service_client::AccountServiceClient;
use proto::credit::v1::ledger_service_client::LedgerServiceClient;
use service_kit::Secret;
use tonic::{Code, Status};
use units::{FunctionName, UserName};

use crate::args::{Addresses, Global};
use crate::bucket::ObjectStore;
use crate::dev_chain::DevChain;

/// Where the parts of a stack are. Each is looked for when a command needs it, and no earlier.
#[derive(Debug)]
pub(crate) struct Stack {
    data_dir: PathBuf,
    addresses: Addresses,
}

impl Stack {
    pub(crate) fn new(global: Global) -> anyhow::Result<Self> {
        Ok(Self {
            data_dir: data_dir(global.data_dir)?,
            addresses: global.addresses,
        })
    }

    /// The stack that runs on a folder.
    pub(crate) fn on(data_dir: PathBuf) -> Self {
        Self {
            data_dir,
            addresses: Addresses::default(),
        }
    }

    pub(crate) fn data_dir(&self) -> &PathBuf {
        &self.data_dir
    }

    /// Whether a stack is to be found: one was told, or runs on the data folder.
    pub(crate) fn is_known(&self) -> anyhow::Result<bool> {
        let Addresses {
            credit_url,
            container_url,
            s3_url,
            ..
        } = &self.addresses;
        let is_told = credit_url.is_some() || container_url.is_some() || s3_url.is_some();
        Ok(is_told || Endpoints::read(&self.data_dir)?.is_some())
    }

    /// Users, functions and money.
    pub(crate) async fn accounts(&self) -> anyhow::Result<AccountServiceClient<Channel>> {
        Ok(AccountServiceClient::new(self.credit_manager().await?))
    }

    /// The ledger's history.
    pub(crate) async fn ledger(&self) -> anyhow::Result<LedgerServiceClient<Channel>> {
        Ok(LedgerServiceClient::new(self.credit_manager().await?))
    }

    /// Tokens, and users' keys to the object store.
    pub(crate) async fn access(&self) -> anyhow::Result<AccessServiceClient<Channel>> {
        Ok(AccessServiceClient::new(self.credit_manager().await?))
    }

    async fn credit_manager(&self) -> anyhow::Result<Channel> {
        connect(self.target(Meant::CreditManager)?).await
    }

    /// Tasks and containers of the node.
    pub(crate) async fn containers(&self) -> anyhow::Result<ContainerServiceClient<Channel>> {
        Ok(ContainerServiceClient::new(
            connect(self.target(Meant::Node)?).await?,
        ))
    }

    /// The operator's token of the data folder goes to the stack of the data folder, and nowhere else.
    fn target(&self, meant: Meant) -> anyhow::Result<Target> {
        let Addresses {
            token_file, ca_file, ..
        } = self.addresses.clone();
        let (told, flag) = match meant {
            Meant::CreditManager => (&self.addresses.credit_url, "--credit-url"),
            Meant::Node => (&self.addresses.container_url, "--container-url"),
        };
        let tls = ca_file.as_deref().map(ClientTls::anonymous).transpose()?;
        let tls = tls.map(Arc::new);
        Ok(match told {
            Some(url) => Target {
                url: url.clone(),
                meant,
                tls,
                token_file,
            },
            None => {
                let found = self.endpoints(flag)?.target(meant)?;
                Target {
                    tls: tls.or(found.tls),
                    token_file: token_file.or(found.token_file),
                    ..found
                }
            }
        })
    }

    /// Both services for a dashboard, which outlives a restart of theirs.
    pub(crate) fn dashboard_services(&self) -> anyhow::Result<dashboard::Services> {
        Ok(dashboard::Services::new(
            self.target(Meant::CreditManager)?.connect_lazy()?,
            self.target(Meant::Node)?.connect_lazy()?,
        ))
    }

    /// The object store.
    pub(crate) fn store(&self) -> anyhow::Result<ObjectStore> {
        let url = self.address(&self.addresses.s3_url, "--s3-url", |found| found.s3_url)?;
        let credentials = self.address(
            &self.addresses.s3_credentials_file,
            "--s3-credentials-file",
            |found| found.s3_credentials_file,
        )?;
        Ok(ObjectStore::new(
            url,
            &dev_stack::S3Credentials::read(&credentials)?,
        ))
    }

    /// The functions of a user, or all there are.
    pub(crate) async fn functions(&self, user: Option<UserName>) -> anyhow::Result<Vec<wire::Function>> {
        let user = user.map(String::from).unwrap_or_default();
        let request = wire::ListFunctionsRequest { user };
        let reply = self.accounts().await?.list_functions(request).await;
        Ok(reply.map_err(told)?.into_inner().functions)
    }

    /// What waits for a function, or for each that the node serves, and what keeps it from running.
    pub(crate) async fn queues(&self, function: Option<FunctionName>) -> anyhow::Result<Vec<Queue>> {
        let function = function.map(String::from).unwrap_or_default();
        let request = ListQueuesRequest { function };
        let reply = self.containers().await?.list_queues(request).await;
        Ok(reply.map_err(told)?.into_inner().queues)
    }

    /// The development chain; `None` where the wallet is on a real one.
    pub(crate) fn dev_chain(&self) -> anyhow::Result<Option<DevChain>> {
        match Endpoints::read(&self.data_dir)?.and_then(|found| found.dev_chain) {
            Some(endpoint) => DevChain::new(&endpoint).map(Some),
            None => Ok(None),
        }
    }

    /// The address that was told, or else the one in the data folder.
    fn address<T: Clone>(
        &self,
        told: &Option<T>,
        flag: &str,
        find: impl FnOnce(Endpoints) -> T,
    ) -> anyhow::Result<T> {
        if let Some(told) = told {
            return Ok(told.clone());
        }
        self.endpoints(flag).map(find)
    }

    fn endpoints(&self, flag: &str) -> anyhow::Result<Endpoints> {
        Endpoints::read(&self.data_dir)?.with_context(|| {
            format!(
                "no stack is running in `{}` (hint: start one with `gridfaas up`, or say where one is with --data-dir or {flag})",
                self.data_dir.display()
            )
        })
    }
}

fn data_dir(told: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    match told {
        Some(folder) => std::path::absolute(&folder)
            .with_context(|| format!("`{}` is not a usable folder", folder.display())),
        None => {
            let folders = etcetera::base_strategy::Xdg::new()
                .context("no home folder is known (hint: say where the data is with --data-dir)")?;
            Ok(folders.data_dir().join("gridfaas"))
        }
    }
}

async fn connect(target: Target) -> anyhow::Result<Channel> {
    let (url, meant, token_file) = (target.url.clone(), target.meant, target.token_file.clone());
    let channel = target.connect().await.map_err(|err| match err {
        ConnectError::Unreachable { err, .. } => {
            let service = match meant {
                Meant::CreditManager => "credit-manager",
                Meant::Node => "container-manager",
            };
            anyhow!(err).context(format!(
                "{service} at {url} does not answer (hint: is `gridfaas up` still running?)"
            ))
        }
        err => err.into(),
    })?;
    // Read once before it is sent, so that what is wrong with it is said as such.
    token_file.as_deref().map(Secret::read).transpose()?;
    Ok(channel)
}

/// What a service answered instead of a reply, in its own words.
pub(crate) fn told(status: Status) -> anyhow::Error {
    let message = match (status.code(), status.message()) {
        (code, "") => code.description().to_owned(),
        (Code::Unimplemented, _) => {
            "the service does not know this request (hint: is it of an older version?)".to_owned()
        }
        (_, message) => message.to_owned(),
    };
    anyhow!(message)
}
