//! `gridfaas dashboard`

use clap::Args;
use dev_stack::{Port, Ports};
use serde::Serialize;

use crate::output::{Output, Show};
use crate::stack::Stack;

/// For a stack whose parts run apart; `gridfaas up` serves one already. It can only be reached from this machine and with the
/// key in the address it prints, changes nothing, and stores nothing. It reads with the token given, an operator's or an
/// auditor's.
#[derive(Debug, Args)]
pub(crate) struct DashboardArgs {
    /// The port; 0 for any [default: 7404, or any if it is taken]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
}

#[derive(Serialize)]
struct Ready {
    dashboard_url: String,
}

impl Show for Ready {
    fn text(&self) -> String {
        self.dashboard_url.clone()
    }
}

pub(crate) async fn run(args: DashboardArgs, stack: &Stack, output: Output) -> anyhow::Result<()> {
    let shutdown = service_kit::shutdown::on_signal()?;
    let port = args.port.map_or(Ports::default().dashboard, Port::Exactly);
    let services = stack.dashboard_services()?;
    let listener = port.listen().await?;
    let key = dashboard::Key::random()?;
    let dashboard_url = key.address(listener.local_addr()?);
    output.show(&Ready { dashboard_url })?;
    dashboard::serve(listener, services, &key, shutdown).await
}
