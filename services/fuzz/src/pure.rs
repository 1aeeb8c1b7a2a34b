//! What needs nothing but the input.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::LazyLock;

use container_manager::cgroup::hierarchy::Mounts;
use container_manager::container::ExitRecord;
use container_manager::function::{FunctionSettings, idle_timeout};
use container_manager::layout::{self, TaskKey};
use container_manager::{recording, results};
use receipt::{PublicKey, SigningKey};
use units::{Amount, FunctionName, MilliCores, TaskId, UserName};

const KEY_MAX: usize = 1024;

pub(crate) fn object_keys(data: &[u8]) {
    let plain = results::escaped(OsStr::from_bytes(data));
    assert!(!plain.chars().any(char::is_control));
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Some((name, answer)) = layout::quote_answer(text) {
        assert!(!name.is_empty() && answer.len() <= KEY_MAX);
    }
    let Some(key) = TaskKey::from_name(text) else {
        return;
    };
    let name = key.file_name();
    assert!(!name.is_empty() && name.len() <= 255 && name != "." && name != "..");
    assert!(!name.contains(['/', '\0']), "{name:?}");
    let parked = [key.failed(), key.failed_reason()];
    assert!(text.len() > KEY_MAX || parked.iter().all(|key| key.len() <= KEY_MAX));
    if key.problem().is_none() {
        let all = [
            key.input(),
            key.processing(),
            key.output(),
            key.receipt(),
            key.error_log(),
            key.aborted(),
        ];
        assert!(all.iter().all(|key| key.len() <= KEY_MAX));
    }
    let function: FunctionName = "function".parse().unwrap();
    let chained = layout::chained_key(&function, TaskId::from_uuid(Default::default()), text);
    assert!(chained.problem().is_none());
}

pub(crate) fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    idle_timeout(Some(text));
    if let Ok(settings) = FunctionSettings::parse(text) {
        assert!((1..=64).contains(&settings.concurrency) && settings.max_attempts > 0 && settings.pids > 0);
    }
    if let Ok(config) = toml::from_str::<container_manager::Config>(text) {
        // It says which value, and does not fail on any.
        let _ = config.validate();
    }
    if let Ok(config) = toml::from_str::<credit_manager::Config>(text) {
        let _ = config.validate();
    }
}

pub(crate) fn money(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(amount) = text.parse::<Amount>() {
        assert_eq!(amount.to_string().parse::<Amount>(), Ok(amount));
    }
    if let Ok(cores) = text.parse::<MilliCores>() {
        assert_eq!(cores.to_string().parse::<MilliCores>(), Ok(cores));
    }
    for name in [text, text.trim()] {
        if let Ok(user) = name.parse::<UserName>() {
            assert_eq!(user.as_str(), name);
        }
    }
    if let Ok(amount) = serde_json::from_str::<Amount>(text) {
        let again = serde_json::to_string(&amount).unwrap();
        assert_eq!(serde_json::from_str::<Amount>(&again).unwrap(), amount);
    }
}

pub(crate) fn receipts(data: &[u8]) {
    static KEY: LazyLock<PublicKey> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        SigningKey::read_or_make(&folder.path().join("key"))
            .unwrap()
            .public()
    });
    // It is new, so nothing in the corpus was signed with it.
    assert!(receipt::verify(data, &KEY).is_err());
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(key) = PublicKey::from_pem(text)
    {
        assert!(receipt::verify(data, &key).is_err());
    }
}

pub(crate) fn cgroup_files(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (mounts, controllers) = text.split_once("\n\n").unwrap_or((&text, ""));
    if let Ok(found) = Mounts::parse(mounts).resolve(controllers) {
        assert!(!found.homes().is_empty());
    }
}

pub(crate) fn recordings(data: &[u8]) {
    for entry in recording::read(data).flatten() {
        let mut text = Vec::new();
        recording::write(&mut text, &entry).unwrap();
        let again: Vec<_> = recording::read(&*text).map(Result::unwrap).collect();
        assert_eq!(again, [entry]);
    }
    let _ = serde_json::from_slice::<ExitRecord>(data);
}
