//! credit-manager's lives: the real service on one thread, cut off between any two steps of its ledger.

use std::sync::Arc;

use credit_manager::ledger::Journal;
use credit_manager::settlement::fake::FakeWallet;
use credit_manager::writer::{Desk, Ledger};
use credit_manager::{Config, Edges, Parts};
use service_kit::ManualClock;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::wallet::LyingWallet;
use crate::world::World;

/// Where in a batch the process may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    BeforeCommit,
    /// The batch is on disk, and nobody hears of it.
    AfterCommit,
}

/// One life after the other, for ever.
pub(crate) async fn live(world: Arc<World>, inner: Arc<FakeWallet>, config: Config, clock: Arc<ManualClock>) {
    loop {
        let dead = CancellationToken::new();
        let wallet = LyingWallet {
            world: world.clone(),
            inner: inner.clone(),
            dead: dead.clone(),
        };
        let edges = Edges {
            wallet: Arc::new(wallet),
            clock: clock.clone(),
        };
        let desk = Desk::open(Journal::open(&config.database).unwrap()).unwrap();
        world.open_laws(&config.database);
        world.laws().check(&desk);
        let Parts {
            sessions,
            accounts,
            supervisor,
            ledger,
            ..
        } = credit_manager::assemble(&config, &edges, desk, dead.clone()).unwrap();
        world.set_server(Some(Routes::new(sessions).add_service(accounts)));
        tokio::select! {
            biased;
            () = world.killed() => {}
            () = run(&world, ledger) => {}
        }
        world.set_server(None);
        drop(supervisor);
        dead.cancel();
        tokio::time::sleep(world.dice.ms(0..3_000)).await;
    }
}

async fn run(world: &World, mut ledger: Ledger) {
    while let Some(waiting) = ledger.receive().await {
        let written = ledger.carry_out(waiting);
        if world.crashes_at(Point::BeforeCommit) {
            return;
        }
        let committed = ledger.commit(written);
        world.laws().check(ledger.desk());
        if world.crashes_at(Point::AfterCommit) {
            return;
        }
        ledger.answer(committed).unwrap();
    }
}
