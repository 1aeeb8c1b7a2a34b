//! A supervisor: serves the one request of its connection.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::Context;
use runner::{Event, ExitRecord, LogBytes, Outcome, Request, Run, VERSION, layout, wire};

use crate::script::Script;
use crate::workspace;

pub(crate) fn supervise(connection: &OwnedFd) -> anyhow::Result<()> {
    wire::send(connection, &Event::Hello { version: VERSION }, &[]).context("failed to greet the host")?;
    let Some(received) = wire::receive(connection).context("failed to receive a request")? else {
        return Ok(());
    };
    match received.message {
        Request::Run(run) => {
            let [log, record] = <[OwnedFd; 2]>::try_from(received.fds)
                .ok()
                .context("run request without its two descriptors")?;
            supervise_run(connection, &run, log.into(), record.into())
        }
        Request::OpenResults { slot } => match workspace::open_results(Path::new(layout::WORK), slot) {
            Ok(results) => wire::send(connection, &Event::Results, &[results.as_fd()]),
            Err(err) => wire::send(
                connection,
                &Event::Refused {
                    reason: err.to_string(),
                },
                &[],
            ),
        }
        .context("failed to answer the host"),
    }
}

fn supervise_run(connection: &OwnedFd, run: &Run, log: File, mut record_file: File) -> anyhow::Result<()> {
    // A record that holds anything says that the script was to run, also if nothing ever says how it ended.
    record_file
        .write_all(b"\n")
        .context("failed to begin the exit record")?;
    let record = match prepare(run) {
        Ok(()) => {
            let private = [connection.as_fd(), log.as_fd(), record_file.as_fd()];
            match Script::spawn(run, &private) {
                Ok(script) => {
                    // A host that is gone reads the exit record when it is back.
                    let _ = wire::send(connection, &Event::Started, &[]);
                    script.wait(log, run.limits.log_bytes_max)?
                }
                Err(err) => without_run(Outcome::ExecFailed {
                    program: run.argv.first().cloned().unwrap_or_default(),
                    error: err.to_string(),
                }),
            }
        }
        Err(err) => without_run(Outcome::SetupFailed {
            error: format!("{err:#}"),
        }),
    };
    record_file
        .write_all(&serde_json::to_vec(&record)?)
        .and_then(|()| record_file.sync_data())
        .context("failed to write the exit record")?;
    let _ = wire::send(connection, &Event::Ended(record), &[]);
    Ok(())
}

fn prepare(run: &Run) -> anyhow::Result<()> {
    workspace::prepare(Path::new(layout::WORK), run.slot)?;
    if run.alone {
        for folder in layout::SHARED {
            workspace::clear(Path::new(folder)).with_context(|| format!("failed to empty `{folder}`"))?;
        }
    }
    Ok(())
}

fn without_run(outcome: Outcome) -> ExitRecord {
    ExitRecord {
        outcome,
        user_us: 0,
        system_us: 0,
        log: LogBytes::default(),
    }
}
