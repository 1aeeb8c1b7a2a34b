//! `gridfaas task cancel`

use std::time::Duration;

use anyhow::bail;
use proto::container::v1::CancelTaskRequest;
use serde::Serialize;
use serde_json::json;
use tonic::Code;
use units::FunctionName;

use super::TasksArgs;
use crate::bucket::Place;
use crate::output::{Output, Show, columns, printable};
use crate::stack::{Stack, told};

/// A claimed task is on its way to its first instruction, or from its last to the bucket.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Serialize)]
struct Cancelled {
    function: String,
    tasks: Vec<String>,
}

impl Show for Cancelled {
    fn text(&self) -> String {
        columns(["CANCELLED"], self.tasks.iter().map(|task| [printable(task)]))
    }
}

pub(super) async fn run(args: TasksArgs, stack: &Stack, output: Output) -> anyhow::Result<()> {
    for task in &args.tasks {
        cancel(&args.function, task, stack).await?;
    }
    output.show(&Cancelled {
        function: args.function.into(),
        tasks: args.tasks,
    })
}

/// A task that waits goes to `failed/`, from where it can be retried, as the node puts one there that ran.
async fn cancel(function: &FunctionName, task: &str, stack: &Stack) -> anyhow::Result<()> {
    let store = stack.store()?;
    let (waits, parked) = (Place::Input.key(task), Place::Failed.key(task));
    let mut was_waiting = false;
    for _ in 0..TRIES {
        match store.place(function, task).await? {
            Some(Place::Input) => {
                let notice = json!({"task": task, "reason": "the task was cancelled before it started"});
                let notice = format!("{notice:#}\n").into_bytes();
                store.copy(function, &waits, &parked).await?;
                store
                    .put(function, &format!("{parked}.reason.json"), notice.into())
                    .await?;
                store.delete(function, &waits).await?;
                // It may have been claimed meanwhile: the next look tells.
                was_waiting = true;
            }
            Some(Place::Processing) => {
                let request = CancelTaskRequest {
                    function: function.to_string(),
                    object_key: task.to_owned(),
                };
                match stack.containers().await?.cancel_task(request).await {
                    Ok(_) => return Ok(()),
                    Err(status) if status.code() == Code::NotFound => tokio::time::sleep(PAUSE).await,
                    Err(status) => return Err(told(status)),
                }
            }
            // What is left of an earlier run of the same name does not count.
            _ if was_waiting => return Ok(()),
            Some(Place::Output | Place::Failed) => bail!("`{}` is over already", printable(task)),
            None => bail!(
                "no task `{}` in function `{function}` (hint: `gridfaas ps --function {function}` lists its tasks)",
                printable(task)
            ),
        }
    }
    bail!(
        "`{}` does not run on the node that was asked (hint: ask the one that runs it, with --container-url)",
        printable(task)
    )
}
