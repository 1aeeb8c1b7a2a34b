//! Settings that change while the node runs, and stay changed.
//!
//! ```text
//! configuration file ──────────┐
//!                              ├──► checked as a whole ──► in force, also for what runs
//! settings.json, set by hand ──┘
//! ```
//! Keys are those of the configuration file, such as `scaler.guardian.window_ms`.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use service_kit::telemetry::LogFilter;
use service_kit::{Chain, file};
use tracing::{error, info};

use crate::scaler::ScalerConfig;

/// What was set by hand, by key.
type Changes = BTreeMap<String, String>;

/// One setting, as it is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    pub key: String,
    pub value: String,
    /// What the configuration file says.
    pub configured: String,
}

#[derive(Debug, thiserror::Error)]
pub enum SettingError {
    #[error("there is no setting `{key}` that changes at run time (hint: `gridfaas config show` lists them)")]
    Unknown { key: String },
    #[error("`{key}` cannot be `{value}`: {reason}")]
    Refused {
        key: String,
        value: String,
        reason: String,
    },
    #[error("the settings set before do not fit the configuration file: {reason}")]
    Misfit { reason: String },
    #[error("failed to use `{path}`")]
    File {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
}

/// All that can be set, in the shape of the configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settable {
    pub log: LogFilter,
    pub scaler: ScalerConfig,
}

/// The settings of a node.
pub struct Settings {
    path: PathBuf,
    configured: Settable,
    changes: Mutex<Changes>,
}

impl Settings {
    /// Takes up what was set before. What does not fit the configuration file any more is left out, and said.
    pub fn load(path: PathBuf, configured: Settable) -> Result<Self, SettingError> {
        let changes = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(io::Error::from),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(Changes::new()),
            Err(err) => Err(err),
        };
        let mut changes = changes.map_err(|err| SettingError::File {
            path: path.clone(),
            err,
        })?;
        if let Err(err) = changed(&configured, &changes) {
            error!(error = %Chain(&err), path = %path.display(), "settings set before are left out");
            changes.clear();
        }
        Ok(Self {
            path,
            configured,
            changes: Mutex::new(changes),
        })
    }

    /// What is in force.
    pub fn in_force(&self) -> Settable {
        changed(&self.configured, &self.changes()).expect("checked when it was set")
    }

    /// Every setting, by key.
    pub fn list(&self) -> Vec<Setting> {
        let (configured, now) = (leaves(&self.configured), leaves(&self.in_force()));
        let settings = configured.into_iter().zip(now);
        settings
            .map(|((key, configured), (_, value))| Setting {
                key,
                value: text(&value),
                configured: text(&configured),
            })
            .collect()
    }

    /// Sets `key`, or takes back what was set with `None`. On disk when this returns, and handed to `apply` before any
    /// later change is.
    pub fn set(
        &self,
        key: &str,
        value: Option<&str>,
        apply: impl FnOnce(Settable),
    ) -> Result<Setting, SettingError> {
        let mut changes = self.changes();
        let unknown = || SettingError::Unknown { key: key.to_owned() };
        let before = changed(&self.configured, &changes)?;
        let configured = leaf(&self.configured, key).ok_or_else(unknown)?;
        let mut wanted = changes.clone();
        match value {
            Some(value) => wanted.insert(key.to_owned(), value.to_owned()),
            None => wanted.remove(key),
        };
        let now = changed(&self.configured, &wanted).map_err(|err| match err {
            SettingError::Misfit { reason } => SettingError::Refused {
                key: key.to_owned(),
                value: value.unwrap_or(&configured).to_owned(),
                reason,
            },
            err => err,
        })?;
        self.write(&wanted)?;
        *changes = wanted;
        let (from, to) = (leaf(&before, key), leaf(&now, key).ok_or_else(unknown)?);
        apply(now);
        info!(key, from, to, "setting changed");
        Ok(Setting {
            key: key.to_owned(),
            value: to,
            configured,
        })
    }

    fn write(&self, changes: &Changes) -> Result<(), SettingError> {
        let text = serde_json::to_vec_pretty(changes).map_err(io::Error::from);
        text.and_then(|text| file::replace(&self.path, 0o600, &text))
            .map_err(|err| SettingError::File {
                path: self.path.clone(),
                err,
            })
    }

    fn changes(&self) -> MutexGuard<'_, Changes> {
        // Replaced whole, so a panic leaves the old or the new.
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The configured settings with changes, if they make sense together.
fn changed(configured: &Settable, changes: &Changes) -> Result<Settable, SettingError> {
    let mut tree = tree(configured);
    for (key, value) in changes {
        let place = find(&mut tree, key).ok_or_else(|| SettingError::Unknown { key: key.clone() })?;
        *place = match place {
            Value::Number(_) => Value::from(value.parse::<u64>().map_err(|_| SettingError::Refused {
                key: key.clone(),
                value: value.clone(),
                reason: "it is a whole number".to_owned(),
            })?),
            _ => Value::from(value.as_str()),
        };
    }
    serde_json::from_value(tree).map_err(|err| SettingError::Misfit {
        reason: err.to_string(),
    })
}

fn tree(settable: &Settable) -> Value {
    serde_json::to_value(settable).expect("made of words and numbers")
}

fn find<'a>(tree: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    let found = key.split('.').try_fold(tree, |at, part| at.get_mut(part))?;
    (!found.is_object()).then_some(found)
}

fn leaf(settable: &Settable, key: &str) -> Option<String> {
    find(&mut tree(settable), key).map(|value| text(value))
}

/// Every key with its value, in order.
fn leaves(settable: &Settable) -> BTreeMap<String, Value> {
    let (mut open, mut leaves) = (vec![(String::new(), tree(settable))], BTreeMap::new());
    while let Some((path, value)) = open.pop() {
        match value {
            Value::Object(parts) => {
                let dot = if path.is_empty() { "" } else { "." };
                open.extend(
                    parts
                        .into_iter()
                        .map(|(key, value)| (format!("{path}{dot}{key}"), value)),
                );
            }
            value => {
                leaves.insert(path, value);
            }
        }
    }
    leaves
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scaler::PolicyName;
    use units::MilliCores;

    fn at(path: PathBuf) -> Settings {
        Settings::load(path, Settable::default()).unwrap()
    }

    #[test]
    fn what_is_set_is_in_force_at_once_and_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings.json");
        let settings = at(path.clone());
        let mut applied = None;
        let setting = settings
            .set("scaler.policy", Some("guardian"), |now| {
                applied = Some(now.scaler.policy());
            })
            .unwrap();
        assert_eq!(
            (setting.value.as_str(), setting.configured.as_str()),
            ("guardian", "tracking")
        );
        assert_eq!(applied, Some(PolicyName::Guardian));
        settings
            .set("scaler.boundary_millicores", Some("50"), |_| {})
            .unwrap();
        let again = at(path.clone());
        assert_eq!(again.in_force().scaler.policy(), PolicyName::Guardian);
        assert_eq!(
            again.in_force().scaler.boundary(),
            MilliCores::from_millicores(50)
        );
        assert_eq!(again.list(), settings.list());
        again.set("scaler.policy", None, |_| {}).unwrap();
        assert_eq!(at(path).in_force().scaler.policy(), PolicyName::Tracking);
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_reason_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings.json");
        let settings = at(path.clone());
        for (key, value, reason) in [
            ("scaler", "x", "no setting `scaler`"),
            ("node", "x", "no setting `node`"),
            ("scaler.guardian.window", "1", "no setting"),
            ("scaler.guardian.window_ms", "soon", "a whole number"),
            ("scaler.guardian.window_ms", "-1", "a whole number"),
            ("scaler.guardian.window_ms", "0", "must not be 0"),
            (
                "scaler.guardian.event_timeout_ms",
                "40000",
                "6 events take 50000 ms, so the rule could never act",
            ),
            ("scaler.policy", "magic", "unknown variant `magic`"),
            ("log", "a=b=c", "not a log filter"),
            ("scaler.boundary_millicores", "0", "must not be 0"),
            ("scaler.boundary_millicores", "5000000000", "expected u32"),
        ] {
            let refused = settings.set(key, Some(value), |_| panic!("applied"));
            let err = refused.unwrap_err().to_string();
            assert!(err.contains(reason), "{key} {value}: {err}");
        }
        assert!(!path.exists());
        assert_eq!(settings.in_force(), Settable::default());
    }

    #[test]
    fn what_no_longer_fits_the_configuration_file_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings.json");
        for text in [r#"{"scaler.speed": "9"}"#, r#"{"scaler.policy": "magic"}"#] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(at(path.clone()).in_force(), Settable::default());
        }
        std::fs::write(&path, "half of i").unwrap();
        assert!(Settings::load(path, Settable::default()).is_err());
    }

    #[test]
    fn every_setting_is_listed_by_the_key_of_the_configuration_file() {
        let folder = tempfile::tempdir().unwrap();
        let listed = at(folder.path().join("settings.json")).list();
        let window = listed
            .iter()
            .find(|setting| setting.key == "scaler.guardian.window_ms");
        assert_eq!(window.unwrap().value, "10000");
        assert!(listed.iter().all(|setting| setting.value == setting.configured));
    }
}
