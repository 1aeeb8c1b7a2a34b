//! `gridfaas ps`

use clap::Args;
use proto::container::v1::ListTasksRequest;
use schema::Task;
use service_kit::{Clock as _, SystemClock};
use units::FunctionName;

use crate::output::Output;
use crate::stack::{Stack, told};
use crate::view::{Tasks, Waiting};

#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Only this function's tasks
    #[arg(long, short)]
    function: Option<FunctionName>,
    /// Only tasks that are not over
    #[arg(long, short)]
    live: bool,
    /// How many tasks at most, the newest first
    #[arg(long, short = 'n', value_name = "N", default_value = "100", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

pub(crate) async fn run(args: PsArgs, stack: &Stack, output: Output) -> anyhow::Result<()> {
    let request = ListTasksRequest {
        function: args
            .function
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        limit: args.limit,
        live_only: args.live,
    };
    let reply = stack
        .containers()
        .await?
        .list_tasks(request)
        .await
        .map_err(told)?;
    output.show(&Tasks {
        waiting: waiting(args.function, stack).await?,
        tasks: reply.into_inner().tasks.into_iter().map(Task::from).collect(),
        now: SystemClock.now(),
    })
}

/// What waits, as the node counts it, which also knows why; so that it is said when the store does not answer.
async fn waiting(function: Option<FunctionName>, stack: &Stack) -> anyhow::Result<Vec<Waiting>> {
    let queues = stack.queues(function).await?;
    Ok(queues.into_iter().map(Waiting::from).collect())
}
