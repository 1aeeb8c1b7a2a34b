//! The nodes' side: each reports all of its sessions in one message, as the real ones do.

use std::path::PathBuf;
use std::time::Duration;

use access::client::Meant;
use access::{Channel, Target, book};
use futures::{StreamExt as _, stream};
use proto::credit::v1::account_service_client::AccountServiceClient;
use proto::credit::v1::open_session_response::Outcome as Answer;
use proto::credit::v1::session_service_client::SessionServiceClient;
use proto::credit::v1::*;
use tokio::time::{Instant, MissedTickBehavior};
use units::SessionId;

use crate::serve::user;

/// Calls under way while the sessions are opened.
const OPENING: usize = 64;
const MESSAGE_BYTES_MAX: usize = 64 << 20;

pub(crate) struct Plan {
    /// The server's.
    pub(crate) folder: PathBuf,
    pub(crate) url: String,
    pub(crate) users: u64,
    pub(crate) nodes: u64,
    pub(crate) sessions: u64,
    /// Between a node's reports.
    pub(crate) interval_ms: u64,
    pub(crate) seconds: u64,
}

/// What one node measured.
struct Measured {
    latencies: Vec<Duration>,
    reports: u64,
}

pub(crate) async fn load(plan: Plan) {
    let channel = connect(&plan, book::OPERATOR_TOKEN).await;
    let mut accounts = AccountServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    for number in 0..plan.users {
        let name = user(number);
        let request = CreateUserRequest { name: name.clone() };
        accounts.create_user(request).await.unwrap();
        let request = CreateFunctionRequest {
            name: name.clone(),
            user: name,
        };
        accounts.create_function(request).await.unwrap();
    }
    for number in 0..plan.users {
        let request = GetUserRequest { name: user(number) };
        while accounts
            .get_user(request.clone())
            .await
            .unwrap()
            .into_inner()
            .user
            .unwrap()
            .balance_halfords
            == 0
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let mut nodes = Vec::new();
    for node in 0..plan.nodes {
        nodes.push(open(&plan, node).await);
    }
    println!(
        "{} sessions of {} users on {} nodes",
        plan.sessions, plan.users, plan.nodes
    );

    let begun = Instant::now();
    let end = begun + Duration::from_secs(plan.seconds);
    let running: Vec<_> = nodes
        .into_iter()
        .zip(0..)
        .map(|((client, usages), node)| {
            // Nodes do not report all at once.
            let offset = Duration::from_millis(plan.interval_ms * node / plan.nodes);
            tokio::spawn(report(
                client,
                usages,
                node,
                plan.interval_ms,
                begun + offset,
                end,
            ))
        })
        .collect();
    let mut latencies = Vec::new();
    let mut reports = 0;
    for node in running {
        let measured = node.await.unwrap();
        latencies.extend(measured.latencies);
        reports += measured.reports;
    }
    let seconds = begun.elapsed().as_secs_f64();
    latencies.sort();
    let percentile = |percent: usize| latencies[(latencies.len() * percent / 100).min(latencies.len() - 1)];
    println!(
        "{:.0} durable usage reports a second: {reports} in {} messages, {seconds:.1} s",
        reports as f64 / seconds,
        latencies.len()
    );
    println!(
        "the reply with the grants after: p50 {:.1?}, p99 {:.1?}, longest {:.1?}",
        percentile(50),
        percentile(99),
        percentile(100)
    );
    let audit = accounts.audit(AuditRequest {}).await.unwrap().into_inner();
    for check in audit.checks.iter().filter(|check| !check.ok) {
        println!("FAILS: {} ({})", check.name, check.detail);
    }
    println!("the audit {}", if audit.ok { "holds" } else { "FAILS" });
}

async fn connect(plan: &Plan, token: &str) -> Channel {
    let target = Target {
        url: plan.url.clone(),
        meant: Meant::CreditManager,
        tls: None,
        token_file: Some(plan.folder.join(token)),
    };
    target.connect().await.unwrap()
}

/// Opens a node's part of the sessions.
async fn open(plan: &Plan, node: u64) -> (SessionServiceClient<Channel>, Vec<Usage>) {
    let channel = connect(plan, book::NODE_TOKEN).await;
    let client = SessionServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let numbers = (0..plan.sessions).filter(|number| number % plan.nodes == node);
    let opened = stream::iter(numbers).map(|number| {
        let mut client = client.clone();
        let request = OpenSessionRequest {
            session_id: SessionId::new().to_string(),
            node_id: format!("node-{node}"),
            function: user(number % plan.users),
            object_key: number.to_string(),
            millicores: 1000,
            ..OpenSessionRequest::default()
        };
        async move {
            let session_id = request.session_id.clone();
            match client.open_session(request).await.unwrap().into_inner().outcome {
                Some(Answer::Opened(opened)) => Usage {
                    session_id,
                    // As if they had begun at different times: a charge is posted every six core-seconds.
                    cpu_time_us: number / plan.nodes % 30 * 200_000,
                    millicores: 1000,
                    revision: opened.state.unwrap().revision,
                },
                other => panic!("{other:?}"),
            }
        }
    });
    let usages = opened.buffer_unordered(OPENING).collect().await;
    (client, usages)
}

async fn report(
    mut client: SessionServiceClient<Channel>,
    mut usages: Vec<Usage>,
    node: u64,
    interval_ms: u64,
    begin: Instant,
    end: Instant,
) -> Measured {
    let mut measured = Measured {
        latencies: Vec::new(),
        reports: 0,
    };
    let mut timer = tokio::time::interval_at(begin, Duration::from_millis(interval_ms.max(1)));
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while Instant::now() < end {
        if interval_ms > 0 {
            timer.tick().await;
        }
        for usage in &mut usages {
            // One core, for a fifth of a second.
            usage.cpu_time_us += 200_000;
        }
        let request = ReportUsageRequest {
            node_id: format!("node-{node}"),
            usages: usages.clone(),
        };
        let sent = Instant::now();
        let states = client.report_usage(request).await.unwrap().into_inner().states;
        measured.latencies.push(sent.elapsed());
        assert_eq!(states.len(), usages.len());
        for (usage, state) in usages.iter_mut().zip(&states) {
            assert_eq!(usage.session_id, state.session_id);
            usage.revision = state.revision;
        }
        measured.reports += u64::try_from(usages.len()).unwrap();
    }
    measured
}
