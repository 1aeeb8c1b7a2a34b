//! What is drawn: a line of sums, users with their funds, containers with their CPU.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Borders, Row, Table};
use schema::{Container, User};
use units::MilliCores;

use super::Snapshot;
use crate::output::printable;

/// Characters of a container's bar.
const BAR: u32 = 24;

/// Draws the last figures, and above them why there are no newer ones.
pub(super) fn draw(frame: &mut Frame<'_>, snapshot: Option<&Snapshot>, problem: Option<&str>) {
    let Some(snapshot) = snapshot else { return };
    let users = u16::try_from(snapshot.users.len()).unwrap_or(u16::MAX);
    // The users' table takes what it needs, and at most half of the screen.
    let users = users.saturating_add(2).min(frame.area().height / 2);
    let [top, middle, bottom, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(users),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let sums = match problem {
        None => Line::from(snapshot.summary()),
        Some(problem) => Line::styled(printable(problem), Color::Red),
    };
    frame.render_widget(sums, top);
    frame.render_widget(user_table(&snapshot.users), middle);
    frame.render_widget(container_table(&snapshot.containers), bottom);
    let legend = "█ used  ░ limit in force  · maximum      q leaves";
    frame.render_widget(Line::styled(legend, Modifier::DIM), foot);
}

fn user_table(users: &[User]) -> Table<'_> {
    let rows = users.iter().map(|user| {
        let lasts = match user.runway_ms {
            Some(ms) => format!("{} s", ms / 1000),
            None => "-".to_owned(),
        };
        let row = Row::new([
            user.name.clone(),
            format!("{} GRC", user.balance),
            if user.accounting {
                user.standing.clone()
            } else {
                "not billed".to_owned()
            },
            lasts,
            user.running_tasks.to_string(),
            user.millicores.to_string(),
        ]);
        row.style(standing_style(user))
    });
    let widths = [16, 20, 12, 12, 8, 16].map(Constraint::Length);
    Table::new(rows, widths)
        .header(heading([
            "USER",
            "BALANCE",
            "STANDING",
            "LASTS",
            "RUNNING",
            "ALLOCATED",
        ]))
        .block(Block::new().borders(Borders::TOP))
}

fn container_table(containers: &[Container]) -> Table<'_> {
    let rows = containers.iter().map(|container| {
        Row::new([
            container.function.clone(),
            container.user.clone(),
            bar(container.used, container.allocated, container.max),
            container.used.to_string(),
            container.allocated.to_string(),
            container.running_tasks.to_string(),
            printable(&container.restriction),
        ])
        .style(restriction_style(&container.restriction))
    });
    let widths = [20, 16, 26, 16, 16, 6, 12].map(Constraint::Length);
    Table::new(rows, widths)
        .header(heading([
            "FUNCTION",
            "USER",
            "CPU",
            "USED",
            "LIMIT",
            "TASKS",
            "RESTRICTION",
        ]))
        .block(Block::new().borders(Borders::TOP))
}

fn heading<const N: usize>(names: [&'static str; N]) -> Row<'static> {
    Row::new(names).style(Modifier::BOLD)
}

fn standing_style(user: &User) -> Style {
    match user.standing.as_str() {
        _ if !user.accounting => Style::new(),
        "low" => Style::new().fg(Color::Yellow),
        "in-debt" | "exhausted" => Style::new().fg(Color::Red),
        _ => Style::new(),
    }
}

fn restriction_style(restriction: &str) -> Style {
    match restriction {
        "throttle" => Style::new().fg(Color::Yellow),
        "stop" => Style::new().fg(Color::Red),
        _ => Style::new(),
    }
}

/// What a container uses of its limit, and what there is of its maximum.
fn bar(used: MilliCores, allocated: MilliCores, max: MilliCores) -> String {
    let max = max.millicores().max(allocated.millicores()).max(1);
    let cells = |part: MilliCores| {
        let part = u64::from(part.millicores().min(max)) * u64::from(BAR);
        usize::try_from(part.div_ceil(u64::from(max))).unwrap_or_default()
    };
    let (used, allocated) = (cells(used), cells(allocated));
    let width = cells(MilliCores::from_millicores(max));
    (0..width)
        .map(|cell| match cell {
            cell if cell < used => '█',
            cell if cell < allocated => '░',
            _ => '·',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{container, credit};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    #[test]
    fn a_bar_shows_use_within_the_limit_within_the_maximum() {
        let bar = |used, allocated, max| {
            bar(
                MilliCores::from_millicores(used),
                MilliCores::from_millicores(allocated),
                MilliCores::from_millicores(max),
            )
        };
        assert_eq!(bar(500, 1000, 2000), "██████░░░░░░············");
        assert_eq!(bar(0, 2000, 2000), "░".repeat(24));
        assert_eq!(
            bar(9000, 2000, 2000),
            "█".repeat(24),
            "a burst is above the limit"
        );
        assert_eq!(bar(0, 0, 0), "·".repeat(24));
    }

    fn screen(problem: Option<&str>) -> String {
        let mut user = credit::v1::User {
            name: "alice".to_owned(),
            balance_halfords: -5_000_000,
            accounting: true,
            live_sessions: 1,
            ..Default::default()
        };
        user.set_standing(credit::v1::Standing::InDebt);
        let container = container::v1::Container {
            function: "stress".to_owned(),
            user: "alice".to_owned(),
            millicores: 500,
            used_millicores: 480,
            max_millicores: 2000,
            running_tasks: 1,
            restriction: "throttle".to_owned(),
            ..Default::default()
        };
        let snapshot = Snapshot {
            node: "n1".to_owned(),
            capacity: MilliCores::from_millicores(2000),
            users: vec![user.into()],
            containers: vec![container.into()],
        };
        let mut terminal = Terminal::new(TestBackend::new(120, 10)).unwrap();
        terminal
            .draw(|frame| draw(frame, Some(&snapshot), problem))
            .unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn the_screen_shows_sums_funds_and_cpu() {
        let screen = screen(None);
        for shown in [
            "node n1: 1 running, 480 of 500 millicores used, 2000 there are",
            "alice            -0.05000000 GRC      in-debt",
            "stress               alice            ██████··················",
            "throttle",
            "q leaves",
        ] {
            assert!(screen.contains(shown), "no `{shown}` in\n{screen}");
        }
    }

    #[test]
    fn a_problem_stands_above_the_last_figures_and_drives_no_terminal() {
        let screen = screen(Some("gone\u{1b}[2J"));
        assert!(
            screen.contains("gone\\u{1b}[2J") && screen.contains("alice"),
            "{screen}"
        );
    }
}
