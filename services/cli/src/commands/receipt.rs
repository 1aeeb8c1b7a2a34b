//! `gridfaas receipt`

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use receipt::PublicKey;
use serde::Serialize;
use serde_json::Value;
use units::CpuTime;

use crate::output::{Output, Show, pairs, printable};

#[derive(Debug, Subcommand)]
pub(crate) enum ReceiptCommand {
    /// Tell whether a receipt is true, offline: exit status 0 if it is, 1 if not
    ///
    /// True is the file as the node wrote it, byte by byte.
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// A task's receipt.json
    file: PathBuf,
    /// The public key of the node that ran the task, as `gridfaas node key` prints it
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

#[derive(Serialize)]
struct Verified {
    valid: bool,
    /// Why not; absent if it is valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// The key it was verified with.
    key_id: String,
    /// What it says; absent if it is not valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<Value>,
}

impl Show for Verified {
    fn text(&self) -> String {
        let Some(receipt) = &self.receipt else {
            return format!("FALSE: {}", self.problem.as_deref().unwrap_or_default());
        };
        let member = |name: &str| match &receipt[name] {
            Value::String(text) => printable(text),
            other => other.to_string(),
        };
        let cpu_time = CpuTime::from_micros(receipt["billed_us"].as_u64().unwrap_or_default());
        let figures = pairs([
            ("function", member("function")),
            ("task", member("task")),
            ("task id", member("task_id")),
            ("attempts", member("attempt")),
            ("CPU time", cpu_time.to_string()),
            ("charge", format!("{} GRC", member("task_amount_grc"))),
            ("node", member("node")),
        ]);
        format!("true: signed by key {}\n{figures}", self.key_id)
    }
}

pub(crate) fn run(command: ReceiptCommand, output: Output) -> anyhow::Result<ExitCode> {
    let ReceiptCommand::Verify(args) = command;
    let read = |path: &Path| fs::read(path).with_context(|| format!("failed to read `{}`", path.display()));
    let pem = String::from_utf8_lossy(&read(&args.key)?).into_owned();
    let key = PublicKey::from_pem(&pem).with_context(|| format!("`{}` holds no key", args.key.display()))?;
    let found = receipt::verify(&read(&args.file)?, &key);
    let valid = found.is_ok();
    output.show(&Verified {
        valid,
        problem: found.as_ref().err().map(ToString::to_string),
        key_id: key.id(),
        receipt: found.ok(),
    })?;
    Ok(if valid {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
