//! What a client of the node meets beside recorded replies: faults, restarts, blocks and reorganisations.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a panic is how a failure is reported"
)]

mod common;

use std::time::Duration;

use chain::{Address, Chain, ChainConfig, Fault, serve};
use common::{Node, Request};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use units::Amount;

const MOVE: &str = r#"{"id":1,"method":"move","params":["a","b",1]}"#;
const MOVED_ONCE: &str = r#"{"result":1.00000000,"error":null,"id":null}"#;
/// Long enough for a loaded machine; nothing waits this long when all is well.
const DEADLINE: Duration = Duration::from_secs(20);

fn grc(text: &str) -> Amount {
    text.parse().unwrap()
}

async fn call(node: &Node, method: &str, params: &str) -> String {
    let reply = node
        .post(&format!(r#"{{"method":"{method}","params":{params}}}"#))
        .await
        .unwrap();
    reply.body.trim_end().to_owned()
}

async fn result<T: serde::de::DeserializeOwned>(node: &Node, method: &str, params: &str) -> T {
    let reply: serde_json::Value = serde_json::from_str(&call(node, method, params).await).unwrap();
    serde_json::from_value(reply["result"].clone()).unwrap()
}

async fn until(node: &Node, method: &str, params: &str, wanted: &str) {
    let started = Instant::now();
    while call(node, method, params).await != wanted {
        assert!(started.elapsed() < DEADLINE, "`{method}` never said {wanted}");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_fault_decides_between_done_and_not_done_and_what_the_client_sees() {
    for (fault, seen, done) in [
        (Fault::Refuse, None, false),
        (Fault::Unauthorised, Some(401), false),
        (Fault::InternalError, Some(500), false),
        (Fault::Delay(Duration::from_millis(1)), Some(200), true),
        (Fault::DropReply, None, true),
        (Fault::Truncate, Some(200), true),
    ] {
        let chain = Chain::open(ChainConfig::default()).unwrap();
        let node = Node::start(&chain).await;
        chain.set_fault(Some("move"), fault, 1);
        let reply = node.post(MOVE).await;
        assert_eq!(reply.map(|reply| reply.status), seen, "{fault:?}");
        let moved = call(&node, "getbalance", r#"["b"]"#).await == MOVED_ONCE;
        assert_eq!(moved, done, "{fault:?}");
        assert_eq!(
            node.post(MOVE).await.unwrap().status,
            200,
            "{fault:?} was to hit once"
        );
        node.stop().await;
    }
}

#[tokio::test]
async fn a_truncated_reply_announces_more_than_it_brings() {
    let chain = Chain::open(ChainConfig::default()).unwrap();
    let node = Node::start(&chain).await;
    chain.set_fault(None, Fault::Truncate, 1);
    let reply = node.post(MOVE).await.unwrap();
    assert!(reply.head.contains("Content-Length: 36"), "{}", reply.head);
    assert_eq!(reply.body, r#"{"result":true,"er"#);
    node.stop().await;
}

#[tokio::test]
async fn a_late_call_is_carried_out_after_its_connection_is_gone() {
    let chain = Chain::open(ChainConfig::default()).unwrap();
    let node = Node::start(&chain).await;
    chain.set_fault(Some("move"), Fault::ApplyLate(Duration::from_millis(50)), 1);
    assert!(node.post(MOVE).await.is_none());
    until(&node, "getbalance", r#"["b"]"#, MOVED_ONCE).await;
    node.stop().await;
}

#[tokio::test]
async fn replies_name_the_server_and_a_refused_login_gets_the_old_protocol() {
    let node = Node::start(&Chain::open(ChainConfig::default()).unwrap()).await;
    let reply = node.post(r#"{"method":"ping"}"#).await.unwrap();
    assert!(
        reply.head.contains("Server: gridcoin-json-rpc/v5.5.1.0"),
        "{}",
        reply.head
    );
    let request = Request {
        method: "POST",
        path: "/",
        version: "HTTP/1.1",
        login: None,
        headers: &[],
        body: MOVE,
    };
    let reply = node.exchange(&request).await.unwrap();
    assert!(reply.head.starts_with("HTTP/1.0 401"), "{}", reply.head);
    assert_eq!(reply.body.len(), 296);
    node.stop().await;
}

#[tokio::test]
async fn a_restarted_node_knows_everything_it_ever_answered() {
    let folder = tempfile::tempdir().unwrap();
    let config = ChainConfig {
        data_file: Some(folder.path().join("chain.json")),
        ..ChainConfig::default()
    };
    let questions = [
        ("listaccounts", "[0]"),
        ("listtransactions", r#"["*",100]"#),
        ("listsinceblock", "[]"),
        ("getaddressesbyaccount", r#"["alice"]"#),
        ("getrawmempool", "[]"),
    ];
    let mut answers = Vec::new();
    {
        let chain = Chain::open(config.clone()).unwrap();
        let node = Node::start(&chain).await;
        let alice: Address = result(&node, "getnewaddress", r#"["alice"]"#).await;
        chain.deposit(&alice, grc("5")).unwrap();
        chain.mine(12).unwrap();
        call(&node, "move", r#"["alice","credit",1.5,1,"m"]"#).await;
        call(
            &node,
            "sendfrom",
            r#"["alice","mfiy9sc2QEZZCK3WMUMZjNfrdRA6gXzRhr",1,1,"s"]"#,
        )
        .await;
        chain.deposit(&alice, grc("0.1")).unwrap();
        for (method, params) in questions {
            answers.push(call(&node, method, params).await);
        }
        node.stop().await;
    }
    let node = Node::start(&Chain::open(config).unwrap()).await;
    for ((method, params), answer) in questions.into_iter().zip(answers) {
        assert_eq!(call(&node, method, params).await, answer, "{method}");
    }
    node.stop().await;
}

#[tokio::test]
async fn a_file_that_is_not_a_chain_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chain.json");
    std::fs::write(&path, "{").unwrap();
    let config = ChainConfig {
        data_file: Some(path),
        ..ChainConfig::default()
    };
    let message = Chain::open(config).err().unwrap().to_string();
    assert!(
        message.contains("chain.json") && message.contains("hint"),
        "{message}"
    );
}

#[tokio::test]
async fn blocks_come_by_themselves_when_an_interval_is_set() {
    let config = ChainConfig {
        block_interval: Some(Duration::from_millis(5)),
        ..ChainConfig::default()
    };
    let chain = Chain::open(config).unwrap();
    let node = Node::start(&chain).await;
    timeout(DEADLINE, async {
        while chain.height() < 3 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    node.stop().await;
}

#[tokio::test]
async fn a_reorganised_deposit_waits_again_and_is_confirmed_by_the_next_block() {
    let chain = Chain::open(ChainConfig::default()).unwrap();
    let node = Node::start(&chain).await;
    let alice: Address = result(&node, "getnewaddress", r#"["alice"]"#).await;
    let txid = call(&node, "dev_deposit", &format!(r#"["{alice}",2]"#)).await;
    call(&node, "dev_mine", "[2]").await;
    assert_eq!(result::<u32>(&node, "dev_reorg", "[2]").await, 3, "{txid}");
    assert_eq!(result::<Vec<String>>(&node, "getrawmempool", "[]").await.len(), 1);
    call(&node, "dev_mine", "[]").await;
    assert_eq!(result::<Vec<String>>(&node, "getrawmempool", "[]").await.len(), 0);
    let accounts = call(&node, "listaccounts", "[1]").await;
    assert!(accounts.contains(r#""alice":2.00000000"#), "{accounts}");
    node.stop().await;
}

#[tokio::test]
async fn a_payment_made_with_double_spent_coins_is_gone_with_them() {
    let chain = Chain::open(ChainConfig::default()).unwrap();
    let node = Node::start(&chain).await;
    let alice: Address = result(&node, "getnewaddress", r#"["alice"]"#).await;
    chain.deposit(&alice, grc("2")).unwrap();
    chain.mine(10).unwrap();
    let paid: String = result(
        &node,
        "sendtoaddress",
        r#"["mfiy9sc2QEZZCK3WMUMZjNfrdRA6gXzRhr",1]"#,
    )
    .await;
    chain.mine(1).unwrap();
    chain.reorg(11, true).unwrap();
    let found: serde_json::Value = result(&node, "gettransaction", &format!(r#"["{paid}"]"#)).await;
    assert_eq!(found["confirmations"], -1);
    assert_eq!(
        call(&node, "getbalance", "[]").await,
        r#"{"result":0.00000000,"error":null,"id":null}"#
    );
    node.stop().await;
}

#[tokio::test]
async fn two_equal_outputs_of_one_transaction_are_two_entries() {
    let chain = Chain::open(ChainConfig::default()).unwrap();
    let node = Node::start(&chain).await;
    let alice: Address = result(&node, "getnewaddress", r#"["alice"]"#).await;
    chain
        .deposit_many(&[(alice, grc("1")), (alice, grc("1"))])
        .unwrap();
    let entries: Vec<serde_json::Value> = result(&node, "listtransactions", r#"["alice"]"#).await;
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0], entries[1]);
    node.stop().await;
}

#[tokio::test]
async fn deposits_to_somebody_else_are_refused() {
    let chain = Chain::open(ChainConfig::default()).unwrap();
    let foreign: Address = "mfiy9sc2QEZZCK3WMUMZjNfrdRA6gXzRhr".parse().unwrap();
    assert_eq!(chain.deposit(&foreign, grc("1")).unwrap_err().code, -5);
}

#[tokio::test]
async fn shutdown_ends_idle_connections() {
    let chain = Chain::open(ChainConfig::default()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(serve(chain, listener, shutdown.clone()));
    let idle = tokio::net::TcpStream::connect(address).await.unwrap();
    shutdown.cancel();
    timeout(DEADLINE, serving).await.unwrap().unwrap().unwrap();
    drop(idle);
}
