//! What is read by a service that runs: it must answer each input, and the next one after it.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{LazyLock, Mutex};
use std::thread;
use std::time::Duration;

use access::client::Meant;
use access::{Channel, Target, book};
use credit_manager::settlement::fake::FakeWallet;
use credit_manager::settlement::gridcoin::{Gridcoin, GridcoinConfig, Mode};
use credit_manager::settlement::wallet::{Payment, Route, Wallet as _};
use prost::Message;
use proto::credit::v1::account_service_client::AccountServiceClient;
use proto::credit::v1::session_service_client::SessionServiceClient;
use proto::credit::v1::{
    CloseSessionRequest, CreateFunctionRequest, CreateUserRequest, GetUserRequest, ListTransfersRequest,
    OpenSessionRequest, QuoteRequest, ReportUsageRequest, UpdateFunctionRequest, UpdateUserRequest,
    WithdrawRequest,
};
use service_kit::{Secret, SystemClock};
use store::{Buckets, Credential, Store, StoreConfig};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

const PATIENCE: Duration = Duration::from_secs(20);

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
});

/// Whom credit-manager lets in.
#[derive(Clone)]
struct Callers {
    operator: Channel,
    node: Channel,
}

/// credit-manager, for as long as the process lives.
static CREDIT: LazyLock<Callers> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap().keep();
    let text = format!(
        "listen = \"127.0.0.1:0\"\ndatabase = {:?}\n[wallet]\nurl = \"http://127.0.0.1:1/\"\nuser = \"unused\"\n\
         password_file = \"unused\"\nmode = \"accounts\"\n",
        folder.join("ledger.db")
    );
    RUNTIME.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let edges = credit_manager::Edges {
            wallet: std::sync::Arc::new(FakeWallet::new()),
            clock: std::sync::Arc::new(SystemClock),
        };
        let config = toml::from_str(&text).unwrap();
        tokio::spawn(credit_manager::run(
            config,
            edges,
            listener,
            CancellationToken::new(),
        ));
        let connect = |token| {
            let target = Target {
                url: url.clone(),
                meant: Meant::CreditManager,
                tls: None,
                token_file: Some(folder.join(token)),
            };
            target.connect_lazy().unwrap()
        };
        let callers = Callers {
            operator: connect(book::OPERATOR_TOKEN),
            node: connect(book::NODE_TOKEN),
        };
        // The node's is made last.
        while !folder.join(book::NODE_TOKEN).exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut accounts = AccountServiceClient::new(callers.operator.clone());
        let name = "alice".to_owned();
        let user = CreateUserRequest { name: name.clone() };
        tokio::time::timeout(PATIENCE, accounts.create_user(user))
            .await
            .unwrap()
            .unwrap();
        let function = CreateFunctionRequest {
            name: "function".to_owned(),
            user: name,
        };
        accounts.create_function(function).await.unwrap();
        callers
    })
});

/// The first byte chooses the call, the rest is its message.
pub(crate) fn usage_reports(data: &[u8]) {
    let Some((&call, message)) = data.split_first() else {
        return;
    };
    let callers = CREDIT.clone();
    RUNTIME.block_on(async {
        let answered = tokio::time::timeout(PATIENCE, one_call(call, message, callers.clone()));
        if let Some(Err(status)) = answered.await.expect("every call is answered") {
            // A panic, or what should have been told as the caller's own mistake.
            assert!(
                !matches!(status.code(), Code::Unknown | Code::Internal | Code::DataLoss),
                "{status:?}"
            );
        }
        let alive = GetUserRequest {
            name: "alice".to_owned(),
        };
        AccountServiceClient::new(callers.operator)
            .get_user(alive)
            .await
            .unwrap();
    });
}

/// `None` for bytes that are no such message.
async fn one_call(call: u8, message: &[u8], callers: Callers) -> Option<Result<(), Status>> {
    let (mut sessions, mut accounts) = (
        SessionServiceClient::new(callers.node),
        AccountServiceClient::new(callers.operator),
    );
    Some(match call % 10 {
        0 => sessions
            .open_session(OpenSessionRequest::decode(message).ok()?)
            .await
            .map(drop),
        1 | 2 => sessions
            .report_usage(ReportUsageRequest::decode(message).ok()?)
            .await
            .map(drop),
        3 => sessions
            .close_session(CloseSessionRequest::decode(message).ok()?)
            .await
            .map(drop),
        4 => accounts
            .update_user(UpdateUserRequest::decode(message).ok()?)
            .await
            .map(drop),
        5 => accounts
            .update_function(UpdateFunctionRequest::decode(message).ok()?)
            .await
            .map(drop),
        6 => accounts
            .quote(QuoteRequest::decode(message).ok()?)
            .await
            .map(drop),
        7 => accounts
            .withdraw(WithdrawRequest::decode(message).ok()?)
            .await
            .map(drop),
        8 => accounts
            .list_transfers(ListTransfersRequest::decode(message).ok()?)
            .await
            .map(drop),
        _ => accounts
            .create_user(CreateUserRequest::decode(message).ok()?)
            .await
            .map(drop),
    })
}

/// What the daemon answers next, as a whole HTTP message or as the body of one.
static ANSWER: Mutex<Vec<u8>> = Mutex::new(Vec::new());

static DAEMON: LazyLock<SocketAddr> = LazyLock::new(|| {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let answer = ANSWER.lock().unwrap().clone();
            let _ = stream.write_all(&answer);
        }
    });
    address
});

pub(crate) fn wallet_replies(data: &[u8]) {
    let raw = data.starts_with(b"HTTP/");
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        data.len()
    );
    *ANSWER.lock().unwrap() = if raw {
        data.to_vec()
    } else {
        [head.as_bytes(), data].concat()
    };
    let url = format!("http://{}/", *DAEMON);
    RUNTIME.block_on(async {
        for mode in [Mode::Accounts, Mode::Addresses] {
            let wallet = Gridcoin::new(GridcoinConfig {
                url: url.clone(),
                user: "user".to_owned(),
                password: Secret::new("password"),
                mode,
                request_timeout: Duration::from_secs(2),
            });
            let wallet = wallet.unwrap();
            let payment = Payment {
                id: "settle:1".parse().unwrap(),
                amount: "1".parse().unwrap(),
                route: Route::Move {
                    from: "alice".to_owned(),
                    to: "bob".to_owned(),
                },
            };
            // Each answers, one way or the other; nothing is believed that is no answer.
            let asked = async {
                let _ = wallet.check().await;
                let _ = wallet.balance(3).await;
                let _ = wallet.account_balances(3).await;
                let _ = wallet.deposits(None, 3).await;
                let _ = wallet.find_payment(&payment).await;
                let _ = wallet.has_transaction("00").await;
                let _ = wallet.deposit_address(&"alice".parse().unwrap()).await;
            };
            tokio::time::timeout(PATIENCE * 2, asked)
                .await
                .expect("every call comes back");
        }
    });
}

/// A store, for as long as the process lives.
static STORE: LazyLock<SocketAddr> = LazyLock::new(|| {
    let root = tempfile::tempdir().unwrap().keep();
    let credential = Credential {
        access_key: "key".to_owned(),
        secret_key: Secret::new("secret"),
        buckets: Buckets::All,
    };
    RUNTIME.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let store = Store::open(StoreConfig::new(root, vec![credential])).unwrap();
        tokio::spawn(store::serve(store, listener, CancellationToken::new()));
        address
    })
});

/// Any bytes in place of a request.
pub(crate) fn store_requests(data: &[u8]) {
    // It may be half a request: that no more is to come has to be said. Then the server need not answer.
    exchange(data, Some(Shutdown::Write));
    let alive = exchange(
        b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        None,
    );
    assert!(
        alive.starts_with(b"HTTP/1.1 403"),
        "{}",
        String::from_utf8_lossy(&alive)
    );
}

fn exchange(request: &[u8], end: Option<Shutdown>) -> Vec<u8> {
    let mut stream = TcpStream::connect(*STORE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = Vec::new();
    // The server may answer and hang up before it has read everything.
    let _ = stream.write_all(request);
    if let Some(end) = end {
        let _ = stream.shutdown(end);
    }
    let _ = stream.read_to_end(&mut answer);
    assert!(
        !answer.starts_with(b"HTTP/1.1 500"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    answer
}
