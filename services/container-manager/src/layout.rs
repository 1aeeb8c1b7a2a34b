//! The bucket is the user's interface: which key holds what. Pure.

use std::fmt;

use sha2::{Digest as _, Sha256};
use units::{FunctionName, TaskId};

/// The function body, fetched again for every task.
pub const SCRIPT: &str = "utils/process_task.sh";
/// Idle seconds before the container stops.
pub const TIMEOUT: &str = "utils/timeout.txt";
/// The function's optional settings.
pub const SETTINGS: &str = "utils/function.toml";
/// While it is there, whatever it holds, no task starts.
pub const STOPPED: &str = "utils/stopped";
pub const UTILS: &str = "utils/";
pub const STAGING: &str = "staging/";
pub const INPUT: &str = "input/";
pub const PROCESSING: &str = "processing/";
pub const OUTPUT: &str = "output/";
/// Files to be quoted, never run.
pub const QUOTE: &str = "quote/";
/// What keeps a function from running, said once.
pub const STATUS_ERROR: &str = "status/error.json";
/// The user's balance, rewritten while anything runs.
pub const STATUS_BALANCE: &str = "status/balance.json";
/// That the user's balance fell to a threshold, as long as it is not above again.
pub const STATUS_ALERT: &str = "status/alert.json";

/// The longest key of an object, in bytes.
const KEY_MAX: usize = 1024;
/// The most that a task's other keys add to its name: those of `logs/out-task-NAME.txt.error`.
const RESERVED_BYTES: usize = 24;
/// A result with a longer name gets a shorter one in the next function's input, in bytes.
const CHAINED_NAME_MAX: usize = 200;
/// What such a name keeps of its end; with its digest it is longer than [`CHAINED_NAME_MAX`].
const CHAINED_ENDING: usize = 180;
/// The longest file name that Linux file systems hold, in bytes.
const FILE_NAME_MAX: usize = 255;

/// Where a task's object is when it is claimed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// In line.
    #[default]
    Input,
    /// Left behind by a node that is gone.
    Processing,
}

impl Source {
    /// The key of a task's object there.
    pub fn key(self, task: &TaskKey) -> String {
        match self {
            Self::Input => task.input(),
            Self::Processing => task.processing(),
        }
    }
}

/// One task's name: its object's key below `input/`, exactly as the object store has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct TaskKey(String);

impl TaskKey {
    /// `None` for a key that is not a task: outside `input/`, or a "directory" object.
    pub fn from_input(object_key: &str) -> Option<Self> {
        let name = object_key.strip_prefix(INPUT)?;
        Self::from_name(name)
    }

    /// As [`Self::from_input`], for a key below `processing/`.
    pub fn from_processing(object_key: &str) -> Option<Self> {
        let name = object_key.strip_prefix(PROCESSING)?;
        Self::from_name(name)
    }

    /// From a name below `input/`; `None` if it is empty or ends with `/`.
    pub fn from_name(name: &str) -> Option<Self> {
        (!name.is_empty() && !name.ends_with('/')).then(|| Self(name.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn input(&self) -> String {
        format!("{INPUT}{}", self.0)
    }

    pub fn processing(&self) -> String {
        format!("{PROCESSING}{}", self.0)
    }

    pub fn output(&self) -> String {
        format!("{OUTPUT}{}", self.0)
    }

    pub fn failed(&self) -> String {
        format!("failed/{}", self.parked())
    }

    pub fn failed_reason(&self) -> String {
        format!("failed/{}.reason.json", self.parked())
    }

    /// Why no task can have this key; `None` if one can.
    pub fn problem(&self) -> Option<String> {
        let longest = self.0.len() + RESERVED_BYTES;
        (longest > KEY_MAX).then(|| {
            format!(
                "the file's name has {} bytes below `input/`, and its logs and results need names of their own: \
                 at most {} fit",
                self.0.len(),
                KEY_MAX - RESERVED_BYTES
            )
        })
    }

    /// The name below `failed/`: the task's own, or a short one for a name that is too long to run.
    fn parked(&self) -> String {
        match self.problem() {
            None => self.0.clone(),
            Some(_) => shortened(&self.0),
        }
    }

    /// The key of one file that the script left in its results directory.
    pub fn result(&self, file: &str) -> String {
        format!("results/{}/{file}", self.0)
    }

    /// The longest name that a result may have for its key to fit.
    pub fn result_name_bytes_max(&self) -> usize {
        KEY_MAX.saturating_sub(self.result("").len())
    }

    pub fn receipt(&self) -> String {
        self.result(RECEIPT)
    }

    /// Where the task's output goes. A task file that is itself a `.txt` does not get the ending twice.
    pub fn log(&self) -> String {
        let ending = if self.0.ends_with(".txt") { "" } else { ".txt" };
        format!("logs/out-task-{}{ending}", self.0)
    }

    /// Where the output of a failed attempt goes.
    pub fn error_log(&self) -> String {
        format!("{}.error", self.log())
    }

    pub fn aborted(&self) -> String {
        format!("logs/{}.aborted.json", self.0)
    }

    /// The name of the task file in the container: the key's last segment.
    ///
    /// A name that a directory cannot hold (`.`, `..`, longer than 255 bytes, with a NUL) is made to fit; the script
    /// finds the whole key in `GRIDFAAS_TASK`.
    pub fn file_name(&self) -> String {
        let base = self.0.rsplit('/').next().unwrap_or(&self.0).replace('\0', "_");
        if base == "." || base == ".." || base.is_empty() {
            return base.replace('.', "_") + "_";
        }
        if base.len() <= FILE_NAME_MAX {
            return base;
        }
        // Keeps the ending, by which scripts choose what to do.
        let ending = base
            .rfind('.')
            .map(|dot| &base[dot..])
            .filter(|ending| ending.len() <= 32)
            .unwrap_or("");
        let mut cut = FILE_NAME_MAX - ending.len();
        while !base.is_char_boundary(cut) {
            cut -= 1;
        }
        format!("{}{ending}", &base[..cut])
    }
}

/// Whether an object that was put under this key is for a node to look at.
pub fn is_news(object_key: &str) -> bool {
    object_key.starts_with(INPUT) || object_key.starts_with(QUOTE)
}

/// What the keys of all that is chained from one task begin with, below `input/`.
pub fn chained_folder(function: &FunctionName, task: TaskId) -> String {
    format!("{function}/{task}/")
}

/// The key of the task that a result becomes: always the same, and no other result's. A long name becomes its digest and
/// its end, so that tasks chained any number of times have keys that fit.
pub fn chained_key(function: &FunctionName, task: TaskId, result: &str) -> TaskKey {
    let folder = chained_folder(function, task);
    if result.len() <= CHAINED_NAME_MAX {
        return TaskKey(format!("{folder}{result}"));
    }
    TaskKey(format!("{folder}{}", shortened(result)))
}

/// The digest of a long name and its end. Longer than any name that is taken as it is.
fn shortened(name: &str) -> String {
    let mut cut = name.len() - CHAINED_ENDING;
    while !name.is_char_boundary(cut) {
        cut += 1;
    }
    let digest = hex::encode(Sha256::digest(name));
    format!("{digest}-{}", name[cut..].trim_start_matches('/'))
}

/// The name of a file under `quote/`, and the key of its answer; `None` for a "directory" object, or where the answer's
/// key would be too long.
pub fn quote_answer(object_key: &str) -> Option<(&str, String)> {
    let name = object_key.strip_prefix(QUOTE)?;
    let answer = format!("quotes/{name}.json");
    (!name.is_empty() && !name.ends_with('/') && answer.len() <= KEY_MAX).then_some((name, answer))
}

impl fmt::Display for TaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The platform's own file among the results.
pub const RECEIPT: &str = "receipt.json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_objects_are_not_tasks() {
        for key in ["input/", "input/dir/", "output/a", "input", ""] {
            assert_eq!(TaskKey::from_input(key), None, "{key}");
        }
        assert_eq!(
            TaskKey::from_input("input/dir/a b.txt").unwrap().as_str(),
            "dir/a b.txt"
        );
    }

    #[test]
    fn a_task_has_its_keys() {
        let task = TaskKey::from_name("dir/100.1-150.txt").unwrap();
        assert_eq!(task.processing(), "processing/dir/100.1-150.txt");
        assert_eq!(task.log(), "logs/out-task-dir/100.1-150.txt");
        assert_eq!(task.error_log(), "logs/out-task-dir/100.1-150.txt.error");
        assert_eq!(
            TaskKey::from_name("photo.jpg").unwrap().log(),
            "logs/out-task-photo.jpg.txt"
        );
        assert_eq!(task.result("a/b.bin"), "results/dir/100.1-150.txt/a/b.bin");
    }

    #[test]
    fn chained_keys_differ_where_their_results_do_and_always_fit() {
        let (function, task) = ("a".repeat(63).parse().unwrap(), TaskId::new());
        let key = |result: &str| chained_key(&function, task, result);
        assert_eq!(key("x/y.txt").as_str(), format!("{function}/{task}/x/y.txt"));
        let long = format!("{}.tar.gz", "ü/".repeat(230));
        let (one, other) = (key(&long), key(&format!("x{}", &long[3..])));
        assert_ne!(one, other);
        assert!(one.as_str().ends_with(".tar.gz") && TaskKey::from_input(&one.input()) == Some(one.clone()));
        // No plain name is as long as a shortened one.
        let name = one.as_str().rsplit_once(&format!("{task}/")).unwrap().1;
        assert!(name.len() > CHAINED_NAME_MAX, "{name}");
        assert!(one.failed_reason().len().max(one.error_log().len()) < KEY_MAX);
        assert!(one.result_name_bytes_max() > 600);
    }

    #[test]
    fn a_result_of_a_long_key_has_a_short_name() {
        let key = TaskKey::from_name(&"k".repeat(1000)).unwrap();
        assert_eq!(
            key.result(&"n".repeat(key.result_name_bytes_max())).len(),
            KEY_MAX
        );
    }

    #[test]
    fn a_name_that_is_too_long_to_run_can_still_be_parked() {
        let longest = TaskKey::from_name(&"k".repeat(KEY_MAX - RESERVED_BYTES)).unwrap();
        assert_eq!(longest.problem(), None);
        let keys = |key: &TaskKey| {
            [
                key.processing(),
                key.output(),
                key.failed_reason(),
                key.receipt(),
                key.error_log(),
                key.aborted(),
            ]
        };
        assert_eq!(
            keys(&longest).map(|key| key.len()).into_iter().max(),
            Some(KEY_MAX)
        );

        let too_long = TaskKey::from_name(&format!("{}.txt", "k".repeat(KEY_MAX - RESERVED_BYTES))).unwrap();
        assert!(too_long.problem().unwrap().contains("at most 1000"));
        assert!(too_long.failed_reason().len() < KEY_MAX && too_long.failed().ends_with(".txt"));
        assert_ne!(too_long.failed(), longest.failed());
    }

    #[test]
    fn a_quoted_file_has_an_answer() {
        assert_eq!(
            quote_answer("quote/dir/a.txt"),
            Some(("dir/a.txt", "quotes/dir/a.txt.json".to_owned()))
        );
        let long = format!("quote/{}", "x".repeat(1018));
        for key in ["quote/", "quote/dir/", "input/a", long.as_str()] {
            assert_eq!(quote_answer(key), None, "{key}");
        }
    }

    #[test]
    fn every_key_gets_a_file_name_that_stays_in_its_folder() {
        for (key, name) in [
            ("a.txt", "a.txt"),
            ("x/../../etc/passwd", "passwd"),
            ("..", "___"),
            ("a/.", "__"),
            ("-rf", "-rf"),
            ("naïve file", "naïve file"),
        ] {
            assert_eq!(TaskKey::from_name(key).unwrap().file_name(), name, "{key}");
        }
        let long = TaskKey::from_name(&format!("{}ü.tar.gz", "é".repeat(500)))
            .unwrap()
            .file_name();
        assert!(long.len() <= FILE_NAME_MAX && long.ends_with(".gz"), "{long}");
    }
}
