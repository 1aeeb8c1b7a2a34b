//! What the services are asked.

use access::Channel;
use futures::TryStreamExt as _;
use proto::container::v1::container_service_client::ContainerServiceClient;
use proto::container::v1::{
    GetNodeRequest, GetNodeResponse, GetReceiptRequest, ListContainersRequest, ListQueuesRequest,
    ListTasksRequest, Queue, ReadLogRequest,
};
use proto::credit::v1::account_service_client::AccountServiceClient;
use proto::credit::v1::ledger_service_client::LedgerServiceClient;
use proto::credit::v1::{
    GetStatementRequest, GetUserRequest, ListFunctionsRequest, ListSessionsRequest, ListUsersRequest,
    ReadTransfersRequest,
};
use schema::{Container, Entry, Function, Session, Task, Transfer, User};
use serde::Serialize;
use tonic::Status;
use units::{Amount, FunctionName, UserName};

/// Rows of a table. Older ones are the command line's and the ledger export's.
const ROWS: u32 = 100;
/// What is shown of a log: its end.
const LOG_TAIL: usize = 16 << 10;

/// The two services, as clients that connect when they are needed and again when they have to.
#[derive(Clone, Debug)]
pub struct Services {
    accounts: AccountServiceClient<Channel>,
    ledger: LedgerServiceClient<Channel>,
    node: ContainerServiceClient<Channel>,
}

/// The end of what a task wrote.
pub(crate) struct LogTail {
    pub(crate) text: String,
    /// Bytes before it.
    pub(crate) skipped: usize,
}

/// The newest entries of a user's account.
#[derive(Serialize)]
pub(crate) struct Statement {
    /// The newest first.
    entries: Vec<Entry>,
    /// What is posted by now; usage that is reported and not yet posted is in the balance alone.
    closing: Amount,
    /// There are older ones.
    has_more: bool,
}

impl Services {
    /// `credit` leads to credit-manager, `container` to a container-manager.
    pub fn new(credit: Channel, container: Channel) -> Self {
        Self {
            accounts: AccountServiceClient::new(credit.clone()),
            ledger: LedgerServiceClient::new(credit),
            node: ContainerServiceClient::new(container),
        }
    }

    pub(crate) async fn users(&self) -> Result<Vec<User>, Status> {
        let reply = self.accounts.clone().list_users(ListUsersRequest {}).await?;
        Ok(reply.into_inner().users.into_iter().map(User::from).collect())
    }

    pub(crate) async fn user(&self, name: &UserName) -> Result<User, Status> {
        let request = GetUserRequest {
            name: name.to_string(),
        };
        let reply = self.accounts.clone().get_user(request).await?;
        let user = reply.into_inner().user;
        user.map(User::from)
            .ok_or_else(|| Status::internal("a user without content"))
    }

    pub(crate) async fn functions(&self) -> Result<Vec<Function>, Status> {
        let request = ListFunctionsRequest::default();
        let reply = self.accounts.clone().list_functions(request).await?;
        let functions = reply.into_inner().functions;
        Ok(functions.into_iter().map(Function::from).collect())
    }

    pub(crate) async fn sessions(&self, user: &UserName) -> Result<Vec<Session>, Status> {
        let request = ListSessionsRequest {
            user: user.to_string(),
            function: String::new(),
            limit: ROWS,
        };
        let reply = self.accounts.clone().list_sessions(request).await?;
        Ok(reply
            .into_inner()
            .sessions
            .into_iter()
            .map(Session::from)
            .collect())
    }

    pub(crate) async fn statement(&self, user: &UserName) -> Result<Statement, Status> {
        let mut ledger = self.ledger.clone();
        let request = GetStatementRequest {
            user: user.to_string(),
            from_ms: 0,
            until_ms: 0,
        };
        let sums = ledger.get_statement(request).await?.into_inner();
        let closing = Amount::from_halfords(sums.closing_halfords);
        let (mut balance, mut entries, mut read) = (closing, Vec::new(), 0);
        // An empty ledger has no last transfer, and 0 would ask for those that came since.
        if sums.through_sequence > 0 {
            let request = ReadTransfersRequest {
                user: user.to_string(),
                newest_first: true,
                limit: ROWS,
                through_sequence: sums.through_sequence,
                ..ReadTransfersRequest::default()
            };
            let mut replies = ledger.read_transfers(request).await?.into_inner();
            while let Some(reply) = replies.message().await? {
                for transfer in reply.transfers.into_iter().map(Transfer::from) {
                    read += 1;
                    let Some(amount) = Entry::amount_of(&transfer, user.as_str()) else {
                        continue;
                    };
                    entries.push(Entry::new(transfer, amount, balance));
                    balance = balance.saturating_sub(amount);
                }
            }
        }
        Ok(Statement {
            entries,
            closing,
            has_more: read >= ROWS,
        })
    }

    pub(crate) async fn node(&self) -> Result<GetNodeResponse, Status> {
        let reply = self.node.clone().get_node(GetNodeRequest {}).await?;
        Ok(reply.into_inner())
    }

    pub(crate) async fn containers(&self) -> Result<Vec<Container>, Status> {
        let request = ListContainersRequest {};
        let reply = self.node.clone().list_containers(request).await?;
        let containers = reply.into_inner().containers;
        Ok(containers.into_iter().map(Container::from).collect())
    }

    pub(crate) async fn queues(&self) -> Result<Vec<Queue>, Status> {
        let request = ListQueuesRequest::default();
        Ok(self.node.clone().list_queues(request).await?.into_inner().queues)
    }

    pub(crate) async fn tasks(&self, function: &FunctionName) -> Result<Vec<Task>, Status> {
        let request = ListTasksRequest {
            function: function.to_string(),
            limit: ROWS,
            live_only: false,
        };
        let reply = self.node.clone().list_tasks(request).await?;
        Ok(reply.into_inner().tasks.into_iter().map(Task::from).collect())
    }

    pub(crate) async fn receipt(&self, function: &FunctionName, task: &str) -> Result<Vec<u8>, Status> {
        let request = GetReceiptRequest {
            function: function.to_string(),
            object_key: task.to_owned(),
        };
        let reply = self.node.clone().get_receipt(request).await?;
        Ok(reply.into_inner().receipt.into())
    }

    pub(crate) async fn log_tail(&self, function: &FunctionName, task: &str) -> Result<LogTail, Status> {
        let request = ReadLogRequest {
            function: function.to_string(),
            object_key: task.to_owned(),
            follow: false,
        };
        let chunks = self.node.clone().read_log(request).await?.into_inner();
        let start = (Vec::new(), 0);
        let (tail, skipped) = chunks
            .try_fold(start, async |(mut tail, skipped), reply| {
                tail.extend_from_slice(&reply.chunk);
                let excess = tail.len().saturating_sub(LOG_TAIL);
                tail.drain(..excess);
                Ok((tail, skipped + excess))
            })
            .await?;
        Ok(LogTail {
            text: String::from_utf8_lossy(&tail).into_owned(),
            skipped,
        })
    }
}
