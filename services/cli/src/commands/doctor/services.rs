//! The stack that commands would talk to: its services, store and wallet, or the ports for one that does not run.

use dev_stack::{Port, Ports};
use proto::container::v1::GetNodeRequest;
use proto::credit::v1::AuditRequest;

use super::Finding;
use crate::stack::{Stack, told};

pub(super) async fn look(stack: &Stack) -> anyhow::Result<Vec<Finding>> {
    if !stack.is_known()? {
        return Ok(vec![stack_missing(), ports(Ports::default()).await]);
    }
    let mut findings = vec![container_manager(stack).await, store(stack).await];
    findings.extend(credit_manager(stack).await);
    Ok(findings)
}

fn stack_missing() -> Finding {
    let hint = "start one with `gridfaas up`, or say where one is with --data-dir or the addresses";
    Finding::warn("stack", "none runs in the data folder", hint)
}

/// Whether a stack could have the ports that clients expect.
async fn ports(ports: Ports) -> Finding {
    let mut taken = Vec::new();
    for (service, port) in [
        ("s3", ports.s3),
        ("chain", ports.chain),
        ("credit", ports.credit),
        ("container", ports.container),
        ("dashboard", ports.dashboard),
        ("node", ports.node),
    ] {
        let (Port::Exactly(port) | Port::Preferably(port)) = port;
        if Port::Exactly(port).listen().await.is_err() {
            taken.push(format!("{port} ({service})"));
        }
    }
    if taken.is_empty() {
        return Finding::ok("ports", "free");
    }
    let found = format!("in use: {}", taken.join(", "));
    let hint = "`gridfaas up` takes others, and tells which; choose them with options such as --s3-port";
    Finding::warn("ports", found, hint)
}

async fn container_manager(stack: &Stack) -> Finding {
    let asked = async {
        let request = GetNodeRequest {};
        let node = stack.containers().await?.get_node(request).await.map_err(told)?;
        let node = node.into_inner();
        let (cores, mib) = (node.capacity_millicores, node.memory_capacity_mib);
        Ok(format!(
            "node {} gives {cores} millicores and {mib} MiB",
            node.node_id
        ))
    };
    told_or_failed("node", asked.await)
}

async fn store(stack: &Stack) -> Finding {
    let asked = async {
        let store = stack.store()?;
        let buckets = store.buckets().await?;
        let s = if buckets == 1 { "" } else { "s" };
        Ok(format!("{} answers, {buckets} bucket{s}", store.url()))
    };
    told_or_failed("store", asked.await)
}

/// The service by itself, and the wallet by comparing it with the ledger.
async fn credit_manager(stack: &Stack) -> Vec<Finding> {
    let mut accounts = match stack.accounts().await {
        Ok(accounts) => accounts,
        Err(err) => return vec![Finding::failed("accounts", &err)],
    };
    let wallet = match accounts.audit(AuditRequest {}).await {
        Err(status) => Finding::failed("wallet", &told(status)),
        Ok(audit) => {
            let checks = audit.into_inner().checks;
            let broken: Vec<String> = checks
                .into_iter()
                .filter(|check| !check.ok)
                .map(|check| format!("{}: {}", check.name, check.detail))
                .collect();
            if broken.is_empty() {
                Finding::ok("wallet", "agrees with the ledger")
            } else {
                let hint = "see docs/operations.md; was the wallet restored, or were coins moved by hand?";
                Finding::fail("wallet", broken.join("; "), hint)
            }
        }
    };
    vec![Finding::ok("accounts", "credit-manager answers"), wallet]
}

fn told_or_failed(check: &'static str, asked: anyhow::Result<String>) -> Finding {
    asked.map_or_else(
        |err| Finding::failed(check, &err),
        |found| Finding::ok(check, found),
    )
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let taken = Port::Exactly(0).listen().await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let finding = ports(Ports {
            s3: Port::Preferably(port),
            ..Ports::ANY
        })
        .await;
        assert_eq!(finding.verdict, Verdict::Warn);
        assert_eq!(finding.found, format!("in use: {port} (s3)"));
        assert_eq!(ports(Ports::ANY).await, Finding::ok("ports", "free"));
    }
}
