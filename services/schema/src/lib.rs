//! What the services answered, as the command line and the dashboard show it.
//!
//! This is their stable schema: JSON keys are never renamed or reused, only added. Amounts are decimal strings of GRC, CPU
//! time is in microseconds, capacity in millicores, instants in milliseconds since 1970 or, where people read them, in
//! RFC 3339.

mod container;
mod credit;
mod time;

pub use container::{Attempt, Container, Problem, Record, Task};
pub use credit::{Entry, Function, Session, Transfer, User, Withdrawal};
pub use time::Rfc3339;

/// A generated enum's word, in the lower case it has in JSON and tables: `TASK_STATE_RUNNING` is `running`.
fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix)
        .unwrap_or(name)
        .to_lowercase()
        .replace('_', "-")
}

#[cfg(test)]
mod tests {
    use super::word;
    use proto::container::v1::TaskState;
    use proto::credit::v1::{Policy, Standing};

    #[test]
    fn states_are_one_word_in_every_output() {
        for (name, prefix, shown) in [
            (TaskState::Running.as_str_name(), "TASK_STATE_", "running"),
            (Standing::InDebt.as_str_name(), "STANDING_", "in-debt"),
            (Policy::Greedy.as_str_name(), "POLICY_", "greedy"),
        ] {
            assert_eq!(word(name, prefix), shown);
        }
    }
}
