//! `gridfaas audit`

use std::process::ExitCode;

use clap::Args;
use credit_manager::settlement::audit;
use proto::credit::v1::{AuditRequest, AuditResponse};
use serde::Serialize;

use crate::output::{Output, Show, columns};
use crate::stack::{Stack, told};

/// Exit status 1 if a check fails.
#[derive(Debug, Args)]
pub(crate) struct AuditArgs {}

#[derive(Serialize)]
pub(crate) struct Audit {
    pub(crate) ok: bool,
    checks: Vec<Check>,
}

#[derive(Serialize)]
struct Check {
    name: String,
    ok: bool,
    detail: String,
}

impl From<AuditResponse> for Audit {
    fn from(response: AuditResponse) -> Self {
        let checks = response.checks.into_iter().map(|check| Check {
            name: check.name,
            ok: check.ok,
            detail: check.detail,
        });
        Self {
            ok: response.ok,
            checks: checks.collect(),
        }
    }
}

impl From<Vec<audit::Check>> for Audit {
    fn from(checks: Vec<audit::Check>) -> Self {
        let checks = checks.into_iter().map(|check| Check {
            name: check.name.to_owned(),
            ok: check.ok,
            detail: check.detail,
        });
        let checks: Vec<Check> = checks.collect();
        Self {
            ok: checks.iter().all(|check| check.ok),
            checks,
        }
    }
}

impl Audit {
    pub(crate) fn exit_code(&self) -> ExitCode {
        if self.ok {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

impl Show for Audit {
    fn text(&self) -> String {
        let verdict = |ok: bool| if ok { "holds" } else { "FAILS" };
        let checks = columns(
            ["CHECK", "VERDICT", "FIGURES"],
            self.checks.iter().map(|check| {
                [
                    check.name.clone(),
                    verdict(check.ok).to_owned(),
                    check.detail.clone(),
                ]
            }),
        );
        format!("{checks}\nthe audit {}", verdict(self.ok))
    }
}

pub(crate) async fn run(stack: &Stack, output: Output) -> anyhow::Result<ExitCode> {
    let reply = stack
        .accounts()
        .await?
        .audit(AuditRequest {})
        .await
        .map_err(told)?;
    let audit = Audit::from(reply.into_inner());
    output.show(&audit)?;
    Ok(audit.exit_code())
}
