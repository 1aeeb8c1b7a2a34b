//! The real service on a port of its own, over a wallet that a test holds.

use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use access::client::Meant;
use access::{Channel, Target, book};
use credit_manager::settlement::wallet::Wallet;
use credit_manager::{Config, Edges};
use proto::credit::v1::account_service_client::AccountServiceClient;
use proto::credit::v1::ledger_service_client::LedgerServiceClient;
use proto::credit::v1::open_session_response::Outcome as Answer;
use proto::credit::v1::session_service_client::SessionServiceClient;
use proto::credit::v1::*;
use service_kit::SystemClock;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use units::{Amount, SessionId};

pub(crate) const NODE: &str = "node-1";
pub(crate) const CORE_SECOND: u64 = 1_000_000;

/// How long a test waits for what has to happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// What a test asks a credit-manager, wherever it runs.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) sessions: SessionServiceClient<Channel>,
    pub(crate) accounts: AccountServiceClient<Channel>,
    pub(crate) history: LedgerServiceClient<Channel>,
}

/// A credit-manager in the test's own process.
pub(crate) struct Service {
    client: Client,
    shutdown: CancellationToken,
    ended: JoinHandle<anyhow::Result<()>>,
}

impl Deref for Service {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Service {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

/// A configuration with its state in `folder`, quick enough for a test.
pub(crate) fn config(folder: &Path, mode: &str) -> Config {
    let text = format!(
        r#"
        listen = "127.0.0.1:0"
        database = {:?}
        confirmations = 3
        deposit_poll_ms = 10
        payout_poll_ms = 10
        payout_late_ms = 50
        alert_poll_ms = 10
        alert_webhook_private = true
        [wallet]
        url = "http://127.0.0.1:1/"
        user = "unused"
        password_file = "unused"
        mode = "{mode}"
        "#,
        folder.join("ledger.db")
    );
    toml::from_str(&text).unwrap()
}

impl Service {
    pub(crate) async fn start(config: Config, wallet: Arc<dyn Wallet>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let edges = Edges {
            wallet,
            clock: Arc::new(SystemClock),
        };
        let folder = config.database.parent().unwrap().to_owned();
        let tokens = [book::OPERATOR_TOKEN, book::NODE_TOKEN].map(|name| folder.join(name));
        let _none_yet = std::fs::remove_file(&tokens[0]);
        let ended = tokio::spawn(credit_manager::run(config, edges, listener, shutdown.clone()));
        while !ended.is_finished() && !tokens.iter().all(|token| token.exists()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Self {
            client: Client::connect(&url, &folder),
            shutdown,
            ended,
        }
    }

    /// Ends the service and says how it ended.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        self.ended().await
    }

    /// Waits until the service ends by itself.
    pub(crate) async fn ended(self) -> anyhow::Result<()> {
        let ended = tokio::time::timeout(DEADLINE, self.ended).await;
        ended.expect("the service ends").expect("it does not panic")
    }
}

impl Client {
    /// Of the service whose ledger is in `folder`.
    pub(crate) fn connect(url: &str, folder: &Path) -> Self {
        let connect = |token| {
            let target = Target {
                url: url.to_owned(),
                meant: Meant::CreditManager,
                tls: None,
                token_file: Some(folder.join(token)),
            };
            target.connect_lazy().unwrap()
        };
        let channel = connect(book::OPERATOR_TOKEN);
        Self {
            sessions: SessionServiceClient::new(connect(book::NODE_TOKEN)),
            accounts: AccountServiceClient::new(channel.clone()),
            history: LedgerServiceClient::new(channel),
        }
    }

    /// A user with a function of the same name, who may owe `debt_limit`.
    pub(crate) async fn user(&mut self, name: &str, debt_limit: &str) -> User {
        let request = CreateUserRequest {
            name: name.to_owned(),
        };
        self.accounts.create_user(request).await.unwrap();
        let request = UpdateUserRequest {
            name: name.to_owned(),
            min_balance_halfords: Some(0),
            debt_limit_halfords: Some(grc(debt_limit)),
            ..UpdateUserRequest::default()
        };
        let user = self
            .accounts
            .update_user(request)
            .await
            .unwrap()
            .into_inner()
            .user;
        let request = CreateFunctionRequest {
            name: name.to_owned(),
            user: name.to_owned(),
        };
        self.accounts.create_function(request).await.unwrap();
        user.unwrap()
    }

    pub(crate) async fn get(&mut self, name: &str) -> User {
        let request = GetUserRequest {
            name: name.to_owned(),
        };
        self.accounts
            .get_user(request)
            .await
            .unwrap()
            .into_inner()
            .user
            .unwrap()
    }

    /// Waits until a user is as wanted.
    pub(crate) async fn until(&mut self, name: &str, wanted: impl Fn(&User) -> bool) -> User {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let user = self.get(name).await;
            if wanted(&user) {
                return user;
            }
            assert!(Instant::now() < deadline, "still {user:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Every transfer, newest first.
    pub(crate) async fn transfers(&mut self) -> Vec<Transfer> {
        let request = ListTransfersRequest {
            limit: u32::MAX,
            ..ListTransfersRequest::default()
        };
        let reply = self.accounts.list_transfers(request).await.unwrap();
        reply.into_inner().transfers
    }

    /// Waits until an account's settlements sum up to `amount`.
    pub(crate) async fn until_settled(&mut self, amount: i64) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let transfers = self.transfers().await;
            let settlements = transfers.iter().filter(|transfer| transfer.kind == "settlement");
            let settled: i64 = settlements.map(|transfer| transfer.amount_halfords).sum();
            if settled == amount {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "settled {settled} of {amount}: {transfers:?}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn try_open(
        &mut self,
        session: SessionId,
        function: &str,
        key: &str,
        task: &str,
    ) -> Answer {
        let request = OpenSessionRequest {
            session_id: session.to_string(),
            node_id: NODE.to_owned(),
            function: function.to_owned(),
            object_key: key.to_owned(),
            task_id: task.to_owned(),
            max_amount_halfords: 0,
            millicores: 1000,
            input_bytes: key.len() as u64,
            parent_task_id: String::new(),
            is_left_behind: false,
        };
        self.answer(request).await
    }

    pub(crate) async fn answer(&mut self, request: OpenSessionRequest) -> Answer {
        let response = self.sessions.open_session(request).await.unwrap();
        response.into_inner().outcome.unwrap()
    }

    pub(crate) async fn opened(&mut self, request: OpenSessionRequest) -> SessionOpened {
        match self.answer(request).await {
            Answer::Opened(opened) => opened,
            Answer::Refused(refused) => panic!("{refused:?}"),
        }
    }

    pub(crate) async fn refused(&mut self, request: OpenSessionRequest) -> SessionRefused {
        match self.answer(request).await {
            Answer::Refused(refused) => refused,
            Answer::Opened(opened) => panic!("{opened:?}"),
        }
    }

    pub(crate) async fn open(
        &mut self,
        session: SessionId,
        function: &str,
        key: &str,
        task: &str,
    ) -> SessionOpened {
        match self.try_open(session, function, key, task).await {
            Answer::Opened(opened) => opened,
            Answer::Refused(refused) => panic!("{refused:?}"),
        }
    }

    pub(crate) async fn refusal(&mut self, function: &str, key: &str) -> SessionRefused {
        match self.try_open(SessionId::new(), function, key, "").await {
            Answer::Refused(refused) => refused,
            Answer::Opened(opened) => panic!("{opened:?}"),
        }
    }

    pub(crate) async fn report(
        &mut self,
        session: SessionId,
        cpu_time_us: u64,
        revision: u64,
    ) -> Option<SessionState> {
        let usage = Usage {
            session_id: session.to_string(),
            cpu_time_us,
            millicores: 1000,
            revision,
        };
        let request = ReportUsageRequest {
            node_id: NODE.to_owned(),
            usages: vec![usage],
        };
        let response = self.sessions.report_usage(request).await.unwrap().into_inner();
        response.states.into_iter().next()
    }

    pub(crate) async fn close(
        &mut self,
        session: SessionId,
        cpu_time_us: u64,
        outcome: Outcome,
    ) -> Result<CloseSessionResponse, tonic::Status> {
        let request = CloseSessionRequest {
            session_id: session.to_string(),
            cpu_time_us,
            outcome: outcome.into(),
        };
        let response = self.sessions.close_session(request).await?;
        Ok(response.into_inner())
    }

    /// Asks for a withdrawal; of all that is free where `amount` is 0.
    pub(crate) async fn withdraw(
        &mut self,
        id: &str,
        user: &str,
        address: &str,
        amount: i64,
    ) -> Result<Withdrawal, tonic::Status> {
        let request = WithdrawRequest {
            withdrawal_id: id.to_owned(),
            user: user.to_owned(),
            address: address.to_owned(),
            amount_halfords: amount,
        };
        let response = self.accounts.withdraw(request).await?;
        Ok(response.into_inner().withdrawal.unwrap())
    }

    /// Waits until a withdrawal is done or has failed.
    pub(crate) async fn until_withdrawn(&mut self, id: &str) -> Withdrawal {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let request = GetWithdrawalRequest {
                withdrawal_id: id.to_owned(),
            };
            let response = self.accounts.get_withdrawal(request).await.unwrap();
            let withdrawal = response.into_inner().withdrawal.unwrap();
            if withdrawal.state() != WithdrawalState::UnderWay {
                return withdrawal;
            }
            assert!(Instant::now() < deadline, "still {withdrawal:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Fails the test unless every check of the audit holds.
    pub(crate) async fn assert_sound(&mut self) {
        let response = self.accounts.audit(AuditRequest {}).await.unwrap().into_inner();
        assert!(response.ok, "{:#?}", response.checks);
        assert!(response.checks.len() >= 7);
    }
}

pub(crate) fn grc(text: &str) -> i64 {
    text.parse::<Amount>().unwrap().halfords()
}
