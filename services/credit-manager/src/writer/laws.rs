//! Random operations and crashes against the state and the journal together (M11): after each, the ledger sums to zero,
//! grants are covered, and what a restart finds is what was there.

use proptest::prelude::*;
use proptest::sample::Index;
use std::time::Duration;
use units::{Amount, Billing, CpuPrice, CpuTime, MilliCores, OnShortage, Policy, Timestamp, UserName};

use super::*;
use crate::bank::{Descent, FEE_RESERVE, Now, OpenRequest, Opened, Sum, Usage, WithdrawalOrder};
use crate::ledger::Account;
use crate::session::Outcome;
use crate::settlement::gridcoin::Mode;
use crate::settlement::outbox::{PayoutState, Purpose, Rules};
use crate::settlement::split::{Receiver, Receivers, label_of};
use crate::settlement::wallet::{Address, DepositId, Receipt};
use crate::users::{Settings, SettingsPatch, User};

const USERS: usize = 3;
const LEASE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
enum Operation {
    Deposit {
        user: usize,
        halfords: i64,
    },
    Open {
        user: usize,
        key: u8,
        again: Option<Index>,
        /// The object is said to be a result of this task.
        of: Option<Index>,
    },
    /// Uses a part of what the session may still use, and tells it with an acknowledgement that lags behind.
    Report {
        which: Index,
        percent: u64,
        behind: u64,
        millicores: u32,
    },
    /// Tells an older total, as a late message would.
    Stale {
        which: Index,
        percent: u64,
    },
    Close {
        which: Index,
        outcome: usize,
    },
    /// Another node found the object of this task, and its last one is gone.
    LeaveBehind {
        which: Index,
    },
    Expire,
    RaiseLimit {
        user: usize,
        halfords: i64,
    },
    /// Asks for a part of what is free, or for too much.
    Withdraw {
        user: usize,
        percent: i64,
    },
    Plan,
    Pay {
        which: Index,
        step: u8,
    },
    /// An older copy of the wallet was restored: a move that was made is missing.
    Forget {
        which: Index,
    },
    /// The process ends before the commit of this operation, and after that of all before it.
    Crash(Box<Operation>),
    Restart,
}

fn operation() -> impl Strategy<Value = Operation> {
    let user = 0..USERS;
    let index = any::<Index>;
    let simple = prop_oneof![
        2 => (user.clone(), 1..500_000_000_i64).prop_map(|(user, halfords)| Operation::Deposit { user, halfords }),
        4 => (user.clone(), 0..6_u8, prop::option::weighted(0.2, index()), prop::option::weighted(0.4, index())).prop_map(|(user, key, again, of)| Operation::Open { user, key, again, of }),
        8 => (index(), 0..=100_u64, 0..4_u64, 0..4000_u32).prop_map(|(which, percent, behind, millicores)| Operation::Report { which, percent, behind, millicores }),
        2 => (index(), 0..=100_u64).prop_map(|(which, percent)| Operation::Stale { which, percent }),
        2 => (index(), 0..Outcome::ALL.len()).prop_map(|(which, outcome)| Operation::Close { which, outcome }),
        1 => index().prop_map(|which| Operation::LeaveBehind { which }),
        1 => Just(Operation::Expire),
        1 => (user, 0..100_000_000_i64).prop_map(|(user, halfords)| Operation::RaiseLimit { user, halfords }),
        2 => (0..USERS, 0..130_i64).prop_map(|(user, percent)| Operation::Withdraw { user, percent }),
        2 => Just(Operation::Plan),
        3 => (index(), any::<u8>()).prop_map(|(which, step)| Operation::Pay { which, step }),
        1 => index().prop_map(|which| Operation::Forget { which }),
    ];
    prop_oneof![
        20 => simple.clone(),
        2 => simple.prop_map(|operation| Operation::Crash(Box::new(operation))),
        1 => Just(Operation::Restart),
    ]
}

struct World {
    folder: tempfile::TempDir,
    desk: Option<Desk>,
    now: Now,
    rules: Rules,
    deposits: u32,
    payments: u32,
}

impl World {
    fn new(rules: Rules) -> Self {
        let mut world = Self {
            folder: tempfile::tempdir().unwrap(),
            desk: None,
            now: Now {
                wall: Timestamp::from_unix_ms(1_000),
                instant: Instant::now(),
            },
            rules,
            deposits: 0,
            payments: 0,
        };
        world.restart();
        for number in 0..USERS {
            world.run(true, move |world, Desk { bank, .. }| {
                let settings = Settings {
                    min_balance: Amount::from_halfords(100),
                    debt_limit: Amount::from_halfords(i64::try_from(number).unwrap() * 50_000_000),
                    policy: Policy::Greedy,
                    billing: Billing::Used,
                    price: CpuPrice::DEFAULT,
                    // The last one is never billed.
                    accounting: number + 1 < USERS,
                    min_runway: Duration::ZERO,
                    on_shortage: if number == 0 {
                        OnShortage::NewestFirst
                    } else {
                        OnShortage::Together
                    },
                    max_spend: (number == 1).then(|| Amount::from_halfords(600_000_000)),
                    alert_at: None,
                    alert_webhook: None,
                };
                let (name, address, created_at) = (user(number), address(number), world.now.wall);
                bank.create_user(User {
                    name,
                    address,
                    settings,
                    created_at,
                })
                .unwrap();
                bank.create_function(format!("function-{number}").parse().unwrap(), &user(number))
                    .unwrap();
            });
        }
        world
    }

    fn restart(&mut self) {
        let before = self.desk.take().map(|desk| desk.bank);
        let journal = Journal::open(&self.folder.path().join("ledger.db")).unwrap();
        // The process ends in these tests, never the machine.
        journal
            .connection_for_tests()
            .execute_batch("PRAGMA synchronous = OFF")
            .unwrap();
        let desk = Desk::open(journal).unwrap();
        if let Some(before) = before {
            desk.bank.assert_same_state(&before);
        }
        self.desk = Some(desk);
    }

    /// One operation as a batch of its own, committed or cut off.
    fn run(&mut self, commits: bool, change: impl FnOnce(&mut Self, &mut Desk)) {
        let mut desk = self.desk.take().unwrap();
        desk.journal.begin().unwrap();
        change(self, &mut desk);
        let mut batch = Batch::default();
        desk.write(&mut batch).unwrap();
        for session in batch.stale.iter().filter_map(|id| desk.bank.session(*id)) {
            desk.journal.put_session(session).unwrap();
        }
        if commits {
            desk.journal.commit().unwrap();
        } else {
            desk.start_over().unwrap();
        }
        self.desk = Some(desk);
    }

    fn apply(&mut self, operation: Operation, commits: bool) {
        match operation {
            Operation::Crash(operation) => return self.apply(*operation, false),
            Operation::Restart => return self.restart(),
            Operation::Deposit { .. }
            | Operation::Open { .. }
            | Operation::Report { .. }
            | Operation::Stale { .. }
            | Operation::Close { .. }
            | Operation::LeaveBehind { .. }
            | Operation::Expire
            | Operation::RaiseLimit { .. }
            | Operation::Withdraw { .. }
            | Operation::Plan
            | Operation::Pay { .. }
            | Operation::Forget { .. } => {}
        }
        // A task that is continued was read from the journal before.
        let earlier = match &operation {
            Operation::Open {
                again: Some(which), ..
            } => self.some_task(which),
            _ => None,
        };
        let parent = match &operation {
            Operation::Open { of: Some(which), .. } => self.some_task(which).map(|task| task.id),
            _ => None,
        };
        match &operation {
            Operation::Forget { which } => return self.forget(which, commits),
            Operation::LeaveBehind { which } => return self.leave_behind(which, commits),
            _ => {}
        }
        let request = match &operation {
            Operation::Open { user, key, .. } => Some(open_request(*user, *key)),
            _ => None,
        };
        let descent = request.as_ref().map(|request| {
            let desk = self.desk.as_ref().unwrap();
            desk.descent(request, earlier.as_ref(), earlier.is_some(), parent)
                .unwrap()
        });
        let request = request
            .zip(descent)
            .map(|(request, descent)| OpenRequest { descent, ..request });
        self.run(commits, |world, desk| {
            world.operate(&mut desk.bank, operation, request, earlier)
        });
    }

    fn some_task(&self, which: &Index) -> Option<Task> {
        let id = self.some_id(which, "SELECT id FROM tasks")?;
        self.desk.as_ref()?.task(id.parse().unwrap()).unwrap()
    }

    fn some_id(&self, which: &Index, ids: &str) -> Option<String> {
        let connection = self.desk.as_ref()?.journal.connection_for_tests();
        let mut statement = connection.prepare(ids).unwrap();
        let mut ids: Vec<String> = statement
            .query_map([], |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        (!ids.is_empty()).then(|| ids.swap_remove(which.index(ids.len())))
    }

    /// What is made again was booked when it was first made.
    fn forget(&mut self, which: &Index, commits: bool) {
        let moves = "SELECT id FROM payments WHERE state = 'done' AND purpose = 'settlement' ORDER BY id";
        let Some(id) = self.some_id(which, moves) else {
            return;
        };
        let desk = self.desk.as_ref().unwrap();
        let payout = desk.payout(&id.parse().unwrap()).unwrap().unwrap();
        self.run(commits, |world, Desk { bank, .. }| {
            let before = bank.balances().clone();
            bank.make_again(payout, world.now.wall);
            assert_eq!(*bank.balances(), before, "{id} is booked already");
        });
    }

    /// A charge without results is taken back, whole and once.
    fn leave_behind(&mut self, which: &Index, commits: bool) {
        let Some(task) = self.some_task(which) else { return };
        let now = Now {
            wall: self.now.wall,
            instant: Instant::now() + LEASE,
        };
        self.run(commits, |_, desk| {
            let newest = desk.attempts(task.id).unwrap().pop();
            let name = desk.bank.function(&task.function).unwrap().user.clone();
            let balance = |desk: &Desk| desk.bank.view(&name).unwrap().balance;
            let before = balance(desk);
            let left = desk.left_behind(task.id, Duration::ZERO, now).unwrap();
            let taken_back = match newest {
                Some(newest) if newest.outcome == Outcome::Succeeded => newest.amount,
                _ => Amount::ZERO,
            };
            assert_eq!(balance(desk), before.saturating_add(taken_back), "{left:?}");
        });
    }

    fn operate(
        &mut self,
        bank: &mut Bank,
        operation: Operation,
        request: Option<OpenRequest>,
        earlier: Option<Task>,
    ) {
        let now = self.now;
        let some = |bank: &Bank, which: &Index| {
            let ids: Vec<_> = bank.sessions().map(|session| session.id).collect();
            (!ids.is_empty()).then(|| bank.session(*which.get(&ids)).unwrap().clone())
        };
        match operation {
            Operation::Deposit {
                user: number,
                halfords,
            } => {
                self.deposits += 1;
                let id = DepositId {
                    txid: self.deposits.to_string(),
                    address: address(number),
                    amount: Amount::from_halfords(halfords),
                    ordinal: 0,
                };
                let transfer = Transfer::deposit(&id, 0, &user(number), now.wall);
                bank.move_deposit(transfer, &user(number)).unwrap();
            }
            Operation::Open { .. } => {
                let request = request.expect("made of the operation");
                let opened = bank.open(request.clone(), earlier, TaskId::new(), now).unwrap();
                if let Opened::Licensed { session, state } = opened {
                    let again = bank.open(request, None, TaskId::new(), now).unwrap();
                    assert_eq!(again, Opened::Licensed { session, state }, "I3");
                }
            }
            Operation::Report {
                which,
                percent,
                behind,
                millicores,
            } => {
                let Some(session) = some(bank, &which) else { return };
                let (total, stop) = (session.meter.total(), session.holding.held().stop_at);
                // An unlimited session uses a minute.
                let room = stop.saturating_sub(total).min(CpuTime::from_secs(60));
                let used = CpuTime::from_micros(room.micros() * percent / 100);
                let usage = Usage {
                    session: session.id,
                    total: total.saturating_add(used),
                    capacity: MilliCores::from_millicores(millicores),
                    revision: session.holding.revision().saturating_sub(behind),
                };
                let states = bank.report(&session.node, &[usage], now).unwrap();
                assert_eq!(states.len(), 1);
                // The same again adds nothing to the cost.
                let balance = bank.view(&session.user).unwrap().balance;
                bank.report(&session.node, &[usage, usage], now).unwrap();
                assert_eq!(bank.view(&session.user).unwrap().balance, balance);
            }
            Operation::Stale { which, percent } => {
                let Some(session) = some(bank, &which) else { return };
                let usage = Usage {
                    session: session.id,
                    total: CpuTime::from_micros(session.meter.total().micros() / 100 * percent),
                    capacity: session.capacity,
                    revision: 0,
                };
                let balance = bank.view(&session.user).unwrap().balance;
                bank.report(&session.node, &[usage], now).unwrap();
                assert_eq!(bank.view(&session.user).unwrap().balance, balance);
            }
            Operation::Close { which, outcome } => {
                let Some(session) = some(bank, &which) else { return };
                let outcome = Outcome::ALL[outcome];
                let bill = bank
                    .close(session.id, session.meter.total(), outcome, now.wall)
                    .unwrap();
                let cost = if outcome.is_charged() {
                    session.meter.cost()
                } else {
                    Amount::ZERO
                };
                assert_eq!(bill.closed.amount, cost, "I4, I8");
            }
            Operation::Expire => {
                self.now.instant += LEASE / 2;
                bank.judge_alarms(now.wall);
                bank.expire(LEASE, self.now).unwrap();
            }
            Operation::RaiseLimit {
                user: number,
                halfords,
            } => {
                let name = user(number);
                let limit = bank.view(&name).unwrap().user.settings.debt_limit;
                let patch = SettingsPatch {
                    debt_limit: Some(limit.saturating_add(Amount::from_halfords(halfords))),
                    ..SettingsPatch::default()
                };
                bank.update_user(&name, &patch).unwrap();
            }
            Operation::Withdraw {
                user: number,
                percent,
            } => {
                let name = user(number);
                let free = bank.free(&name).unwrap();
                let most = free.saturating_sub(FEE_RESERVE).or_zero();
                let sum = match percent {
                    129 => Sum::All,
                    percent => Sum::Exactly(Amount::from_halfords(most.halfords() / 100 * percent)),
                };
                self.payments += 1;
                let order = WithdrawalOrder {
                    id: format!("withdrawal-{}", self.payments).parse().unwrap(),
                    user: name.clone(),
                    to: address(8),
                    sum,
                };
                let wanted = match sum {
                    Sum::Exactly(amount) => amount,
                    Sum::All => most,
                };
                let is_free = wanted.is_positive() && wanted <= most;
                let taken = bank.withdraw(order, self.rules.mode, now.wall);
                assert_eq!(taken.is_ok(), is_free, "{taken:?}");
            }
            Operation::Plan => {
                let (rules, payments) = (self.rules.clone(), &mut self.payments);
                let fresh = |_: &str| {
                    *payments += 1;
                    format!("payment-{payments}").parse().unwrap()
                };
                bank.plan_payouts(&rules, fresh, now.wall).unwrap();
            }
            Operation::Pay { which, step } => {
                let payouts: Vec<_> = bank.payouts().cloned().collect();
                if payouts.is_empty() {
                    return;
                }
                let state = match step % 5 {
                    0 => PayoutState::Unsent,
                    1 => PayoutState::InFlight,
                    2 => PayoutState::Unclear,
                    // A settlement belongs to its receiver, and does not fail.
                    3 if !matches!(which.get(&payouts).purpose, Purpose::Settlement { .. }) => {
                        PayoutState::Failed("no".to_owned())
                    }
                    _ => PayoutState::Done(Receipt {
                        txid: None,
                        fee: match which.get(&payouts).purpose {
                            Purpose::Settlement { .. } => Amount::ZERO,
                            // The largest ones are more than is kept for them.
                            Purpose::Earnings { .. } | Purpose::Withdrawal { .. } => {
                                Amount::from_halfords(i64::from(step) * 5_000)
                            }
                        },
                    }),
                };
                let payout = which.get(&payouts);
                bank.move_payout(&payout.payment.id, state, now.wall).unwrap();
            }
            Operation::Crash(_)
            | Operation::Restart
            | Operation::Forget { .. }
            | Operation::LeaveBehind { .. } => {
                unreachable!("handled before")
            }
        }
    }

    /// What each receiver got of all that was settled, booked or on its way, is its share of it to the halford.
    fn assert_fairly_split(&self) {
        let desk = self.desk.as_ref().unwrap();
        let got = |receiver: &Receiver| -> i128 {
            let booked: i64 = desk
                .journal
                .connection_for_tests()
                .query_row(
                    "SELECT coalesce(sum(amount), 0) FROM transfers WHERE kind = 'settlement' AND credit = ?",
                    [label_of(&receiver.name)],
                    |row| row.get(0),
                )
                .unwrap();
            let coming = desk.bank.payouts().filter(
                |payout| !payout.is_booked && matches!(&payout.purpose, Purpose::Settlement { receiver: to, .. } if *to == receiver.name),
            );
            let coming: Amount = coming.map(|payout| payout.payment.amount).sum();
            i128::from(booked) + i128::from(coming.halfords())
        };
        let receivers = &self.rules.receivers;
        let all: i128 = receivers.iter().map(got).sum();
        let shares: i128 = receivers.iter().map(|receiver| i128::from(receiver.share)).sum();
        for receiver in receivers.iter() {
            let drift = got(receiver) * shares - all * i128::from(receiver.share);
            assert!(
                drift.abs() < shares,
                "{} is off by {drift}/{shares}",
                receiver.name
            );
        }
    }

    /// What the chain took of a balance that may have been granted already: nodes have to give it back first.
    fn fees_beyond_the_reserve(&self, user: &UserName) -> Amount {
        let connection = self.desk.as_ref().unwrap().journal.connection_for_tests();
        let halfords = connection.query_row(
            "SELECT coalesce(sum(amount), 0) FROM transfers WHERE kind = 'fee' AND debit = ?",
            [Account::User(user.clone()).to_string()],
            |row| row.get(0),
        );
        Amount::from_halfords(halfords.unwrap())
    }

    fn assert_lawful(&self) {
        let bank = &self.desk.as_ref().unwrap().bank;
        let sum: i64 = bank
            .balances()
            .iter()
            .map(|(_, balance)| balance.halfords())
            .sum();
        assert_eq!(sum, 0, "I1");
        let leaving = bank.payouts().filter(|payout| payout.purpose.is_of_a_user());
        let taken = leaving.map(|payout| payout.payment.amount.saturating_add(FEE_RESERVE));
        assert_eq!(
            bank.balances().of(&Account::Outbox),
            taken.sum::<Amount>(),
            "what left users' accounts is in the outbox"
        );
        bank.assert_lineages_covered();
        for view in bank.views() {
            let funds = view.user.settings.funds(view.balance);
            let mut sessions: Vec<_> = bank
                .sessions()
                .filter(|session| session.user == view.user.name)
                .collect();
            let promised: Amount = sessions.iter().map(|session| session.promised()).sum();
            assert!(promised <= funds.whole, "I5: {view:?}");
            let taken = self.fees_beyond_the_reserve(&view.user.name);
            assert!(
                view.granted <= funds.whole.saturating_add(taken),
                "I5: {view:?}, of whom the chain took {taken}"
            );
            sessions.sort_by_key(|session| (session.opened_at, session.id));
            let dismissed = sessions
                .iter()
                .map(|session| bank.state(session.id).unwrap().dismissed);
            assert!(dismissed.is_sorted(), "only the newest go: {sessions:?}");
            let due = bank.balances().of(&Account::Due(view.user.name));
            assert!(
                due >= Amount::from_halfords(-2_000_000_000),
                "only reversals of settled charges go below zero"
            );
        }
    }
}

fn open_request(number: usize, key: u8) -> OpenRequest {
    let descent = Descent {
        depth_max: 3,
        ..Descent::default()
    };
    OpenRequest {
        session: SessionId::new(),
        node: "node-1".parse().unwrap(),
        function: format!("function-{number}").parse().unwrap(),
        key: format!("{key}.txt"),
        cap: (key < 2).then(|| Amount::from_halfords(10_000_000)),
        capacity: MilliCores::from_millicores(u32::from(key) * 500),
        input_bytes: 0,
        descent,
    }
}

fn user(number: usize) -> UserName {
    format!("user-{number}").parse().unwrap()
}

fn address(number: usize) -> Address {
    format!("mAddress{}{}", "1".repeat(20), number + 1)
        .parse()
        .unwrap()
}

fn rules() -> impl Strategy<Value = Rules> {
    let receiver = |name: &str, share, address| Receiver {
        name: name.parse().unwrap(),
        share,
        address,
    };
    (any::<bool>(), 1..1000_u32).prop_map(move |(has_accounts, share)| Rules {
        mode: if has_accounts {
            Mode::Accounts
        } else {
            Mode::Addresses
        },
        receivers: Receivers::new(vec![
            receiver("provider", share, Some(address(8))),
            receiver("project", 200, None),
        ])
        .unwrap(),
        min: Amount::from_halfords(5_000_000),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn money_is_conserved_and_a_restart_finds_what_was_there(
        rules in rules(),
        operations in prop::collection::vec(operation(), 1..250),
    ) {
        let mut world = World::new(rules);
        for operation in operations {
            world.apply(operation, true);
            world.assert_lawful();
        }
        world.restart();
        world.assert_fairly_split();
        let desk = world.desk.as_ref().unwrap();
        let wrong: i64 = desk
            .journal
            .connection_for_tests()
            .query_row(
                "SELECT count(*) FROM tasks AS root WHERE id = root AND lineage_amount <>
                 (SELECT sum(amount) FROM tasks WHERE tasks.root = root.id)",
                [],
                |row| row.get(0),
            )
            .unwrap();
        prop_assert_eq!(wrong, 0, "lineages have cost what their tasks have");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let reader = crate::ledger::Reader::new(world.folder.path().join("ledger.db"));
        let proof = runtime.block_on(reader.proof()).unwrap();
        prop_assert_eq!(&proof.accounts, &proof.replayed);
        prop_assert_eq!((proof.not_positive, &proof.mischarged), (0, &Vec::new()));
    }
}

fn one_receiver() -> Rules {
    Rules {
        mode: Mode::Addresses,
        receivers: Receivers::new(vec![Receiver {
            name: "provider".parse().unwrap(),
            share: 1,
            address: None,
        }])
        .unwrap(),
        min: Amount::from_halfords(5_000_000),
    }
}

#[test]
fn history_cannot_be_rewritten() {
    let mut world = World::new(one_receiver());
    let deposit = Operation::Deposit { user: 0, halfords: 5 };
    world.apply(deposit, true);
    let journal = &world.desk.as_ref().unwrap().journal;
    for statement in ["UPDATE transfers SET amount = 6", "DELETE FROM transfers"] {
        let err = journal.connection_for_tests().execute(statement, []).unwrap_err();
        assert!(err.to_string().contains("never"), "{err}");
    }
}
