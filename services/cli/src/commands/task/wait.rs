//! `gridfaas task wait`

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Serialize;
use serde_json::Value;
use units::FunctionName;

use super::TasksArgs;
use crate::bucket::{ObjectStore, Place};
use crate::output::{Output, Show, columns, printable};
use crate::stack::Stack;

/// Between two looks into the bucket.
const POLL: Duration = Duration::from_millis(500);

#[derive(Serialize)]
struct Over {
    task: String,
    /// `output` or `failed`.
    place: Place,
    /// Why it was given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Serialize)]
struct AllOver {
    function: String,
    tasks: Vec<Over>,
}

impl Show for AllOver {
    fn text(&self) -> String {
        let rows = self.tasks.iter().map(|over| {
            let result = if over.place == Place::Output {
                "succeeded"
            } else {
                "failed"
            };
            [
                printable(&over.task),
                result.to_owned(),
                printable(over.reason.as_deref().unwrap_or_default()),
            ]
        });
        columns(["TASK", "RESULT", "REASON"], rows)
    }
}

/// By the bucket alone, so it does not matter which node runs them.
pub(super) async fn run(args: TasksArgs, stack: &Stack, output: Output) -> anyhow::Result<ExitCode> {
    let store = stack.store()?;
    let mut tasks = Vec::new();
    for task in args.tasks {
        let place = until_over(&store, &args.function, &task).await?;
        let reason = match place {
            Place::Failed => reason(&store, &args.function, &task).await?,
            _ => None,
        };
        tasks.push(Over { task, place, reason });
    }
    let all_succeeded = tasks.iter().all(|over| over.place == Place::Output);
    output.show(&AllOver {
        function: args.function.into(),
        tasks,
    })?;
    Ok(if all_succeeded {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn until_over(store: &ObjectStore, function: &FunctionName, task: &str) -> anyhow::Result<Place> {
    loop {
        match store.place(function, task).await? {
            Some(place @ (Place::Output | Place::Failed)) => return Ok(place),
            Some(Place::Input | Place::Processing) => tokio::time::sleep(POLL).await,
            None => bail!(
                "no task `{}` in function `{function}` (hint: `gridfaas ps --function {function}` lists its tasks)",
                printable(task)
            ),
        }
    }
}

async fn reason(store: &ObjectStore, function: &FunctionName, task: &str) -> anyhow::Result<Option<String>> {
    let Some(body) = store.get(function, &format!("failed/{task}.reason.json")).await? else {
        return Ok(None);
    };
    let body = body.collect().await.context("failed to read why it failed")?;
    let notice: Value = serde_json::from_slice(&body.into_bytes()).unwrap_or_default();
    Ok(notice["reason"].as_str().map(ToOwned::to_owned))
}
