//! The alarm: a wallet that does not agree with the ledger is told by metric and audit, and never mended by guesswork.
//!
//! One test alone in its process, whose metrics it reads.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a panic is how a failure is reported"
)]

#[expect(dead_code, reason = "the other tests use the rest")]
mod service;
#[expect(dead_code, reason = "the other tests use the rest")]
mod wallet;

use std::net::SocketAddr;
use std::time::Duration;

use credit_manager::settlement::gridcoin::Mode;
use proto::credit::v1::{AuditRequest, WithdrawalState};
use serde::Deserialize;
use service::{DEADLINE, Service, config, grc};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wallet::{DaemonWorld, FOREIGN};

async fn page(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    page
}

/// Waits until the metrics say so.
async fn until_page_has(address: SocketAddr, line: &str) -> String {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let page = page(address).await;
        if page.contains(line) {
            return page;
        }
        assert!(Instant::now() < deadline, "no `{line}` in {page}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The names of the checks that fail.
async fn failing(service: &mut Service) -> Vec<String> {
    let audit = service
        .accounts
        .audit(AuditRequest {})
        .await
        .unwrap()
        .into_inner();
    let failing = audit.checks.into_iter().filter(|check| !check.ok);
    failing.map(|check| check.name).collect()
}

#[tokio::test]
async fn a_wallet_that_disagrees_raises_the_alarm_and_a_forgotten_send_is_not_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let shutdown = CancellationToken::new();
    let any = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    let metrics = service_kit::metrics::start(
        any,
        "credit-manager",
        &credit_manager::metrics::METRICS.catalogue,
        shutdown.clone(),
    )
    .await
    .unwrap()
    .unwrap();
    let world = DaemonWorld::start(Mode::Accounts).await;
    let mut config = config(folder.path(), "accounts");
    config.reconcile_ms = 20;
    let mut service = Service::start(config, world.wallet.clone()).await;
    let address = service.user("alice", "0").await.deposit_address.parse().unwrap();
    world.chain.deposit(&address, "5".parse().unwrap()).unwrap();
    world.chain.mine(10).unwrap();
    service.until("alice", |user| user.balance_halfords > 0).await;
    until_page_has(metrics, "gridfaas_reconciliation_ok 1").await;

    // Somebody moves a user's coins behind our back, and back again.
    let _: bool = world.rpc("move", r#"["alice", "pocket", 0.5]"#).await;
    until_page_has(metrics, "gridfaas_reconciliation_ok 0").await;
    let failed = failing(&mut service).await;
    assert!(
        failed.len() == 1 && failed[0].contains("account of each user"),
        "{failed:?}"
    );
    let _: bool = world.rpc("move", r#"["pocket", "alice", 0.5]"#).await;
    until_page_has(metrics, "gridfaas_reconciliation_ok 1").await;

    // The wallet forgets a send that is in no block yet.
    let id = Uuid::now_v7().to_string();
    service.withdraw(&id, "alice", FOREIGN, grc("1")).await.unwrap();
    assert_eq!(service.until_withdrawn(&id).await.state(), WithdrawalState::Done);
    until_page_has(metrics, "gridfaas_reconciliation_ok 1").await;
    world.chain.forget(1).unwrap();
    until_page_has(metrics, "gridfaas_reconciliation_ok 0").await;
    let failed = failing(&mut service).await;
    assert!(failed.iter().any(|name| name.contains("was sent")), "{failed:?}");
    // Several comparisons later it is still not there.
    let alarms = |page: &str| -> u64 {
        let line = page.lines().find(|line| line.contains("result=\"disagrees\""));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
            .unwrap_or(0)
    };
    let before = alarms(&page(metrics).await);
    let later = format!(
        "gridfaas_reconciliations_total{{result=\"disagrees\"}} {}",
        before + 3
    );
    let page = until_page_has(metrics, &later).await;
    for line in [
        "gridfaas_outbox_payments{state=\"unsent\"} 0",
        "gridfaas_deposits_total{result=\"credited\"} 1",
        "gridfaas_payouts_total{purpose=\"withdrawal\",result=\"done\"} 1",
        "gridfaas_reconciliation_time_seconds",
        "gridfaas_reconciliation_duration_seconds",
    ] {
        assert!(page.contains(line), "no `{line}` in {page}");
    }
    #[derive(Deserialize)]
    struct Entry {
        category: String,
    }
    let entries: Vec<Entry> = world.rpc("listtransactions", r#"["*", 100]"#).await;
    assert!(entries.iter().all(|entry| entry.category != "send"));
    service.stop().await.unwrap();
    shutdown.cancel();
}
