//! `gridfaas logs`

use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use proto::container::v1::ReadLogRequest;
use serde::Serialize;
use tonic::Code;
use units::FunctionName;

use crate::output::{Format, Output, Show, printable, write_out};
use crate::stack::{Stack, told};

/// Between two looks for a task that has not started.
const POLL: Duration = Duration::from_millis(250);

/// The newest attempt's; what the script wrote to standard output and standard error, merged.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Whose task
    function: FunctionName,
    /// The object's key below `input/`
    task: String,
    /// Go on until the task ends; wait for it if it has not started
    #[arg(long, short)]
    follow: bool,
}

#[derive(Serialize)]
struct Log {
    function: String,
    task: String,
    /// Bytes that are not UTF-8 are replaced.
    log: String,
}

impl Show for Log {
    fn text(&self) -> String {
        self.log.clone()
    }
}

pub(crate) async fn run(args: LogsArgs, stack: &Stack, output: Output) -> anyhow::Result<()> {
    let mut log = Vec::new();
    let mut take = |chunk: &[u8]| match output.format {
        // As the bytes come, so that following shows them at once.
        Format::Table => write_out(chunk),
        Format::Json | Format::Jsonl => {
            log.extend_from_slice(chunk);
            Ok(())
        }
    };
    loop {
        // Asked first: a task that ends between the looks has then left its log by the next round.
        let to_come = args.follow && is_to_come(&args, stack).await?;
        if read_from_node(&args, stack, &mut take).await? || read_from_bucket(&args, stack, &mut take).await?
        {
            break;
        }
        if !to_come {
            bail!(
                "no log of a task `{}` in function `{}` (hint: `gridfaas ps --function {}` lists its tasks)",
                printable(&args.task),
                args.function,
                args.function
            );
        }
        tokio::time::sleep(POLL).await;
    }
    match output.format {
        Format::Table => Ok(()),
        Format::Json | Format::Jsonl => output.show(&Log {
            function: args.function.into(),
            task: args.task,
            log: String::from_utf8_lossy(&log).into_owned(),
        }),
    }
}

/// Reads the log of a task that this node runs or ran; `false` if it never did.
async fn read_from_node(
    args: &LogsArgs,
    stack: &Stack,
    take: &mut impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<bool> {
    let request = ReadLogRequest {
        function: args.function.to_string(),
        object_key: args.task.clone(),
        follow: args.follow,
    };
    let mut chunks = match stack.containers().await?.read_log(request).await {
        Ok(reply) => reply.into_inner(),
        Err(status) if status.code() == Code::NotFound => return Ok(false),
        Err(status) => return Err(told(status)),
    };
    while let Some(reply) = chunks.message().await.map_err(told)? {
        take(&reply.chunk)?;
    }
    Ok(true)
}

/// Reads the log that a task left in its bucket, where another node ran it, or this one forgot it; `false` if none did.
async fn read_from_bucket(
    args: &LogsArgs,
    stack: &Stack,
    take: &mut impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<bool> {
    let store = stack.store()?;
    // A task file that is itself a `.txt` does not get the ending twice.
    let ending = if args.task.ends_with(".txt") { "" } else { ".txt" };
    let key = format!("logs/out-task-{}{ending}", args.task);
    for key in [format!("{key}.error"), key] {
        if let Some(mut body) = store.get(&args.function, &key).await? {
            while let Some(chunk) = body
                .try_next()
                .await
                .context("the log could not be read to its end")?
            {
                take(&chunk)?;
            }
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the task waits or is about to start.
async fn is_to_come(args: &LogsArgs, stack: &Stack) -> anyhow::Result<bool> {
    let store = stack.store()?;
    let (function, task) = (&args.function, &args.task);
    Ok(store.exists(function, &format!("input/{task}")).await?
        || store.exists(function, &format!("processing/{task}")).await?)
}
