//! `gridfaas submit`

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use proto::container::v1::NotifyRequest;
use schema::Task;
use serde::Serialize;
use service_kit::{Clock as _, SystemClock};
use units::{Amount, FunctionName};

use crate::commands::task::listed;
use crate::commands::{find_function, more_than_zero};
use crate::local_file::LocalFile;
use crate::output::{Output, Show, columns};
use crate::stack::Stack;
use crate::view::{Tasks, problem_shown};

/// Between two looks at the tasks waited for.
const POLL: Duration = Duration::from_millis(250);

#[derive(Debug, Args)]
pub(crate) struct SubmitArgs {
    /// Which function gets them
    function: FunctionName,
    /// Each becomes one task, named as the file; a quoted pattern such as 'in/*.txt' stands for all that match it
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The most that each task may cost, in GRC, over all its attempts; a task that reaches it fails
    #[arg(long, value_name = "AMOUNT", allow_negative_numbers = true, value_parser = more_than_zero)]
    max_grc: Option<Amount>,
    /// Return when every task is over; exit status 1 if one failed
    #[arg(long)]
    wait: bool,
}

#[derive(Serialize)]
struct Submitted {
    function: String,
    tasks: Vec<String>,
}

impl Show for Submitted {
    fn text(&self) -> String {
        columns(["TASK"], self.tasks.iter().map(|task| [task.clone()]))
    }
}

pub(crate) async fn run(args: SubmitArgs, stack: &Stack, output: Output) -> anyhow::Result<ExitCode> {
    let files = unique(&args.files)?;
    ensure_deployed(&args.function, stack, output).await?;
    // A file submitted again becomes a new task, so those of before do not count.
    let before = if args.wait {
        listed(&args.function, stack).await?
    } else {
        Vec::new()
    };
    let over_before: BTreeSet<String> = before
        .into_iter()
        .filter(|task| task.is_over)
        .map(|task| task.task_id)
        .collect();

    upload(&args.function, &files, args.max_grc, stack, output).await?;
    if !args.wait {
        output.show(&Submitted {
            function: args.function.into(),
            tasks: files.into_keys().collect(),
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    let tasks = wait(&args.function, &files, &over_before, stack, output).await?;
    let all_succeeded = tasks.iter().all(Task::succeeded);
    output.show(&Tasks {
        waiting: Vec::new(),
        tasks,
        now: SystemClock.now(),
    })?;
    Ok(if all_succeeded {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The paths, with patterns replaced by what matches them. Errors if nothing does.
fn matching(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut matching = Vec::new();
    for path in paths {
        let pattern = path.to_str().filter(|text| text.contains(['*', '?', '[']));
        let Some(pattern) = pattern.filter(|_| !path.exists()) else {
            matching.push(path.clone());
            continue;
        };
        let before = matching.len();
        for found in glob::glob(pattern).with_context(|| format!("`{pattern}` is no pattern"))? {
            matching.push(found?);
        }
        ensure!(matching.len() > before, "no file matches `{pattern}`");
    }
    Ok(matching)
}

/// The files by the names their tasks get. Errors before anything is sent, if one is missing or two share a name.
fn unique(paths: &[PathBuf]) -> anyhow::Result<BTreeMap<String, LocalFile>> {
    let mut files = BTreeMap::new();
    for path in &matching(paths)? {
        let file = LocalFile::find(path)?;
        let name = file.name.clone();
        let same_name = files.insert(file.name.clone(), file);
        ensure!(
            same_name.is_none(),
            "two of the files are named `{name}`, and would be one task (hint: rename one, or submit them one after the other)"
        );
    }
    Ok(files)
}

/// Errors if there is no such function; says so if its user's standing keeps tasks from starting.
async fn ensure_deployed(function: &FunctionName, stack: &Stack, output: Output) -> anyhow::Result<()> {
    let found = find_function(function, stack).await?;
    if !found.may_start {
        output.say(format!(
            "warning: tasks of `{function}` do not start now: {} (user {})",
            found.refusal, found.user
        ));
    }
    Ok(())
}

async fn upload(
    function: &FunctionName,
    files: &BTreeMap<String, LocalFile>,
    max_grc: Option<Amount>,
    stack: &Stack,
    output: Output,
) -> anyhow::Result<()> {
    let store = stack.store()?;
    let bytes = files.values().map(|file| file.bytes).sum();
    let bar = progress(
        output,
        bytes,
        "{bar:30} {bytes} of {total_bytes} sent, {eta} left",
    );
    for (name, file) in files {
        store.put_task(function, name, &file.path, max_grc).await?;
        bar.inc(file.bytes);
    }
    bar.finish_and_clear();
    let request = NotifyRequest {
        function: function.to_string(),
    };
    // The node lists the bucket by itself too, so it is only sooner with this, and works without.
    if let Ok(mut containers) = stack.containers().await {
        let _found_later = containers.notify(request).await;
    }
    Ok(())
}

/// Waits until every file's task is over, and returns those tasks in the order of the files.
async fn wait(
    function: &FunctionName,
    files: &BTreeMap<String, LocalFile>,
    over_before: &BTreeSet<String>,
    stack: &Stack,
    output: Output,
) -> anyhow::Result<Vec<Task>> {
    let total = u64::try_from(files.len())?;
    let bar = progress(output, total, "{bar:30} {pos} of {len} tasks over, {elapsed}");
    let store = stack.store()?;
    let mut problem_told = None;
    loop {
        let mut over: BTreeMap<String, Task> = BTreeMap::new();
        for task in listed(function, stack).await? {
            if task.is_over && files.contains_key(&task.task) && !over_before.contains(&task.task_id) {
                over.insert(task.task.clone(), task);
            }
        }
        bar.set_position(u64::try_from(over.len())?);
        if over.len() == files.len() {
            bar.finish_and_clear();
            return Ok(over.into_values().collect());
        }
        let problem = store.problem(function).await?;
        if let Some(problem) = problem.as_ref().filter(|_| problem != problem_told) {
            bar.suspend(|| {
                output.say(format!(
                    "warning: tasks of `{function}` do not start: {}",
                    problem_shown(problem)
                ))
            });
        }
        problem_told = problem;
        tokio::time::sleep(POLL).await;
    }
}

/// A bar on standard error if somebody watches, and nothing otherwise.
fn progress(output: Output, total: u64, template: &str) -> ProgressBar {
    if !output.is_watched() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(template).expect("the templates are constants of this file");
    ProgressBar::new(total).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_files_of_one_name_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["a/x.txt", "b/x.txt", "b/y.txt"].map(|name| folder.path().join(name));
        for path in &paths {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        assert!(unique(&paths).unwrap_err().to_string().contains("`x.txt`"));
        let names: Vec<String> = unique(&paths[1..]).unwrap().into_keys().collect();
        assert_eq!(names, ["x.txt", "y.txt"]);
    }

    #[test]
    fn a_pattern_stands_for_what_matches_it_and_a_file_of_that_name_for_itself() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["a.txt", "b.txt", "c.csv", "[x].txt"] {
            std::fs::write(path(name), "x").unwrap();
        }
        let names = |patterns: &[&str]| {
            let paths: Vec<PathBuf> = patterns.iter().map(|pattern| path(pattern)).collect();
            unique(&paths).map(|files| files.into_keys().collect::<Vec<_>>())
        };
        assert_eq!(names(&["?.txt", "c.csv"]).unwrap(), ["a.txt", "b.txt", "c.csv"]);
        assert_eq!(names(&["[x].txt"]).unwrap(), ["[x].txt"]);
        assert!(
            names(&["*.jpg"])
                .unwrap_err()
                .to_string()
                .contains("no file matches")
        );
    }

    #[test]
    fn a_missing_file_is_named() {
        let err = unique(&[PathBuf::from("/nowhere/x.txt")]).unwrap_err();
        assert!(format!("{err:#}").contains("/nowhere/x.txt"), "{err:#}");
    }
}
