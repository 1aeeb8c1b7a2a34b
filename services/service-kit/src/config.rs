//! Layered configuration: a TOML file, then the environment.

use std::path::{Path, PathBuf};

use config::{Config, Environment, File, FileFormat};
use serde::de::DeserializeOwned;

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("failed to read the configuration file `{path}`")]
    Read {
        path: PathBuf,
        #[source]
        err: std::io::Error,
    },
    #[error("the configuration is not valid ({}){}", source_name(.path.as_deref()), hint(.err))]
    Invalid {
        path: Option<PathBuf>,
        #[source]
        err: Box<config::ConfigError>,
    },
}

fn source_name(path: Option<&Path>) -> String {
    path.map_or_else(
        || "environment".to_owned(),
        |path| format!("`{}` and environment", path.display()),
    )
}

/// serde says which keys exist; it is up to us to say which of them was probably meant.
fn hint(err: &config::ConfigError) -> String {
    let text = err.to_string();
    let mut names = text.split('`').skip(1).step_by(2);
    if !text.contains("unknown field") {
        return String::new();
    }
    let Some(wrong) = names.next() else {
        return String::new();
    };
    let close = names.map(|name| (strsim(wrong, name), name)).min();
    match close {
        Some((distance, name)) if distance <= 3 => format!(" (hint: did you mean `{name}`?)"),
        _ => String::new(),
    }
}

/// Edit distance of two short names.
fn strsim(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Reads a service's configuration: `file` if given, overridden by variables `<prefix>__<KEY>`, with `__` between
/// the levels (`GRIDFAAS_CREDIT__LISTEN`). Unknown keys are errors, by `deny_unknown_fields` on `T`.
pub fn load<T: DeserializeOwned>(file: Option<&Path>, prefix: &str) -> Result<T, ConfigError> {
    let mut layers = Config::builder();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).map_err(|err| ConfigError::Read {
            path: path.to_owned(),
            err,
        })?;
        layers = layers.add_source(File::from_str(&text, FileFormat::Toml));
    }
    let environment = Environment::with_prefix(prefix)
        .prefix_separator("__")
        .separator("__")
        .try_parsing(true);
    layers
        .add_source(environment)
        .build()
        .and_then(Config::try_deserialize)
        .map_err(|err| ConfigError::Invalid {
            path: file.map(Path::to_owned),
            err: Box::new(err),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Chain;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Example {
        listen: String,
        #[serde(default)]
        lease_ms: u64,
    }

    fn load_text(text: &str) -> Result<Example, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        load(Some(file.path()), "GRIDFAAS_TEST")
    }

    #[test]
    fn a_file_is_read() {
        let example = load_text("listen = \"127.0.0.1:1\"\nlease_ms = 5").unwrap();
        assert_eq!((example.listen.as_str(), example.lease_ms), ("127.0.0.1:1", 5));
    }

    #[test]
    fn an_unknown_key_is_an_error_with_a_hint() {
        let err = load_text("listen = \"x\"\nlease_msec = 5").unwrap_err();
        assert!(
            Chain(&err)
                .to_string()
                .contains("(hint: did you mean `lease_ms`?)"),
            "{}",
            Chain(&err)
        );
    }

    #[test]
    fn a_missing_file_is_named() {
        let err = load::<Example>(Some(Path::new("/nowhere/x.toml")), "GRIDFAAS_TEST").unwrap_err();
        assert!(err.to_string().contains("/nowhere/x.toml"));
    }
}
