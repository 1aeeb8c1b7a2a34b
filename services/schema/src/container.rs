//! What a node runs and ran.

use proto::container::v1 as container;
use serde::{Deserialize, Serialize};
use units::{Amount, CpuTime, MilliCores, Timestamp};

use crate::word;

#[derive(Clone, Debug, Serialize)]
pub struct Container {
    pub container_id: String,
    pub function: String,
    pub user: String,
    pub policy: String,
    /// The limit in force.
    pub allocated: MilliCores,
    pub max: MilliCores,
    /// Of late.
    pub used: MilliCores,
    /// This and the next since the container was made, as the kernel counts them.
    pub cpu_time_us: CpuTime,
    pub throttled_us: CpuTime,
    pub running_tasks: u32,
    pub restriction: String,
}

impl From<container::Container> for Container {
    fn from(container: container::Container) -> Self {
        Self {
            container_id: container.container_id,
            function: container.function,
            user: container.user,
            policy: container.policy,
            allocated: MilliCores::from_millicores(container.millicores),
            max: MilliCores::from_millicores(container.max_millicores),
            used: MilliCores::from_millicores(container.used_millicores),
            cpu_time_us: CpuTime::from_micros(container.cpu_time_us),
            throttled_us: CpuTime::from_micros(container.throttled_us),
            running_tasks: container.running_tasks,
            restriction: container.restriction,
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Task {
    pub function: String,
    /// The object's key below `input/`.
    pub task: String,
    pub task_id: String,
    pub user: String,
    pub state: String,
    /// Of all attempts together.
    pub cpu_time_us: CpuTime,
    pub throttled_us: CpuTime,
    pub amount: Amount,
    pub attempts: Vec<Attempt>,
    #[serde(skip)]
    pub is_over: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct Attempt {
    pub number: u32,
    pub session_id: String,
    pub container_id: String,
    pub claimed_at_ms: Timestamp,
    pub started_at_ms: Option<Timestamp>,
    pub ended_at_ms: Option<Timestamp>,
    pub exit_code: Option<i32>,
    pub cpu_time_us: CpuTime,
    pub throttled_us: CpuTime,
    pub amount: Amount,
    pub reason: String,
}

impl From<container::Attempt> for Attempt {
    fn from(attempt: container::Attempt) -> Self {
        let instant = |ms: i64| (ms != 0).then(|| Timestamp::from_unix_ms(ms));
        Self {
            number: attempt.number,
            session_id: attempt.session_id,
            container_id: attempt.container_id,
            claimed_at_ms: Timestamp::from_unix_ms(attempt.claimed_at_ms),
            started_at_ms: instant(attempt.started_at_ms),
            ended_at_ms: instant(attempt.ended_at_ms),
            exit_code: attempt.exit_code,
            cpu_time_us: CpuTime::from_micros(attempt.cpu_time_us),
            throttled_us: CpuTime::from_micros(attempt.throttled_us),
            amount: Amount::from_halfords(attempt.amount_halfords),
            reason: attempt.reason,
        }
    }
}

impl From<container::Task> for Task {
    fn from(task: container::Task) -> Self {
        use container::TaskState;
        let state = task.state();
        let attempts: Vec<Attempt> = task.attempts.into_iter().map(Attempt::from).collect();
        Self {
            function: task.function,
            task: task.object_key,
            task_id: task.task_id,
            user: task.user,
            state: word(state.as_str_name(), "TASK_STATE_"),
            cpu_time_us: attempts.iter().map(|attempt| attempt.cpu_time_us).sum(),
            throttled_us: attempts.iter().map(|attempt| attempt.throttled_us).sum(),
            amount: attempts.iter().map(|attempt| attempt.amount).sum(),
            is_over: matches!(state, TaskState::Succeeded | TaskState::Failed),
            attempts,
        }
    }
}

impl Task {
    pub fn succeeded(&self) -> bool {
        self.state == "succeeded"
    }
}

/// An attempt that is over, without the names of what it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Record {
    pub task_id: String,
    pub attempt: u32,
    pub started_at_ms: Timestamp,
    pub ended_at_ms: Timestamp,
    pub succeeded: bool,
    pub cpu_time_us: CpuTime,
    pub amount: Amount,
}

impl From<container::Record> for Record {
    fn from(record: container::Record) -> Self {
        Self {
            task_id: record.task_id,
            attempt: record.attempt,
            started_at_ms: Timestamp::from_unix_ms(record.started_at_ms),
            ended_at_ms: Timestamp::from_unix_ms(record.ended_at_ms),
            succeeded: record.succeeded,
            cpu_time_us: CpuTime::from_micros(record.cpu_time_us),
            amount: Amount::from_halfords(record.amount_halfords),
        }
    }
}

/// What a node wrote to a function's `status/error.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub error: String,
    pub hint: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_costs_what_its_attempts_cost() {
        let attempt = |cpu_time_us, amount_halfords| container::Attempt {
            cpu_time_us,
            amount_halfords,
            claimed_at_ms: 1,
            ..Default::default()
        };
        let mut task = container::Task {
            attempts: vec![attempt(600, 100), attempt(1200, 200)],
            ..Default::default()
        };
        task.set_state(container::TaskState::Succeeded);
        let task = Task::from(task);
        assert_eq!(task.amount, Amount::from_halfords(300));
        assert_eq!(task.cpu_time_us, CpuTime::from_micros(1800));
        assert!(task.is_over && task.succeeded());
    }
}
