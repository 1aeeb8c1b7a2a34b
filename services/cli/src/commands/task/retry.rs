//! `gridfaas task retry`

use anyhow::bail;
use clap::Args;
use proto::container::v1::NotifyRequest;
use serde::Serialize;
use units::FunctionName;

use crate::bucket::{ObjectStore, Place};
use crate::output::{Output, Show, columns, printable};
use crate::stack::Stack;

#[derive(Debug, Args)]
pub(crate) struct RetryArgs {
    /// Whose tasks
    function: FunctionName,
    /// The objects' keys below `failed/`
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "TASK")]
    tasks: Vec<String>,
    /// Every task that was given up
    #[arg(long)]
    all: bool,
}

#[derive(Serialize)]
struct Retried {
    function: String,
    tasks: Vec<String>,
}

impl Show for Retried {
    fn text(&self) -> String {
        columns(["TASK"], self.tasks.iter().map(|task| [printable(task)]))
    }
}

pub(super) async fn run(args: RetryArgs, stack: &Stack, output: Output) -> anyhow::Result<()> {
    let store = stack.store()?;
    let tasks = if args.all {
        given_up(&store, &args.function).await?
    } else {
        args.tasks
    };
    for task in &tasks {
        retry(&store, &args.function, task).await?;
    }
    let request = NotifyRequest {
        function: args.function.to_string(),
    };
    // The node lists the bucket by itself too, so it is only sooner with this, and works without.
    if let Ok(mut containers) = stack.containers().await {
        let _found_later = containers.notify(request).await;
    }
    output.show(&Retried {
        function: args.function.into(),
        tasks,
    })
}

async fn given_up(store: &ObjectStore, function: &FunctionName) -> anyhow::Result<Vec<String>> {
    let objects = store.list(function, "failed/").await?;
    let keys: Vec<&str> = objects.iter().map(|object| object.key.as_str()).collect();
    let is_reason = |key: &str| {
        key.strip_suffix(".reason.json")
            .is_some_and(|task| keys.contains(&task))
    };
    let tasks = keys.iter().filter(|key| !is_reason(key));
    Ok(tasks
        .filter_map(|key| key.strip_prefix("failed/"))
        .map(ToOwned::to_owned)
        .collect())
}

/// By way of `retry/`, which no node looks into: a task that fails again at once comes to `failed/` after what was
/// there is gone. Whatever cuts this off, the object is somewhere, and the next try goes on from there.
async fn retry(store: &ObjectStore, function: &FunctionName, task: &str) -> anyhow::Result<()> {
    let (failed, between) = (Place::Failed.key(task), format!("retry/{task}"));
    if store.exists(function, &failed).await? {
        store.copy(function, &failed, &between).await?;
        store.delete(function, &format!("{failed}.reason.json")).await?;
        store.delete(function, &failed).await?;
    } else if !store.exists(function, &between).await? {
        bail!(
            "no task `{}` of function `{function}` was given up (hint: `gridfaas ps --function {function}` lists its tasks)",
            printable(task)
        );
    }
    store.copy(function, &between, &Place::Input.key(task)).await?;
    store.delete(function, &between).await
}
