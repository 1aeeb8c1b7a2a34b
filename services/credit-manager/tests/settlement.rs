//! Settlement over real gRPC: deposits in, charges out, exactly once, through lost requests, lost replies and restarts.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a panic is how a failure is reported"
)]

#[expect(dead_code, reason = "the other tests use the rest")]
mod service;
#[expect(dead_code, reason = "the other tests use the rest")]
mod wallet;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use credit_manager::config::ReceiverConfig;
use credit_manager::settlement::fake::{Failure, FakeWallet};
use credit_manager::settlement::gridcoin::Mode;
use credit_manager::settlement::wallet::Wallet as _;
use proto::credit::v1::*;
use service::{CORE_SECOND, Service, config, grc};
use units::{Amount, SessionId};
use wallet::DaemonWorld;

/// Runs a task of this many core-seconds.
async fn use_up(service: &mut Service, name: &str, core_seconds: u64) {
    let session = SessionId::new();
    service.open(session, name, "a.txt", "").await;
    service
        .close(session, core_seconds * CORE_SECOND, Outcome::Succeeded)
        .await
        .unwrap();
}

fn receiver(name: &str, share: u32, address: Option<&str>) -> ReceiverConfig {
    ReceiverConfig {
        name: name.parse().unwrap(),
        share,
        address: address.map(|address| address.parse().unwrap()),
    }
}

fn amounts(texts: &[&str]) -> Vec<Amount> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

async fn deposits_are_credited_when_deep_enough(mode: Mode, mode_key: &str) {
    let folder = tempfile::tempdir().unwrap();
    let world = DaemonWorld::start(mode).await;
    let chain = world.chain.clone();
    let mut service = Service::start(config(folder.path(), mode_key), world.wallet.clone()).await;
    let address = service.user("alice", "0").await.deposit_address;
    let outputs: Vec<_> = amounts(&["1", "1", "0.5"])
        .into_iter()
        .map(|amount| (address.parse().unwrap(), amount))
        .collect();
    chain.deposit_many(&outputs).unwrap();
    for blocks in [0, 1, 1] {
        chain.mine(blocks).unwrap();
        let user = service
            .until("alice", |user| user.pending_deposit_halfords == grc("2.5"))
            .await;
        assert_eq!(user.balance_halfords, 0, "never before its confirmations");
    }
    chain.mine(1).unwrap();
    let user = service
        .until("alice", |user| user.pending_deposit_halfords == 0)
        .await;
    assert_eq!(user.balance_halfords, grc("2.5"), "two equal outputs count twice");
    chain.mine(5).unwrap();
    service.assert_sound().await;
    service.stop().await.unwrap();

    let mut service = Service::start(config(folder.path(), mode_key), world.wallet.clone()).await;
    chain
        .deposit(&address.parse().unwrap(), "1".parse().unwrap())
        .unwrap();
    chain.mine(3).unwrap();
    service
        .until("alice", |user| user.balance_halfords == grc("3.5"))
        .await;
    chain.reorg(1, false).unwrap();
    service.assert_sound().await;
    // A double spend reaches deep into the chain.
    chain.mine(1).unwrap();
    chain.reorg(5, true).unwrap();
    service
        .until("alice", |user| user.balance_halfords == grc("2.5"))
        .await;
    service.assert_sound().await;
    service.stop().await.unwrap();
}

#[tokio::test]
async fn deposits_are_credited_when_they_are_deep_enough_and_pending_before() {
    deposits_are_credited_when_deep_enough(Mode::Accounts, "accounts").await;
    deposits_are_credited_when_deep_enough(Mode::Addresses, "addresses").await;
}

#[tokio::test]
async fn charges_are_settled_in_blocks_and_only_as_far_as_coins_cover_them() {
    let folder = tempfile::tempdir().unwrap();
    let wallet = Arc::new(FakeWallet::new());
    let mut service = Service::start(config(folder.path(), "accounts"), wallet.clone()).await;
    let address = service.user("alice", "1").await.deposit_address.parse().unwrap();
    wallet.deposit(&address, &amounts(&["0.1"]));
    wallet.mine(3);
    service.until("alice", |user| user.balance_halfords > 0).await;
    use_up(&mut service, "alice", 24).await;
    use_up(&mut service, "alice", 66).await;
    // 0.15 GRC were charged, 0.05 of it on credit.
    service.until_settled(grc("0.1")).await;
    wallet.deposit(&address, &amounts(&["1"]));
    wallet.mine(3);
    service.until_settled(grc("0.15")).await;
    let payments = wallet.take_payments();
    let paid: Vec<i64> = payments.iter().map(|payment| payment.amount.halfords()).collect();
    assert_eq!(
        paid,
        [grc("0.1"), grc("0.05")],
        "0.04 alone was not worth a payment"
    );
    wallet.assert_quiet();
    service.assert_sound().await;
    service.stop().await.unwrap();
}

#[tokio::test]
async fn every_payment_is_made_once_whatever_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let wallet = Arc::new(FakeWallet::new());
    let mut service = Service::start(config(folder.path(), "accounts"), wallet.clone()).await;
    let address = service.user("alice", "0").await.deposit_address.parse().unwrap();
    wallet.deposit(&address, &amounts(&["10"]));
    wallet.mine(3);
    service.until("alice", |user| user.balance_halfords > 0).await;
    let mut settled = 0;
    for failure in [
        Failure::LostReply,
        Failure::LostRequest,
        Failure::Unreachable,
        Failure::Refused {
            code: -1,
            message: "no".to_owned(),
        },
        Failure::LostReply,
    ] {
        wallet.fail_payment(failure);
        use_up(&mut service, "alice", 60).await;
        // In the middle of it, the service is started again.
        service.stop().await.unwrap();
        service = Service::start(config(folder.path(), "accounts"), wallet.clone()).await;
        settled += grc("0.1");
        service.until_settled(settled).await;
    }
    let paid: Amount = wallet.take_payments().iter().map(|payment| payment.amount).sum();
    assert_eq!(paid.halfords(), settled);
    wallet.assert_quiet();
    service.assert_sound().await;
    service.stop().await.unwrap();
}

#[tokio::test]
async fn earnings_of_all_users_are_sent_in_one_payment_and_the_fee_is_in_the_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let wallet = Arc::new(FakeWallet::new());
    let mut config = config(folder.path(), "addresses");
    config.receivers = vec![receiver("provider", 1, Some(wallet::FOREIGN))];
    let mut service = Service::start(config, wallet.clone()).await;
    for name in ["alice", "bob"] {
        let address = service.user(name, "0").await.deposit_address.parse().unwrap();
        wallet.deposit(&address, &amounts(&["1"]));
    }
    wallet.mine(3);
    for name in ["alice", "bob"] {
        service.until(name, |user| user.balance_halfords > 0).await;
        use_up(&mut service, name, 30).await;
    }
    service.until_settled(grc("0.1")).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    let fees = loop {
        let fees: Vec<_> = service
            .transfers()
            .await
            .into_iter()
            .filter(|transfer| transfer.kind == "fee")
            .collect();
        if !fees.is_empty() {
            break fees;
        }
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(fees[0].amount_halfords, grc("0.001"));
    let payments = wallet.take_payments();
    assert_eq!(payments.len(), 1);
    assert_eq!(
        payments[0].amount.halfords(),
        grc("0.09"),
        "a reserve for fees stays"
    );
    wallet.assert_quiet();
    service.assert_sound().await;
    service.stop().await.unwrap();
}

/// What each account was credited with by settlements.
async fn settled(service: &mut Service) -> BTreeMap<String, i64> {
    let mut settled = BTreeMap::new();
    for transfer in service.transfers().await {
        if transfer.kind == "settlement" {
            *settled.entry(transfer.credit_account).or_default() += transfer.amount_halfords;
        }
    }
    settled
}

#[tokio::test]
async fn what_is_settled_is_split_to_the_halford_also_across_a_crash() {
    for mode in ["accounts", "addresses"] {
        let folder = tempfile::tempdir().unwrap();
        let wallet = Arc::new(FakeWallet::new());
        let mut config = config(folder.path(), mode);
        config.receivers = vec![receiver("provider", 800, None), receiver("project", 200, None)];
        let mut service = Service::start(config.clone(), wallet.clone()).await;
        let address = service.user("alice", "0").await.deposit_address.parse().unwrap();
        wallet.deposit(&address, &amounts(&["10"]));
        wallet.mine(10);
        service.until("alice", |user| user.balance_halfords > 0).await;
        let mut sum = 0;
        // 50 core-seconds cost 8,333,333 halfords, which 800 and 200 do not divide.
        for round in 1..=5 {
            wallet.fail_payment(Failure::LostReply);
            wallet.fail_payment(Failure::LostRequest);
            use_up(&mut service, "alice", 50).await;
            // In the middle of it, the service is started again.
            service.stop().await.unwrap();
            service = Service::start(config.clone(), wallet.clone()).await;
            sum += 8_333_333;
            service.until_settled(sum).await;
            let settled = settled(&mut service).await;
            let parts = [settled["earnings:provider"], settled["earnings:project"]];
            assert_eq!(parts.iter().sum::<i64>(), sum, "{mode}, round {round}");
            for (part, share) in parts.into_iter().zip([800, 200]) {
                let drift = part * 1_000 - sum * share;
                assert!(drift.abs() < 1_000, "{mode}, round {round}: off by {drift}/1000");
            }
        }
        service.assert_sound().await;
        service.stop().await.unwrap();
    }
}

#[tokio::test]
async fn moves_that_the_wallet_forgot_are_made_again_once_and_no_deposit_is_credited_twice() {
    let folder = tempfile::tempdir().unwrap();
    let world = DaemonWorld::start(Mode::Accounts).await;
    let mut config = config(folder.path(), "accounts");
    config.reconcile_ms = 20;
    let mut service = Service::start(config, world.wallet.clone()).await;
    for name in ["alice", "bob"] {
        let address = service.user(name, "0").await.deposit_address.parse().unwrap();
        world.chain.deposit(&address, "2".parse().unwrap()).unwrap();
        world.chain.mine(3).unwrap();
        service.until(name, |user| user.balance_halfords > 0).await;
    }
    let mut settled = 0;
    for name in ["alice", "bob", "alice", "alice"] {
        use_up(&mut service, name, 60).await;
        settled += grc("0.1");
        service.until_settled(settled).await;
    }
    let whole = world.accounts().await;
    let ids = async || -> Vec<String> {
        #[derive(serde::Deserialize)]
        struct Entry {
            account: String,
            comment: Option<String>,
        }
        let entries: Vec<Entry> = world.rpc("listtransactions", r#"["*", 1000]"#).await;
        let paying = entries.into_iter().filter(|entry| !entry.account.contains(':'));
        let mut ids: Vec<String> = paying.filter_map(|entry| entry.comment).collect();
        ids.sort_unstable();
        ids
    };
    let made = ids().await;
    assert_eq!(made.len(), 4);
    let ledger = service.transfers().await;
    // The last three moves: one of Bob's and two of Alice's.
    world.chain.forget(3).unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while world.accounts().await != whole {
        assert!(
            tokio::time::Instant::now() < deadline,
            "{:?}",
            world.accounts().await
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    service.assert_sound().await;
    assert_eq!(ids().await, made, "each under its own id, once");
    assert_eq!(service.transfers().await, ledger, "the ledger had them all along");
    service.stop().await.unwrap();
}

#[tokio::test]
async fn the_daemons_accounts_follow_the_ledger_through_lost_replies() {
    let folder = tempfile::tempdir().unwrap();
    let world = DaemonWorld::start(Mode::Accounts).await;
    let mut patient = config(folder.path(), "accounts");
    // Much longer than the daemon is late below.
    patient.payout_late_ms = 3_000;
    let mut service = Service::start(patient, world.wallet.clone()).await;
    let address: chain::Address = service.user("alice", "0").await.deposit_address.parse().unwrap();
    world.chain.deposit(&address, "2".parse().unwrap()).unwrap();
    world.chain.mine(3).unwrap();
    service
        .until("alice", |user| user.balance_halfords == grc("2"))
        .await;
    let faults = [
        chain::Fault::DropReply,
        chain::Fault::Truncate,
        chain::Fault::Refuse,
        chain::Fault::InternalError,
        chain::Fault::Unauthorised,
        chain::Fault::ApplyLate(Duration::from_millis(100)),
    ];
    let mut settled = 0;
    for fault in faults {
        world.chain.set_fault(Some("move"), fault, 1);
        use_up(&mut service, "alice", 60).await;
        settled += grc("0.1");
        service.until_settled(settled).await;
    }
    assert_eq!(settled, grc("0.6"));
    world.chain.mine(10).unwrap();
    assert_eq!(
        world.wallet.balance(3).await.unwrap().halfords(),
        grc("2"),
        "moves cost nothing"
    );
    let mirrored = world.accounts().await;
    assert_eq!(mirrored["alice"].halfords(), grc("1.4"));
    assert_eq!(mirrored["earnings:gridfaas"].halfords(), grc("0.6"));
    service.assert_sound().await;
    service.stop().await.unwrap();
}
