//! Between the journal's columns and the types of this crate.

use std::error::Error;
use std::str::FromStr;
use std::time::Duration;

use rusqlite::Row;
use rusqlite::types::Type;
use units::{Amount, CpuPrice, CpuTime, Grant, MilliCores, Timestamp};

use super::reader::SessionRecord;
use super::{Kind, Transfer, TransferId};
use crate::alert::{Alarm, Alert};
use crate::grant::Holding;
use crate::lineage::Lineage;
use crate::pace::Pace;
use crate::quote::Sample;
use crate::rating::Meter;
use crate::session::{AttemptCost, Closed, Outcome, Session, Task};
use crate::settlement::outbox::{Payout, PayoutState, Purpose};
use crate::settlement::wallet::{Payment, Receipt, Route};
use crate::users::{Function, Settings, User};

/// A column's value is not what this crate wrote there.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a known word")]
struct UnknownWord(String);

fn conversion(err: impl Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(err))
}

pub(super) fn text<T>(row: &Row<'_>, column: &str) -> rusqlite::Result<T>
where
    T: FromStr<Err: Error + Send + Sync + 'static>,
{
    row.get_ref(column)?.as_str()?.parse().map_err(conversion)
}

pub(super) fn optional_text<T>(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<T>>
where
    T: FromStr<Err: Error + Send + Sync + 'static>,
{
    let found: Option<String> = row.get(column)?;
    found.map(|text| text.parse().map_err(conversion)).transpose()
}

pub(super) fn amount(row: &Row<'_>, column: &str) -> rusqlite::Result<Amount> {
    row.get(column).map(Amount::from_halfords)
}

pub(super) fn optional_amount(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<Amount>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(Amount::from_halfords))
}

pub(super) fn time(row: &Row<'_>, column: &str) -> rusqlite::Result<Timestamp> {
    row.get(column).map(Timestamp::from_unix_ms)
}

/// A number that is never negative.
pub(super) fn unsigned(row: &Row<'_>, column: &str) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column)?.try_into().map_err(conversion)
}

pub(super) fn cpu_time(row: &Row<'_>, column: &str) -> rusqlite::Result<CpuTime> {
    unsigned(row, column).map(CpuTime::from_micros)
}

pub(super) fn capacity(row: &Row<'_>, column: &str) -> rusqlite::Result<MilliCores> {
    row.get(column).map(MilliCores::from_millicores)
}

pub(super) fn price(row: &Row<'_>, column: &str) -> rusqlite::Result<CpuPrice> {
    CpuPrice::from_cpu_time_per_grc(cpu_time(row, column)?).map_err(conversion)
}

pub(super) fn grant(row: &Row<'_>, throttle_at: &str, stop_at: &str) -> rusqlite::Result<Grant> {
    Ok(Grant {
        throttle_at: cpu_time(row, throttle_at)?,
        stop_at: cpu_time(row, stop_at)?,
    })
}

pub(super) fn outcome(word: &str) -> rusqlite::Result<Outcome> {
    let known = Outcome::ALL.into_iter().find(|outcome| outcome.as_str() == word);
    known.ok_or_else(|| conversion(UnknownWord(word.to_owned())))
}

pub(super) fn user(row: &Row<'_>) -> rusqlite::Result<User> {
    Ok(User {
        name: text(row, "name")?,
        address: text(row, "address")?,
        settings: Settings {
            min_balance: amount(row, "min_balance")?,
            debt_limit: amount(row, "debt_limit")?,
            policy: text(row, "policy")?,
            billing: text(row, "billing")?,
            price: price(row, "cpu_time_us_per_grc")?,
            accounting: row.get("accounting")?,
            min_runway: Duration::from_secs(unsigned(row, "min_runway_s")?),
            on_shortage: text(row, "on_shortage")?,
            max_spend: optional_amount(row, "max_spend")?,
            alert_at: optional_amount(row, "alert_at")?,
            alert_webhook: optional_text(row, "alert_webhook")?,
        },
        created_at: time(row, "created_at_ms")?,
    })
}

pub(super) fn alarm(row: &Row<'_>) -> rusqlite::Result<Alarm> {
    let Some(raised_at) = row.get::<_, Option<i64>>("raised_at_ms")? else {
        return Ok(Alarm::Armed);
    };
    Ok(Alarm::Raised(Alert {
        threshold: amount(row, "threshold")?,
        balance: amount(row, "balance")?,
        raised_at: Timestamp::from_unix_ms(raised_at),
        is_told: row.get("is_told")?,
    }))
}

pub(super) fn function(row: &Row<'_>) -> rusqlite::Result<Function> {
    Ok(Function {
        name: text(row, "name")?,
        user: text(row, "user")?,
        max_spend: optional_amount(row, "max_spend")?,
        is_deleted: row.get("is_deleted")?,
    })
}

pub(super) fn task(row: &Row<'_>) -> rusqlite::Result<Task> {
    Ok(Task {
        id: text(row, "id")?,
        function: text(row, "function")?,
        key: row.get("object_key")?,
        input_bytes: unsigned(row, "input_bytes")?,
        attempts: row.get("attempts")?,
        failures: row.get("failures")?,
        amount: amount(row, "amount")?,
        is_over: row.get("is_over")?,
        root: text(row, "root")?,
        depth: row.get("depth")?,
    })
}

pub(super) fn lineage(row: &Row<'_>) -> rusqlite::Result<Lineage> {
    Ok(Lineage {
        root: text(row, "id")?,
        cap: optional_amount(row, "lineage_cap")?,
        closed: amount(row, "lineage_amount")?,
    })
}

/// A live session; its task and what was posted for it are read apart.
pub(super) fn session(row: &Row<'_>, task: Task, postings: Vec<Amount>) -> rusqlite::Result<Session> {
    let price = price(row, "cpu_time_us_per_grc")?;
    let is_billed: bool = row.get("is_billed")?;
    let newest = grant(row, "throttle_at_us", "stop_at_us")?;
    let held = grant(row, "held_throttle_at_us", "held_stop_at_us")?;
    Ok(Session {
        id: text(row, "id")?,
        user: text(row, "user")?,
        node: text(row, "node")?,
        task,
        task_cap: optional_amount(row, "task_cap")?,
        billing: text(row, "billing")?,
        price,
        opened_at: time(row, "opened_at_ms")?,
        capacity: capacity(row, "millicores")?,
        meter: Meter::restored(is_billed.then_some(price), cpu_time(row, "total_us")?, postings),
        holding: if is_billed {
            Holding::restored(unsigned(row, "revision")?, newest, held)
        } else {
            Holding::new(Grant::UNLIMITED)
        },
        pace: Pace::default(),
    })
}

pub(super) fn closed(row: &Row<'_>) -> rusqlite::Result<Closed> {
    Ok(Closed {
        id: text(row, "id")?,
        user: text(row, "user")?,
        node: text(row, "node")?,
        task: text(row, "task")?,
        total: cpu_time(row, "total_us")?,
        outcome: outcome(&row.get::<_, String>("outcome")?)?,
        amount: amount(row, "amount")?,
    })
}

/// An ended attempt; the ids of its transfers are read apart.
pub(super) fn attempt_cost(row: &Row<'_>) -> rusqlite::Result<AttemptCost> {
    Ok(AttemptCost {
        session: text(row, "id")?,
        attempt: row.get("attempt")?,
        outcome: outcome(&row.get::<_, String>("outcome")?)?,
        total: cpu_time(row, "total_us")?,
        amount: amount(row, "amount")?,
        refunded: amount(row, "refunded")?,
        transfers: Vec::new(),
        transfers_count: row.get("transfers")?,
    })
}

pub(super) fn record(row: &Row<'_>) -> rusqlite::Result<SessionRecord> {
    let price = price(row, "cpu_time_us_per_grc")?;
    let total = cpu_time(row, "total_us")?;
    let is_billed: bool = row.get("is_billed")?;
    let so_far = Some(total)
        .filter(|_| is_billed)
        .and_then(|total| price.cost(total));
    let closed_at: Option<i64> = row.get("closed_at_ms")?;
    let closed = closed_at.map(|at| {
        Ok::<_, rusqlite::Error>((
            Timestamp::from_unix_ms(at),
            outcome(&row.get::<_, String>("outcome")?)?,
        ))
    });
    Ok(SessionRecord {
        id: text(row, "id")?,
        task: text(row, "task")?,
        user: text(row, "user")?,
        function: text(row, "function")?,
        key: row.get("object_key")?,
        node: text(row, "node")?,
        attempt: row.get("attempt")?,
        total,
        amount: optional_amount(row, "amount")?.or(so_far).unwrap_or_default(),
        price,
        opened_at: time(row, "opened_at_ms")?,
        closed: closed.transpose()?,
    })
}

pub(super) fn sample(row: &Row<'_>) -> rusqlite::Result<Sample> {
    Ok(Sample {
        input_bytes: unsigned(row, "input_bytes")?,
        total: cpu_time(row, "total_us")?,
    })
}

/// A row of [`PAYOUTS`](super::journal::PAYOUTS).
pub(super) fn payout(row: &Row<'_>) -> rusqlite::Result<Payout> {
    let from: Option<String> = row.get("from_label")?;
    let route = match optional_text(row, "to_address")? {
        Some(to) => Route::Send { from, to },
        None => Route::Move {
            from: from.unwrap_or_default(),
            to: row.get("to_label")?,
        },
    };
    let purpose: String = row.get("purpose")?;
    let (user, receiver) = (optional_text(row, "user")?, optional_text(row, "receiver")?);
    let state: String = row.get("state")?;
    let receipt = optional_amount(row, "fee")?.map(|fee| {
        let txid = row.get("txid")?;
        Ok::<_, rusqlite::Error>(Receipt { txid, fee })
    });
    Ok(Payout {
        payment: Payment {
            id: text(row, "id")?,
            amount: amount(row, "amount")?,
            route,
        },
        purpose: Purpose::restored(&purpose, user, receiver)
            .ok_or_else(|| conversion(UnknownWord(purpose)))?,
        state: PayoutState::restored(&state, receipt.transpose()?, row.get("failure")?)
            .ok_or_else(|| conversion(UnknownWord(state)))?,
        is_booked: row.get("is_booked")?,
        created_at: time(row, "created_at_ms")?,
        changed_at: time(row, "changed_at_ms")?,
    })
}

pub(super) fn transfer(row: &Row<'_>) -> rusqlite::Result<Transfer> {
    let kind: String = row.get("kind")?;
    let known = Kind::ALL.into_iter().find(|known| known.as_str() == kind);
    Ok(Transfer {
        id: TransferId::restored(row.get("id")?),
        debit: text(row, "debit")?,
        credit: text(row, "credit")?,
        amount: amount(row, "amount")?,
        kind: known.ok_or_else(|| conversion(UnknownWord(kind)))?,
        reference: row.get("reference")?,
        posted_at: time(row, "posted_at_ms")?,
        reverses: row
            .get::<_, Option<String>>("reverses")?
            .map(TransferId::restored),
    })
}

/// Micros as SQLite holds them. Totals are checked against this limit when they are reported; the only larger value is
/// that of an unlimited grant.
pub(super) fn micros(time: CpuTime) -> i64 {
    i64::try_from(time.micros()).unwrap_or(i64::MAX)
}
