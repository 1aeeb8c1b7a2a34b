//! `gridfaas function init`

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use super::{SCRIPT, SETTINGS};
use crate::output::{Output, Show};

const FILES: [(&str, &str); 3] = [
    (SCRIPT, include_str!("../../../templates/process_task.sh")),
    (SETTINGS, include_str!("../../../templates/function.toml")),
    ("sample-input/hello.txt", "hello world\n"),
];

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The folder to write to, made if missing; no file in it is replaced
    folder: PathBuf,
}

#[derive(Serialize)]
struct Made {
    folder: PathBuf,
    files: Vec<&'static str>,
}

impl Show for Made {
    fn text(&self) -> String {
        let folder = self.folder.display();
        let files = self.files.iter().map(|file| format!("{folder}/{file}\n"));
        let next =
            format!("\nnext: gridfaas function create NAME --user USER --from {folder} --image IMAGE.sif");
        files.collect::<String>() + &next
    }
}

pub(super) fn run(args: InitArgs, output: Output) -> anyhow::Result<()> {
    for (name, content) in FILES {
        let path = args.folder.join(name);
        let write = || {
            fs::create_dir_all(path.parent().unwrap_or(&args.folder))?;
            File::create_new(&path)?.write_all(content.as_bytes())
        };
        write().with_context(|| format!("failed to make `{}`", path.display()))?;
    }
    output.show(&Made {
        folder: args.folder,
        files: FILES.map(|(name, _)| name).to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use container_manager::function::FunctionSettings;

    #[test]
    fn the_template_changes_nothing_and_every_line_of_it_can_be_used() {
        let (_, template) = FILES[1];
        assert_eq!(
            FunctionSettings::parse(template).unwrap(),
            FunctionSettings::default()
        );
        let used: String = template
            .lines()
            .filter_map(|line| line.strip_prefix("# "))
            .filter(|line| line.contains(" = ") || line.starts_with('['))
            .map(|line| format!("{line}\n"))
            .collect();
        let used = FunctionSettings::parse(&used).unwrap_or_else(|err| panic!("{err:?} in\n{used}"));
        assert_eq!(used.memory_mib, FunctionSettings::default().memory_mib);
        assert!(used.chain.is_some() && used.env.len() == 1 && used.policy.is_some());
    }

    #[test]
    fn what_is_there_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join(SCRIPT);
        fs::write(&script, "mine").unwrap();
        let args = InitArgs {
            folder: folder.path().to_owned(),
        };
        let output = Output {
            format: crate::output::Format::Table,
            quiet: true,
        };
        let err = run(args, output).unwrap_err();
        assert!(format!("{err:#}").contains(SCRIPT), "{err:#}");
        assert_eq!(fs::read_to_string(script).unwrap(), "mine");
    }
}
