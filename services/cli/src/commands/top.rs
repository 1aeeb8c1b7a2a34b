//! `gridfaas top`

mod screen;

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use proto::container::v1::{GetNodeRequest, ListContainersRequest};
use proto::credit::v1::ListUsersRequest;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use schema::{Container, User};
use serde::Serialize;
use units::MilliCores;

use crate::output::{Format, Output, Show};
use crate::stack::{Stack, told};
use crate::view::{Containers, Users};

/// The figures are kept up to date until `q` is pressed. Where standard output is no terminal, they are printed once.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Print the figures once
    #[arg(long)]
    once: bool,
    /// Seconds between two looks
    #[arg(long, value_name = "S", default_value = "1", value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
}

/// What there is to see at one moment.
#[derive(Debug, Serialize)]
struct Snapshot {
    node: String,
    capacity: MilliCores,
    users: Vec<User>,
    containers: Vec<Container>,
}

impl Snapshot {
    async fn take(stack: &Stack) -> anyhow::Result<Self> {
        let (mut accounts, mut node) = (stack.accounts().await?, stack.containers().await?);
        let users = accounts.list_users(ListUsersRequest {}).await.map_err(told)?;
        let containers = node.list_containers(ListContainersRequest {}).await;
        let containers = containers.map_err(told)?.into_inner().containers;
        let node = node.get_node(GetNodeRequest {}).await.map_err(told)?.into_inner();
        Ok(Self {
            node: node.node_id,
            capacity: MilliCores::from_millicores(node.capacity_millicores),
            users: users.into_inner().users.into_iter().map(User::from).collect(),
            containers: containers.into_iter().map(Container::from).collect(),
        })
    }

    /// What containers use and may use together, and what the node has.
    fn summary(&self) -> String {
        let sum = |of: fn(&Container) -> MilliCores| -> u64 {
            self.containers
                .iter()
                .map(|container| u64::from(of(container).millicores()))
                .sum()
        };
        let tasks: u32 = self
            .containers
            .iter()
            .map(|container| container.running_tasks)
            .sum();
        format!(
            "node {}: {tasks} running, {} of {} millicores used, {} there are",
            self.node,
            sum(|container| container.used),
            sum(|container| container.allocated),
            self.capacity.millicores(),
        )
    }
}

impl Show for Snapshot {
    fn text(&self) -> String {
        let users = Users(self.users.clone()).text();
        let containers = Containers(self.containers.clone()).text();
        format!("{}\n\n{users}\n{containers}", self.summary())
    }
}

pub(crate) async fn run(args: TopArgs, stack: &Stack, output: Output) -> anyhow::Result<()> {
    // The first look may fail, and is told as any error is; later ones are told on the screen.
    let first = Snapshot::take(stack).await?;
    if args.once || output.format != Format::Table || !io::stdout().is_terminal() {
        return output.show(&first);
    }
    let mut terminal = ratatui::try_init().context("failed to take over the terminal")?;
    let watched = watch(
        &mut terminal,
        Ok(first),
        stack,
        Duration::from_secs(args.interval),
    )
    .await;
    ratatui::try_restore().context("failed to give the terminal back")?;
    watched
}

/// Draws, waits and looks again, until somebody has seen enough.
async fn watch(
    terminal: &mut ratatui::DefaultTerminal,
    mut looked: anyhow::Result<Snapshot>,
    stack: &Stack,
    interval: Duration,
) -> anyhow::Result<()> {
    let mut last = None;
    loop {
        let problem = match looked {
            Ok(snapshot) => {
                last = Some(snapshot);
                None
            }
            Err(err) => Some(format!("{err:#}")),
        };
        terminal.draw(|frame| screen::draw(frame, last.as_ref(), problem.as_deref()))?;
        if tokio::task::block_in_place(|| is_left(interval))? {
            return Ok(());
        }
        looked = Snapshot::take(stack).await;
    }
}

/// Waits for a key, at most for so long. Whether it is one that leaves.
fn is_left(at_most: Duration) -> io::Result<bool> {
    Ok(event::poll(at_most)? && matches!(event::read()?, Event::Key(key) if leaves(key)))
}

fn leaves(key: KeyEvent) -> bool {
    let control_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind == KeyEventKind::Press && (control_c || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q_escape_and_control_c_leave_and_nothing_else_does() {
        let key = |code, modifiers| leaves(KeyEvent::new(code, modifiers));
        assert!(key(KeyCode::Char('q'), KeyModifiers::NONE));
        assert!(key(KeyCode::Esc, KeyModifiers::NONE));
        assert!(key(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert!(!key(KeyCode::Char('c'), KeyModifiers::NONE));
        assert!(!key(KeyCode::Enter, KeyModifiers::NONE));
    }
}
