//! A function's own objects under `utils/`: script, settings, idle timeout, image. One listing tells what changed.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::function::{self, FunctionSettings};
use crate::layout;
use crate::problem::Problem;
use crate::store::{Listed, ObjectStore, StoreError};

/// The largest script, settings or timeout file, in bytes.
const TEXT_BYTES_MAX: u64 = 1 << 20;
/// The most objects looked at under `utils/`.
const OBJECTS_MAX: u32 = 1000;

/// What a function is made of, as of its newest listing.
#[derive(Debug, Default)]
pub struct Utils {
    listed: Vec<Listed>,
    /// Text objects by key, with the version they were read at.
    texts: HashMap<&'static str, (String, Bytes)>,
}

/// The script as it is to be run.
#[derive(Clone, Debug)]
pub struct Script {
    pub body: Bytes,
    pub sha256: String,
}

/// The image object that the container is to be made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageObject {
    pub key: String,
    pub etag: String,
}

impl Utils {
    /// Lists `utils/` and rereads what changed.
    pub async fn refresh(&mut self, store: &dyn ObjectStore, bucket: &str) -> Result<(), StoreError> {
        self.listed = store.list(bucket, layout::UTILS, None, OBJECTS_MAX).await?;
        for key in [layout::SCRIPT, layout::SETTINGS, layout::TIMEOUT] {
            let Some(listed) = self.listed.iter().find(|object| object.key == key) else {
                self.texts.remove(key);
                continue;
            };
            if self.texts.get(key).is_some_and(|(etag, _)| *etag == listed.etag) {
                continue;
            }
            match store.get(bucket, key, TEXT_BYTES_MAX).await? {
                Some(object) => self.texts.insert(key, (listed.etag.clone(), object.body)),
                None => self.texts.remove(key),
            };
        }
        Ok(())
    }

    pub fn idle_timeout(&self) -> Duration {
        function::idle_timeout(
            self.text(layout::TIMEOUT)
                .and_then(|text| std::str::from_utf8(text).ok()),
        )
    }

    /// Whether the user wants no task to start.
    pub fn is_stopped(&self) -> bool {
        self.listed.iter().any(|object| object.key == layout::STOPPED)
    }

    pub fn settings(&self) -> Result<FunctionSettings, Problem> {
        let Some(text) = self.text(layout::SETTINGS) else {
            return Ok(FunctionSettings::default());
        };
        let refuse = |err: String| Problem::new(err, "mend the file and upload it again");
        let text = std::str::from_utf8(text)
            .map_err(|_| refuse(format!("`{}` is not UTF-8 text", layout::SETTINGS)))?;
        FunctionSettings::parse(text).map_err(|err| refuse(service_kit::Chain(&err).to_string()))
    }

    pub fn script(&self) -> Result<Script, Problem> {
        let upload = format!("upload the function's script as `{}`", layout::SCRIPT);
        match self.text(layout::SCRIPT) {
            Some(body) if !body.is_empty() => Ok(Script {
                body: body.clone(),
                sha256: hex::encode(Sha256::digest(body)),
            }),
            Some(_) => Err(Problem::new(format!("`{}` is empty", layout::SCRIPT), upload)),
            None if self
                .listed
                .iter()
                .any(|object| object.key.starts_with("utils/process_task.sh/")) =>
            {
                Err(Problem::new(
                    format!("`{}` is a directory, not a script", layout::SCRIPT),
                    upload,
                ))
            }
            None => Err(Problem::new(format!("there is no `{}`", layout::SCRIPT), upload)),
        }
    }

    /// The image that `settings` names, or the only one there is.
    pub fn image(&self, settings: &FunctionSettings) -> Result<ImageObject, Problem> {
        let images = || {
            let is_image = |object: &&Listed| object.key.ends_with(".sif") || object.key.ends_with(".def");
            self.listed.iter().filter(is_image)
        };
        let found = match &settings.image {
            Some(name) => {
                let key = format!("{}{name}", layout::UTILS);
                images().find(|object| object.key == key).ok_or_else(|| {
                    Problem::new(
                        format!("there is no image `{key}`"),
                        format!("upload it, or change `image` in `{}`", layout::SETTINGS),
                    )
                })?
            }
            None => match images().collect::<Vec<_>>().as_slice() {
                [only] => *only,
                [] => {
                    return Err(Problem::new(
                        "there is no image under `utils/`",
                        "upload an Apptainer image as `utils/<name>.sif`, or a definition as `utils/<name>.def`",
                    ));
                }
                _ => {
                    return Err(Problem::new(
                        "there are several images under `utils/`",
                        format!(
                            "say which with `image = \"<name>.sif\"` in `{}`",
                            layout::SETTINGS
                        ),
                    ));
                }
            },
        };
        Ok(ImageObject {
            key: found.key.clone(),
            etag: found.etag.clone(),
        })
    }

    fn text(&self, key: &'static str) -> Option<&Bytes> {
        self.texts.get(key).map(|(_, body)| body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(keys: &[&str]) -> Utils {
        let listed = |key: &&str| Listed {
            key: (*key).to_owned(),
            etag: "e".to_owned(),
            size: 1,
        };
        Utils {
            listed: keys.iter().map(listed).collect(),
            texts: HashMap::new(),
        }
    }

    #[test]
    fn the_only_image_is_the_image() {
        let settings = FunctionSettings::default();
        assert_eq!(
            with(&["utils/a.sif", "utils/x.txt"])
                .image(&settings)
                .unwrap()
                .key,
            "utils/a.sif"
        );
        assert!(with(&[]).image(&settings).unwrap_err().error.contains("no image"));
        let several = with(&["utils/a.sif", "utils/b.def"]);
        assert!(several.image(&settings).unwrap_err().hint.contains("say which"));
        let named = FunctionSettings {
            image: Some("b.def".to_owned()),
            ..FunctionSettings::default()
        };
        assert_eq!(several.image(&named).unwrap().key, "utils/b.def");
        assert!(
            with(&["utils/a.sif"])
                .image(&named)
                .unwrap_err()
                .error
                .contains("utils/b.def")
        );
    }

    #[test]
    fn a_script_that_cannot_run_is_named() {
        assert!(with(&[]).script().unwrap_err().error.contains("there is no"));
        assert!(
            with(&["utils/process_task.sh/x"])
                .script()
                .unwrap_err()
                .error
                .contains("is a directory")
        );
        let mut utils = with(&["utils/process_task.sh"]);
        utils.texts.insert(layout::SCRIPT, ("e".to_owned(), Bytes::new()));
        assert!(utils.script().unwrap_err().error.contains("is empty"));
    }
}
