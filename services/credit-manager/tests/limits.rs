//! A user's own limits over real gRPC: the minimum runway, who goes first when money is short, spending limits, alerts.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a panic is how a failure is reported"
)]

#[expect(dead_code, reason = "the other tests use the rest")]
mod service;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use credit_manager::settlement::fake::FakeWallet;
use proto::credit::v1::open_session_response::Outcome as Answer;
use proto::credit::v1::*;
use service::{CORE_SECOND, NODE, Service, config, grc};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tonic::Code;
use units::{Amount, SessionId};

/// Alice with one GRC, no debt limit, and these terms.
async fn service(folder: &Path, terms: UpdateUserRequest) -> Service {
    service_on(folder, Arc::new(FakeWallet::new()), terms).await
}

async fn service_on(folder: &Path, wallet: Arc<FakeWallet>, terms: UpdateUserRequest) -> Service {
    let mut service = Service::start(config(folder, "addresses"), wallet.clone()).await;
    let alice = service.user("alice", "0").await;
    let one: Amount = "1".parse().unwrap();
    wallet.deposit(&alice.deposit_address.parse().unwrap(), &[one]);
    wallet.mine(3);
    service.until("alice", |user| user.balance_halfords > 0).await;
    let terms = UpdateUserRequest {
        name: "alice".to_owned(),
        ..terms
    };
    service.accounts.update_user(terms).await.unwrap();
    service
}

async fn opened(service: &mut Service, key: &str) -> SessionId {
    let session = SessionId::new();
    service.open(session, "alice", key, "").await;
    session
}

#[tokio::test]
async fn work_that_would_break_the_minimum_runway_is_refused_with_the_figures() {
    let folder = tempfile::tempdir().unwrap();
    let terms = UpdateUserRequest {
        min_runway_s: Some(250),
        ..UpdateUserRequest::default()
    };
    let mut service = service(folder.path(), terms).await;
    let function = CreateFunctionRequest {
        name: "second".to_owned(),
        user: "alice".to_owned(),
    };
    service.accounts.create_function(function).await.unwrap();
    // Each has a core, which costs 6 GRC an hour.
    let first = opened(&mut service, "a").await;
    opened(&mut service, "b").await;
    let refused = service.refusal("second", "c").await;
    assert_eq!(refused.reason(), RefusalReason::Runway);
    for figure in [
        "alice",
        "1.00000000 GRC",
        "200 s",
        "3000m",
        "18.00000000 GRC",
        "250 s",
    ] {
        assert!(refused.message.contains(figure), "{figure}: {}", refused.message);
    }
    service.close(first, 0, Outcome::Succeeded).await.unwrap();
    service.open(SessionId::new(), "second", "c", "").await;
    service.stop().await.unwrap();
}

#[tokio::test]
async fn with_funds_for_one_the_newest_go_first_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let terms = UpdateUserRequest {
        min_runway_s: Some(60),
        on_shortage: Some(OnShortage::NewestFirst.into()),
        ..UpdateUserRequest::default()
    };
    let mut service = service(folder.path(), terms).await;
    let mut sessions = Vec::new();
    for key in ["a", "b", "c"] {
        sessions.push(opened(&mut service, key).await);
    }
    let watch = WatchRequest {
        node_id: NODE.to_owned(),
    };
    let mut news = service.sessions.watch(watch).await.unwrap().into_inner();
    let _whole_picture = news.message().await.unwrap().unwrap();

    // With 0.28 GRC three cores last 56 seconds, and two 84.
    let state = service.report(sessions[0], 432 * CORE_SECOND, 1).await.unwrap();
    assert_eq!(state.balance_halfords, grc("0.28"));
    assert!(!state.dismissed);
    let told = news.message().await.unwrap().unwrap().states;
    let dismissed: Vec<String> = told
        .into_iter()
        .filter(|state| state.dismissed)
        .map(|state| state.session_id)
        .collect();
    assert_eq!(dismissed, [sessions[2].to_string()]);
    drop(news);
    service.stop().await.unwrap();

    let wallet = Arc::new(FakeWallet::new());
    let mut service = Service::start(config(folder.path(), "addresses"), wallet).await;
    let mut going = Vec::new();
    for session in &sessions[1..] {
        going.push(service.report(*session, 0, 1).await.unwrap().dismissed);
    }
    assert_eq!(going, [false, true], "the same one goes");
    service.close(sessions[2], 0, Outcome::Aborted).await.unwrap();
    let refused = service.refusal("alice", "c").await;
    assert_eq!(refused.reason(), RefusalReason::Runway, "it does not come back");
    assert!(!service.report(sessions[1], 0, 1).await.unwrap().dismissed);

    // With 0.19 GRC two last 57 seconds; the last one runs to its end.
    service.report(sessions[0], 486 * CORE_SECOND, 1).await.unwrap();
    assert!(service.report(sessions[1], 0, 1).await.unwrap().dismissed);
    service.close(sessions[1], 0, Outcome::Aborted).await.unwrap();
    let last = service.report(sessions[0], 600 * CORE_SECOND, 1).await.unwrap();
    assert!(!last.dismissed);
    assert_eq!(last.restriction(), Restriction::Stop);
    service.stop().await.unwrap();
}

#[tokio::test]
async fn a_spending_limit_is_shared_and_told_to_those_it_concerns() {
    let folder = tempfile::tempdir().unwrap();
    // A core costs 6 GRC an hour.
    let terms = UpdateUserRequest {
        max_spend_halfords_per_hour: Some(grc("6")),
        ..UpdateUserRequest::default()
    };
    let mut service = service(folder.path(), terms).await;
    let first = SessionId::new();
    let alone = service.open(first, "alice", "a", "").await.state.unwrap();
    assert_eq!(alone.ceiling_millicores, Some(1000));
    let watch = WatchRequest {
        node_id: NODE.to_owned(),
    };
    let mut news = service.sessions.watch(watch).await.unwrap().into_inner();
    let _whole_picture = news.message().await.unwrap().unwrap();
    let second = service
        .open(SessionId::new(), "alice", "b", "")
        .await
        .state
        .unwrap();
    assert_eq!(second.ceiling_millicores, Some(500));
    let told = news.message().await.unwrap().unwrap().states;
    let first_now = told
        .iter()
        .find(|state| state.session_id == first.to_string())
        .unwrap();
    assert_eq!(first_now.ceiling_millicores, Some(500));

    let limit = |halfords| UpdateFunctionRequest {
        name: "alice".to_owned(),
        max_spend_halfords_per_hour: Some(halfords),
    };
    let function = service.accounts.update_function(limit(grc("0.6"))).await.unwrap();
    let function = function.into_inner().function.unwrap();
    assert_eq!(function.max_spend_halfords_per_hour, Some(grc("0.6")));
    let state = service.report(first, 0, 1).await.unwrap();
    assert_eq!(state.ceiling_millicores, Some(50));
    let refused = service.refusal("alice", "c").await;
    assert_eq!(refused.reason(), RefusalReason::SpendLimit);
    assert!(
        refused.message.contains("0.60000000 GRC an hour"),
        "{}",
        refused.message
    );
    let too_low = service.accounts.update_function(limit(1)).await.unwrap_err();
    assert_eq!(too_low.code(), Code::InvalidArgument);
    assert!(too_low.message().contains("0.30000000 GRC"), "{too_low:?}");
    drop(news);
    service.stop().await.unwrap();

    // The limits are kept; taken away, nobody has a ceiling.
    let wallet = Arc::new(FakeWallet::new());
    let mut service = Service::start(config(folder.path(), "addresses"), wallet).await;
    let state = service.report(first, 0, 1).await.unwrap();
    assert_eq!(state.ceiling_millicores, Some(50));
    service.accounts.update_function(limit(0)).await.unwrap();
    let terms = UpdateUserRequest {
        name: "alice".to_owned(),
        max_spend_halfords_per_hour: Some(0),
        ..UpdateUserRequest::default()
    };
    service.accounts.update_user(terms).await.unwrap();
    let state = service.report(first, 0, 1).await.unwrap();
    assert_eq!(state.ceiling_millicores, None);
    assert!(matches!(
        service.try_open(SessionId::new(), "alice", "c", "").await,
        Answer::Opened(_)
    ));
    service.stop().await.unwrap();
}

/// A web server that answers each call with the next of these statuses, and the last of them ever after.
async fn webhook(statuses: &'static [u16]) -> (String, Arc<Mutex<Vec<serde_json::Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/alert", listener.local_addr().unwrap());
    let calls = Arc::new(Mutex::new(Vec::new()));
    let heard = calls.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            let body = loop {
                stream.read_buf(&mut request).await.unwrap();
                let text = String::from_utf8_lossy(&request).into_owned();
                let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
                if let Some(body) = body.and_then(|body| serde_json::from_str(&body).ok()) {
                    break body;
                }
            };
            let status = {
                let mut heard = heard.lock().unwrap();
                heard.push(body);
                statuses[(heard.len() - 1).min(statuses.len() - 1)]
            };
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (url, calls)
}

async fn alert(service: &mut Service) -> Option<Alert> {
    let request = ListFunctionsRequest::default();
    let functions = service
        .accounts
        .list_functions(request)
        .await
        .unwrap()
        .into_inner()
        .functions;
    functions[0].alert.clone()
}

#[tokio::test]
async fn a_low_balance_is_told_once_for_each_fall_also_across_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (url, calls) = webhook(&[500, 200]).await;
    let terms = UpdateUserRequest {
        alert_at_halfords: Some(grc("0.5")),
        alert_webhook: Some(url),
        ..UpdateUserRequest::default()
    };
    let wallet = Arc::new(FakeWallet::new());
    let mut service = service_on(folder.path(), wallet.clone(), terms).await;
    let session = opened(&mut service, "a").await;
    assert_eq!(alert(&mut service).await, None);
    service.report(session, 360 * CORE_SECOND, 1).await.unwrap();
    let until_called = async |times: usize| {
        while calls.lock().unwrap().len() < times {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // Refused at first, so it is called again.
    until_called(2).await;
    let raised = alert(&mut service).await.unwrap();
    assert_eq!(raised.balance_halfords, grc("0.4"));
    for call in calls.lock().unwrap().iter() {
        assert_eq!(
            (call["id"].as_str(), call["balance_grc"].as_str()),
            (Some(raised.id.as_str()), Some("0.40000000"))
        );
    }
    service.report(session, 420 * CORE_SECOND, 1).await.unwrap();
    service.stop().await.unwrap();

    let mut service = Service::start(config(folder.path(), "addresses"), wallet.clone()).await;
    let first = raised.id.clone();
    assert_eq!(alert(&mut service).await, Some(raised), "the same alert stands");
    // A higher balance arms it again, and the next fall is another.
    let address = service.get("alice").await.deposit_address;
    let one: Amount = "1".parse().unwrap();
    wallet.deposit(&address.parse().unwrap(), &[one]);
    wallet.mine(3);
    while alert(&mut service).await.is_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    service.report(session, 600 * CORE_SECOND, 1).await.unwrap();
    let lower = UpdateUserRequest {
        name: "alice".to_owned(),
        alert_at_halfords: Some(grc("2")),
        ..UpdateUserRequest::default()
    };
    service.accounts.update_user(lower).await.unwrap();
    // The first alert is told again if the restart came before the note that it was.
    let is_another = |call: &serde_json::Value| call["id"] != first;
    while !calls.lock().unwrap().iter().any(is_another) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    service.stop().await.unwrap();
    let calls = calls.lock().unwrap();
    let others = calls.iter().skip_while(|call| !is_another(call)).count();
    assert_eq!(others, 1, "{calls:?}");
}
