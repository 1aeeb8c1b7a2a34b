//! Chained tasks over real gRPC: one budget for all that came of one object.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a panic is how a failure is reported"
)]

#[expect(dead_code, reason = "the other tests use the rest")]
mod service;

use std::sync::Arc;

use credit_manager::settlement::fake::FakeWallet;
use proto::credit::v1::open_session_response::Outcome as Answer;
use proto::credit::v1::*;
use service::{CORE_SECOND, NODE, Service, config, grc};
use units::{Amount, SessionId};

async fn service(folder: &tempfile::TempDir) -> Service {
    let wallet = Arc::new(FakeWallet::new());
    let mut service = Service::start(config(folder.path(), "addresses"), wallet.clone()).await;
    for name in ["alice", "bob"] {
        let user = service.user(name, "0").await;
        let amount: Amount = "1".parse().unwrap();
        wallet.deposit(&user.deposit_address.parse().unwrap(), &[amount]);
        wallet.mine(3);
        service.until(name, |user| user.balance_halfords > 0).await;
    }
    service
}

/// A result of the task `parent`, put into the input of `function`.
fn chained(function: &str, key: &str, parent: &str) -> OpenSessionRequest {
    OpenSessionRequest {
        session_id: SessionId::new().to_string(),
        node_id: NODE.to_owned(),
        function: function.to_owned(),
        object_key: key.to_owned(),
        millicores: 1000,
        parent_task_id: parent.to_owned(),
        ..OpenSessionRequest::default()
    }
}

fn session(opened: &SessionOpened) -> SessionId {
    opened.state.as_ref().unwrap().session_id.parse().unwrap()
}

/// A task of alice that ended well after so many core-seconds.
async fn ran(service: &mut Service, request: OpenSessionRequest, core_seconds: u64) -> SessionOpened {
    let opened = service.opened(request).await;
    let total = core_seconds * CORE_SECOND;
    service
        .close(session(&opened), total, Outcome::Succeeded)
        .await
        .unwrap();
    opened
}

/// The most that alice's tasks may cost together: 18 core-seconds.
const CAP: &str = "0.03";

async fn capped_root(service: &mut Service, core_seconds: u64) -> SessionOpened {
    let request = OpenSessionRequest {
        max_amount_halfords: grc(CAP),
        ..chained("alice", "root", "")
    };
    ran(service, request, core_seconds).await
}

#[tokio::test]
async fn what_came_of_one_object_spends_its_cap_to_the_halford_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let mut service = service(&folder).await;
    let root = capped_root(&mut service, 6).await;
    assert_eq!(root.root_task_id, root.task_id);

    // Two results of it run side by side until nothing is left, each as far as its newest grant.
    let mut live = Vec::new();
    for key in ["a", "b"] {
        let child = service.opened(chained("alice", key, &root.task_id)).await;
        assert_eq!(
            (&child.root_task_id, child.lineage_cap_halfords),
            (&root.task_id, Some(grc(CAP)))
        );
        live.push((session(&child), child.state.unwrap()));
    }
    for _ in 0..200 {
        for (session, state) in &mut live {
            let stop_at = state.grant.as_ref().unwrap().stop_at_us;
            if let Some(newer) = service.report(*session, stop_at, state.revision).await {
                *state = newer;
            }
        }
    }
    for (session, state) in &live {
        assert_eq!(state.restriction(), Restriction::Stop);
        service.close(*session, 0, Outcome::Aborted).await.unwrap();
    }
    let spent = grc("1") - service.get("alice").await.balance_halfords;
    assert_eq!(spent, grc(CAP));
    let done = service.refused(chained("alice", "c", &root.task_id)).await;
    assert_eq!(done.reason(), RefusalReason::CapSpent, "{}", done.message);
    assert!(done.message.contains("max-grc is 0.03000000"), "{}", done.message);
    service.assert_sound().await;
}

#[tokio::test]
async fn nobody_spends_anothers_cap() {
    let folder = tempfile::tempdir().unwrap();
    let mut service = service(&folder).await;
    let root = capped_root(&mut service, 1).await;
    let forged = ran(&mut service, chained("bob", "x", &root.task_id), 100).await;
    assert_eq!(
        (&forged.root_task_id, forged.lineage_cap_halfords),
        (&forged.task_id, None)
    );
    let unknown = SessionId::new().to_string();
    let orphan = ran(&mut service, chained("bob", "y", &unknown), 1).await;
    assert_eq!(orphan.root_task_id, orphan.task_id);
    let child = service.opened(chained("alice", "a", &root.task_id)).await;
    // The root's second cost 166,666 halfords. The last of the others buys up to six microseconds.
    assert_eq!(child.cap_at_us, Some(17_000_009));
}

#[tokio::test]
async fn a_result_that_is_put_there_twice_is_one_task() {
    let folder = tempfile::tempdir().unwrap();
    let mut service = service(&folder).await;
    let root = ran(&mut service, chained("alice", "root", ""), 1).await;
    let first = service.opened(chained("alice", "a", &root.task_id)).await;
    service.close(session(&first), 0, Outcome::Failed).await.unwrap();
    let again = ran(&mut service, chained("alice", "a", &root.task_id), 1).await;
    assert_eq!(
        (&again.task_id, again.attempt, again.failures),
        (&first.task_id, 2, 1)
    );
    let done = service.refused(chained("alice", "a", &root.task_id)).await;
    assert_eq!(done.reason(), RefusalReason::AlreadyDone);
    assert!(done.message.contains(&first.task_id), "{}", done.message);
    // An object that carries the id of a task was not just put there by a node: somebody wants it once more.
    let wanted = OpenSessionRequest {
        task_id: first.task_id.clone(),
        ..chained("alice", "a", &root.task_id)
    };
    let wanted = ran(&mut service, wanted, 1).await;
    assert_ne!(wanted.task_id, first.task_id);
    assert_eq!(wanted.root_task_id, root.task_id);
}

#[tokio::test]
async fn without_a_cap_the_depth_ends_a_loop_and_with_one_the_money_does() {
    let folder = tempfile::tempdir().unwrap();
    let mut service = service(&folder).await;
    for (root, is_capped) in [
        (ran(&mut service, chained("alice", "root", ""), 0).await, false),
        (capped_root(&mut service, 0).await, true),
    ] {
        let mut parent = root.task_id;
        for depth in 1..=16 {
            let key = format!("{is_capped}-{depth}");
            parent = ran(&mut service, chained("alice", &key, &parent), 1)
                .await
                .task_id;
        }
        match service.answer(chained("alice", "deepest", &parent)).await {
            Answer::Refused(refused) => {
                assert!(!is_capped);
                assert_eq!(refused.reason(), RefusalReason::TooDeep);
                assert!(
                    refused.message.contains("17 functions deep"),
                    "{}",
                    refused.message
                );
            }
            Answer::Opened(opened) => assert!(is_capped, "{opened:?}"),
        }
    }
}
