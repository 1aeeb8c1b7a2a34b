CREATE TABLE users (
    name TEXT PRIMARY KEY,
    address TEXT NOT NULL UNIQUE,
    min_balance INTEGER NOT NULL,          -- halfords, as every amount here
    debt_limit INTEGER NOT NULL CHECK (debt_limit >= 0),
    policy TEXT NOT NULL,
    billing TEXT NOT NULL,
    cpu_time_us_per_grc INTEGER NOT NULL CHECK (cpu_time_us_per_grc > 0),
    accounting INTEGER NOT NULL,
    min_runway_s INTEGER NOT NULL,
    on_shortage TEXT NOT NULL,
    max_spend INTEGER,                     -- an hour; NULL: no limit
    alert_at INTEGER,                      -- NULL: min_balance
    alert_webhook TEXT,
    created_at_ms INTEGER NOT NULL
) STRICT;

-- Users whose balance has been above their threshold; the last four are of an alert, NULL while there is none.
CREATE TABLE alarms (
    user TEXT PRIMARY KEY REFERENCES users (name),
    threshold INTEGER,
    balance INTEGER,
    raised_at_ms INTEGER,
    is_told INTEGER
) STRICT;

CREATE TABLE functions (
    name TEXT PRIMARY KEY,
    user TEXT NOT NULL REFERENCES users (name),
    max_spend INTEGER,                     -- an hour; NULL: no limit but its user's
    is_deleted INTEGER NOT NULL            -- what it ran stays in the books
) STRICT;

CREATE TABLE tasks (
    id TEXT PRIMARY KEY,
    function TEXT NOT NULL REFERENCES functions (name),
    object_key TEXT NOT NULL,
    input_bytes INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    amount INTEGER NOT NULL,               -- of closed sessions
    is_over INTEGER NOT NULL,
    root TEXT NOT NULL,                    -- the first of its lineage; its own id where it was dropped itself
    depth INTEGER NOT NULL,                -- chained functions between the root and it
    lineage_cap INTEGER,                   -- of a root, NULL: none
    lineage_amount INTEGER NOT NULL        -- of a root: closed sessions of the whole lineage
) STRICT;
-- Ids are in the order of time: a quote reads a function's newest tasks.
CREATE INDEX tasks_of_function ON tasks (function, id);

CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    user TEXT NOT NULL REFERENCES users (name),
    node TEXT NOT NULL,
    task TEXT NOT NULL REFERENCES tasks (id),
    attempt INTEGER NOT NULL,
    task_cap INTEGER,                      -- NULL: none
    billing TEXT NOT NULL,
    cpu_time_us_per_grc INTEGER NOT NULL,
    is_billed INTEGER NOT NULL,
    opened_at_ms INTEGER NOT NULL,
    millicores INTEGER NOT NULL,
    total_us INTEGER NOT NULL,             -- the highest total reported
    revision INTEGER NOT NULL,
    throttle_at_us INTEGER NOT NULL,       -- the newest grant
    stop_at_us INTEGER NOT NULL,
    held_throttle_at_us INTEGER NOT NULL,  -- the largest totals that the node may still enforce
    held_stop_at_us INTEGER NOT NULL,
    closed_at_ms INTEGER,                  -- NULL while live, and so are the next two
    outcome TEXT,
    amount INTEGER
) STRICT;
CREATE INDEX sessions_live ON sessions (id) WHERE closed_at_ms IS NULL;
CREATE INDEX sessions_of_task ON sessions (task, attempt);
CREATE INDEX sessions_by_time ON sessions (opened_at_ms);
CREATE INDEX sessions_of_user ON sessions (user, opened_at_ms);

CREATE TABLE accounts (
    name TEXT PRIMARY KEY,
    balance INTEGER NOT NULL
) STRICT;

CREATE TABLE transfers (
    sequence INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    debit TEXT NOT NULL REFERENCES accounts (name),
    credit TEXT NOT NULL REFERENCES accounts (name),
    amount INTEGER NOT NULL CHECK (amount > 0),
    kind TEXT NOT NULL,
    reference TEXT NOT NULL,
    posted_at_ms INTEGER NOT NULL,
    reverses TEXT UNIQUE REFERENCES transfers (id),
    CHECK (debit <> credit)
) STRICT;
CREATE INDEX transfers_of_reference ON transfers (reference);
CREATE INDEX transfers_of_debit ON transfers (debit, sequence);
CREATE INDEX transfers_of_credit ON transfers (credit, sequence);

CREATE TRIGGER transfers_are_never_changed BEFORE UPDATE ON transfers
BEGIN SELECT RAISE (ABORT, 'a transfer is never changed'); END;
CREATE TRIGGER transfers_are_never_deleted BEFORE DELETE ON transfers
BEGIN SELECT RAISE (ABORT, 'a transfer is never deleted'); END;

-- What was settled of all charges, for the split between the receivers.
CREATE INDEX transfers_settled ON transfers (amount) WHERE kind = 'settlement';

-- The outbox: a payment is here before the wallet hears of it.
CREATE TABLE payments (
    id TEXT PRIMARY KEY,
    purpose TEXT NOT NULL,                 -- settlement, earnings, withdrawal
    user TEXT REFERENCES users (name),     -- whose charges or coins; NULL: earnings
    receiver TEXT,                         -- of a settlement or of earnings
    amount INTEGER NOT NULL CHECK (amount > 0),
    from_label TEXT,                       -- account of the wallet; NULL: it keeps none
    to_label TEXT,                         -- of a move
    to_address TEXT,                       -- of a send
    state TEXT NOT NULL,
    txid TEXT,
    fee INTEGER,
    failure TEXT,                          -- why the wallet refused it
    created_at_ms INTEGER NOT NULL,
    changed_at_ms INTEGER NOT NULL,
    CHECK ((to_address IS NULL) = (to_label IS NOT NULL)),
    CHECK (to_label IS NULL OR from_label IS NOT NULL)
) STRICT;
CREATE INDEX payments_unfinished ON payments (id) WHERE state NOT IN ('done', 'failed');
CREATE INDEX payments_of_user ON payments (user, created_at_ms) WHERE purpose = 'withdrawal';
CREATE INDEX payments_sent ON payments (changed_at_ms) WHERE state = 'done' AND to_address IS NOT NULL;
CREATE INDEX payments_moved ON payments (user, changed_at_ms) WHERE state = 'done' AND to_label IS NOT NULL;

-- The block after which the scan for deposits goes on.
CREATE TABLE scan (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    cursor TEXT NOT NULL
) STRICT;
