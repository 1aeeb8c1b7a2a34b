//! One suite for every wallet: the fake, and the daemon's client against the development chain in both modes.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a panic is how a failure is reported"
)]

#[expect(dead_code, reason = "the other tests read the url")]
mod wallet;

use std::sync::Arc;

use credit_manager::settlement::fake::{Failure, FakeWallet};
use credit_manager::settlement::gridcoin::Mode;
use credit_manager::settlement::wallet::{Address, Cursor, Deposit, Payment, Route, Wallet};
use units::Amount;
use wallet::{DaemonWorld, grc, payment, user};

/// How a payment is disturbed.
#[derive(Clone, Copy)]
enum Disturbance {
    LostRequest,
    LostReply,
}

/// A wallet and the outside world around it.
trait World {
    fn wallet(&self) -> Arc<dyn Wallet>;
    /// One transaction from outside with an output for each amount.
    fn deposit(&self, to: &Address, amounts: &[Amount]) -> String;
    fn mine(&self, blocks: u32);
    fn reorg(&self, depth: u32, conflict: bool);
    fn disturb(&self, disturbance: Disturbance, route: &Route);
    /// An address that is not the wallet's.
    fn foreign(&self) -> Address;
}

impl World for FakeWorld {
    fn wallet(&self) -> Arc<dyn Wallet> {
        self.0.clone()
    }

    fn deposit(&self, to: &Address, amounts: &[Amount]) -> String {
        self.0.deposit(to, amounts)
    }

    fn mine(&self, blocks: u32) {
        self.0.mine(blocks);
    }

    fn reorg(&self, depth: u32, conflict: bool) {
        self.0.reorg(depth, conflict);
    }

    fn disturb(&self, disturbance: Disturbance, _: &Route) {
        self.0.fail_payment(match disturbance {
            Disturbance::LostRequest => Failure::LostRequest,
            Disturbance::LostReply => Failure::LostReply,
        });
    }

    fn foreign(&self) -> Address {
        wallet::FOREIGN.parse().unwrap()
    }
}

/// The fake, shared with the test.
struct FakeWorld(Arc<FakeWallet>);

impl World for DaemonWorld {
    fn wallet(&self) -> Arc<dyn Wallet> {
        self.wallet.clone()
    }

    fn deposit(&self, to: &Address, amounts: &[Amount]) -> String {
        let to = to.as_str().parse().unwrap();
        let outputs: Vec<_> = amounts.iter().map(|amount| (to, *amount)).collect();
        self.chain.deposit_many(&outputs).unwrap().to_string()
    }

    fn mine(&self, blocks: u32) {
        self.chain.mine(blocks).unwrap();
    }

    fn reorg(&self, depth: u32, conflict: bool) {
        self.chain.reorg(depth, conflict).unwrap();
    }

    fn disturb(&self, disturbance: Disturbance, route: &Route) {
        let method = match route {
            Route::Move { .. } => "move",
            Route::Send { from: Some(_), .. } => "sendfrom",
            Route::Send { from: None, .. } => "sendtoaddress",
        };
        let fault = match disturbance {
            Disturbance::LostRequest => chain::Fault::Refuse,
            Disturbance::LostReply => chain::Fault::DropReply,
        };
        self.chain.set_fault(Some(method), fault, 1);
    }

    fn foreign(&self) -> Address {
        wallet::FOREIGN.parse().unwrap()
    }
}

/// The promises of [`Wallet`], each on a world of its own.
async fn wallet_suite<W: World>(make: impl AsyncFn() -> W, routes: fn(&W) -> Vec<Route>) {
    a_user_keeps_an_address_that_no_other_has(&make().await).await;
    a_deposit_is_reported_until_it_is_deep_and_never_changes_its_name(&make().await).await;
    equal_outputs_of_one_transaction_are_two_deposits(&make().await).await;
    a_reorganised_deposit_waits_again(&make().await).await;
    a_double_spent_deposit_is_reported_once_as_gone(&make().await).await;
    for route in routes(&make().await) {
        a_payment_is_made_once_and_found(&make().await, &route).await;
        a_lost_request_is_unclear_and_leaves_nothing(&make().await, &route).await;
        a_lost_reply_is_unclear_and_the_payment_is_found(&make().await, &route).await;
    }
    coins_are_not_sent_to_oneself(&make().await).await;
    nobody_pays_what_is_not_there(&make().await).await;
    an_amount_of_nothing_is_refused(&make().await).await;
}

async fn funded(world: &impl World) {
    let address = world.wallet().deposit_address(&user("bank")).await.unwrap();
    world.deposit(&address, &[grc("100")]);
    world.mine(10);
}

async fn scan(world: &impl World, cursor: Option<&Cursor>) -> (Vec<Deposit>, Cursor) {
    let found = world.wallet().deposits(cursor, 3).await.unwrap();
    (found.deposits, found.cursor)
}

async fn a_user_keeps_an_address_that_no_other_has(world: &impl World) {
    let wallet = world.wallet();
    wallet.check().await.unwrap();
    let alice = wallet.deposit_address(&user("alice")).await.unwrap();
    let bob = wallet.deposit_address(&user("bob")).await.unwrap();
    assert_ne!(alice, bob);
    assert_eq!(wallet.deposit_address(&user("alice")).await.unwrap(), alice);
}

async fn a_deposit_is_reported_until_it_is_deep_and_never_changes_its_name(world: &impl World) {
    let alice = world.wallet().deposit_address(&user("alice")).await.unwrap();
    let (none, mut cursor) = scan(world, None).await;
    assert_eq!(none, []);
    let txid = world.deposit(&alice, &[grc("1.00000001")]);
    for confirmations in 0..=4 {
        let (found, next) = scan(world, Some(&cursor)).await;
        let [deposit] = found.as_slice() else {
            panic!("{found:?}")
        };
        assert_eq!(deposit.confirmations, confirmations);
        assert_eq!(
            (
                deposit.id.txid.as_str(),
                &deposit.id.address,
                deposit.id.amount,
                deposit.id.ordinal
            ),
            (txid.as_str(), &alice, grc("1.00000001"), 0)
        );
        // A scan from the beginning says the same.
        assert_eq!(scan(world, None).await.0, found);
        if confirmations < 3 {
            // The next scan hears of it again, however late the last one was.
            cursor = next;
        }
        world.mine(1);
    }
}

async fn equal_outputs_of_one_transaction_are_two_deposits(world: &impl World) {
    let alice = world.wallet().deposit_address(&user("alice")).await.unwrap();
    world.deposit(&alice, &[grc("1"), grc("2"), grc("1")]);
    world.deposit(&alice, &[grc("1")]);
    world.mine(1);
    let (found, _) = scan(world, None).await;
    let mut named: Vec<_> = found
        .iter()
        .map(|deposit| (deposit.id.amount, deposit.id.ordinal))
        .collect();
    named.sort_unstable();
    assert_eq!(
        named,
        [(grc("1"), 0), (grc("1"), 0), (grc("1"), 1), (grc("2"), 0)]
    );
    let distinct: std::collections::BTreeSet<_> = found.iter().map(|deposit| &deposit.id).collect();
    assert_eq!(distinct.len(), 4);
}

async fn a_reorganised_deposit_waits_again(world: &impl World) {
    let alice = world.wallet().deposit_address(&user("alice")).await.unwrap();
    world.deposit(&alice, &[grc("5")]);
    world.mine(2);
    let (before, cursor) = scan(world, None).await;
    world.reorg(2, false);
    let (waiting, cursor) = scan(world, Some(&cursor)).await;
    assert_eq!(
        waiting,
        [Deposit {
            confirmations: 0,
            ..before[0].clone()
        }]
    );
    world.mine(1);
    let (after, _) = scan(world, Some(&cursor)).await;
    assert_eq!(
        after,
        [Deposit {
            confirmations: 1,
            ..before[0].clone()
        }]
    );
}

async fn a_double_spent_deposit_is_reported_once_as_gone(world: &impl World) {
    let alice = world.wallet().deposit_address(&user("alice")).await.unwrap();
    world.deposit(&alice, &[grc("5"), grc("5")]);
    world.mine(6);
    let (before, cursor) = scan(world, None).await;
    // Deeper than the three confirmations that were asked for.
    world.reorg(6, true);
    let (gone, next) = scan(world, Some(&cursor)).await;
    assert!(gone.iter().all(|deposit| deposit.confirmations < 0), "{gone:?}");
    let ids = |deposits: &[Deposit]| {
        deposits
            .iter()
            .map(|deposit| deposit.id.clone())
            .collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(ids(&gone), ids(&before));
    assert_eq!(scan(world, Some(&next)).await.0, []);
    // Whoever did not keep the new cursor hears it again.
    assert_eq!(scan(world, Some(&cursor)).await.0.len(), 2);
}

async fn a_payment_is_made_once_and_found(world: &impl World, route: &Route) {
    funded(world).await;
    let wallet = world.wallet();
    let before = wallet.balance(1).await.unwrap();
    let paid = payment("settle:alice:1", "1.25", route);
    assert_eq!(wallet.find_payment(&paid).await.unwrap(), None);
    let receipt = wallet.pay(&paid).await.unwrap();
    assert_eq!(wallet.find_payment(&paid).await.unwrap().as_ref(), Some(&receipt));
    let cost = match route {
        Route::Move { .. } => Amount::ZERO,
        Route::Send { .. } => grc("1.25").checked_add(receipt.fee).unwrap(),
    };
    assert_eq!(
        wallet.balance(1).await.unwrap(),
        before.checked_sub(cost).unwrap()
    );
    let other = payment("settle:alice:2", "1.25", route);
    assert_eq!(wallet.find_payment(&other).await.unwrap(), None);
    // The same id with other content is no payment we ever made.
    let changed = payment("settle:alice:1", "1.26", route);
    assert!(wallet.find_payment(&changed).await.is_err());
}

async fn a_lost_request_is_unclear_and_leaves_nothing(world: &impl World, route: &Route) {
    funded(world).await;
    let (wallet, lost) = (world.wallet(), payment("settle:1", "1", route));
    world.disturb(Disturbance::LostRequest, route);
    let err = wallet.pay(&lost).await.unwrap_err();
    assert!(err.is_unclear() && err.is_transient(), "{err}");
    assert_eq!(wallet.find_payment(&lost).await.unwrap(), None);
}

async fn a_lost_reply_is_unclear_and_the_payment_is_found(world: &impl World, route: &Route) {
    funded(world).await;
    let (wallet, lost) = (world.wallet(), payment("settle:1", "1", route));
    world.disturb(Disturbance::LostReply, route);
    let err = wallet.pay(&lost).await.unwrap_err();
    assert!(err.is_unclear() && err.is_transient(), "{err}");
    let receipt = wallet.find_payment(&lost).await.unwrap().unwrap();
    assert_eq!(receipt.txid.is_some(), matches!(route, Route::Send { .. }));
}

async fn coins_are_not_sent_to_oneself(world: &impl World) {
    funded(world).await;
    let wallet = world.wallet();
    let to = wallet.deposit_address(&user("alice")).await.unwrap();
    let own = payment(
        "settle:1",
        "1",
        &Route::Send {
            from: None,
            to: to.clone(),
        },
    );
    let err = wallet.pay(&own).await.unwrap_err();
    assert!(err.to_string().contains(to.as_str()), "{err}");
    assert!(!err.is_unclear() && !err.is_transient());
    assert_eq!(wallet.find_payment(&own).await.unwrap(), None);
}

async fn nobody_pays_what_is_not_there(world: &impl World) {
    let wallet = world.wallet();
    let too_much = payment(
        "settle:1",
        "1",
        &Route::Send {
            from: None,
            to: world.foreign(),
        },
    );
    let err = wallet.pay(&too_much).await.unwrap_err();
    assert!(err.to_string().contains("Insufficient funds"), "{err}");
    assert!(!err.is_unclear());
}

async fn an_amount_of_nothing_is_refused(world: &impl World) {
    let nothing = payment(
        "settle:1",
        "0",
        &Route::Send {
            from: None,
            to: world.foreign(),
        },
    );
    let err = world.wallet().pay(&nothing).await.unwrap_err();
    assert!(!err.is_unclear() && !err.is_transient(), "{err}");
}

fn send<W: World>(world: &W) -> Vec<Route> {
    vec![Route::Send {
        from: None,
        to: world.foreign(),
    }]
}

fn send_and_move<W: World>(world: &W) -> Vec<Route> {
    let between = Route::Move {
        from: "alice".to_owned(),
        to: "provider".to_owned(),
    };
    let from_an_account = Route::Send {
        from: Some("bank".to_owned()),
        to: world.foreign(),
    };
    let from_all = send(world).remove(0);
    vec![between, from_an_account, from_all]
}

#[tokio::test]
async fn the_fake_keeps_the_promises_of_a_wallet() {
    wallet_suite(async || FakeWorld(Arc::new(FakeWallet::new())), send_and_move).await;
}

#[tokio::test]
async fn a_daemon_with_accounts_keeps_the_promises_of_a_wallet() {
    wallet_suite(async || DaemonWorld::start(Mode::Accounts).await, send_and_move).await;
}

#[tokio::test]
async fn a_daemon_without_accounts_keeps_the_promises_of_a_wallet() {
    wallet_suite(async || DaemonWorld::start(Mode::Addresses).await, send).await;
}

#[tokio::test]
async fn the_fake_tells_what_nobody_expected() {
    let fake = FakeWallet::new();
    fake.assert_quiet();
    let route = Route::Move {
        from: "alice".to_owned(),
        to: "provider".to_owned(),
    };
    let paid: Payment = payment("settle:1", "1", &route);
    fake.pay(&paid).await.unwrap();
    assert_eq!(fake.take_payments(), [paid]);
    fake.assert_quiet();
}
