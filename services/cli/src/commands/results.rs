//! `gridfaas results`

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use serde::Serialize;
use tokio::fs::{self, File};
use tokio::io;
use units::FunctionName;

use crate::bucket::{Object, ObjectStore};
use crate::output::{Output, Show, columns, printable};
use crate::stack::Stack;

#[derive(Debug, Args)]
pub(crate) struct ResultsArgs {
    /// Whose task
    function: FunctionName,
    /// The object's key below `input/`
    task: String,
    /// Fetch the files into this folder, made if missing; files of the same name are replaced
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

#[derive(Serialize)]
struct Results {
    function: String,
    task: String,
    files: Vec<ResultFile>,
}

#[derive(Serialize)]
struct ResultFile {
    /// Below `results/<task>/`.
    name: String,
    key: String,
    bytes: u64,
    /// Where it was fetched to.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
}

impl Show for Results {
    fn text(&self) -> String {
        let rows = self.files.iter().map(|file| {
            let fetched = file.path.as_ref().map(|path| path.display().to_string());
            [
                file.bytes.to_string(),
                fetched.unwrap_or_else(|| printable(&file.name)),
            ]
        });
        columns(["BYTES", "FILE"], rows)
    }
}

pub(crate) async fn run(args: ResultsArgs, stack: &Stack, output: Output) -> anyhow::Result<()> {
    let store = stack.store()?;
    let prefix = format!("results/{}/", args.task);
    let objects = store.list(&args.function, &prefix).await?;
    if objects.is_empty() {
        bail!(
            "no results of a task `{}` in function `{}` (hint: `gridfaas ps --function {}` tells how far it is)",
            printable(&args.task),
            args.function,
            args.function
        );
    }
    let mut files = Vec::new();
    for Object { key, bytes } in objects {
        let name = key.strip_prefix(&prefix).unwrap_or(&key).to_owned();
        let path = match &args.to {
            Some(folder) => Some(fetch(&store, &args.function, &key, &local_path(folder, &name)?).await?),
            None => None,
        };
        files.push(ResultFile {
            name,
            key,
            bytes,
            path,
        });
    }
    output.show(&Results {
        function: args.function.into(),
        task: args.task,
        files,
    })
}

/// Where a result goes below a folder. A key may hold anything, so one that would lead out of the folder is refused.
pub(crate) fn local_path(folder: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let names_a_file = !name.contains('\0') && name.split('/').all(|part| !["", ".", ".."].contains(&part));
    ensure!(
        names_a_file,
        "the result `{}` has a name that no local file can have (hint: fetch it with an S3 client)",
        printable(name)
    );
    Ok(folder.join(name))
}

async fn fetch(
    store: &ObjectStore,
    function: &FunctionName,
    key: &str,
    path: &Path,
) -> anyhow::Result<PathBuf> {
    let body = store.get(function, key).await?;
    let body = body.with_context(|| format!("`{}` was deleted meanwhile", printable(key)))?;
    let write = async {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).await?;
        }
        let mut file = File::create(path).await?;
        io::copy(&mut body.into_async_read(), &mut file).await?;
        file.sync_all().await
    };
    write
        .await
        .with_context(|| format!("failed to fetch `{}`", path.display()))?;
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_never_lands_outside_its_folder() {
        let folder = Path::new("/tmp/fetched");
        for name in ["a", "a/b.txt", "a b", "..a/b..", "ü"] {
            assert_eq!(local_path(folder, name).unwrap(), folder.join(name));
        }
        for name in [
            "",
            "/etc/passwd",
            "../a",
            "a/../../b",
            "a//b",
            "./a",
            "a/.",
            "a/",
            "a\0b",
            "..",
        ] {
            assert!(local_path(folder, name).is_err(), "{name:?}");
        }
    }
}
