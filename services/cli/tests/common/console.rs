//! What somebody types into a shell, and reads there.

use std::path::Path;
use std::process::{Command, Stdio};

use regex::{Captures, Regex};

/// A shell whose `gridfaas` is the one that was built, in a folder and with the stack of a data folder.
pub fn shell(folder: &Path, data_dir: &Path) -> Command {
    let built = Path::new(env!("CARGO_BIN_EXE_gridfaas")).parent().unwrap();
    let path = std::env::var("PATH").unwrap();
    let mut shell = Command::new("bash");
    shell
        .env("PATH", format!("{}:{path}", built.display()))
        .env("COLUMNS", "100")
        .current_dir(folder)
        .stdin(Stdio::null());
    // The tests' own surroundings must not point to another stack or store.
    for (name, _) in std::env::vars() {
        if name == "RUST_LOG"
            || ["AWS_", "GRIDFAAS_", "RCLONE_"]
                .iter()
                .any(|of| name.starts_with(of))
        {
            shell.env_remove(name);
        }
    }
    shell.env("GRIDFAAS_DATA_DIR", data_dir);
    shell
}

/// Runs every line of a transcript that begins with `$ ` anew; the transcript as it would be now, with what differs from
/// run to run masked.
pub fn retell(transcript: &str, folder: &Path, data_dir: &Path) -> String {
    let commands = transcript.lines().filter_map(|line| line.strip_prefix("$ "));
    let told = commands.map(|command| {
        let script = format!("exec 2>&1\n{command}");
        let output = shell(folder, data_dir).args(["-c", &script]).output().unwrap();
        let said = masked(&String::from_utf8(output.stdout).unwrap());
        let said = said.replace(folder.to_str().unwrap(), "FOLDER");
        let status = match output.status.code() {
            Some(0) => String::new(),
            status => format!("[exit status {}]\n", status.unwrap()),
        };
        format!("$ {command}\n{said}{status}")
    });
    told.collect::<Vec<_>>().join("\n")
}

/// Ids, addresses, times and measured figures with `#` for each digit and letter, so that columns stay where they are.
fn masked(text: &str) -> String {
    const VOLATILE: &str = concat!(
        r"(?m)\d{4}-\d\d-\d\dT[0-9:]+\.\d{3}Z",                   // a moment
        r"|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",            // a UUID
        r"|\b[0-9a-f]{64}\b|\bGF[0-9A-F]{16}\b|\b[0-9a-f]{12}\b", // a transaction, an S3 key, a token
        r"|\bm[1-9A-HJ-NP-Za-km-z]{33}\b",                        // an address
        r"|^1\d{3}\b",                                            // the bytes of a receipt
        r"|\d+\.\d{3} s|\d+\.\d{6} s|\d+\.\d{8}",                 // seconds, GRC
    );
    let volatile = Regex::new(VOLATILE).unwrap();
    let mask = |found: &Captures<'_>| {
        let found = &found[0];
        let (figure, unit) = found.split_at(found.trim_end_matches(" s").len());
        // Whole amounts were chosen, not measured.
        if figure.ends_with("000000") && found != "0.000000 s" {
            return found.to_owned();
        }
        figure
            .chars()
            .map(|c| if c.is_alphanumeric() { '#' } else { c })
            .chain(unit.chars())
            .collect()
    };
    volatile.replace_all(text, mask).into_owned()
}
