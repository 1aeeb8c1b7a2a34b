//! Files of the user, checked before anything is sent or changed.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

/// Apptainer's image format has this at its 33rd byte, after a line that makes the file executable.
const SIF_MAGIC: &[u8] = b"SIF_MAGIC";
const SIF_MAGIC_AT: usize = 32;

/// A readable regular file and its size in bytes.
#[derive(Clone, Debug)]
pub(crate) struct LocalFile {
    pub(crate) path: PathBuf,
    /// The last part of its path.
    pub(crate) name: String,
    pub(crate) bytes: u64,
}

impl LocalFile {
    /// Errors if there is no such file, it is something else than a file, or its name cannot be part of an object's key.
    pub(crate) fn find(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let metadata = fs::metadata(path).with_context(|| format!("failed to read `{shown}`"))?;
        ensure!(!metadata.is_dir(), "`{shown}` is a folder, a file is needed");
        ensure!(metadata.is_file(), "`{shown}` is not a regular file");
        File::open(path).with_context(|| format!("failed to read `{shown}`"))?;
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.with_context(|| format!("the name of `{shown}` is not UTF-8, object keys are"))?;
        Ok(Self {
            path: path.to_owned(),
            name: name.to_owned(),
            bytes: metadata.len(),
        })
    }

    /// A function's script.
    pub(crate) fn script(path: &Path) -> anyhow::Result<Self> {
        let file = Self::find(path).context("no script to deploy")?;
        ensure!(file.bytes > 0, "the script `{}` is empty", path.display());
        Ok(file)
    }

    /// A function's image: `.sif`, or a definition the node builds one from, `.def`.
    pub(crate) fn image(path: &Path) -> anyhow::Result<Self> {
        let file = Self::find(path).context("no image to deploy")?;
        let shown = path.display();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("sif") => ensure!(
                starts_as_sif(path)?,
                "`{shown}` is not an Apptainer image (hint: build one with `apptainer build {} image.def`)",
                file.name
            ),
            Some("def") => ensure!(file.bytes > 0, "the image definition `{shown}` is empty"),
            _ => bail!("`{shown}` is neither a .sif image nor a .def image definition"),
        }
        Ok(file)
    }
}

fn starts_as_sif(path: &Path) -> anyhow::Result<bool> {
    let mut start = Vec::new();
    let length = u64::try_from(SIF_MAGIC_AT + SIF_MAGIC.len())?;
    File::open(path)
        .and_then(|file| file.take(length).read_to_end(&mut start))
        .with_context(|| format!("failed to read `{}`", path.display()))?;
    Ok(start.get(SIF_MAGIC_AT..) == Some(SIF_MAGIC))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(result: anyhow::Result<LocalFile>) -> String {
        format!("{:#}", result.unwrap_err())
    }

    #[test]
    fn a_script_is_a_file_with_something_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("process_task.sh");
        assert!(refusal(LocalFile::script(&script)).contains("process_task.sh`: No such file"));
        assert!(refusal(LocalFile::script(folder.path())).contains("is a folder"));
        fs::write(&script, "").unwrap();
        assert!(refusal(LocalFile::script(&script)).contains("is empty"));
        fs::write(&script, "true\n").unwrap();
        assert_eq!(LocalFile::script(&script).unwrap().name, "process_task.sh");
    }

    #[test]
    fn an_image_is_told_by_its_content_not_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let (sif, def, other) = (
            folder.path().join("a.sif"),
            folder.path().join("a.def"),
            folder.path().join("a.img"),
        );
        fs::write(&sif, "#!/bin/bash\n").unwrap();
        assert!(refusal(LocalFile::image(&sif)).contains("is not an Apptainer image"));
        let mut image = vec![0; SIF_MAGIC_AT];
        image.extend_from_slice(SIF_MAGIC);
        image.extend_from_slice(b"\0more");
        fs::write(&sif, image).unwrap();
        LocalFile::image(&sif).unwrap();
        fs::write(&def, "Bootstrap: localimage\n").unwrap();
        LocalFile::image(&def).unwrap();
        fs::write(&other, "x").unwrap();
        assert!(refusal(LocalFile::image(&other)).contains("neither"));
    }
}
