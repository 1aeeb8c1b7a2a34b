//! `gridfaas task`: what can be done with tasks by their names.

mod cancel;
mod describe;
mod retry;
mod wait;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use proto::container::v1::ListTasksRequest;
use schema::Task;
use units::FunctionName;

use crate::commands::{logs, ps, results, submit};
use crate::output::Output;
use crate::stack::{Stack, told};

/// A node forgets old tasks in its list beyond this, so no more can be waited for at once.
const TASKS_LISTED_MAX: u32 = 10_000;

#[derive(Debug, Subcommand)]
pub(crate) enum TaskCommand {
    /// Drop files into a function's input, as `gridfaas submit` does
    Submit(submit::SubmitArgs),
    /// List tasks, as `gridfaas ps` does
    #[command(visible_alias = "ls")]
    List(ps::PsArgs),
    /// Tell where a task is, and what each of its attempts came to
    Describe(TaskArgs),
    /// Print what a task wrote, as `gridfaas logs` does
    Logs(logs::LogsArgs),
    /// List or fetch what a task left, as `gridfaas results` does
    Results(results::ResultsArgs),
    /// Return when every one is over; exit status 1 if one failed
    Wait(TasksArgs),
    /// Stop a task for good, or keep it from starting; what it used is charged
    Cancel(TasksArgs),
    /// Submit tasks again that were given up, as they were
    Retry(retry::RetryArgs),
}

#[derive(Debug, Args)]
pub(crate) struct TaskArgs {
    /// Whose task
    function: FunctionName,
    /// The object's key below `input/`
    task: String,
}

#[derive(Debug, Args)]
pub(crate) struct TasksArgs {
    /// Whose tasks
    function: FunctionName,
    /// The objects' keys below `input/`
    #[arg(required = true, value_name = "TASK")]
    tasks: Vec<String>,
}

pub(crate) async fn run(command: TaskCommand, stack: &Stack, output: Output) -> anyhow::Result<ExitCode> {
    let done = |()| ExitCode::SUCCESS;
    match command {
        TaskCommand::Submit(args) => submit::run(args, stack, output).await,
        TaskCommand::List(args) => ps::run(args, stack, output).await.map(done),
        TaskCommand::Describe(args) => describe::run(args, stack, output).await.map(done),
        TaskCommand::Logs(args) => logs::run(args, stack, output).await.map(done),
        TaskCommand::Results(args) => results::run(args, stack, output).await.map(done),
        TaskCommand::Wait(args) => wait::run(args, stack, output).await,
        TaskCommand::Cancel(args) => cancel::run(args, stack, output).await.map(done),
        TaskCommand::Retry(args) => retry::run(args, stack, output).await.map(done),
    }
}

/// The function's tasks that the node knows, the newest first.
pub(crate) async fn listed(function: &FunctionName, stack: &Stack) -> anyhow::Result<Vec<Task>> {
    let request = ListTasksRequest {
        function: function.to_string(),
        limit: TASKS_LISTED_MAX,
        live_only: false,
    };
    let reply = stack.containers().await?.list_tasks(request).await;
    let tasks = reply.map_err(told)?.into_inner().tasks;
    Ok(tasks.into_iter().map(Task::from).collect())
}
