//! A ledger with years of history, and how long it takes to ask something of it.

use std::path::Path;
use std::time::Instant;

use credit_manager::ledger::{Journal, Reader};
use credit_manager::writer::Desk;
use rusqlite::{Connection, params};

const USERS: u64 = 1_000;
/// Transfers of one session: its deposit and nine charges of six core-seconds each.
const PER_SESSION: u64 = 10;

/// Fills a new ledger through its own schema, in one transaction.
pub(crate) fn fill(folder: &Path, transfers: u64) {
    let path = folder.join("ledger.db");
    drop(Journal::open(&path).unwrap());
    let ledger = Connection::open(&path).unwrap();
    let sessions = transfers / PER_SESSION;
    let begun = Instant::now();
    // Which user, when, and by what name the session of a number is.
    let numbered = format!(
        "WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < ?1),
         made AS (SELECT n, n % {USERS} AS user, 1700000000000 + n * 60000 AS at,
                  printf('%08x-0000-7000-8000-%012x', n, n) AS id FROM numbers)"
    );
    ledger
        .execute_batch("PRAGMA synchronous = OFF; PRAGMA foreign_keys = ON; BEGIN")
        .unwrap();
    let insert = |numbers: u64, statement: &str| {
        let statement = format!("{numbered} {statement}");
        ledger
            .execute(&statement, params![numbers.cast_signed()])
            .unwrap();
        println!("{:7.1} s", begun.elapsed().as_secs_f64());
    };
    insert(
        USERS,
        "INSERT INTO users (name, address, min_balance, debt_limit, policy, billing, cpu_time_us_per_grc, accounting,
                            min_runway_s, on_shortage, created_at_ms)
         SELECT 'user-' || n, replace(printf('m%033d', n + 1), '0', 'z'), 0, 0, 'greedy', 'used', 600000000, 1, 0, 'newest-first', at FROM made",
    );
    insert(
        USERS,
        "INSERT INTO functions (name, user) SELECT 'function-' || n, 'user-' || n FROM made",
    );
    insert(
        sessions,
        "INSERT INTO tasks (id, root, function, object_key, input_bytes, attempts, failures, amount, is_over,
                            depth, lineage_amount)
         SELECT id, id, 'function-' || user, n || '.txt', 1000, 1, 0, 9000000, 1, 0, 9000000 FROM made",
    );
    insert(
        sessions,
        "INSERT INTO sessions (id, user, node, task, attempt, billing, cpu_time_us_per_grc, is_billed, opened_at_ms,
                               millicores, total_us, revision, throttle_at_us, stop_at_us, held_throttle_at_us,
                               held_stop_at_us, closed_at_ms, outcome, amount)
         SELECT id, 'user-' || user, 'node-1', id, 1, 'used', 600000000, 1, at, 1000, 54000000, 1, 54000000, 54000000,
                54000000, 54000000, at + 54000, 'succeeded', 9000000 FROM made",
    );
    ledger
        .execute(
            "INSERT INTO accounts (name, balance)
             SELECT 'due:' || user, count(*) * 9000000 FROM sessions GROUP BY user
             UNION ALL SELECT 'user:' || name, 0 FROM users
             UNION ALL SELECT 'chain', -9000000 * count(*) FROM sessions",
            [],
        )
        .unwrap();
    insert(
        sessions,
        "INSERT INTO transfers (id, debit, credit, amount, kind, reference, posted_at_ms)
         SELECT CASE kind WHEN 'deposit' THEN 'deposit:' || id || ':0' ELSE 'charge:' || id || ':' || k END,
                CASE kind WHEN 'deposit' THEN 'chain' ELSE 'user:user-' || user END,
                CASE kind WHEN 'deposit' THEN 'user:user-' || user ELSE 'due:user-' || user END,
                CASE kind WHEN 'deposit' THEN 9000000 ELSE 1000000 END,
                kind, CASE kind WHEN 'deposit' THEN 'tx' || n ELSE id END, at + k * 6000
         FROM made JOIN (WITH RECURSIVE steps (k) AS (SELECT 0 UNION ALL SELECT k + 1 FROM steps WHERE k < 9)
                         SELECT k, CASE k WHEN 0 THEN 'deposit' ELSE 'charge' END AS kind FROM steps)
         ORDER BY n, k",
    );
    ledger.execute_batch("COMMIT; ANALYZE").unwrap();
    println!("{transfers} transfers of {sessions} sessions");
}

/// Says what was asked and how long the answer took.
macro_rules! timed {
    ($what:expr, $answer:expr) => {{
        let begun = Instant::now();
        let answer = $answer;
        println!("{:10.1} ms  {}", begun.elapsed().as_secs_f64() * 1000.0, $what);
        answer
    }};
}

pub(crate) async fn read(folder: &Path) {
    let path = folder.join("ledger.db");
    let desk = timed!(
        "start: open and load",
        Desk::open(Journal::open(&path).unwrap()).unwrap()
    );
    let users = timed!("all users with their balances", desk.bank.views());
    assert_eq!(users.len(), usize::try_from(USERS).unwrap());
    let (reader, user) = (Reader::new(path), users[7].user.name.clone());
    let newest = timed!(
        "the newest 100 transfers",
        reader.transfers(None, 100).await.unwrap()
    );
    assert_eq!(newest.len(), 100);
    let of_user = timed!(
        "the newest 100 of a user",
        reader.transfers(Some(user.clone()), 100).await.unwrap()
    );
    assert_eq!(of_user.len(), 100);
    timed!(
        "the newest 10000 of a user",
        reader.transfers(Some(user.clone()), 10_000).await.unwrap()
    );
    let newest = timed!(
        "the newest 100 sessions",
        reader.sessions(None, None, 100).await.unwrap()
    );
    let function = newest[0].function.clone();
    timed!(
        "the newest 100 sessions of a user",
        reader.sessions(Some(user), None, 100).await.unwrap()
    );
    timed!(
        "the newest 100 sessions of a function",
        reader.sessions(None, Some(function), 100).await.unwrap()
    );
    timed!("all deposits in force", reader.credited_deposits().await.unwrap());
    let proof = timed!("replay of everything", reader.proof().await.unwrap());
    assert_eq!(proof.accounts, proof.replayed);
    assert!(proof.mischarged.is_empty(), "{:?}", proof.mischarged.first());
}
