//! Withdrawals over real gRPC: what is free leaves once, its fee is booked, and what cannot leave stays.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a panic is how a failure is reported"
)]

#[expect(dead_code, reason = "the other tests use the rest")]
mod service;
#[expect(dead_code, reason = "the other tests use the rest")]
mod wallet;

use std::sync::Arc;

use credit_manager::settlement::fake::{Failure, FakeWallet};
use credit_manager::settlement::gridcoin::Mode;
use credit_manager::settlement::wallet::Wallet as _;
use proto::credit::v1::*;
use service::{Service, config, grc};
use tonic::Code;
use units::SessionId;
use uuid::Uuid;
use wallet::{DaemonWorld, FOREIGN};

/// Kept back for the fee while a withdrawal is under way.
const RESERVE: &str = "0.01";

fn new_id() -> String {
    Uuid::now_v7().to_string()
}

/// A service over a fake wallet, and Alice with 5 GRC.
async fn funded(folder: &tempfile::TempDir) -> (Service, Arc<FakeWallet>) {
    let wallet = Arc::new(FakeWallet::new());
    let mut service = Service::start(config(folder.path(), "addresses"), wallet.clone()).await;
    let address = service.user("alice", "2").await.deposit_address.parse().unwrap();
    wallet.deposit(&address, &["5".parse().unwrap()]);
    wallet.mine(10);
    service
        .until("alice", |user| user.balance_halfords == grc("5"))
        .await;
    (service, wallet)
}

async fn a_withdrawal_arrives_and_its_fee_is_in_the_ledger(mode: Mode) {
    let folder = tempfile::tempdir().unwrap();
    let world = DaemonWorld::start(mode).await;
    let key = match mode {
        Mode::Accounts => "accounts",
        Mode::Addresses => "addresses",
    };
    let mut service = Service::start(config(folder.path(), key), world.wallet.clone()).await;
    for name in ["alice", "bob"] {
        let address = service.user(name, "0").await.deposit_address.parse().unwrap();
        world.chain.deposit(&address, "5".parse().unwrap()).unwrap();
    }
    world.chain.mine(10).unwrap();
    for name in ["alice", "bob"] {
        service.until(name, |user| user.balance_halfords > 0).await;
    }
    let id = new_id();
    service
        .withdraw(&id, "alice", FOREIGN, grc("1.25"))
        .await
        .unwrap();
    let done = service.until_withdrawn(&id).await;
    assert_eq!(done.state(), WithdrawalState::Done, "{done:?}");
    assert_eq!(
        (done.amount_halfords, done.fee_halfords, done.txid.len()),
        (grc("1.25"), grc("0.001"), 64)
    );
    assert_eq!(service.get("alice").await.balance_halfords, grc("3.749"));
    let booked: Vec<(String, i64)> = service
        .transfers()
        .await
        .into_iter()
        .filter(|transfer| transfer.reference.ends_with(&id))
        .map(|transfer| (transfer.kind, transfer.amount_halfords))
        .collect();
    let expected = [
        ("change", "0.009"),
        ("fee", "0.001"),
        ("payout", "1.25"),
        ("withdrawal", "1.26"),
    ];
    assert_eq!(
        booked,
        expected.map(|(kind, amount)| (kind.to_owned(), grc(amount)))
    );
    world.chain.mine(10).unwrap();
    assert_eq!(world.wallet.balance(3).await.unwrap().halfords(), grc("8.749"));
    if mode == Mode::Accounts {
        let mirrored = world.accounts().await;
        assert_eq!(mirrored["alice"].halfords(), grc("3.749"));
        assert_eq!(mirrored["bob"].halfords(), grc("5"));
    }
    service.assert_sound().await;
    service.stop().await.unwrap();
}

#[tokio::test]
async fn a_withdrawal_arrives_and_its_fee_is_in_the_ledger_in_accounts_mode() {
    a_withdrawal_arrives_and_its_fee_is_in_the_ledger(Mode::Accounts).await;
}

#[tokio::test]
async fn a_withdrawal_arrives_and_its_fee_is_in_the_ledger_in_addresses_mode() {
    a_withdrawal_arrives_and_its_fee_is_in_the_ledger(Mode::Addresses).await;
}

#[tokio::test]
async fn only_what_no_running_task_may_spend_can_be_withdrawn_and_never_the_debt_room() {
    let folder = tempfile::tempdir().unwrap();
    let (mut service, wallet) = funded(&folder).await;
    let refused = service
        .withdraw(&new_id(), "alice", FOREIGN, grc("4.99000001"))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    for figure in ["4.99000001", "at most 4.99000000", "balance 5.00000000", RESERVE] {
        assert!(
            refused.message().contains(figure),
            "{figure}: {}",
            refused.message()
        );
    }
    let session = SessionId::new();
    service.open(session, "alice", "a.txt", "").await;
    let granted = service.get("alice").await.granted_halfords;
    assert!(granted > 0);
    let id = new_id();
    let taken = service.withdraw(&id, "alice", FOREIGN, 0).await.unwrap();
    assert_eq!(taken.amount_halfords, grc("5") - granted - grc(RESERVE));
    service.until_withdrawn(&id).await;
    let again = service
        .withdraw(&new_id(), "alice", FOREIGN, 0)
        .await
        .unwrap_err();
    assert_eq!(again.code(), Code::FailedPrecondition);
    let user = service.get("alice").await;
    assert!(user.balance_halfords >= user.granted_halfords, "{user:?}");
    assert_eq!(wallet.take_payments().len(), 1);
    wallet.assert_quiet();
    service.assert_sound().await;
    service.stop().await.unwrap();
}

#[tokio::test]
async fn what_the_wallet_refuses_comes_back_and_is_not_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let (mut service, wallet) = funded(&folder).await;
    for code in [-4, -5, -6, -13] {
        wallet.fail_payment(Failure::Refused {
            code,
            message: "no coins for you".to_owned(),
        });
        let id = new_id();
        service.withdraw(&id, "alice", FOREIGN, grc("1")).await.unwrap();
        let failed = service.until_withdrawn(&id).await;
        assert_eq!(failed.state(), WithdrawalState::Failed);
        assert!(failed.failure.contains("no coins for you"), "{}", failed.failure);
        assert_eq!(service.get("alice").await.balance_halfords, grc("5"));
    }
    let mut listed = service
        .accounts
        .list_withdrawals(ListWithdrawalsRequest {
            user: "alice".to_owned(),
            limit: 0,
        })
        .await
        .unwrap()
        .into_inner()
        .withdrawals;
    assert_eq!(listed.len(), 4);
    listed.retain(|withdrawal| withdrawal.state() != WithdrawalState::Failed);
    assert_eq!(listed, []);
    // A refusal whose reply is lost is unclear first, and found out by asking.
    wallet.fail_payment(Failure::LostRequest);
    wallet.fail_payment(Failure::Refused {
        code: -4,
        message: "Insufficient funds".to_owned(),
    });
    let id = new_id();
    service.withdraw(&id, "alice", FOREIGN, grc("1")).await.unwrap();
    assert_eq!(
        service.until_withdrawn(&id).await.state(),
        WithdrawalState::Failed
    );
    assert_eq!(wallet.take_payments(), []);
    wallet.assert_quiet();
    service.assert_sound().await;
    service.stop().await.unwrap();
}

#[tokio::test]
async fn the_same_order_sends_once_and_another_of_its_id_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (mut service, wallet) = funded(&folder).await;
    let id = new_id();
    for _ in 0..3 {
        service.withdraw(&id, "alice", FOREIGN, grc("1")).await.unwrap();
    }
    let done = service.until_withdrawn(&id).await;
    assert_eq!(
        service.withdraw(&id, "alice", FOREIGN, grc("1")).await.unwrap(),
        done
    );
    let other = service
        .withdraw(&id, "alice", FOREIGN, grc("2"))
        .await
        .unwrap_err();
    assert_eq!(other.code(), Code::FailedPrecondition, "{other:?}");
    assert_eq!(wallet.take_payments().len(), 1);
    wallet.assert_quiet();
    for (id, address, amount) in [
        ("first", FOREIGN, 1),
        (new_id().as_str(), "nowhere", 1),
        (new_id().as_str(), FOREIGN, -1),
    ] {
        let err = service.withdraw(id, "alice", address, amount).await.unwrap_err();
        assert_eq!(err.code(), Code::InvalidArgument, "{err:?}");
    }
    service.stop().await.unwrap();
}

#[tokio::test]
async fn what_stands_in_the_way_is_told_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let world = DaemonWorld::start(Mode::Addresses).await;
    let mut service = Service::start(config(folder.path(), "addresses"), world.wallet.clone()).await;
    let own = service.user("alice", "0").await.deposit_address;
    world
        .chain
        .deposit(&own.parse().unwrap(), "5".parse().unwrap())
        .unwrap();
    world.chain.mine(10).unwrap();
    service.until("alice", |user| user.balance_halfords > 0).await;
    let refusal = async |service: &mut Service, address: &str| {
        let err = service
            .withdraw(&new_id(), "alice", address, grc("1"))
            .await
            .unwrap_err();
        assert!(err.message().contains("hint: "), "{}", err.message());
        (err.code(), err.message().to_owned())
    };
    // An address of the main network.
    let (code, message) = refusal(&mut service, "bc3NA8e8E3EoTL1qhRmeprbjWcmuoZ26A2").await;
    assert!(
        message.contains("bc3NA8e8E3EoTL1qhRmeprbjWcmuoZ26A2 ") || message.contains("network"),
        "{message}"
    );
    assert_eq!(code, Code::InvalidArgument);
    let (code, message) = refusal(&mut service, &own).await;
    assert!(message.contains("own wallet"), "{message}");
    assert_eq!(code, Code::InvalidArgument);
    let _: serde_json::Value = world.rpc("encryptwallet", r#"["secret"]"#).await;
    let (code, message) = refusal(&mut service, FOREIGN).await;
    assert!(message.contains("locked"), "{message}");
    assert_eq!(code, Code::FailedPrecondition);
    assert_eq!(service.get("alice").await.balance_halfords, grc("5"));
    let kinds: Vec<String> = service
        .transfers()
        .await
        .into_iter()
        .map(|transfer| transfer.kind)
        .collect();
    assert_eq!(kinds, ["deposit"]);
    // Unlocked, the same goes through.
    let _: serde_json::Value = world.rpc("walletpassphrase", r#"["secret", 60]"#).await;
    let id = new_id();
    service.withdraw(&id, "alice", FOREIGN, grc("1")).await.unwrap();
    assert_eq!(service.until_withdrawn(&id).await.state(), WithdrawalState::Done);
    service.stop().await.unwrap();
}
