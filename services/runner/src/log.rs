//! The task's log: stdout and stderr merged, up to a limit.

use std::fs::File;
use std::io::Write;

use runner::LogBytes;

/// Keeps the first bytes and counts the rest, so that a flood neither fills the disk nor stops the script.
pub(crate) struct CappedLog {
    file: File,
    room: u64,
    bytes: LogBytes,
    line_open: bool,
}

impl CappedLog {
    pub(crate) fn new(file: File, bytes_max: u64) -> Self {
        Self {
            file,
            room: bytes_max,
            bytes: LogBytes::default(),
            line_open: false,
        }
    }

    pub(crate) fn write(&mut self, output: &[u8]) {
        let fits = usize::try_from(self.room).map_or(output.len(), |room| room.min(output.len()));
        let (kept, cut) = output.split_at(fits);
        match self.file.write_all(kept) {
            Ok(()) => {
                self.room -= kept.len() as u64;
                self.bytes.written += kept.len() as u64;
                self.bytes.cut += cut.len() as u64;
                self.line_open = kept.last().map_or(self.line_open, |&byte| byte != b'\n');
            }
            Err(_) => {
                // The host's disk is full. The script goes on, and the record tells how much is missing.
                self.room = 0;
                self.bytes.cut += output.len() as u64;
            }
        }
    }

    /// Says once how much was cut, if anything was.
    pub(crate) fn finish(mut self) -> LogBytes {
        if self.bytes.cut > 0 {
            let line_end = if self.line_open { "\n" } else { "" };
            let remark = format!(
                "{line_end}gridfaas: the log ends here, {} bytes cut\n",
                self.bytes.cut
            );
            // On a full disk the record alone says it.
            let _ = self.file.write_all(remark.as_bytes());
        }
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    fn log_of(parts: &[&str], bytes_max: u64) -> (String, LogBytes) {
        let mut file = tempfile::tempfile().unwrap();
        let mut log = CappedLog::new(file.try_clone().unwrap(), bytes_max);
        for part in parts {
            log.write(part.as_bytes());
        }
        let bytes = log.finish();
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        (text, bytes)
    }

    #[test]
    fn a_log_within_its_limit_is_kept_as_it_is() {
        assert_eq!(
            log_of(&["one\n", "two"], 7),
            ("one\ntwo".into(), LogBytes { written: 7, cut: 0 })
        );
    }

    #[test]
    fn a_cut_is_said_once_on_a_line_of_its_own() {
        let (text, bytes) = log_of(&["one\ntw", "o\nthree", "four"], 7);
        assert_eq!(text, "one\ntwo\ngridfaas: the log ends here, 10 bytes cut\n");
        assert_eq!(bytes, LogBytes { written: 7, cut: 10 });
    }

    #[test]
    fn a_limit_at_a_line_end_adds_no_empty_line() {
        let (text, _) = log_of(&["one\n", "two\n"], 4);
        assert_eq!(text, "one\ngridfaas: the log ends here, 4 bytes cut\n");
    }

    #[test]
    fn a_full_disk_is_counted_and_does_not_stop_the_script() {
        let mut log = CappedLog::new(File::create("/dev/full").unwrap(), 100);
        log.write(b"lost");
        log.write(b"too");
        assert_eq!(log.finish(), LogBytes { written: 0, cut: 7 });
    }
}
