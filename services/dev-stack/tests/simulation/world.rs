//! One run: a time of chaos, then a time in which everything has to come right.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use access::Caller;
use credit_manager::Config;
use credit_manager::settlement::fake::FakeWallet;
use credit_manager::settlement::wallet::Address;
use proto::credit::v1 as wire;
use proto::credit::v1::account_service_client::AccountServiceClient;
use service_kit::ManualClock;
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::service::Routes;
use tower::util::MapRequest;
use units::{Amount, FunctionName, SessionId, Timestamp, UserName};
use uuid::Uuid;

use crate::dice::Dice;
use crate::laws::Laws;
use crate::node::{Life, Node};
use crate::process::{self, Point};
use crate::wallet;

pub(crate) const USERS: usize = 3;
const NODES: usize = 3;
const CHAOS: Duration = Duration::from_secs(25);
const HEALING_MAX: Duration = Duration::from_secs(300);
/// Without a payment for this long, none is to come.
const REST: Duration = Duration::from_secs(4);

pub(crate) fn user_name(number: usize) -> UserName {
    format!("user-{number}").parse().unwrap()
}

pub(crate) fn function_name(number: usize) -> FunctionName {
    format!("function-{number}").parse().unwrap()
}

pub(crate) struct World {
    pub(crate) dice: Dice,
    healing: AtomicBool,
    server: Mutex<Option<Routes>>,
    laws: OnceLock<Mutex<Laws>>,
    number: Mutex<u128>,
    /// After how many more batches the process ends, and where.
    crash: Mutex<Option<(u64, Point)>>,
    kill: Notify,
}

/// What a run was made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) commits: u64,
    pub(crate) crashes: u64,
    pub(crate) ledger: Vec<(String, String, i64, i64)>,
}

impl World {
    fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            dice: Dice::new(seed),
            healing: AtomicBool::new(false),
            server: Mutex::default(),
            laws: OnceLock::new(),
            number: Mutex::default(),
            crash: Mutex::default(),
            kill: Notify::new(),
        })
    }

    pub(crate) fn is_healing(&self) -> bool {
        self.healing.load(Ordering::Relaxed)
    }

    pub(crate) fn server(&self) -> Option<Routes> {
        self.server.lock().unwrap().clone()
    }

    pub(crate) fn set_server(&self, server: Option<Routes>) {
        *self.server.lock().unwrap() = server;
    }

    pub(crate) fn open_laws(&self, ledger: &Path) {
        self.laws.get_or_init(|| Mutex::new(Laws::new(ledger)));
    }

    pub(crate) fn laws(&self) -> MutexGuard<'_, Laws> {
        self.laws.get().unwrap().lock().unwrap()
    }

    /// Ids in the order they were made.
    pub(crate) fn fresh_number(&self) -> u128 {
        let mut number = self.number.lock().unwrap();
        *number += 1;
        *number
    }

    pub(crate) fn fresh_session(&self, user: usize) -> SessionId {
        let session = SessionId::from_uuid(Uuid::from_u128(self.fresh_number()));
        self.laws().on_asked(session, user);
        session
    }

    pub(crate) async fn killed(&self) {
        self.kill.notified().await;
    }

    pub(crate) fn crashes_at(&self, point: Point) -> bool {
        let mut crash = self.crash.lock().unwrap();
        match &mut *crash {
            Some((0, at)) if *at == point => {
                *crash = None;
                true
            }
            Some((left, at)) if *at == point => {
                *left -= 1;
                false
            }
            _ => false,
        }
    }
}

/// One run on a single thread and in virtual time. Panics where an invariant does not hold.
pub(crate) async fn run(seed: u64, folder: &Path) -> Outcome {
    let world = World::new(seed);
    let fake = Arc::new(FakeWallet::new());
    let clock = Arc::new(ManualClock::at(Timestamp::from_unix_ms(1_800_000_000_000)));
    let config = config(&world.dice, folder);
    let process = tokio::spawn(process::live(world.clone(), fake.clone(), config, clock.clone()));
    let mut chaos = Chaos {
        addresses: Vec::new(),
        nodes: (0..NODES).map(|number| Node::new(&world, number)).collect(),
        lives: Vec::new(),
        back_at: [None; NODES],
        joined_at: [None; NODES],
        limits: [0; USERS],
        crashes: 0,
        takes_away: world.dice.percent(50),
        world: world.clone(),
        fake,
        clock,
    };
    chaos.set_up().await;
    let end = Instant::now() + CHAOS;
    while Instant::now() < end {
        tokio::time::sleep(world.dice.ms(20..300)).await;
        crate::assert_no_panic();
        chaos.tick().await;
    }
    chaos.heal().await;
    process.abort();
    // What serves knows the world that it serves: neither would ever end.
    world.set_server(None);
    let laws = world.laws();
    laws.judge_the_end();
    Outcome {
        commits: laws.commits,
        crashes: chaos.crashes,
        ledger: laws.digest(),
    }
}

fn config(dice: &Dice, folder: &Path) -> Config {
    let (mode, receiver) = match dice.between(0..3) {
        0 => ("accounts", ""),
        1 => ("addresses", ""),
        _ => (
            "addresses",
            "receivers = [{ name = \"provider\", share = 800, address = \"mReceiver11111111111111111111\" }, \
             { name = \"project\", share = 200 }]",
        ),
    };
    let text = format!(
        r#"
        listen = "127.0.0.1:0"
        database = {:?}
        confirmations = 3
        deposit_poll_ms = 400
        payout_poll_ms = 500
        payout_late_ms = {}
        min_coin_movement = "0.003"
        lease_ms = 8000
        {receiver}
        [wallet]
        url = "http://127.0.0.1:1/"
        user = "unused"
        password_file = "unused"
        mode = "{mode}"
        "#,
        folder.join("ledger.db"),
        wallet::PATIENCE.as_millis(),
    );
    toml::from_str(&text).unwrap()
}

type Accounts = AccountServiceClient<MapRequest<Routes, fn(http::Request<Body>) -> http::Request<Body>>>;

/// The simulated server has no door: who calls is said outright.
fn operator(server: Routes) -> Accounts {
    AccountServiceClient::new(MapRequest::new(server, |mut request| {
        request.extensions_mut().insert(Caller::Operator);
        request
    }))
}

struct Chaos {
    world: Arc<World>,
    fake: Arc<FakeWallet>,
    clock: Arc<ManualClock>,
    addresses: Vec<Address>,
    nodes: Vec<Arc<Node>>,
    lives: Vec<Option<Life>>,
    /// When a node's manager starts again.
    back_at: [Option<Instant>; NODES],
    /// When a node's connection works again.
    joined_at: [Option<Instant>; NODES],
    limits: [i64; USERS],
    crashes: u64,
    /// Whether funds that were granted may be taken away in this run, which loosens what can be asserted.
    takes_away: bool,
}

impl Chaos {
    async fn accounts(&self) -> Accounts {
        loop {
            if let Some(server) = self.world.server() {
                return operator(server);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn set_up(&mut self) {
        let mut accounts = self.accounts().await;
        for number in 0..USERS {
            let name = user_name(number).to_string();
            let request = wire::CreateUserRequest { name: name.clone() };
            let user = accounts.create_user(request).await.unwrap().into_inner().user;
            self.addresses
                .push(user.unwrap().deposit_address.parse().unwrap());
            self.limits[number] = self.some_limit(2_000_000);
            let request = wire::UpdateUserRequest {
                name: name.clone(),
                min_balance_halfords: Some(0),
                debt_limit_halfords: Some(self.limits[number]),
                ..wire::UpdateUserRequest::default()
            };
            accounts.update_user(request).await.unwrap();
            let request = wire::CreateFunctionRequest {
                name: function_name(number).to_string(),
                user: name,
            };
            accounts.create_function(request).await.unwrap();
            self.deposit(number);
        }
        self.fake.mine(3);
        self.lives = self.nodes.iter().map(|node| Some(node.start())).collect();
    }

    /// Often none: then the end comes at full speed, not throttled.
    fn some_limit(&self, most: u64) -> i64 {
        let dice = &self.world.dice;
        let limit = if dice.percent(30) {
            0
        } else {
            dice.between(0..most)
        };
        i64::try_from(limit).unwrap()
    }

    /// Between half a core-second and 18 of them.
    fn deposit(&self, user: usize) {
        let halfords = i64::try_from(self.world.dice.between(80_000..3_000_000)).unwrap();
        self.fake
            .deposit(&self.addresses[user], &[Amount::from_halfords(halfords)]);
    }

    async fn tick(&mut self) {
        let now = Instant::now();
        for at in 0..NODES {
            if self.back_at[at].is_some_and(|back| back <= now) {
                self.restart(at);
            }
            if self.joined_at[at].is_some_and(|joined| joined <= now) {
                self.joined_at[at] = None;
                self.nodes[at].link.set_cut(false);
            }
        }
        let world = self.world.clone();
        let dice = &world.dice;
        let some_node = dice.index(NODES);
        self.clock
            .advance_ms(i64::try_from(dice.between(20..300)).unwrap());
        match dice.between(0..100) {
            0..4 => {
                let point = [Point::BeforeCommit, Point::AfterCommit][dice.index(2)];
                *world.crash.lock().unwrap() = Some((dice.between(0..10), point));
                self.crashes += 1;
            }
            4..6 => {
                world.kill.notify_waiters();
                self.crashes += 1;
            }
            6..9 if self.lives[some_node].is_some() => {
                self.lives[some_node] = None;
                self.back_at[some_node] = Some(now + dice.ms(10..4_000));
                for session in self.nodes[some_node].sessions() {
                    world.laws().on_unwatched(session);
                }
                if dice.percent(20) {
                    self.nodes[some_node].lose_everything();
                }
                if dice.percent(30) {
                    self.cut(some_node);
                }
            }
            9..13 => self.cut(some_node),
            13..16 => {
                let hours = i64::try_from(dice.between(0..49)).unwrap() - 24;
                let days = [1, 365][dice.index(2)];
                self.clock.advance_ms(hours * days * 3_600_000);
            }
            16..28 => {
                self.deposit(dice.index(USERS));
            }
            28..50 => self.fake.mine(1),
            50..52 => self.fake.reorg(1, false),
            52..53 if self.takes_away => self.fake.reorg(4, true),
            53..57 => self.change_limit(dice.index(USERS)).await,
            _ => {}
        }
    }

    fn cut(&mut self, node: usize) {
        self.nodes[node].link.set_cut(true);
        // At times longer than a lease.
        self.joined_at[node] = Some(Instant::now() + self.world.dice.ms(100..12_000));
    }

    fn restart(&mut self, at: usize) {
        self.back_at[at] = None;
        for session in self.nodes[at].sessions() {
            self.world.laws().on_adopted(session);
        }
        self.lives[at] = Some(self.nodes[at].start());
    }

    async fn change_limit(&mut self, user: usize) {
        let limit = self.some_limit(4_000_000);
        let Some(server) = self.world.server() else { return };
        if limit < self.limits[user] && !self.takes_away {
            return;
        }
        let request = wire::UpdateUserRequest {
            name: user_name(user).to_string(),
            debt_limit_halfords: Some(limit),
            ..wire::UpdateUserRequest::default()
        };
        // Where the answer is lost in a crash, the highest limit that may be in force counts.
        let answered = operator(server).update_user(request).await;
        self.limits[user] = match answered {
            Ok(_) => limit,
            Err(_) => limit.max(self.limits[user]),
        };
    }

    /// Nothing fails any more and there is money for all: everything has to come to rest, and to add up.
    async fn heal(&mut self) {
        self.world.healing.store(true, Ordering::Relaxed);
        *self.world.crash.lock().unwrap() = None;
        for at in 0..NODES {
            self.nodes[at].link.set_cut(false);
            if self.lives[at].is_none() {
                self.restart(at);
            }
        }
        let plenty: Amount = "5".parse().unwrap();
        for address in &self.addresses {
            self.fake.deposit(address, &[plenty]);
        }
        let deadline = Instant::now() + HEALING_MAX;
        let mut quiet_since = Instant::now();
        while quiet_since.elapsed() < REST {
            tokio::time::sleep(Duration::from_millis(500)).await;
            crate::assert_no_panic();
            self.fake.mine(1);
            let under_way: usize = self.nodes.iter().map(|node| node.sessions().len()).sum();
            let (sessions, payments) = self.world.laws().unfinished();
            if under_way > 0 || sessions > 0 || payments > 0 || self.world.server().is_none() {
                quiet_since = Instant::now();
            }
            assert!(
                Instant::now() < deadline,
                "not at rest: {under_way} tasks, {sessions} sessions, {payments} payments"
            );
        }
        let audit = self.accounts().await.audit(wire::AuditRequest {}).await;
        let audit = audit.unwrap().into_inner();
        assert!(audit.ok, "{:#?}", audit.checks);
    }
}
