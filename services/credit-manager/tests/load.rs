//! As many users as one ledger is meant to have (S6).

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a panic is how a failure is reported"
)]

#[expect(dead_code, reason = "the other tests use the rest")]
mod service;

use std::sync::Arc;

use credit_manager::settlement::fake::FakeWallet;
use futures::stream::{self, StreamExt as _};
use proto::credit::v1::*;
use service::{CORE_SECOND, NODE, Service, config, grc};
use units::{Amount, SessionId};

const USERS: usize = 10_000;
const AT_ONCE: usize = 64;
/// What everything here may take, the ledger's cache and the fake wallet included.
const MEMORY_MAX_KIB: u64 = 512 * 1024;

fn name(number: usize) -> String {
    format!("user-{number:05}")
}

fn memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_users_pay_work_and_are_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let wallet = Arc::new(FakeWallet::new());
    let settings = || {
        let mut calm = config(folder.path(), "addresses");
        (calm.deposit_poll_ms, calm.payout_poll_ms, calm.alert_poll_ms) = (1000, 1000, 1000);
        calm
    };
    let mut service = Service::start(settings(), wallet.clone()).await;
    let accounts = service.accounts.clone();
    let addresses: Vec<String> = stream::iter(0..USERS)
        .map(async |number| {
            let (mut accounts, name) = (accounts.clone(), name(number));
            let request = CreateUserRequest { name: name.clone() };
            let created = accounts.create_user(request).await.unwrap().into_inner();
            let user = name.clone();
            let request = CreateFunctionRequest { name, user };
            accounts.create_function(request).await.unwrap();
            created.user.unwrap().deposit_address
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    for address in addresses {
        wallet.deposit(&address.parse().unwrap(), &[Amount::from_halfords(grc("2"))]);
    }
    wallet.mine(3);
    for number in [0, USERS / 2, USERS - 1] {
        service
            .until(&name(number), |user| user.balance_halfords == grc("2"))
            .await;
    }
    // So deep that they are looked at no more.
    wallet.mine(10);

    let watch = WatchRequest {
        node_id: NODE.to_owned(),
    };
    let mut news = service.sessions.watch(watch).await.unwrap().into_inner();
    let whole = news.message().await.unwrap().unwrap();
    assert_eq!(whole.gates.len(), USERS);
    drop(news);
    let sessions: Vec<SessionId> = (0..USERS).map(|_| SessionId::new()).collect();
    let client = service.sessions.clone();
    stream::iter(sessions.iter().enumerate())
        .for_each_concurrent(AT_ONCE, async |(number, session)| {
            let request = OpenSessionRequest {
                session_id: session.to_string(),
                node_id: NODE.to_owned(),
                function: name(number),
                object_key: "a".to_owned(),
                millicores: 1000,
                ..OpenSessionRequest::default()
            };
            let outcome = client.clone().open_session(request).await.unwrap().into_inner();
            assert!(matches!(
                outcome.outcome,
                Some(open_session_response::Outcome::Opened(_))
            ));
        })
        .await;
    let usages = sessions.iter().map(|session| Usage {
        session_id: session.to_string(),
        cpu_time_us: CORE_SECOND,
        millicores: 1000,
        revision: 1,
    });
    let report = ReportUsageRequest {
        node_id: NODE.to_owned(),
        usages: usages.collect(),
    };
    let told = service.sessions.report_usage(report).await.unwrap().into_inner();
    assert_eq!(told.states.len(), USERS);
    service.stop().await.unwrap();

    let mut service = Service::start(settings(), wallet).await;
    let users = service.accounts.list_users(ListUsersRequest {}).await.unwrap();
    let users = users.into_inner().users;
    assert_eq!(users.len(), USERS);
    assert!(users.iter().all(|user| user.live_sessions == 1));
    let request = ListFunctionsRequest::default();
    let functions = service.accounts.list_functions(request).await.unwrap();
    assert_eq!(functions.into_inner().functions.len(), USERS);
    let closes = service.sessions.clone();
    stream::iter(sessions)
        .for_each_concurrent(AT_ONCE, async |session| {
            let request = CloseSessionRequest {
                session_id: session.to_string(),
                cpu_time_us: 2 * CORE_SECOND,
                outcome: Outcome::Succeeded.into(),
            };
            closes.clone().close_session(request).await.unwrap();
        })
        .await;
    // 600 core-seconds for a GRC, rounded down to the halford.
    let cost = 2 * grc("1") / 600;
    for number in [0, USERS / 2, USERS - 1] {
        assert_eq!(service.get(&name(number)).await.balance_halfords, grc("2") - cost);
    }
    service.assert_sound().await;
    let memory = memory_kib();
    println!("{memory} KiB");
    assert!(memory < MEMORY_MAX_KIB, "{memory} KiB");
    service.stop().await.unwrap();
}
