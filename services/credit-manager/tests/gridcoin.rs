//! The daemon's client beyond the shared suite: failures of every kind, and the recorded replies of the real daemon.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a panic is how a failure is reported"
)]

#[expect(dead_code, reason = "the other tests use the rest")]
mod wallet;

use std::time::Duration;

use chain::{ChainConfig, Fault};
use credit_manager::settlement::gridcoin::{Gridcoin, GridcoinConfig, Mode};
use credit_manager::settlement::wallet::{Cursor, Route, Wallet, WalletError};
use serde::Deserialize;
use service_kit::Secret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use units::Amount;
use wallet::{DaemonWorld, FOREIGN, client, grc, payment, user};

fn moving() -> Route {
    Route::Move {
        from: "alice".to_owned(),
        to: "provider".to_owned(),
    }
}

fn sending() -> Route {
    Route::Send {
        from: None,
        to: FOREIGN.parse().unwrap(),
    }
}

#[tokio::test]
async fn each_failure_says_whether_the_payment_may_have_been_made() {
    for (fault, unclear, made) in [
        (Fault::Refuse, true, false),
        (Fault::Unauthorised, false, false),
        (Fault::InternalError, true, false),
        (Fault::DropReply, true, true),
        (Fault::Truncate, true, true),
    ] {
        let world = DaemonWorld::start(Mode::Accounts).await;
        let paid = payment("settle:1", "1", &moving());
        world.chain.set_fault(Some("move"), fault, 1);
        let err = world.wallet.pay(&paid).await.unwrap_err();
        assert_eq!(err.is_unclear(), unclear, "{fault:?}: {err}");
        let found = world.wallet.find_payment(&paid).await.unwrap();
        assert_eq!(found.is_some(), made, "{fault:?}");
    }
}

#[tokio::test]
async fn a_send_whose_fee_cannot_be_asked_for_is_unclear() {
    let world = DaemonWorld::start(Mode::Addresses).await;
    let bank = world.wallet.deposit_address(&user("bank")).await.unwrap();
    world
        .chain
        .deposit(&bank.as_str().parse().unwrap(), grc("5"))
        .unwrap();
    world.chain.mine(10).unwrap();
    world
        .chain
        .set_fault(Some("gettransaction"), Fault::Unauthorised, 1);
    let paid = payment("settle:1", "1", &sending());
    assert!(world.wallet.pay(&paid).await.unwrap_err().is_unclear());
    let receipt = world.wallet.find_payment(&paid).await.unwrap().unwrap();
    assert_eq!(receipt.fee, grc("0.001"));
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_unclear() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hasty = Gridcoin::new(GridcoinConfig {
        url: format!("http://{}/", port.local_addr().unwrap()),
        user: "gridcoinrpc".to_owned(),
        password: Secret::new("test"),
        mode: Mode::Accounts,
        request_timeout: Duration::from_millis(20),
    });
    // Connections to this port are made by the kernel, and never answered.
    let err = hasty
        .unwrap()
        .pay(&payment("settle:1", "1", &moving()))
        .await
        .unwrap_err();
    assert!(matches!(err, WalletError::Unclear { .. }), "{err:?}");
}

#[tokio::test]
async fn a_wallet_that_is_not_there_is_unreachable_and_the_payment_certainly_not_made() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", port.local_addr().unwrap());
    drop(port);
    let err = client(url.clone(), Mode::Accounts, "test")
        .pay(&payment("settle:1", "1", &moving()))
        .await
        .unwrap_err();
    assert!(matches!(err, WalletError::Unreachable { .. }), "{err:?}");
    assert!(err.to_string().contains(&url) && err.is_transient() && !err.is_unclear());
}

#[tokio::test]
async fn a_wrong_password_is_named() {
    let world = DaemonWorld::start(Mode::Addresses).await;
    world.chain.set_fault(None, Fault::Unauthorised, 1);
    let err = world.wallet.check().await.unwrap_err();
    assert!(matches!(err, WalletError::Unauthorised { .. }), "{err:?}");
    assert!(err.to_string().contains("rpcpassword"), "{err}");
}

#[tokio::test]
async fn a_daemon_without_its_accounts_is_told_what_to_set() {
    for (enable_accounts, staking, hint) in [(false, false, "enableaccounts=1"), (true, true, "staking=0")] {
        let config = ChainConfig {
            enable_accounts,
            staking,
            ..ChainConfig::default()
        };
        let world = DaemonWorld::start_with(Mode::Accounts, config.clone()).await;
        let err = world.wallet.check().await.unwrap_err();
        assert!(err.to_string().contains(hint), "{err}");
        assert!(!err.is_transient() && !err.is_unclear());
        let plain = DaemonWorld::start_with(Mode::Addresses, config).await;
        plain.wallet.check().await.unwrap();
    }
}

#[tokio::test]
async fn a_payment_is_found_behind_many_younger_ones() {
    let world = DaemonWorld::start(Mode::Accounts).await;
    let first = payment("settle:first", "0.00000001", &moving());
    world.wallet.pay(&first).await.unwrap();
    for number in 0..520 {
        world
            .wallet
            .pay(&payment(&format!("settle:{number}"), "1", &moving()))
            .await
            .unwrap();
    }
    assert!(world.wallet.find_payment(&first).await.unwrap().is_some());
    let never = payment("settle:never", "1", &moving());
    assert_eq!(world.wallet.find_payment(&never).await.unwrap(), None);
}

#[tokio::test]
async fn what_the_wallet_sent_to_itself_is_no_deposit() {
    let world = DaemonWorld::start(Mode::Addresses).await;
    let (wallet, chain) = (&world.wallet, &world.chain);
    let alice = wallet.deposit_address(&user("alice")).await.unwrap();
    chain.deposit(&alice.as_str().parse().unwrap(), grc("5")).unwrap();
    chain.mine(10).unwrap();
    let found = wallet.deposits(None, 1).await.unwrap();
    assert_eq!(found.deposits.len(), 1);
    // By hand, past the client that would refuse.
    let by_hand = format!(r#"{{"method":"sendtoaddress","params":["{alice}",1]}}"#);
    raw_call(&world.url, &by_hand).await;
    let found = wallet.deposits(None, 1).await.unwrap();
    assert_eq!(found.deposits.len(), 1);
}

#[tokio::test]
async fn a_deposit_that_sank_below_the_scan_is_asked_for_and_not_taken_for_gone() {
    let world = DaemonWorld::start(Mode::Addresses).await;
    let alice = world.wallet.deposit_address(&user("alice")).await.unwrap();
    world
        .chain
        .deposit(&alice.as_str().parse().unwrap(), grc("5"))
        .unwrap();
    world.chain.mine(1).unwrap();
    let mut cursor: Option<Cursor> = None;
    for _ in 0..3 {
        let found = world.wallet.deposits(cursor.as_ref(), 2).await.unwrap();
        assert!(found.deposits.iter().all(|deposit| deposit.confirmations > 0));
        cursor = Some(found.cursor);
        world.chain.mine(200).unwrap();
    }
    let found = world.wallet.deposits(cursor.as_ref(), 2).await.unwrap();
    assert_eq!(found.deposits, []);
    assert_eq!(found.cursor.0.len(), 64, "nothing is watched any more");
}

#[tokio::test]
async fn a_url_must_be_plain() {
    for url in [
        "",
        "127.0.0.1:15715",
        "https://127.0.0.1/",
        "http://user:secret@127.0.0.1/",
    ] {
        let config = GridcoinConfig {
            url: url.to_owned(),
            user: String::new(),
            password: Secret::new(""),
            mode: Mode::Addresses,
            request_timeout: Duration::from_secs(1),
        };
        let err = Gridcoin::new(config).err().unwrap();
        assert!(!err.to_string().contains("secret"), "{url}: {err}");
    }
}

/// A reply as recorded from the daemon.
#[derive(Deserialize)]
struct Recorded {
    name: String,
    status: u16,
    reply: String,
}

/// Answers every request with one recorded reply, under the id that the request has.
async fn daemon_that_says(recorded: &Recorded) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (status, reply) = (recorded.status, recorded.reply.clone());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let request = read_request(&mut stream).await;
            let id = request
                .split_once(r#""id":"#)
                .unwrap()
                .1
                .split(',')
                .next()
                .unwrap();
            let body = reply.replace(r#""id":1}"#, &format!(r#""id":{id}}}"#));
            let head = format!(
                "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close",
                body.len()
            );
            stream
                .write_all(format!("{head}\r\n\r\n{body}").as_bytes())
                .await
                .unwrap();
        }
    });
    url
}

async fn read_request(stream: &mut tokio::net::TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .unwrap();
            if body.len() >= length.parse::<usize>().unwrap() {
                return body.to_owned();
            }
        }
        let mut more = [0; 4096];
        let count = stream.read(&mut more).await.unwrap();
        bytes.extend(&more[..count]);
    }
}

/// One call past the client, whose answer does not matter.
async fn raw_call(url: &str, body: &str) {
    use base64::Engine;
    let login = base64::engine::general_purpose::STANDARD.encode("gridcoinrpc:test");
    let host = url.trim_start_matches("http://").trim_end_matches('/');
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {host}\r\nAuthorization: Basic {login}\r\nConnection: close\r\nContent-Length: {}",
        body.len()
    );
    let mut stream = tokio::net::TcpStream::connect(host).await.unwrap();
    stream
        .write_all(format!("{head}\r\n\r\n{body}").as_bytes())
        .await
        .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
}

/// What the client makes of a recorded reply, in a few words.
async fn outcome(recorded: &Recorded, method: &str) -> String {
    let wallet = client(daemon_that_says(recorded).await, Mode::Accounts, "test");
    let err = |err: WalletError| match err {
        WalletError::Refused { code, message, .. } => format!("refused {code} {message}"),
        WalletError::AccountsOff { hint } => format!("accounts off: {hint}"),
        err => format!("{err:?}"),
    };
    let said = match method {
        "listaccounts" => wallet.check().await.map(|()| "ok".to_owned()),
        "getaddressesbyaccount" => wallet
            .deposit_address(&user("alice"))
            .await
            .map(|address| address.to_string()),
        "listsinceblock" => wallet.deposits(None, 10).await.map(|found| {
            let line = |deposit: &credit_manager::settlement::wallet::Deposit| {
                let id = &deposit.id;
                format!(
                    "{} {} x{}",
                    id.amount,
                    &id.address.as_str()[..4],
                    deposit.confirmations
                )
            };
            found.deposits.iter().map(line).collect::<Vec<_>>().join(", ")
        }),
        "move" => wallet
            .pay(&payment("p", "1", &moving()))
            .await
            .map(|receipt| format!("{receipt:?}")),
        "find sent" => wallet
            .find_payment(&payment("settle:alice:42", "1.25", &sending()))
            .await
            .map(|receipt| receipt.map_or("none".to_owned(), |receipt| receipt.fee.to_string())),
        "find moved" => wallet
            .find_payment(&payment(
                "settle:1:0001",
                "1.5",
                &Route::Move {
                    from: "u1".to_owned(),
                    to: "credit".to_owned(),
                },
            ))
            .await
            .map(|receipt| receipt.map_or("none".to_owned(), |receipt| receipt.fee.to_string())),
        "getbalance" => wallet.balance(1).await.map(|balance: Amount| balance.to_string()),
        method => panic!("no call for {method}"),
    };
    said.unwrap_or_else(err)
}

#[tokio::test]
async fn recorded_replies_of_the_daemon_are_understood() {
    #[derive(Deserialize)]
    struct Case {
        method: String,
        outcome: String,
        #[serde(flatten)]
        recorded: Recorded,
    }
    let cases: Vec<Case> = serde_json::from_str(include_str!("gridcoin_replies.json")).unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let said = outcome(&case.recorded, &case.method).await;
        assert_eq!(said, case.outcome, "{}", case.recorded.name);
    }
}
