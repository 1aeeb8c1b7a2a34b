//! `gridfaas ps`

use clap::Args;
use proto::container::v1::ListTasksRequest;
use proto::credit::v1::ListFunctionsRequest;
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

/// How many objects wait in each function's input: what waits is in the bucket, and the node need not know of it yet.
async fn waiting(function: Option<FunctionName>, stack: &Stack) -> anyhow::Result<Vec<Waiting>> {
    let store = stack.store()?;
    let functions = match function {
        Some(function) => vec![function],
        None => {
            let request = ListFunctionsRequest::default();
            let reply = stack
                .accounts()
                .await?
                .list_functions(request)
                .await
                .map_err(told)?;
            let names = reply
                .into_inner()
                .functions
                .into_iter()
                .map(|function| function.name.parse());
            names.collect::<Result<_, _>>()?
        }
    };
    let mut waiting = Vec::new();
    for function in functions {
        waiting.push(Waiting {
            tasks: store.list(&function, "input/").await?.len(),
            problem: store.problem(&function).await?,
            function: function.into(),
        });
    }
    Ok(waiting)
}
