//! The server's side: the real service, with a count of its commits.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use access::{AccessLayer, Book};
use credit_manager::api::{AccountApi, LocalAuthority};
use credit_manager::ledger::Journal;
use credit_manager::settlement::fake::FakeWallet;
use credit_manager::settlement::wallet::Wallet as _;
use credit_manager::writer::{Desk, Ledger};
use credit_manager::{Config, Edges, Parts};
use proto::credit::v1::ListUsersRequest;
use proto::credit::v1::account_service_client::AccountServiceClient;
use proto::credit::v1::account_service_server::AccountServiceServer;
use service_kit::SystemClock;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

pub(crate) fn user(number: u64) -> String {
    format!("user-{number}")
}

pub(crate) async fn serve(folder: &Path, users: u64) {
    let wallet = Arc::new(FakeWallet::new());
    for number in 0..users {
        let address = wallet
            .deposit_address(&user(number).parse().unwrap())
            .await
            .unwrap();
        wallet.deposit(&address, &["1000000".parse().unwrap()]);
    }
    let edges = Edges {
        wallet: wallet.clone(),
        clock: Arc::new(SystemClock),
    };
    let config = config(folder);
    let desk = Desk::open(Journal::open(&config.database).unwrap()).unwrap();
    let parts = credit_manager::assemble(&config, &edges, desk, CancellationToken::new()).unwrap();
    let Parts {
        sessions,
        accounts,
        supervisor,
        ledger,
        ..
    } = parts;
    tokio::spawn(mine_for(
        users,
        AccountServiceClient::new(accounts.clone()),
        wallet,
    ));
    let commits = Arc::new(AtomicU64::new(0));
    let counted = commits.clone();
    std::thread::spawn(move || futures::executor::block_on(run(ledger, &counted)));
    let book = Arc::new(Book::open(folder, false).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("http://{}", listener.local_addr().unwrap());
    let until_told = async {
        let read = || std::io::stdin().read_to_end(&mut Vec::new());
        tokio::task::spawn_blocking(read).await.unwrap().unwrap();
    };
    let clock = Arc::new(SystemClock);
    Server::builder()
        .layer(AccessLayer::new(Arc::new(LocalAuthority { book, clock })))
        .add_service(sessions)
        .add_service(accounts)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), until_told)
        .await
        .unwrap();
    drop(supervisor);
    println!("{} flushes to disk", commits.load(Ordering::Relaxed));
}

/// Confirms the deposits once everybody is there: what comes to an address before its user is not seen again.
async fn mine_for(
    users: u64,
    mut accounts: AccountServiceClient<AccountServiceServer<AccountApi>>,
    wallet: Arc<FakeWallet>,
) {
    let users = usize::try_from(users).unwrap();
    loop {
        let listed = accounts.list_users(ListUsersRequest {}).await.unwrap();
        if listed.into_inner().users.len() == users {
            return wallet.mine(10);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn run(mut ledger: Ledger, commits: &AtomicU64) {
    while let Some(waiting) = ledger.receive().await {
        let written = ledger.carry_out(waiting);
        let committed = ledger.commit(written);
        commits.fetch_add(1, Ordering::Relaxed);
        ledger.answer(committed).unwrap();
    }
}

fn config(folder: &Path) -> Config {
    let text = format!(
        r#"
        listen = "127.0.0.1:0"
        database = {:?}
        confirmations = 3
        deposit_poll_ms = 100
        [wallet]
        url = "http://127.0.0.1:1/"
        user = "unused"
        password_file = "unused"
        mode = "accounts"
        "#,
        folder.join("ledger.db")
    );
    toml::from_str(&text).unwrap()
}
