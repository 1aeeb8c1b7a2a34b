//! `gridfaas function describe`

use clap::Args;
use proto::container::v1::Queue;
use schema::Function;
use serde::Serialize;
use units::FunctionName;

use crate::commands::find_function;
use crate::output::{Output, Show, pairs, printable};
use crate::stack::Stack;
use crate::view::limit_shown;

#[derive(Debug, Args)]
pub(crate) struct DescribeArgs {
    /// Which function
    name: FunctionName,
}

#[derive(Serialize)]
struct Description {
    #[serde(flatten)]
    function: Function,
    /// Tasks in `input/`; null where the node does not serve the function, or cannot count.
    waiting: Option<u32>,
    /// There are more than were counted.
    has_more: bool,
    /// What keeps tasks from running.
    problem: Option<String>,
    hint: Option<String>,
    /// Objects under `utils/`: its script, image and settings.
    utils: Vec<String>,
}

impl Show for Description {
    fn text(&self) -> String {
        let Function {
            name,
            user,
            may_start,
            refusal,
            max_spend_per_hour,
            ..
        } = &self.function;
        let starts = if *may_start {
            "yes".to_owned()
        } else {
            format!("no: {refusal}")
        };
        let waiting = match (self.waiting, self.has_more) {
            (Some(waiting), false) => waiting.to_string(),
            (Some(waiting), true) => format!("more than {waiting}"),
            (None, _) => "not known".to_owned(),
        };
        let problem = match (&self.problem, &self.hint) {
            (Some(problem), Some(hint)) => printable(&format!("{problem}; {hint}")),
            (Some(problem), None) => printable(problem),
            (None, _) => "none".to_owned(),
        };
        pairs([
            ("function", name.clone()),
            ("user", user.clone()),
            ("bucket", format!("s3://{name}")),
            ("max spend", limit_shown(*max_spend_per_hour)),
            ("starts tasks", starts),
            ("waiting", waiting),
            ("problem", problem),
            ("utils", printable(&self.utils.join(", "))),
        ])
    }
}

pub(super) async fn run(args: DescribeArgs, stack: &Stack, output: Output) -> anyhow::Result<()> {
    let name = args.name;
    let function = find_function(&name, stack).await?;
    let queue = stack.queues(Some(name.clone())).await?.pop();
    let utils = stack.store()?.list(&name, "utils/").await?;
    let Queue {
        waiting,
        has_more,
        problem,
        hint,
        ..
    } = queue.unwrap_or_default();
    let said = |text: String| Some(text).filter(|text| !text.is_empty());
    output.show(&Description {
        function,
        waiting,
        has_more,
        problem: said(problem),
        hint: said(hint),
        utils: utils.into_iter().map(|object| object.key).collect(),
    })
}
