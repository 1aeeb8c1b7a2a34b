//! The real process, killed at every step of a settlement and of a withdrawal, before a wallet that misbehaves: each
//! payment is made once.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a panic is how a failure is reported"
)]

#[expect(dead_code, reason = "the other tests use the rest")]
mod service;
#[expect(dead_code, reason = "the other tests use the rest")]
mod wallet;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use chain::{Fault, HoldAt};
use credit_manager::settlement::gridcoin::Mode;
use proptest::prelude::RngExt as _;
use proptest::test_runner::{RngAlgorithm, TestRng};
use proto::credit::v1::{Withdrawal, WithdrawalState};
use serde::Deserialize;
use serde_json::value::RawValue;
use service::{CORE_SECOND, Client, DEADLINE, grc};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use units::SessionId;
use uuid::Uuid;
use wallet::{DaemonWorld, FOREIGN};

const USERS: [&str; 2] = ["alice", "bob"];

/// How long the process takes a lost request to be possible still. Longer than the development chain needs to read what a
/// killed process left in the socket.
const LATE: Duration = Duration::from_millis(200);

/// What makes the process pay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Occasion {
    Charge,
    Withdrawal,
}

/// Where on the way to a payment the process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// As soon as the charge or the withdrawal is acknowledged, while the outbox is perhaps being written.
    Acknowledged,
    /// The wallet hears of an address, and not of a payment yet. (Not of moves.)
    AddressAsked,
    /// The outbox is written; the wallet turned the request away at the door.
    TurnedAway,
    /// The wallet has the request, and never carries it out.
    Requested,
    /// The wallet has the request, and carries it out when the next process has looked for it in vain.
    CarriedOutLate,
    /// The payment is made, and the reply not sent.
    Made,
    /// The reply is sent; whether it was written down is a matter of luck.
    Answered,
    /// The reply came, and the fee is being asked for. (Not of moves.)
    FeeAsked,
    /// The reply was lost, and the wallet is being asked whether the payment was made.
    Searching,
    /// All is written down.
    Booked,
}

impl Step {
    const ALL: [Self; 10] = [
        Self::Acknowledged,
        Self::AddressAsked,
        Self::TurnedAway,
        Self::Requested,
        Self::CarriedOutLate,
        Self::Made,
        Self::Answered,
        Self::FeeAsked,
        Self::Searching,
        Self::Booked,
    ];

    /// Whether the step allows for more misfortune on the way to it.
    fn may_be_disturbed(self) -> bool {
        !matches!(
            self,
            Self::TurnedAway | Self::CarriedOutLate | Self::FeeAsked | Self::Searching
        )
    }
}

/// A credit-manager in a process of its own.
struct Process {
    child: Child,
    client: Client,
}

impl Process {
    async fn start(config: &Path, late: Duration) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_credit-manager"))
            .arg("--config")
            .arg(config)
            .env("GRIDFAAS_CREDIT__PAYOUT_LATE_MS", late.as_millis().to_string())
            .env_remove("RUST_LOG")
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut lines = Vec::new();
        let address = loop {
            let line = log.next_line().await.unwrap();
            let line = line.unwrap_or_else(|| panic!("it ended at its start: {lines:#?}"));
            let said: serde_json::Value = serde_json::from_str(&line).unwrap();
            if said["fields"]["message"] == "serving" {
                break said["fields"]["address"].as_str().unwrap().to_owned();
            }
            lines.push(line);
        };
        // Were nobody to read it, a long log would hold the process up.
        tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
        Self {
            child,
            client: Client::connect(&format!("http://{address}"), config.parent().unwrap()),
        }
    }

    /// `kill -9`.
    async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// A withdrawal that was asked for.
#[derive(Clone, Debug)]
struct Order {
    id: String,
    name: &'static str,
    amount: i64,
}

impl Order {
    async fn place(&self, client: &mut Client) -> Result<Withdrawal, tonic::Status> {
        client.withdraw(&self.id, self.name, FOREIGN, self.amount).await
    }
}

/// The chain, the process before it, and what the users' containers have used so far.
struct Trial {
    world: DaemonWorld,
    mode: Mode,
    folder: tempfile::TempDir,
    rng: TestRng,
    used: BTreeMap<&'static str, (SessionId, u64)>,
    orders: Vec<Order>,
    kills: usize,
}

impl Trial {
    async fn new(mode: Mode) -> Self {
        let world = DaemonWorld::start(mode).await;
        let folder = tempfile::tempdir().unwrap();
        let mode_key = match mode {
            Mode::Accounts => "accounts",
            Mode::Addresses => "addresses",
        };
        let receiver = match mode {
            Mode::Accounts => String::new(),
            Mode::Addresses => {
                format!(r#"receivers = [{{ name = "provider", share = 1, address = "{FOREIGN}" }}]"#)
            }
        };
        let password = folder.path().join("password");
        service_kit::file::replace(&password, 0o600, b"test\n").unwrap();
        let config = format!(
            r#"
            listen = "127.0.0.1:0"
            database = {:?}
            confirmations = 3
            deposit_poll_ms = 10
            payout_poll_ms = 10
            log_format = "json"
            {receiver}
            [wallet]
            url = "{}"
            user = "gridcoinrpc"
            password_file = {password:?}
            mode = "{mode_key}"
            "#,
            folder.path().join("ledger.db"),
            world.url,
        );
        std::fs::write(folder.path().join("config.toml"), config).unwrap();
        Self {
            world,
            mode,
            folder,
            rng: TestRng::deterministic_rng(RngAlgorithm::ChaCha),
            used: BTreeMap::new(),
            orders: Vec::new(),
            kills: 0,
        }
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("config.toml")
    }

    async fn start(&self) -> Process {
        Process::start(&self.config(), LATE).await
    }

    async fn kill(&mut self, process: Process) {
        process.kill().await;
        self.kills += 1;
    }

    /// Two users with coins deep enough to be spent, and a container of each.
    async fn prepare(&mut self, process: &mut Process) {
        let client = &mut process.client;
        for name in USERS {
            let address = client.user(name, "0").await.deposit_address.parse().unwrap();
            self.world.chain.deposit(&address, "50".parse().unwrap()).unwrap();
            let session = SessionId::new();
            client.until(name, |user| user.pending_deposit_halfords > 0).await;
            self.world.chain.mine(10).unwrap();
            client.until(name, |user| user.balance_halfords > 0).await;
            client.open(session, name, "a.txt", "").await;
            self.used.insert(name, (session, 0));
        }
    }

    /// Gives the process a reason to pay. What it answers may be lost with it, so the answer is not waited for here.
    fn give(&mut self, occasion: Occasion, process: &Process) -> JoinHandle<()> {
        let name = USERS[self.rng.random_range(0..USERS.len())];
        let mut client = process.client.clone();
        match occasion {
            Occasion::Charge => {
                let (session, total) = self.used.get_mut(name).unwrap();
                // Enough for a payment in either mode.
                *total += self.rng.random_range(40 * CORE_SECOND..90 * CORE_SECOND);
                let (session, total) = (*session, *total);
                tokio::spawn(async move {
                    client.report(session, total, 0).await.unwrap();
                })
            }
            Occasion::Withdrawal => {
                let order = Order {
                    id: Uuid::now_v7().to_string(),
                    name,
                    amount: self.rng.random_range(grc("0.01")..grc("0.5")),
                };
                self.orders.push(order.clone());
                tokio::spawn(async move { order.place(&mut client).await.map(drop).unwrap() })
            }
        }
    }

    /// The call that makes the payment.
    fn method(&self, occasion: Occasion) -> &'static str {
        match (self.mode, occasion) {
            (Mode::Accounts, Occasion::Charge) => "move",
            (Mode::Accounts, Occasion::Withdrawal) => "sendfrom",
            (Mode::Addresses, _) => "sendtoaddress",
        }
    }

    /// Sometimes makes the next payment go wrong in some way.
    fn disturb(&mut self, method: &str) {
        let faults = [
            Fault::Refuse,
            Fault::InternalError,
            Fault::Unauthorised,
            Fault::DropReply,
            Fault::Truncate,
        ];
        if self.rng.random_range(0..5) == 0 {
            let fault = faults[self.rng.random_range(0..faults.len())];
            self.world.chain.set_fault(Some(method), fault, 1);
        }
    }

    /// Lets the process make a payment, kills it at this step, and starts the next.
    async fn kill_at(&mut self, step: Step, occasion: Occasion, mut process: Process) -> Process {
        let chain = self.world.chain.clone();
        let method = self.method(occasion);
        chain.clear_faults();
        if step.may_be_disturbed() {
            self.disturb(method);
        }
        let (call, place) = match step {
            Step::Acknowledged | Step::Booked => {
                self.give(occasion, &process).await.unwrap();
                if step == Step::Booked {
                    self.until_quiet(&mut process).await;
                }
                self.kill(process).await;
                return self.restart().await;
            }
            Step::AddressAsked => ("validateaddress", HoldAt::Request),
            Step::FeeAsked => ("gettransaction", HoldAt::Request),
            Step::TurnedAway => {
                chain.set_fault(Some(method), Fault::Unauthorised, 1);
                (method, HoldAt::Reply)
            }
            Step::Searching => {
                chain.set_fault(Some(method), Fault::DropReply, 1);
                ("listtransactions", HoldAt::Request)
            }
            Step::Requested | Step::CarriedOutLate => (method, HoldAt::Request),
            Step::Made | Step::Answered => (method, HoldAt::Reply),
        };
        let mut held = chain.hold(call, place);
        let given = self.give(occasion, &process);
        let reached = tokio::time::timeout(DEADLINE, held.reached()).await;
        reached.unwrap_or_else(|_| panic!("the process never came to {step:?}"));
        // The process dies, and perhaps its answer with it.
        given.abort();
        match step {
            Step::Answered => {
                held.release();
                self.kill(process).await;
            }
            Step::CarriedOutLate => {
                self.kill(process).await;
                let mut search = chain.hold("listtransactions", HoldAt::Reply);
                process = Process::start(&self.config(), DEADLINE).await;
                search.reached().await;
                held.release();
                search.release();
                self.until_quiet(&mut process).await;
                self.kill(process).await;
            }
            _ => {
                self.kill(process).await;
                drop(held);
            }
        }
        self.restart().await
    }

    /// Starts the next process, and asks it again for the withdrawal that was asked for last.
    async fn restart(&self) -> Process {
        let mut process = self.start().await;
        if let Some(order) = self.orders.last() {
            order.place(&mut process.client).await.unwrap();
        }
        process
    }

    /// Waits until everything worth a payment is paid.
    async fn until_quiet(&self, process: &mut Process) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let balances = ledger(&mut process.client).await;
            let due: i64 = USERS
                .iter()
                .filter_map(|name| balances.get(&format!("due:{name}")))
                .sum();
            let left = match self.mode {
                Mode::Accounts => due,
                Mode::Addresses => due + balances.get("earnings:provider").copied().unwrap_or_default(),
            };
            // Less than a block of coins, and the reserve for fees; and no withdrawal is under way.
            if left < grc("0.06") && balances.get("outbox").copied().unwrap_or_default() == 0 {
                return;
            }
            assert!(Instant::now() < deadline, "not quiet: {balances:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The chain's totals are the ledger's, to the halford; every payment is there once.
    async fn assert_settled_once(&self, process: &mut Process) {
        self.world.chain.mine(10).unwrap();
        let balances = ledger(&mut process.client).await;
        let of = |account: &str| balances.get(account).copied().unwrap_or_default();
        match self.mode {
            Mode::Accounts => {
                let mirrored = self.world.accounts().await;
                for name in USERS {
                    let owned = of(&format!("user:{name}")) + of(&format!("due:{name}"));
                    assert_eq!(mirrored[name].halfords(), owned, "{name}");
                }
                assert_eq!(mirrored["earnings:gridfaas"].halfords(), of("earnings:gridfaas"));
            }
            Mode::Addresses => {
                let coins: Box<RawValue> = self.world.rpc("getbalance", r#"["*", 3]"#).await;
                assert_eq!(grc(coins.get()), -of("chain"));
            }
        }
        // Where settling moves no coins, it is the ledger's own affair.
        let is_payment = |kind: &str| match self.mode {
            Mode::Accounts => ["settlement", "payout"].contains(&kind),
            Mode::Addresses => kind == "payout",
        };
        let booked: BTreeMap<String, i64> = process
            .client
            .transfers()
            .await
            .into_iter()
            .filter(|transfer| is_payment(&transfer.kind))
            .map(|transfer| (transfer.reference, transfer.amount_halfords))
            .collect();
        assert_eq!(self.payments().await, booked);
        for Order { id, name, amount } in &self.orders {
            let done = process.client.until_withdrawn(id).await;
            assert_eq!(done.state(), WithdrawalState::Done);
            assert_eq!((done.user.as_str(), done.amount_halfords), (*name, *amount));
        }
        process.client.assert_sound().await;
    }

    /// What the wallet paid, by the payments' ids. Fails if one id is there twice.
    async fn payments(&self) -> BTreeMap<String, i64> {
        #[derive(Deserialize)]
        struct Entry {
            amount: Box<RawValue>,
            comment: Option<String>,
        }
        let entries: Vec<Entry> = self.world.rpc("listtransactions", r#"["*", 100000]"#).await;
        let mut paid = BTreeMap::new();
        for entry in entries {
            let amount = grc(entry.amount.get());
            if let Some(id) = entry.comment.filter(|_| amount < 0) {
                let earlier = paid.insert(id.clone(), -amount);
                assert_eq!(earlier, None, "{id} was paid twice");
            }
        }
        paid
    }
}

/// The balance of every account, by its transfers.
async fn ledger(client: &mut Client) -> BTreeMap<String, i64> {
    let mut balances = BTreeMap::new();
    for transfer in client.transfers().await {
        *balances.entry(transfer.debit_account).or_default() -= transfer.amount_halfords;
        *balances.entry(transfer.credit_account).or_default() += transfer.amount_halfords;
    }
    balances
}

async fn every_payment_is_made_once_through_kills(mode: Mode) {
    let mut trial = Trial::new(mode).await;
    let mut process = trial.start().await;
    trial.prepare(&mut process).await;
    for occasion in [Occasion::Charge, Occasion::Withdrawal].repeat(2) {
        for step in Step::ALL {
            let is_send = trial.method(occasion) != "move";
            if is_send || !matches!(step, Step::AddressAsked | Step::FeeAsked) {
                process = trial.kill_at(step, occasion, process).await;
                trial.until_quiet(&mut process).await;
            }
        }
    }
    trial.world.chain.clear_faults();
    assert!(trial.kills >= 40);
    trial.assert_settled_once(&mut process).await;
}

#[tokio::test]
async fn every_payment_is_made_once_through_kills_in_accounts_mode() {
    every_payment_is_made_once_through_kills(Mode::Accounts).await;
}

#[tokio::test]
async fn every_payment_is_made_once_through_kills_in_addresses_mode() {
    every_payment_is_made_once_through_kills(Mode::Addresses).await;
}
