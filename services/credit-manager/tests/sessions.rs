//! Sessions over real gRPC: from open to close, through debt, deposits, restarts and bad input.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a panic is how a failure is reported"
)]

#[expect(dead_code, reason = "the other tests use the rest")]
mod service;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use credit_manager::settlement::fake::FakeWallet;
use proto::credit::v1::open_session_response::Outcome as Answer;
use proto::credit::v1::*;
use service::{CORE_SECOND, NODE, Service, config, grc};
use tonic::Code;
use units::{Amount, SessionId};

fn deposit(wallet: &FakeWallet, user: &User, amount: &str) {
    let amount: Amount = amount.parse().unwrap();
    wallet.deposit(&user.deposit_address.parse().unwrap(), &[amount]);
    wallet.mine(3);
}

#[tokio::test]
async fn a_task_is_charged_throttled_stopped_and_lifted_by_a_deposit() {
    let folder = tempfile::tempdir().unwrap();
    let wallet = Arc::new(FakeWallet::new());
    let mut service = Service::start(config(folder.path(), "addresses"), wallet.clone()).await;
    let alice = service.user("alice", "0.1").await;
    let refused = service.refusal("alice", "a.txt").await;
    assert_eq!(refused.reason(), RefusalReason::NoFunds);
    assert!(refused.message.contains("account alice"), "{}", refused.message);

    // 0.1 GRC are 60 core-seconds, and so is the debt limit.
    deposit(&wallet, &alice, "0.1");
    service
        .until("alice", |user| user.balance_halfords == grc("0.1"))
        .await;
    let session = SessionId::new();
    let opened = service.open(session, "alice", "a.txt", "").await;
    assert_eq!((opened.attempt, opened.failures), (1, 0));
    let state = opened.state.unwrap();
    assert_eq!(state.restriction(), Restriction::None);
    let again = service.open(session, "alice", "a.txt", "").await;
    assert_eq!(again.task_id, opened.task_id);
    let running = service.refusal("alice", "a.txt").await;
    assert_eq!(running.reason(), RefusalReason::AlreadyRunning);

    let state = service
        .report(session, 30 * CORE_SECOND, state.revision)
        .await
        .unwrap();
    assert_eq!(state.balance_halfords, grc("0.05"));
    let stale = service
        .report(session, 10 * CORE_SECOND, state.revision)
        .await
        .unwrap();
    assert_eq!(
        stale.balance_halfords,
        grc("0.05"),
        "a late report changes nothing"
    );
    let mut state = stale;
    for second in 31..=60 {
        assert_eq!(state.restriction(), Restriction::None, "before {second}");
        state = service
            .report(session, second * CORE_SECOND, state.revision)
            .await
            .unwrap();
    }
    assert_eq!((state.balance_halfords, state.standing()), (0, Standing::InDebt));
    assert_eq!(
        (state.restriction(), state.may_start),
        (Restriction::Throttle, false)
    );
    for second in 61..=120 {
        assert_eq!(state.restriction(), Restriction::Throttle, "before {second}");
        let stop_at_us = state.grant.unwrap().stop_at_us;
        // The microseconds that cost no further halford.
        assert!(stop_at_us <= 120 * CORE_SECOND + 5, "never beyond the debt limit");
        state = service
            .report(session, second * CORE_SECOND, state.revision)
            .await
            .unwrap();
    }
    assert_eq!(
        (state.balance_halfords, state.standing()),
        (grc("-0.1"), Standing::Exhausted)
    );
    assert_eq!(state.restriction(), Restriction::Stop);

    let watch = WatchRequest {
        node_id: NODE.to_owned(),
    };
    let mut news = service.sessions.watch(watch).await.unwrap().into_inner();
    let first = news.message().await.unwrap().unwrap();
    assert_eq!((first.states.len(), first.gates[0].may_start), (1, false));
    deposit(&wallet, &alice, "0.3");
    let pushed = news.message().await.unwrap().unwrap();
    assert_eq!(pushed.states[0].restriction(), Restriction::None);
    assert!(pushed.states[0].revision > state.revision);
    assert!(pushed.gates[0].may_start, "the queue may move again");

    let closed = service
        .close(session, 126 * CORE_SECOND, Outcome::Succeeded)
        .await
        .unwrap();
    assert_eq!(closed.amount_halfords, grc("0.21"));
    assert_eq!(closed.balance_halfords, grc("0.19"));
    let again = service
        .close(session, 126 * CORE_SECOND, Outcome::Succeeded)
        .await
        .unwrap();
    assert_eq!(again, closed);
    let other = service
        .close(session, 126 * CORE_SECOND, Outcome::Failed)
        .await
        .unwrap_err();
    assert_eq!(other.code(), Code::FailedPrecondition);
    assert_eq!(
        service.report(session, 127 * CORE_SECOND, 0).await,
        None,
        "closed: its node must stop it"
    );

    // The ledger says the same.
    let request = ListTransfersRequest {
        user: "alice".to_owned(),
        limit: 1000,
    };
    let transfers = service
        .accounts
        .list_transfers(request)
        .await
        .unwrap()
        .into_inner()
        .transfers;
    let charges = transfers.iter().filter(|transfer| transfer.kind == "charge");
    let (ids, amounts): (Vec<_>, Vec<_>) = charges
        .map(|charge| (charge.id.clone(), charge.amount_halfords))
        .unzip();
    assert_eq!(amounts.iter().sum::<i64>(), grc("0.21"));
    assert_eq!(ids.len(), closed.transfer_ids.len());
    let sessions = service
        .accounts
        .list_sessions(ListSessionsRequest::default())
        .await
        .unwrap()
        .into_inner()
        .sessions;
    assert_eq!(
        (sessions[0].amount_halfords, sessions[0].outcome()),
        (grc("0.21"), Outcome::Succeeded)
    );
    service.assert_sound().await;
    drop(news);
    service.stop().await.unwrap();
}

#[tokio::test]
async fn a_restart_in_the_middle_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let wallet = Arc::new(FakeWallet::new());
    let mut service = Service::start(config(folder.path(), "addresses"), wallet.clone()).await;
    let alice = service.user("alice", "1").await;
    deposit(&wallet, &alice, "1");
    service
        .until("alice", |user| user.balance_halfords == grc("1"))
        .await;
    let session = SessionId::new();
    let opened = service.open(session, "alice", "a.txt", "").await;
    let state = service.report(session, 66 * CORE_SECOND, 1).await.unwrap();
    let before = service.get("alice").await;
    service.stop().await.unwrap();

    // The wallet may be away now: the service has started before.
    wallet.set_down(true);
    let mut service = Service::start(config(folder.path(), "addresses"), wallet.clone()).await;
    assert_eq!(service.get("alice").await, before);
    let again = service.open(session, "alice", "a.txt", "").await;
    assert_eq!((again.task_id, again.attempt), (opened.task_id, 1));
    assert_eq!(again.state.unwrap().grant, state.grant);
    let closed = service
        .close(session, 60 * CORE_SECOND, Outcome::Aborted)
        .await
        .unwrap();
    assert_eq!(closed.amount_halfords, grc("0.11"), "the highest total counts");
    wallet.set_down(false);
    service.assert_sound().await;
    service.stop().await.unwrap();
}

#[tokio::test]
async fn a_task_keeps_its_count_over_attempts_until_it_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let wallet = Arc::new(FakeWallet::new());
    let mut service = Service::start(config(folder.path(), "addresses"), wallet.clone()).await;
    let alice = service.user("alice", "0").await;
    deposit(&wallet, &alice, "1");
    service.until("alice", |user| user.balance_halfords > 0).await;
    let first = SessionId::new();
    let task = service.open(first, "alice", "a.txt", "").await.task_id;
    service
        .close(first, 6 * CORE_SECOND, Outcome::Failed)
        .await
        .unwrap();

    // Our fault: what was posted is reversed, and it is no failure.
    let second = SessionId::new();
    let opened = service.open(second, "alice", "a.txt", &task).await;
    assert_eq!((&opened.task_id, opened.attempt, opened.failures), (&task, 2, 1));
    service.report(second, 60 * CORE_SECOND, 1).await.unwrap();
    let closed = service
        .close(second, 61 * CORE_SECOND, Outcome::PlatformFault)
        .await
        .unwrap();
    assert_eq!(
        (closed.amount_halfords, closed.task_amount_halfords),
        (0, grc("0.01"))
    );
    assert_eq!(
        closed.transfer_ids.len(),
        2,
        "a charge and its reversal: {:?}",
        closed.transfer_ids
    );
    assert_eq!(closed.balance_halfords, grc("0.99"));

    let third = SessionId::new();
    let opened = service.open(third, "alice", "a.txt", &task).await;
    assert_eq!((&opened.task_id, opened.attempt, opened.failures), (&task, 3, 1));
    let closed = service
        .close(third, 6 * CORE_SECOND, Outcome::Succeeded)
        .await
        .unwrap();
    assert_eq!(closed.task_amount_halfords, grc("0.02"));

    // Dropped anew, with the old id still on it.
    let opened = service.open(SessionId::new(), "alice", "a.txt", &task).await;
    assert_ne!(opened.task_id, task);
    assert_eq!(opened.attempt, 1);
    service.assert_sound().await;
    service.stop().await.unwrap();
}

#[tokio::test]
async fn a_task_costs_no_more_than_its_cap_over_all_its_attempts() {
    let folder = tempfile::tempdir().unwrap();
    let wallet = Arc::new(FakeWallet::new());
    let mut service = Service::start(config(folder.path(), "addresses"), wallet.clone()).await;
    let alice = service.user("alice", "0").await;
    deposit(&wallet, &alice, "1");
    service.until("alice", |user| user.balance_halfords > 0).await;
    let request = |session: SessionId, task: &str| OpenSessionRequest {
        session_id: session.to_string(),
        node_id: NODE.to_owned(),
        function: "alice".to_owned(),
        object_key: "a.txt".to_owned(),
        task_id: task.to_owned(),
        max_amount_halfords: grc("0.02"),
        millicores: 1000,
        input_bytes: 1,
        parent_task_id: String::new(),
        is_left_behind: false,
    };
    let first = SessionId::new();
    let opened = service.opened(request(first, "")).await;
    let task = opened.task_id;
    // The microseconds that cost no further halford.
    let cap_at = |seconds: u64| Some(seconds * CORE_SECOND + 5);
    assert_eq!(opened.cap_at_us, cap_at(12));
    assert!(opened.state.unwrap().grant.unwrap().stop_at_us <= 12 * CORE_SECOND + 5);
    service
        .close(first, 9 * CORE_SECOND, Outcome::Failed)
        .await
        .unwrap();

    let second = SessionId::new();
    let opened = service.opened(request(second, &task)).await;
    assert_eq!((opened.attempt, opened.cap_at_us), (2, cap_at(3)));
    let closed = service
        .close(second, 3 * CORE_SECOND, Outcome::CapSpent)
        .await
        .unwrap();
    assert_eq!(closed.task_amount_halfords, grc("0.02"));

    // It is over: the same object dropped again is a new task, with the whole cap.
    let third = SessionId::new();
    let opened = service.opened(request(third, &task)).await;
    assert_ne!(opened.task_id, task);
    service
        .close(third, 12 * CORE_SECOND, Outcome::Failed)
        .await
        .unwrap();
    let refused = service.refused(request(SessionId::new(), &opened.task_id)).await;
    assert_eq!(refused.reason(), RefusalReason::CapSpent);
    assert!(refused.message.contains("0.02"), "{}", refused.message);
    service.assert_sound().await;
    service.stop().await.unwrap();
}

#[tokio::test]
async fn a_silent_nodes_session_is_closed_free_of_charge_and_the_task_may_run_again() {
    let folder = tempfile::tempdir().unwrap();
    let wallet = Arc::new(FakeWallet::new());
    let mut quick = config(folder.path(), "addresses");
    quick.lease_ms = 1000;
    let mut service = Service::start(quick, wallet.clone()).await;
    let alice = service.user("alice", "0").await;
    deposit(&wallet, &alice, "1");
    service.until("alice", |user| user.balance_halfords > 0).await;
    let session = SessionId::new();
    let task = service.open(session, "alice", "a.txt", "").await.task_id;
    service.until("alice", |user| user.live_sessions == 0).await;
    assert_eq!(service.report(session, CORE_SECOND, 1).await, None);
    // Neither may its results be published, nor its object be moved.
    for outcome in [Outcome::Succeeded, Outcome::PlatformFault] {
        let late = service.close(session, 0, outcome).await.unwrap_err();
        assert_eq!(late.code(), Code::FailedPrecondition, "{outcome:?}");
    }
    let left_behind = |session: SessionId| OpenSessionRequest {
        session_id: session.to_string(),
        node_id: NODE.to_owned(),
        function: "alice".to_owned(),
        object_key: "a.txt".to_owned(),
        task_id: task.clone(),
        is_left_behind: true,
        ..OpenSessionRequest::default()
    };
    let session = SessionId::new();
    let opened = service.opened(left_behind(session)).await;
    assert_eq!((opened.attempt, opened.failures), (2, 0));
    // Whoever closes a session has the object, and puts it back as long as it is there.
    let watch = WatchRequest {
        node_id: NODE.to_owned(),
    };
    let news = service.sessions.watch(watch).await.unwrap();
    service.close(session, 0, Outcome::PlatformFault).await.unwrap();
    let refused = service.refused(left_behind(SessionId::new())).await;
    assert_eq!(refused.reason(), RefusalReason::AlreadyRunning);
    drop(news);
    let session = SessionId::new();
    let opened = loop {
        match service.answer(left_behind(session)).await {
            Answer::Opened(opened) => break opened,
            Answer::Refused(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    assert_eq!((opened.attempt, opened.failures), (3, 0));

    // It was paid for results that nobody will see.
    let closed = service.close(session, CORE_SECOND, Outcome::Succeeded).await;
    let amount = closed.unwrap().amount_halfords;
    assert!(amount > 0);
    assert_eq!(service.get("alice").await.balance_halfords, grc("1") - amount);
    let session = SessionId::new();
    assert_eq!(service.opened(left_behind(session)).await.attempt, 4);
    assert_eq!(service.get("alice").await.balance_halfords, grc("1"));

    service
        .close(session, CORE_SECOND, Outcome::GaveUp)
        .await
        .unwrap();
    let refused = service.refused(left_behind(SessionId::new())).await;
    assert_eq!(refused.reason(), RefusalReason::AlreadyDone);
    assert!(refused.message.contains("gave-up"), "{}", refused.message);
    assert_eq!(
        service.get("alice").await.balance_halfords,
        grc("1") - amount,
        "that the script failed is no fault of ours"
    );
    service.assert_sound().await;
    service.stop().await.unwrap();
}

#[tokio::test]
async fn a_user_without_accounting_is_never_billed_or_gated() {
    let folder = tempfile::tempdir().unwrap();
    let mut service = Service::start(config(folder.path(), "addresses"), Arc::new(FakeWallet::new())).await;
    service.user("alice", "0").await;
    let request = UpdateUserRequest {
        name: "alice".to_owned(),
        accounting: Some(false),
        ..UpdateUserRequest::default()
    };
    service.accounts.update_user(request).await.unwrap();
    let session = SessionId::new();
    let opened = service.open(session, "alice", "a.txt", "").await;
    assert_eq!(
        opened.cpu_time_us_per_grc,
        600 * CORE_SECOND,
        "a price there is all the same"
    );
    let state = service.report(session, 1_000_000 * CORE_SECOND, 1).await.unwrap();
    assert_eq!((state.restriction(), state.may_start), (Restriction::None, true));
    assert_eq!(state.grant.unwrap().stop_at_us, u64::MAX);
    let closed = service
        .close(session, 1_000_000 * CORE_SECOND, Outcome::Succeeded)
        .await
        .unwrap();
    assert_eq!((closed.amount_halfords, closed.balance_halfords), (0, 0));
    service.assert_sound().await;
    service.stop().await.unwrap();
}

#[tokio::test]
async fn bad_input_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let wallet = Arc::new(FakeWallet::new());
    let mut service = Service::start(config(folder.path(), "addresses"), wallet.clone()).await;
    service.user("alice", "0").await;
    let create = |name: &str| CreateUserRequest {
        name: name.to_owned(),
    };
    let update = |change: fn(&mut UpdateUserRequest)| {
        let mut request = UpdateUserRequest {
            name: "alice".to_owned(),
            ..UpdateUserRequest::default()
        };
        change(&mut request);
        request
    };
    for (status, code, named) in [
        (
            service.accounts.create_user(create("Alice")).await.unwrap_err(),
            Code::InvalidArgument,
            "`Alice`",
        ),
        (
            service.accounts.create_user(create("alice")).await.unwrap_err(),
            Code::AlreadyExists,
            "`alice`",
        ),
        (
            service
                .accounts
                .update_user(update(|request| request.debt_limit_halfords = Some(-1)))
                .await
                .unwrap_err(),
            Code::InvalidArgument,
            "debt_limit_halfords",
        ),
        (
            service
                .accounts
                .update_user(update(|request| request.cpu_time_us_per_grc = Some(0)))
                .await
                .unwrap_err(),
            Code::InvalidArgument,
            "cpu_time_us_per_grc",
        ),
        (
            service
                .accounts
                .update_user(update(|request| request.name = "bob".to_owned()))
                .await
                .unwrap_err(),
            Code::NotFound,
            "`bob`",
        ),
        (
            service
                .close(SessionId::new(), 0, Outcome::Failed)
                .await
                .unwrap_err(),
            Code::NotFound,
            "session",
        ),
        (
            service
                .close(SessionId::new(), 0, Outcome::Unspecified)
                .await
                .unwrap_err(),
            Code::InvalidArgument,
            "outcome",
        ),
    ] {
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(named), "{status:?}");
    }
    assert_eq!(
        service.refusal("nothing", "a.txt").await.reason(),
        RefusalReason::UnknownFunction
    );

    // A wallet that is away leaves nothing half-made.
    wallet.set_down(true);
    let status = service.accounts.create_user(create("bob")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("cannot be reached"), "{status:?}");
    wallet.set_down(false);
    service.accounts.create_user(create("bob")).await.unwrap();
    let function = CreateFunctionRequest {
        name: "alice".to_owned(),
        user: "bob".to_owned(),
    };
    let taken = service.accounts.create_function(function).await.unwrap_err();
    assert_eq!(taken.code(), Code::AlreadyExists);
    service.stop().await.unwrap();
}

#[tokio::test]
async fn the_first_start_needs_a_wallet() {
    let folder = tempfile::tempdir().unwrap();
    let wallet = Arc::new(FakeWallet::new());
    wallet.set_down(true);
    let service = Service::start(config(folder.path(), "addresses"), wallet).await;
    let err = service.ended().await.unwrap_err();
    assert!(format!("{err:#}").contains("cannot be reached"), "{err:#}");
}

/// Two users with a tenth of a GRC each, and a function of the same name.
async fn with_alice_and_bob(folder: &Path, wallet: &Arc<FakeWallet>) -> Service {
    let mut service = Service::start(config(folder, "addresses"), wallet.clone()).await;
    for name in ["alice", "bob"] {
        let user = service.user(name, "0").await;
        deposit(wallet, &user, "0.1");
        service.until(name, |user| user.balance_halfords > 0).await;
    }
    service
}

#[tokio::test]
async fn two_users_do_not_touch_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let wallet = Arc::new(FakeWallet::new());
    let mut service = with_alice_and_bob(folder.path(), &wallet).await;
    let (of_alice, of_bob) = (SessionId::new(), SessionId::new());
    service.open(of_alice, "alice", "a.txt", "").await;
    service.open(of_bob, "bob", "a.txt", "").await;
    let state = service.report(of_alice, 60 * CORE_SECOND, 1).await.unwrap();
    assert_eq!(state.restriction(), Restriction::Stop);
    service
        .close(of_alice, 60 * CORE_SECOND, Outcome::Aborted)
        .await
        .unwrap();
    let state = service.report(of_bob, 6 * CORE_SECOND, 1).await.unwrap();
    assert_eq!(
        (state.restriction(), state.balance_halfords),
        (Restriction::None, grc("0.09"))
    );
    service.assert_sound().await;
    service.stop().await.unwrap();
}

#[tokio::test]
async fn a_deleted_function_runs_nothing_and_comes_back_only_to_its_owner() {
    let folder = tempfile::tempdir().unwrap();
    let wallet = Arc::new(FakeWallet::new());
    let mut service = with_alice_and_bob(folder.path(), &wallet).await;
    let session = SessionId::new();
    service.open(session, "alice", "a.txt", "").await;
    let delete = || DeleteFunctionRequest {
        name: "alice".to_owned(),
    };
    let runs = service.accounts.delete_function(delete()).await.unwrap_err();
    assert_eq!(runs.code(), Code::FailedPrecondition);
    assert!(runs.message().contains("function stop alice"), "{runs:?}");

    service
        .close(session, CORE_SECOND, Outcome::Succeeded)
        .await
        .unwrap();
    service.accounts.delete_function(delete()).await.unwrap();
    service.stop().await.unwrap();
    // The ledger has it.
    let mut service = Service::start(config(folder.path(), "addresses"), wallet).await;
    let again = service.accounts.delete_function(delete()).await.unwrap_err();
    assert_eq!(again.code(), Code::NotFound);
    assert_eq!(
        service.refusal("alice", "b.txt").await.reason(),
        RefusalReason::UnknownFunction
    );
    let request = ListFunctionsRequest::default();
    let listed = service
        .accounts
        .list_functions(request)
        .await
        .unwrap()
        .into_inner();
    let names: Vec<String> = listed
        .functions
        .into_iter()
        .map(|function| function.name)
        .collect();
    assert_eq!(names, ["bob"]);
    service.assert_sound().await;

    let create = |user: &str| CreateFunctionRequest {
        name: "alice".to_owned(),
        user: user.to_owned(),
    };
    let taken = service.accounts.create_function(create("bob")).await.unwrap_err();
    assert_eq!(taken.code(), Code::AlreadyExists);
    service.accounts.create_function(create("alice")).await.unwrap();
    service.open(SessionId::new(), "alice", "b.txt", "").await;
    service.stop().await.unwrap();
}
