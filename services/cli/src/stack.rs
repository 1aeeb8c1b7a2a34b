//! The stack a command talks to: found in the data folder, or told by flags and environment.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use dev_stack::Endpoints;
use etcetera::BaseStrategy as _;
use proto::container::v1::container_service_client::ContainerServiceClient;
use proto::credit::v1::account_service_client::AccountServiceClient;
use proto::credit::v1::ledger_service_client::LedgerServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::args::{Addresses, Global};
use crate::bucket::ObjectStore;
use crate::dev_chain::DevChain;

/// A service on the same machine or network answers well within this, or is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

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

    /// Users, functions and money.
    pub(crate) async fn accounts(&self) -> anyhow::Result<AccountServiceClient<Channel>> {
        Ok(AccountServiceClient::new(self.credit_manager().await?))
    }

    /// The ledger's history.
    pub(crate) async fn ledger(&self) -> anyhow::Result<LedgerServiceClient<Channel>> {
        Ok(LedgerServiceClient::new(self.credit_manager().await?))
    }

    async fn credit_manager(&self) -> anyhow::Result<Channel> {
        connect("credit-manager", &self.credit_url()?).await
    }

    /// Tasks and containers of the node.
    pub(crate) async fn containers(&self) -> anyhow::Result<ContainerServiceClient<Channel>> {
        Ok(ContainerServiceClient::new(
            connect("container-manager", &self.container_url()?).await?,
        ))
    }

    /// Both services for a dashboard, which outlives a restart of theirs.
    pub(crate) fn dashboard_services(&self) -> anyhow::Result<dashboard::Services> {
        Ok(dashboard::Services::new(
            endpoint(&self.credit_url()?)?.connect_lazy(),
            endpoint(&self.container_url()?)?.connect_lazy(),
        ))
    }

    fn credit_url(&self) -> anyhow::Result<String> {
        self.address(&self.addresses.credit_url, "--credit-url", |found| {
            found.credit_url
        })
    }

    fn container_url(&self) -> anyhow::Result<String> {
        self.address(&self.addresses.container_url, "--container-url", |found| {
            found.container_url
        })
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
        Endpoints::read(&self.data_dir)?.map(find).with_context(|| {
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

fn endpoint(url: &str) -> anyhow::Result<Endpoint> {
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|err| {
        anyhow!(err).context(format!("`{url}` is not an address such as http://127.0.0.1:7402"))
    })?;
    Ok(endpoint.connect_timeout(CONNECT_TIMEOUT))
}

async fn connect(service: &str, url: &str) -> anyhow::Result<Channel> {
    endpoint(url)?.connect().await.map_err(|err| {
        anyhow!(err).context(format!(
            "{service} at {url} does not answer (hint: is `gridfaas up` still running?)"
        ))
    })
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
