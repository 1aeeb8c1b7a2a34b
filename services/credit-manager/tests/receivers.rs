//! The receivers' addresses are compared with the wallet's at every start.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a panic is how a failure is reported"
)]

#[expect(dead_code, reason = "the other tests use the rest")]
mod service;
#[expect(dead_code, reason = "the other tests use the rest")]
mod wallet;

use credit_manager::Config;
use credit_manager::config::ReceiverConfig;
use credit_manager::settlement::gridcoin::Mode;
use credit_manager::settlement::wallet::Wallet as _;
use service::{Service, config};
use tempfile::TempDir;
use wallet::{DaemonWorld, FOREIGN, user};

/// Of the main network; the development chain is a test network.
const OTHER_NETWORK: &str = "bc3NA8e8E3EoTL1qhRmeprbjWcmuoZ26A2";

fn with_receivers(folder: &TempDir, mode: &str, addresses: &[&str]) -> Config {
    let receiver = |(number, address): (usize, &&str)| ReceiverConfig {
        name: format!("receiver-{number}").parse().unwrap(),
        share: 1,
        address: Some(address.parse().unwrap()),
    };
    Config {
        receivers: addresses.iter().enumerate().map(receiver).collect(),
        ..config(folder.path(), mode)
    }
}

/// Why the service refuses to start.
async fn refusal(world: &DaemonWorld, config: Config) -> String {
    let service = Service::start(config, world.wallet.clone()).await;
    format!("{:#}", service.ended().await.unwrap_err())
}

/// Fails the test unless the service serves.
async fn starts(world: &DaemonWorld, config: Config) {
    let mut service = Service::start(config, world.wallet.clone()).await;
    service.transfers().await;
    service.stop().await.unwrap();
}

#[tokio::test]
async fn an_address_that_the_wallet_knows_otherwise_is_refused_at_every_start() {
    let folder = tempfile::tempdir().unwrap();
    let world = DaemonWorld::start(Mode::Addresses).await;
    let own = world.wallet.deposit_address(&user("bank")).await.unwrap();
    let with = |addresses: &[&str]| with_receivers(&folder, "addresses", addresses);
    starts(&world, with(&[FOREIGN])).await;

    let said = refusal(&world, with(&[OTHER_NETWORK])).await;
    assert!(said.contains(OTHER_NETWORK) && said.contains("network"), "{said}");
    // Every receiver is looked at, not only the first.
    let said = refusal(&world, with(&[FOREIGN, own.as_str()])).await;
    assert!(
        said.contains(own.as_str()) && said.contains("receiver-1"),
        "{said}"
    );

    // The address book says who is who.
    let label = format!(r#"["{FOREIGN}", "earnings:receiver-0"]"#);
    let _: () = world.rpc("setaccount", &label).await;
    starts(&world, with(&[FOREIGN])).await;
    let mistyped = "mpifEnqWMBwBYSzbRCHUQvQtJeKmh4JU3o";
    let said = refusal(&world, with(&[mistyped])).await;
    assert!(said.contains(mistyped) && said.contains(FOREIGN), "{said}");
    let said = refusal(&world, with(&[FOREIGN, FOREIGN])).await;
    assert!(
        said.contains("receiver-1"),
        "one receiver's address is not another's: {said}"
    );
}

#[tokio::test]
async fn in_accounts_mode_the_address_has_to_be_of_the_receivers_account() {
    let folder = tempfile::tempdir().unwrap();
    let world = DaemonWorld::start(Mode::Accounts).await;
    let earned: String = world.rpc("getnewaddress", r#"["earnings:receiver-0"]"#).await;
    let others: String = world.rpc("getnewaddress", r#"["bank"]"#).await;
    let with = |address: &str| with_receivers(&folder, "accounts", &[address]);
    starts(&world, with(&earned)).await;
    for wrong in [others.as_str(), FOREIGN] {
        let said = refusal(&world, with(wrong)).await;
        assert!(said.contains(wrong) && said.contains(&earned), "{said}");
    }
}

#[tokio::test]
async fn a_wallet_that_comes_late_is_asked_before_anything_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let world = DaemonWorld::start(Mode::Addresses).await;
    let mut service = Service::start(config(folder.path(), "addresses"), world.wallet.clone()).await;
    let own = service.user("alice", "0").await.deposit_address;
    service.stop().await.unwrap();
    // The wallet is down at the start, so nothing can be known then.
    world.chain.set_fault(None, chain::Fault::Refuse, 1);
    let wrong = with_receivers(&folder, "addresses", &[&own]);
    let service = Service::start(wrong, world.wallet.clone()).await;
    // It ends by itself as soon as the wallet says otherwise.
    let ended = service.ended().await.unwrap_err().to_string();
    assert!(ended.contains(&own), "{ended}");
}
