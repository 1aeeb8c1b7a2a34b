//! Usage reports over a bad network and through an outage: what is charged depends on the totals alone.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a panic is how a failure is reported"
)]

#[expect(dead_code, reason = "the other tests use the rest")]
mod service;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use access::Channel;
use credit_manager::settlement::fake::FakeWallet;
use fastrand::Rng;
use futures::future::join_all;
use proto::credit::v1::session_service_client::SessionServiceClient;
use proto::credit::v1::*;
use service::{CORE_SECOND, NODE, Service, config, grc};
use units::{Amount, SessionId};

const USERS: [&str; 3] = ["alice", "bob", "carol"];
const SESSIONS_PER_USER: usize = 4;
const REPORTS_PER_SESSION: usize = 60;

type Client = SessionServiceClient<Channel>;

async fn service_with_users(folder: &Path, wallet: &Arc<FakeWallet>) -> Service {
    let mut service = Service::start(config(folder, "accounts"), wallet.clone()).await;
    for name in USERS {
        let user = service.user(name, "0").await;
        let amount: Amount = "100".parse().unwrap();
        wallet.deposit(&user.deposit_address.parse().unwrap(), &[amount]);
        wallet.mine(3);
        service
            .until(name, |user| user.balance_halfords == grc("100"))
            .await;
    }
    service
}

async fn open_all(service: &mut Service) -> Vec<SessionId> {
    let mut sessions = Vec::new();
    for name in USERS {
        for number in 0..SESSIONS_PER_USER {
            let session = SessionId::new();
            service.open(session, name, &format!("{number}.txt"), "").await;
            sessions.push(session);
        }
    }
    sessions
}

async fn report(mut client: Client, session: SessionId, cpu_time_us: u64) -> Result<(), tonic::Status> {
    let usage = Usage {
        session_id: session.to_string(),
        cpu_time_us,
        millicores: 1000,
        revision: 1,
    };
    let request = ReportUsageRequest {
        node_id: NODE.to_owned(),
        usages: vec![usage],
    };
    client.report_usage(request).await.map(drop)
}

/// What a run left behind, sessions in the order they were opened.
#[derive(Debug, PartialEq, Eq)]
struct Outcomes {
    /// CPU time and amount.
    sessions: Vec<(u64, i64)>,
    /// Sums by debited account, credited account and kind; without settlements, whose moments are not fixed.
    transfers: BTreeMap<(String, String, String), i64>,
    balances: Vec<i64>,
}

async fn outcomes(service: &mut Service, sessions: &[SessionId]) -> Outcomes {
    let limit = 10_000;
    let request = ListSessionsRequest {
        limit,
        ..ListSessionsRequest::default()
    };
    let listed = service
        .accounts
        .list_sessions(request)
        .await
        .unwrap()
        .into_inner();
    let by_id: BTreeMap<String, (u64, i64)> = listed
        .sessions
        .into_iter()
        .map(|session| (session.session_id, (session.cpu_time_us, session.amount_halfords)))
        .collect();
    let request = ListTransfersRequest {
        limit,
        ..ListTransfersRequest::default()
    };
    let listed = service
        .accounts
        .list_transfers(request)
        .await
        .unwrap()
        .into_inner();
    let mut transfers = BTreeMap::new();
    for transfer in listed.transfers {
        if transfer.kind != "settlement" {
            let way = (transfer.debit_account, transfer.credit_account, transfer.kind);
            *transfers.entry(way).or_default() += transfer.amount_halfords;
        }
    }
    let mut balances = Vec::new();
    for name in USERS {
        balances.push(service.get(name).await.balance_halfords);
    }
    Outcomes {
        sessions: sessions.iter().map(|id| by_id[&id.to_string()]).collect(),
        transfers,
        balances,
    }
}

/// The totals that each session reports, the last one with its close.
fn totals(rng: &mut Rng) -> Vec<Vec<u64>> {
    (0..USERS.len() * SESSIONS_PER_USER)
        .map(|_| {
            let mut total = 0;
            let next = |_| {
                total += rng.u64(0..CORE_SECOND);
                total
            };
            (0..REPORTS_PER_SESSION).map(next).collect()
        })
        .collect()
}

async fn perfect_delivery(totals: &[Vec<u64>]) -> Outcomes {
    let folder = tempfile::tempdir().unwrap();
    let mut service = service_with_users(folder.path(), &Arc::new(FakeWallet::new())).await;
    let sessions = open_all(&mut service).await;
    for at in 0..REPORTS_PER_SESSION {
        let reports = sessions
            .iter()
            .zip(totals)
            .map(|(session, totals)| report(service.sessions.clone(), *session, totals[at]));
        for sent in join_all(reports).await {
            sent.unwrap();
        }
    }
    for (session, totals) in sessions.iter().zip(totals) {
        let last = *totals.last().unwrap();
        service.close(*session, last, Outcome::Succeeded).await.unwrap();
    }
    let outcomes = outcomes(&mut service, &sessions).await;
    service.assert_sound().await;
    service.stop().await.unwrap();
    outcomes
}

/// A fifth of the reports is lost, a fifth comes twice, and all come in any order, many at once. Some come after their
/// session's end, and every second close comes twice.
async fn bad_delivery(totals: &[Vec<u64>], rng: &mut Rng) -> Outcomes {
    let folder = tempfile::tempdir().unwrap();
    let mut service = service_with_users(folder.path(), &Arc::new(FakeWallet::new())).await;
    let sessions = open_all(&mut service).await;
    let mut sent = Vec::new();
    for (session, totals) in sessions.iter().zip(totals) {
        for total in totals {
            let copies = match rng.u32(0..5) {
                0 => 0,
                1 => 2,
                _ => 1,
            };
            sent.extend(std::iter::repeat_n((*session, *total), copies));
        }
    }
    rng.shuffle(&mut sent);
    let late = sent.split_off(sent.len() * 9 / 10);
    let deliver = async |reports: &[(SessionId, u64)], client: &Client| {
        for wave in reports.chunks(16) {
            let wave = wave
                .iter()
                .map(|(session, total)| report(client.clone(), *session, *total));
            for delivered in join_all(wave).await {
                delivered.unwrap();
            }
        }
    };
    deliver(&sent, &service.sessions).await;
    for (at, (session, totals)) in sessions.iter().zip(totals).enumerate() {
        let last = *totals.last().unwrap();
        let closed = service.close(*session, last, Outcome::Succeeded).await.unwrap();
        if at % 2 == 0 {
            let again = service.close(*session, last, Outcome::Succeeded).await.unwrap();
            assert_eq!(again.amount_halfords, closed.amount_halfords);
        }
    }
    deliver(&late, &service.sessions).await;
    let outcomes = outcomes(&mut service, &sessions).await;
    service.assert_sound().await;
    service.stop().await.unwrap();
    outcomes
}

#[tokio::test]
async fn lost_doubled_and_shuffled_reports_cost_the_same_to_the_halford() {
    let seed = 5;
    let mut rng = Rng::with_seed(seed);
    let totals = totals(&mut rng);
    let perfect = perfect_delivery(&totals).await;
    let bad = bad_delivery(&totals, &mut rng).await;
    assert_eq!(perfect, bad, "seed {seed}");
    let cost = |micros: u64| i64::try_from(u128::from(micros) * 100_000_000 / (600 * 1_000_000)).unwrap();
    for (reported, (cpu_time_us, amount)) in totals.iter().zip(&perfect.sessions) {
        let last = *reported.last().unwrap();
        assert_eq!((*cpu_time_us, *amount), (last, cost(last)));
    }
}

/// A node that goes on working, whoever listens.
struct Node {
    client: Mutex<Client>,
    ends: AtomicBool,
    heard: AtomicU64,
    unheard: AtomicU64,
}

impl Node {
    fn client(&self) -> Client {
        self.client.lock().unwrap().clone()
    }

    /// Runs a session to its end; what it used.
    async fn work(&self, session: SessionId, step: u64) -> u64 {
        let mut used = 0;
        while !self.ends.load(Ordering::Relaxed) {
            used += step;
            let counter = match report(self.client(), session, used).await {
                Ok(()) => &self.heard,
                Err(_) => &self.unheard,
            };
            counter.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        used
    }

    /// Waits until this many more reports were counted.
    async fn until_more(counter: &AtomicU64, more: u64) {
        let enough = counter.load(Ordering::Relaxed) + more;
        let reached = async {
            while counter.load(Ordering::Relaxed) < enough {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), reached)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn what_is_used_while_credit_manager_is_away_is_billed_when_it_is_back() {
    const REPORTS: u64 = 100;
    let folder = tempfile::tempdir().unwrap();
    let wallet = Arc::new(FakeWallet::new());
    let mut service = service_with_users(folder.path(), &wallet).await;
    let sessions = open_all(&mut service).await;
    let node = Arc::new(Node {
        client: Mutex::new(service.sessions.clone()),
        ends: AtomicBool::new(false),
        heard: AtomicU64::new(0),
        unheard: AtomicU64::new(0),
    });
    let works: Vec<_> = sessions
        .iter()
        .zip(1..)
        .map(|(session, number)| {
            let (node, session) = (node.clone(), *session);
            // 10 ms and some microseconds that do not come out even.
            tokio::spawn(async move { node.work(session, 10_000 + 7 * number).await })
        })
        .collect();
    for _ in 0..2 {
        Node::until_more(&node.heard, REPORTS).await;
        service.stop().await.unwrap();
        Node::until_more(&node.unheard, REPORTS).await;
        service = Service::start(config(folder.path(), "accounts"), wallet.clone()).await;
        *node.client.lock().unwrap() = service.sessions.clone();
    }
    Node::until_more(&node.heard, REPORTS).await;
    node.ends.store(true, Ordering::Relaxed);
    let used: Vec<u64> = join_all(works)
        .await
        .into_iter()
        .map(|ended| ended.unwrap())
        .collect();
    for (session, used) in sessions.iter().zip(&used) {
        service.close(*session, *used, Outcome::Succeeded).await.unwrap();
    }
    let outcomes = outcomes(&mut service, &sessions).await;
    let billed: Vec<u64> = outcomes
        .sessions
        .iter()
        .map(|(cpu_time_us, _)| *cpu_time_us)
        .collect();
    assert_eq!(billed, used, "every microsecond, once");
    let charged: i64 = outcomes.sessions.iter().map(|(_, amount)| amount).sum();
    let left: i64 = outcomes.balances.iter().sum();
    assert_eq!(charged + left, 3 * grc("100"));
    service.assert_sound().await;
    service.stop().await.unwrap();
}
