//! `gridfaas invoke`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use proto::container::v1::invoke_response::Event;
use proto::container::v1::{InvokeRequest, ResultChunk};
use schema::Task;
use serde::Serialize;
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt as _;
use units::FunctionName;

use crate::commands::results::local_path;
use crate::local_file::LocalFile;
use crate::output::{Format, Output, Show, printable, write_out};
use crate::stack::{Stack, told};

/// One message holds the input, and the services take messages of 4 MiB.
const INPUT_BYTES_MAX: u64 = 4_000_000;

/// Prints what the script writes, as it comes. Whoever interrupts this does not stop the task.
#[derive(Debug, Args)]
pub(crate) struct InvokeArgs {
    /// Which function runs it
    function: FunctionName,
    /// The input, of at most 4 MB
    file: PathBuf,
    /// The task's name [default: one that no other task has]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Put the results into this folder, made if missing; files of the same name are replaced
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

#[derive(Serialize)]
struct Invoked {
    #[serde(flatten)]
    task: Task,
    /// Bytes that are not UTF-8 are replaced.
    log: String,
    results: Vec<String>,
}

impl Show for Invoked {
    /// The log is all that people asked for, and was shown as it came.
    fn text(&self) -> String {
        self.log.clone()
    }
}

pub(crate) async fn run(args: InvokeArgs, stack: &Stack, output: Output) -> anyhow::Result<ExitCode> {
    let file = LocalFile::find(&args.file)?;
    if file.bytes > INPUT_BYTES_MAX {
        bail!(
            "`{}` has {} bytes, and an input of at most {INPUT_BYTES_MAX} can be sent so (hint: `gridfaas submit --wait` takes any)",
            args.file.display(),
            file.bytes
        );
    }
    let input = fs::read(&file.path)
        .await
        .with_context(|| format!("failed to read `{}`", file.path.display()))?;
    let request = InvokeRequest {
        function: args.function.to_string(),
        object_key: args.name.unwrap_or_default(),
        input: input.into(),
    };
    let mut events = stack
        .containers()
        .await?
        .invoke(request)
        .await
        .map_err(told)?
        .into_inner();
    let (mut name, mut log) = (String::new(), Vec::new());
    let mut results = Results::new(args.to);
    while let Some(answer) = events.message().await.map_err(told)? {
        match answer.event {
            Some(Event::AcceptedObjectKey(key)) => name = key,
            Some(Event::Log(chunk)) => match output.format {
                Format::Table => write_out(&chunk)?,
                Format::Json | Format::Jsonl => log.extend_from_slice(&chunk),
            },
            Some(Event::Result(chunk)) => results.take(chunk).await?,
            Some(Event::Ended(task)) => {
                let results = results.finish().await?;
                let mut task = Task::from(task);
                task.task.clone_from(&name);
                let succeeded = task.succeeded();
                if !succeeded {
                    let reason = task.attempts.last().map(|attempt| attempt.reason.clone());
                    let reason = reason.unwrap_or_default();
                    output.say(format!(
                        "task `{}` failed: {}",
                        printable(&name),
                        printable(&reason)
                    ));
                }
                if output.format != Format::Table {
                    let log = String::from_utf8_lossy(&log).into_owned();
                    output.show(&Invoked { task, log, results })?;
                }
                return Ok(if succeeded {
                    ExitCode::SUCCESS
                } else {
                    ExitCode::FAILURE
                });
            }
            None => {}
        }
    }
    bail!(
        "the node stopped answering before task `{}` was over",
        printable(&name)
    )
}

/// Files on their way into a folder, or nowhere; they come one after the other.
struct Results {
    folder: Option<PathBuf>,
    names: Vec<String>,
    open: Option<(PathBuf, File)>,
}

impl Results {
    fn new(folder: Option<PathBuf>) -> Self {
        Self {
            folder,
            names: Vec::new(),
            open: None,
        }
    }

    async fn take(&mut self, chunk: ResultChunk) -> anyhow::Result<()> {
        if self.names.last() != Some(&chunk.name) {
            self.close().await?;
            if let Some(folder) = &self.folder {
                let path = local_path(folder, &chunk.name)?;
                let file = create(&path)
                    .await
                    .with_context(|| format!("failed to write `{}`", path.display()))?;
                self.open = Some((path, file));
            }
            self.names.push(chunk.name);
        }
        if let Some((path, file)) = &mut self.open {
            file.write_all(&chunk.data)
                .await
                .with_context(|| format!("failed to write `{}`", path.display()))?;
        }
        Ok(())
    }

    async fn close(&mut self) -> anyhow::Result<()> {
        if let Some((path, file)) = self.open.take() {
            file.sync_all()
                .await
                .with_context(|| format!("failed to write `{}`", path.display()))?;
        }
        Ok(())
    }

    async fn finish(mut self) -> anyhow::Result<Vec<String>> {
        self.close().await?;
        Ok(self.names)
    }
}

async fn create(path: &Path) -> std::io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).await?;
    }
    File::create(path).await
}
