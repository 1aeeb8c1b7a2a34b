//! `gridfaas task describe`

use anyhow::bail;
use schema::{Attempt, Rfc3339, Task};
use serde::Serialize;

use super::{TaskArgs, listed};
use crate::bucket::Place;
use crate::output::{Output, Show, columns, pairs, printable};
use crate::stack::Stack;

#[derive(Serialize)]
struct Description {
    function: String,
    task: String,
    /// Where its object is; null if somebody took it away.
    place: Option<Place>,
    /// What the node knows of it; null if another ran it.
    known: Option<Task>,
}

impl Show for Description {
    fn text(&self) -> String {
        let place = match self.place {
            Some(place) => place.key(&self.task),
            None => "nowhere in the bucket".to_owned(),
        };
        let mut facts = vec![("function", self.function.clone()), ("object", printable(&place))];
        let Some(task) = &self.known else {
            return format!("{}\nno attempt on this node", pairs(facts));
        };
        facts.extend([
            ("task id", task.task_id.clone()),
            ("user", task.user.clone()),
            ("state", task.state.clone()),
            ("CPU time", task.cpu_time_us.to_string()),
            ("throttled", task.throttled_us.to_string()),
            ("charge", format!("{} GRC", task.amount)),
        ]);
        let attempts = columns(
            [
                "ATTEMPT",
                "CONTAINER",
                "STARTED",
                "ENDED",
                "CPU",
                "CHARGE",
                "EXIT",
                "REASON",
            ],
            task.attempts.iter().map(attempt_row),
        );
        format!("{}\n{attempts}", pairs(facts))
    }
}

fn attempt_row(attempt: &Attempt) -> [String; 8] {
    let time = |time: Option<units::Timestamp>| {
        time.map_or_else(|| "-".to_owned(), |time| Rfc3339(time).to_string())
    };
    [
        attempt.number.to_string(),
        attempt.container_id.clone(),
        time(attempt.started_at_ms),
        time(attempt.ended_at_ms),
        attempt.cpu_time_us.to_string(),
        attempt.amount.to_string(),
        attempt
            .exit_code
            .map_or_else(|| "-".to_owned(), |code| code.to_string()),
        printable(&attempt.reason),
    ]
}

pub(super) async fn run(args: TaskArgs, stack: &Stack, output: Output) -> anyhow::Result<()> {
    let TaskArgs { function, task } = args;
    let place = stack.store()?.place(&function, &task).await?;
    let tasks = listed(&function, stack).await?;
    let known = tasks.into_iter().find(|known| known.task == task);
    if place.is_none() && known.is_none() {
        bail!(
            "no task `{}` in function `{function}` (hint: `gridfaas ps --function {function}` lists its tasks)",
            printable(&task)
        );
    }
    output.show(&Description {
        function: function.into(),
        task,
        place,
        known,
    })
}
