//! History over real gRPC: transfers by filter, statements whose sums are exact, and a copy of a ledger in use.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a panic is how a failure is reported"
)]

#[expect(dead_code, reason = "the other tests use the rest")]
mod service;

use std::sync::Arc;

use credit_manager::ledger::Reader;
use credit_manager::settlement::audit;
use credit_manager::settlement::fake::FakeWallet;
use proto::credit::v1::*;
use service::{CORE_SECOND, Service, config, grc};
use tonic::Code;
use units::{Amount, SessionId};

async fn read(service: &mut Service, request: ReadTransfersRequest) -> Vec<Transfer> {
    let mut pages = service
        .history
        .read_transfers(request)
        .await
        .unwrap()
        .into_inner();
    let mut transfers = Vec::new();
    while let Some(page) = pages.message().await.unwrap() {
        transfers.extend(page.transfers);
    }
    transfers
}

/// A service where alice and bob own 10 GRC each and were charged for some tasks.
async fn service_with_history(folder: &std::path::Path) -> Service {
    let wallet = Arc::new(FakeWallet::new());
    let mut service = Service::start(config(folder, "accounts"), wallet.clone()).await;
    for name in ["alice", "bob"] {
        let user = service.user(name, "0").await;
        let amount: Amount = "10".parse().unwrap();
        wallet.deposit(&user.deposit_address.parse().unwrap(), &[amount]);
        wallet.mine(3);
        service
            .until(name, |user| user.balance_halfords == grc("10"))
            .await;
        for number in 0..5 {
            let session = SessionId::new();
            service.open(session, name, &format!("{number}.txt"), "").await;
            for report in 1..4 {
                service
                    .report(session, report * 7 * CORE_SECOND + number, 1)
                    .await;
            }
            let outcome = if number == 4 {
                Outcome::PlatformFault
            } else {
                Outcome::Succeeded
            };
            service.close(session, 30 * CORE_SECOND, outcome).await.unwrap();
        }
    }
    service.until_settled(2 * grc("0.2")).await;
    service
}

#[tokio::test]
async fn a_statement_adds_up_for_every_period() {
    let folder = tempfile::tempdir().unwrap();
    let mut service = service_with_history(folder.path()).await;
    let all = read(&mut service, ReadTransfersRequest::default()).await;
    let (first, last) = (all[0].posted_at_ms, all.last().unwrap().posted_at_ms);
    let middle = all[all.len() / 2].posted_at_ms;
    let balance = service.get("alice").await.balance_halfords;
    for (from_ms, until_ms) in [
        (0, 0),
        (0, middle),
        (middle, 0),
        (first, last),
        (middle, middle),
        (last + 1, 0),
    ] {
        let request = GetStatementRequest {
            user: "alice".to_owned(),
            from_ms,
            until_ms,
        };
        let sums = service.history.get_statement(request).await.unwrap().into_inner();
        let request = ReadTransfersRequest {
            user: "alice".to_owned(),
            from_ms,
            until_ms,
            through_sequence: sums.through_sequence,
            ..ReadTransfersRequest::default()
        };
        let moved: i64 = read(&mut service, request)
            .await
            .iter()
            .map(|transfer| {
                match (
                    "user:alice" == transfer.credit_account,
                    "user:alice" == transfer.debit_account,
                ) {
                    (true, _) => transfer.amount_halfords,
                    (_, true) => -transfer.amount_halfords,
                    (false, false) => 0,
                }
            })
            .sum();
        assert_eq!(
            sums.opening_halfords + moved,
            sums.closing_halfords,
            "{from_ms} to {until_ms}"
        );
        if until_ms == 0 {
            assert_eq!(sums.closing_halfords, balance);
        }
        if from_ms == 0 {
            assert_eq!(sums.opening_halfords, 0);
        }
    }
    let request = GetStatementRequest {
        user: "carol".to_owned(),
        ..GetStatementRequest::default()
    };
    let status = service.history.get_statement(request).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    service.stop().await.unwrap();
}

#[tokio::test]
async fn transfers_are_found_by_user_kind_reference_and_in_either_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut service = service_with_history(folder.path()).await;
    let mut all = read(&mut service, ReadTransfersRequest::default()).await;
    let of_bob = |transfer: &Transfer| {
        let accounts = [&transfer.debit_account, &transfer.credit_account];
        accounts.iter().any(|account| account.ends_with(":bob"))
    };
    let request = ReadTransfersRequest {
        user: "bob".to_owned(),
        ..ReadTransfersRequest::default()
    };
    let expected: Vec<_> = all.iter().filter(|transfer| of_bob(transfer)).cloned().collect();
    assert_eq!(read(&mut service, request.clone()).await, expected);

    let request = ReadTransfersRequest {
        kind: "reversal".to_owned(),
        ..request
    };
    let reversals = read(&mut service, request).await;
    assert!(!reversals.is_empty());
    assert!(
        reversals
            .iter()
            .all(|transfer| transfer.kind == "reversal" && of_bob(transfer))
    );

    let reference = reversals[0].reference.clone();
    let request = ReadTransfersRequest {
        reference: reference.clone(),
        ..ReadTransfersRequest::default()
    };
    let of_session = read(&mut service, request).await;
    assert!(of_session.len() > reversals.len(), "its charges too");
    assert!(of_session.iter().all(|transfer| transfer.reference == reference));

    let request = ReadTransfersRequest {
        newest_first: true,
        limit: 3,
        ..ReadTransfersRequest::default()
    };
    all.reverse();
    assert_eq!(read(&mut service, request).await, all[..3]);

    let request = ReadTransfersRequest {
        kind: "gift".to_owned(),
        ..ReadTransfersRequest::default()
    };
    let status = service.history.read_transfers(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("`gift`"), "{status:?}");
    service.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_in_use_is_copied_and_the_copy_passes_the_audit_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut service = service_with_history(folder.path()).await;
    let before = read(&mut service, ReadTransfersRequest::default()).await.len();
    let mut chunks = service
        .history
        .backup(BackupRequest {})
        .await
        .unwrap()
        .into_inner();
    // The ledger goes on while it is copied.
    let session = SessionId::new();
    service.open(session, "alice", "later.txt", "").await;
    service
        .close(session, 60 * CORE_SECOND, Outcome::Succeeded)
        .await
        .unwrap();
    let mut copy = Vec::new();
    while let Some(message) = chunks.message().await.unwrap() {
        copy.extend_from_slice(&message.chunk);
    }
    service.stop().await.unwrap();
    let mut left: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with("ledger."))
        .collect();
    left.sort();
    assert_eq!(
        left,
        ["node-token", "operator-token"],
        "no part of a copy is left beside the ledger"
    );

    let elsewhere = tempfile::tempdir().unwrap();
    let path = elsewhere.path().join("copy.db");
    std::fs::write(&path, copy).unwrap();
    let proof = Reader::new(path.clone()).proof().await.unwrap();
    assert_eq!(proof.transfers, u64::try_from(before).unwrap());
    let checks = audit::of_ledger(&proof);
    assert!(checks.iter().all(|check| check.ok), "{checks:#?}");

    // Whatever is changed by hand, a check says so. Each change undoes the one before.
    for (change, broken) in [
        ("UPDATE sessions SET amount = amount + 1 WHERE amount > 0", "I4"),
        (
            "UPDATE sessions SET amount = amount - 1, total_us = total_us + 1000000 WHERE amount > 1",
            "I4",
        ),
        (
            "UPDATE sessions SET total_us = total_us - 1000000 WHERE amount > 0;
             UPDATE accounts SET balance = balance + 1 WHERE name = 'chain';
             UPDATE accounts SET balance = balance - 1 WHERE name = 'user:alice'",
            "I2",
        ),
    ] {
        rusqlite::Connection::open(&path)
            .unwrap()
            .execute_batch(change)
            .unwrap();
        let checks = audit::of_ledger(&Reader::new(path.clone()).proof().await.unwrap());
        let failing = checks
            .iter()
            .filter(|check| !check.ok)
            .map(|check| &check.name[..2]);
        assert_eq!(failing.collect::<Vec<_>>(), [broken], "{change}: {checks:#?}");
    }
}
