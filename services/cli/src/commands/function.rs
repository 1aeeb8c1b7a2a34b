//! `gridfaas function`: a bucket with a script and an image, and the user who pays.

mod describe;
mod init;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use aws_sdk_s3::primitives::ByteStream;
use clap::{Args, Subcommand};
use container_manager::function::FunctionSettings;
use container_manager::layout;
use proto::container::v1::NotifyRequest;
use proto::credit::v1::{CreateFunctionRequest, DeleteFunctionRequest, UpdateFunctionRequest};
use schema::{Function, Problem};
use serde::Serialize;
use service_kit::Chain;
use tonic::Code;
use units::{FunctionName, UserName};

use crate::bucket::ObjectStore;
use crate::commands::{Limit, find_function};
use crate::local_file::LocalFile;
use crate::output::{Output, Show, pairs};
use crate::stack::{Stack, told};
use crate::view::{self, FunctionNow, Functions};

/// The names of a function's files, in `utils/` and in a folder.
const SCRIPT: &str = "process_task.sh";
const SETTINGS: &str = "function.toml";

#[derive(Debug, Subcommand)]
pub(crate) enum FunctionCommand {
    /// Start a function of your own: write a script, its settings and a sample input into a folder
    Init(init::InitArgs),
    /// Deploy a function: register it, make its bucket, upload its script and image
    ///
    /// Can be repeated: what is given replaces what was there, and what is not given stays.
    #[command(visible_alias = "deploy")]
    Create(CreateArgs),
    /// Change a function's terms
    Set(SetArgs),
    /// Tell a function's terms, what waits for it, and what keeps it from running
    Describe(describe::DescribeArgs),
    /// Have no more of its tasks start; those that run go on
    Stop(StopArgs),
    /// Have its tasks start again after a stop
    Start(StartArgs),
    /// Have it served no longer; what it ran stays in the books, and its name its owner's
    Delete(DeleteArgs),
    /// Have the node look for new tasks now
    Notify(NotifyArgs),
    /// List functions
    #[command(visible_alias = "ls")]
    List(ListArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Names the bucket too: 3 to 63 of a-z, 0-9, . and -
    name: FunctionName,
    /// Who pays for it
    #[arg(long)]
    user: UserName,
    /// A folder as `function init` makes it: its process_task.sh and function.toml, unless others are given
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// The container image, .sif, or a definition to build it from, .def
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Called for each task, as `bash process_task.sh TASK-FILE RESULTS-FOLDER`
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// What it may take, as in the function.toml of `function init`
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// How long its container stays when no task is there [default: 60]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// Whose terms
    name: FunctionName,
    /// The most that its tasks may cost an hour, in GRC, or off
    #[arg(long, value_name = "AMOUNT", required = true)]
    max_spend: Limit,
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Which function
    name: FunctionName,
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// Which function
    name: FunctionName,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Which function
    name: FunctionName,
    /// Delete its bucket too, and all that is in it: inputs, results, logs and receipts
    #[arg(long)]
    bucket: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NotifyArgs {
    /// Which function
    name: FunctionName,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only this user's
    #[arg(long)]
    user: Option<UserName>,
}

#[derive(Serialize)]
struct Created {
    name: String,
    user: String,
    bucket: String,
    /// Keys of the objects written.
    uploaded: Vec<String>,
}

impl Show for Created {
    fn text(&self) -> String {
        pairs([
            ("function", self.name.clone()),
            ("user", self.user.clone()),
            ("bucket", format!("s3://{}", self.bucket)),
            (
                "uploaded",
                if self.uploaded.is_empty() {
                    "nothing".to_owned()
                } else {
                    self.uploaded.join(", ")
                },
            ),
        ])
    }
}

pub(crate) async fn run(command: FunctionCommand, stack: &Stack, output: Output) -> anyhow::Result<()> {
    match command {
        FunctionCommand::Init(args) => init::run(args, output),
        FunctionCommand::Describe(args) => describe::run(args, stack, output).await,
        FunctionCommand::Create(args) => create(args, stack, output).await,
        FunctionCommand::Set(args) => set(args, stack, output).await,
        FunctionCommand::Stop(args) => stop(&args.name, stack, output).await,
        FunctionCommand::Start(args) => start(&args.name, stack, output).await,
        FunctionCommand::Delete(args) => delete(args, stack, output).await,
        FunctionCommand::Notify(args) => notify(stack, &args.name).await,
        FunctionCommand::List(args) => list(args, stack, output).await,
    }
}

async fn create(args: CreateArgs, stack: &Stack, output: Output) -> anyhow::Result<()> {
    // Everything that can be wrong with the files is found before anything is changed.
    let image = args.image.as_deref().map(LocalFile::image).transpose()?;
    let in_folder = |name: &str| {
        let path = args.from.as_ref().map(|folder| folder.join(name));
        path.filter(|path| path.exists())
    };
    let script = args.script.clone().or_else(|| in_folder(SCRIPT));
    let script = script.as_deref().map(LocalFile::script).transpose()?;
    let settings = args.settings.clone().or_else(|| in_folder(SETTINGS));
    let settings = settings.as_deref().map(checked_settings).transpose()?;

    let store = stack.store()?;
    let request = CreateFunctionRequest {
        name: args.name.to_string(),
        user: args.user.to_string(),
    };
    stack
        .accounts()
        .await?
        .create_function(request)
        .await
        .map_err(told)?;
    store.make_bucket(&args.name).await?;

    let mut uploaded = Vec::new();
    if let Some(image) = image {
        uploaded.push(replace_image(&store, &args.name, &image, output).await?);
    }
    if let Some(settings) = settings {
        let key = format!("utils/{SETTINGS}");
        store.put(&args.name, &key, settings.into_bytes().into()).await?;
        uploaded.push(key);
    }
    if let Some(seconds) = args.timeout {
        let key = "utils/timeout.txt".to_owned();
        store
            .put(&args.name, &key, format!("{seconds}\n").into_bytes().into())
            .await?;
        uploaded.push(key);
    }
    // The script comes last: with it the function is complete, and tasks that wait for it can start.
    if let Some(script) = script {
        let key = format!("utils/{SCRIPT}");
        store.put_file(&args.name, &key, &script.path).await?;
        uploaded.push(key);
    }
    let notified = notify(stack, &args.name).await;
    if let Err(err) = notified.context("the node could not be notified, and finds the change later") {
        output.say(format!("warning: {}", Chain(err.as_ref())));
    }
    output.show(&Created {
        bucket: args.name.to_string(),
        name: args.name.into(),
        user: args.user.into(),
        uploaded,
    })
}

/// A function's settings, as its container-manager will read them.
fn checked_settings(path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("failed to read `{shown}`"))?;
    FunctionSettings::parse(&text).with_context(|| format!("`{shown}` cannot be used"))?;
    Ok(text)
}

/// Uploads an image, then deletes those of other names: a function has one.
async fn replace_image(
    store: &ObjectStore,
    function: &FunctionName,
    image: &LocalFile,
    output: Output,
) -> anyhow::Result<String> {
    let key = format!("utils/{}", image.name);
    output.say(format!(
        "uploading {} ({} MB)",
        image.name,
        image.bytes.div_ceil(1_000_000)
    ));
    store.put_file(function, &key, &image.path).await?;
    let is_image = |key: &str| key.ends_with(".sif") || key.ends_with(".def");
    for object in store.list(function, "utils/").await? {
        if object.key != key && is_image(&object.key) {
            output.say(format!("deleting `{}`, which it replaces", object.key));
            store.delete(function, &object.key).await?;
        }
    }
    Ok(key)
}

/// Asks the node to look at the function now.
async fn notify(stack: &Stack, function: &FunctionName) -> anyhow::Result<()> {
    let request = NotifyRequest {
        function: function.to_string(),
    };
    stack.containers().await?.notify(request).await.map_err(told)?;
    Ok(())
}

/// What became of a function.
#[derive(Serialize)]
struct Done {
    function: FunctionName,
    is_now: &'static str,
}

impl Show for Done {
    fn text(&self) -> String {
        format!("{} is {}", self.function, self.is_now)
    }
}

/// By an object, so that any S3 client can do the same, and every node sees it.
async fn stop(name: &FunctionName, stack: &Stack, output: Output) -> anyhow::Result<()> {
    let store = stack.store()?;
    store.put(name, layout::STOPPED, ByteStream::default()).await?;
    output.show(&Done {
        function: name.clone(),
        is_now: "stopped",
    })
}

async fn start(name: &FunctionName, stack: &Stack, output: Output) -> anyhow::Result<()> {
    stack.store()?.delete(name, layout::STOPPED).await?;
    notify(stack, name).await?;
    output.show(&Done {
        function: name.clone(),
        is_now: "started",
    })
}

async fn delete(args: DeleteArgs, stack: &Stack, output: Output) -> anyhow::Result<()> {
    if !args.bucket {
        find_function(&args.name, stack).await?;
    }
    let request = DeleteFunctionRequest {
        name: args.name.to_string(),
    };
    let deleted = stack.accounts().await?.delete_function(request).await;
    match deleted {
        // Its bucket can be deleted later.
        Err(status) if status.code() == Code::NotFound && args.bucket => {}
        deleted => drop(deleted.map_err(told)?),
    }
    if args.bucket {
        stack.store()?.delete_bucket(&args.name).await?;
    }
    output.show(&Done {
        function: args.name,
        is_now: "deleted",
    })
}

async fn set(args: SetArgs, stack: &Stack, output: Output) -> anyhow::Result<()> {
    find_function(&args.name, stack).await?;
    let request = UpdateFunctionRequest {
        name: args.name.into(),
        max_spend_halfords_per_hour: Some(args.max_spend.halfords()),
    };
    let reply = stack
        .accounts()
        .await?
        .update_function(request)
        .await
        .map_err(told)?;
    let function = Function::from(reply.into_inner().function.unwrap_or_default());
    output.show(&Functions(vec![FunctionNow {
        function,
        problem: None,
    }]))
}

async fn list(args: ListArgs, stack: &Stack, output: Output) -> anyhow::Result<()> {
    let functions = stack.functions(args.user).await?;
    let mut problems = match problems(stack).await {
        Ok(problems) => problems,
        Err(err) => {
            let err = err.context("the node does not tell what keeps functions from running");
            output.say(format!("warning: {}", Chain(err.as_ref())));
            HashMap::new()
        }
    };
    let functions = functions.into_iter().map(|function| FunctionNow {
        problem: problems.remove(&function.name),
        function: function.into(),
    });
    output.show(&Functions(functions.collect()))
}

/// What keeps functions from running on the node.
async fn problems(stack: &Stack) -> anyhow::Result<HashMap<String, Problem>> {
    let queues = stack.queues(None).await?.into_iter();
    let problems = queues.filter_map(|queue| Some((queue.function.clone(), view::problem(&queue)?)));
    Ok(problems.collect())
}
