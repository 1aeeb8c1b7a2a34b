//! `gridfaas statement`

use anyhow::{Context as _, ensure};
use clap::Args;
use proto::credit::v1::{GetStatementRequest, ReadTransfersRequest};
use schema::{Entry, Transfer};
use serde::Serialize;
use units::{Amount, UserName};

use crate::commands::ledger;
use crate::output::{Output, Show, columns, printable};
use crate::stack::{Stack, told};
use crate::time::Moment;

/// Every entry of a user's account over a period, between its opening and its closing balance. What is reported and
/// not yet posted is not in it.
#[derive(Debug, Args)]
pub(crate) struct StatementArgs {
    /// Whose account
    user: UserName,
    /// From this time on, such as 2026-01-31 or 2026-01-31T12:00:00Z [default: from the beginning]
    #[arg(long, value_name = "TIME")]
    from: Option<Moment>,
    /// Before this time [default: to the end]
    #[arg(long, value_name = "TIME")]
    to: Option<Moment>,
}

#[derive(Serialize)]
struct Statement {
    user: UserName,
    opening: Amount,
    entries: Vec<Entry>,
    closing: Amount,
}

impl Show for Statement {
    fn text(&self) -> String {
        let line = |what: &str, balance: Amount| {
            [
                String::new(),
                what.to_owned(),
                String::new(),
                String::new(),
                balance.to_string(),
            ]
        };
        let entries = self.entries.iter().map(|entry| {
            [
                entry.posted_at.to_string(),
                entry.kind.clone(),
                printable(&entry.reference),
                entry.amount.to_string(),
                entry.balance.to_string(),
            ]
        });
        let rows = std::iter::once(line("opening balance", self.opening))
            .chain(entries)
            .chain([line("closing balance", self.closing)]);
        columns(["POSTED AT", "KIND", "REFERENCE", "AMOUNT", "BALANCE"], rows)
    }
}

pub(crate) async fn run(args: StatementArgs, stack: &Stack, output: Output) -> anyhow::Result<()> {
    let (from_ms, until_ms) = (
        args.from.map_or(0, Moment::unix_ms),
        args.to.map_or(0, Moment::unix_ms),
    );
    let request = GetStatementRequest {
        user: args.user.to_string(),
        from_ms,
        until_ms,
    };
    let sums = stack.ledger().await?.get_statement(request).await;
    let sums = sums.map_err(told)?.into_inner();
    let opening = Amount::from_halfords(sums.opening_halfords);
    let closing = Amount::from_halfords(sums.closing_halfords);
    let request = ReadTransfersRequest {
        user: args.user.to_string(),
        from_ms,
        until_ms,
        through_sequence: sums.through_sequence,
        ..ReadTransfersRequest::default()
    };
    let (mut balance, mut entries) = (opening, Vec::new());
    // An empty ledger has no last transfer, and 0 would ask for those that came since.
    if sums.through_sequence > 0 {
        ledger::read(stack, request, |transfer| {
            let transfer = Transfer::from(transfer);
            let Some(amount) = Entry::amount_of(&transfer, args.user.as_str()) else {
                return Ok(());
            };
            balance = balance
                .checked_add(amount)
                .context("the balance is out of range")?;
            entries.push(Entry::new(transfer, amount, balance));
            Ok(())
        })
        .await?;
    }
    ensure!(
        balance == closing,
        "the entries add up to {balance} GRC and not to {closing} GRC (hint: see `gridfaas audit`)"
    );
    output.show(&Statement {
        user: args.user,
        opening,
        entries,
        closing,
    })
}
