//! Layered configuration: a TOML file, then the environment.

use std::path::{Path, PathBuf};

use config::{Config, Environment, File, FileFormat, Source as _, Value, ValueKind};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::spelling;

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
    match spelling::closest(wrong, names) {
        Some(name) => format!(" (hint: did you mean `{name}`?)"),
        None => String::new(),
    }
}

/// Reads a service's configuration: `file` if given, overridden by variables `<prefix>__<KEY>`, with `__` between
/// the levels (`GRIDFAAS_CREDIT__LISTEN`). Unknown keys are errors, by `deny_unknown_fields` on `T`.
pub fn load<T: DeserializeOwned>(file: Option<&Path>, prefix: &str) -> Result<T, ConfigError> {
    read(file, prefix)?
        .try_deserialize()
        .map_err(|err| invalid(file, err))
}

/// A key that somebody set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Given {
    /// With dots between the levels.
    pub key: String,
    pub value: String,
    pub origin: Origin,
}

/// Who set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    File,
    Environment,
}

/// The keys that [`load`] finds set, and by whom; all others have their defaults. Whether they exist is not looked at.
pub fn given(file: Option<&Path>, prefix: &str) -> Result<Vec<Given>, ConfigError> {
    let table = read(file, prefix)?.collect().map_err(|err| invalid(file, err))?;
    let mut given = Vec::new();
    for (key, value) in table {
        add_given(key, value, &mut given);
    }
    given.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(given)
}

fn add_given(key: String, value: Value, given: &mut Vec<Given>) {
    // A file's values have no origin, as it was read before.
    let origin = match value.origin() {
        Some(_) => Origin::Environment,
        None => Origin::File,
    };
    match value.kind {
        ValueKind::Table(table) => {
            for (name, value) in table {
                add_given(format!("{key}.{name}"), value, given);
            }
        }
        kind => given.push(Given {
            key,
            value: kind.to_string(),
            origin,
        }),
    }
}

fn invalid(file: Option<&Path>, err: config::ConfigError) -> ConfigError {
    ConfigError::Invalid {
        path: file.map(Path::to_owned),
        err: Box::new(err),
    }
}

fn read(file: Option<&Path>, prefix: &str) -> Result<Config, ConfigError> {
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
        .map_err(|err| invalid(file, err))
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
    fn every_key_that_is_set_is_told_with_who_set_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "listen = \"x\"\n[store]\nendpoint = \"a\"\n").unwrap();
        let given = given(Some(file.path()), "GRIDFAAS_TEST").unwrap();
        let told = |key: &str, value: &str| Given {
            key: key.to_owned(),
            value: value.to_owned(),
            origin: Origin::File,
        };
        assert_eq!(given, [told("listen", "x"), told("store.endpoint", "a")]);
    }

    #[test]
    fn a_missing_file_is_named() {
        let err = load::<Example>(Some(Path::new("/nowhere/x.toml")), "GRIDFAAS_TEST").unwrap_err();
        assert!(err.to_string().contains("/nowhere/x.toml"));
    }
}
