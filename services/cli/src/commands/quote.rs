//! `gridfaas quote`

use std::path::PathBuf;

use clap::Args;
use proto::credit::v1::{QuoteEstimate, QuoteRequest, QuoteResponse};
use serde::Serialize;
use units::{Amount, CpuTime, FunctionName};

use crate::commands::find_function;
use crate::local_file::LocalFile;
use crate::output::{Output, Show, columns};
use crate::stack::{Stack, told};

#[derive(Debug, Args)]
pub(crate) struct QuoteArgs {
    /// Which function would run it
    function: FunctionName,
    /// Only its size is looked at: nothing is sent, run or charged
    file: PathBuf,
}

#[derive(Serialize)]
struct Quote {
    function: String,
    user: String,
    input_bytes: u64,
    cpu_time_us_per_grc: u64,
    /// How many successful attempts it rests on.
    samples: u32,
    /// Absent where nothing is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    estimate: Option<Estimate>,
}

#[derive(Serialize)]
struct Estimate {
    sample_bytes_min: u64,
    sample_bytes_max: u64,
    p50: Figure,
    p90: Figure,
}

#[derive(Serialize)]
struct Figure {
    cpu_time_us: CpuTime,
    amount_grc: Amount,
}

impl From<QuoteResponse> for Quote {
    fn from(quote: QuoteResponse) -> Self {
        let figure = |micros, halfords| Figure {
            cpu_time_us: CpuTime::from_micros(micros),
            amount_grc: Amount::from_halfords(halfords),
        };
        let estimate = |found: QuoteEstimate| Estimate {
            sample_bytes_min: found.input_bytes_min,
            sample_bytes_max: found.input_bytes_max,
            p50: figure(found.p50_cpu_time_us, found.p50_amount_halfords),
            p90: figure(found.p90_cpu_time_us, found.p90_amount_halfords),
        };
        Self {
            function: quote.function,
            user: quote.user,
            input_bytes: quote.input_bytes,
            cpu_time_us_per_grc: quote.cpu_time_us_per_grc,
            samples: quote.estimate.as_ref().map_or(0, |found| found.samples),
            estimate: quote.estimate.map(estimate),
        }
    }
}

impl Show for Quote {
    fn text(&self) -> String {
        let Some(found) = &self.estimate else {
            return format!("no data: no task of {} has succeeded yet", self.function);
        };
        let row = |name: &str, figure: &Figure| {
            [
                name.to_owned(),
                figure.amount_grc.to_string(),
                figure.cpu_time_us.to_string(),
            ]
        };
        let figures = columns(
            ["QUOTE", "CHARGE (GRC)", "CPU TIME"],
            [row("P50", &found.p50), row("P90", &found.p90)],
        );
        let (least, most) = (found.sample_bytes_min, found.sample_bytes_max);
        let tasks = match self.samples {
            1 => "1 task".to_owned(),
            tasks => format!("{tasks} tasks"),
        };
        let range = if least == most {
            least.to_string()
        } else {
            format!("{least} to {most}")
        };
        format!(
            "{figures}from {tasks} with inputs of {range} bytes; this one has {}",
            self.input_bytes
        )
    }
}

pub(crate) async fn run(args: QuoteArgs, stack: &Stack, output: Output) -> anyhow::Result<()> {
    let file = LocalFile::find(&args.file)?;
    find_function(&args.function, stack).await?;
    let request = QuoteRequest {
        function: args.function.into(),
        input_bytes: file.bytes,
    };
    let reply = stack.accounts().await?.quote(request).await.map_err(told)?;
    output.show(&Quote::from(reply.into_inner()))
}
