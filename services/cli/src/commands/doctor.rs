//! `gridfaas doctor`

mod machine;
mod services;

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::output::{Output, Show, printable};
use crate::report::Report;
use crate::stack::Stack;

/// Looks at this machine and at the stack, and changes nothing. Exit status 1 if a check fails; a warning is no failure.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// Works, less well or less safely than it could.
    Warn,
    Fail,
}

impl Verdict {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// What one check found.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    found: String,
    /// How to mend it.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self {
            check,
            verdict: Verdict::Ok,
            found: found.into(),
            hint: None,
        }
    }

    fn warn(check: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Warn,
            hint: Some(hint.into()),
            ..Self::ok(check, found)
        }
    }

    fn fail(check: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Fail,
            ..Self::warn(check, found, hint)
        }
    }

    /// An error with its own advice, if it has any.
    fn failed(check: &'static str, err: &anyhow::Error) -> Self {
        let Report { problem, hint } = Report::from(err);
        Self {
            verdict: Verdict::Fail,
            hint,
            ..Self::ok(check, problem)
        }
    }
}

#[derive(Debug, Serialize)]
struct Diagnosis {
    ok: bool,
    checks: Vec<Finding>,
}

impl From<Vec<Finding>> for Diagnosis {
    fn from(checks: Vec<Finding>) -> Self {
        Self {
            ok: checks.iter().all(|finding| finding.verdict != Verdict::Fail),
            checks,
        }
    }
}

impl Show for Diagnosis {
    fn text(&self) -> String {
        let line = |finding: &Finding| {
            let Finding { check, found, .. } = finding;
            let verdict = finding.verdict.as_str();
            let hint = finding
                .hint
                .as_ref()
                .map(|hint| format!("\n{:20}hint: {}", "", printable(hint)));
            format!(
                "{verdict:6}{check:14}{}{}\n",
                printable(found),
                hint.unwrap_or_default()
            )
        };
        self.checks.iter().map(line).collect()
    }
}

pub(crate) async fn run(stack: &Stack, output: Output) -> anyhow::Result<ExitCode> {
    let mut findings = machine::look(stack.data_dir()).await;
    findings.extend(services::look(stack).await?);
    let diagnosis = Diagnosis::from(findings);
    output.show(&diagnosis)?;
    Ok(if diagnosis.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_check_is_a_line_and_its_advice_another() {
        let diagnosis = Diagnosis::from(vec![
            Finding::ok("kernel", "Linux 6.12"),
            Finding::warn("clock", "nobody sets it", "install chrony"),
        ]);
        assert!(diagnosis.ok, "a warning is no failure");
        assert_eq!(
            diagnosis.text(),
            "ok    kernel        Linux 6.12\n\
             warn  clock         nobody sets it\n                    hint: install chrony\n"
        );
    }

    #[test]
    fn an_error_brings_its_own_advice_and_fails_the_whole() {
        let err = anyhow::anyhow!("no apptainer (hint: install it)");
        let finding = Finding::failed("apptainer", &err);
        assert_eq!(finding, Finding::fail("apptainer", "no apptainer", "install it"));
        assert!(!Diagnosis::from(vec![finding]).ok);
    }
}
