//! One task at a time, in a warm container and in one that has to start, beside the floors.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use access::client::Meant;
use aws_sdk_s3::Client;
use proto::container::v1::InvokeRequest;
use proto::container::v1::container_service_client::ContainerServiceClient;
use serde_json::Value;

use crate::bucket::{START_TIME, drop_task, put};
use crate::common::{Stack, base_image};
use crate::figures::{Figures, Samples, ms_since};

/// Repetitions of what is quick, and of what starts a container.
const QUICK: usize = 100;
const SLOW: usize = 20;
/// Long enough for a container with an idle timeout of 0 to be gone.
const IDLE: Duration = Duration::from_secs(2);

pub(crate) async fn measure(stack: &Stack, s3: &Client, figures: &mut Figures) {
    stack.function("warm", "bench", START_TIME);
    drop_task(s3, "warm", "first").await;
    let instance = Instance::start();
    let node = stack.endpoints().target(Meant::Node).unwrap();
    let mut client = ContainerServiceClient::new(node.connect().await.unwrap());
    let (mut bash, mut apptainer) = (Samples::default(), Samples::default());
    let (mut start, mut result, mut invoke) = (Samples::default(), Samples::default(), Samples::default());
    for number in 0..QUICK {
        bash.time(|| run(Command::new("bash").args(["-c", "true"])));
        apptainer.time(|| instance.exec());
        let (to_start, to_result) = drop_task(s3, "warm", &format!("{number:04}")).await;
        start.add(to_start);
        result.add(to_result);
        let invoked = Instant::now();
        let request = InvokeRequest {
            function: "warm".to_owned(),
            input: "x".into(),
            ..InvokeRequest::default()
        };
        let mut answers = client.invoke(request).await.unwrap().into_inner();
        while answers.message().await.unwrap().is_some() {}
        invoke.add(ms_since(invoked));
    }
    figures.samples("bash_ms", bash);
    figures.samples("apptainer_exec_instance_ms", apptainer);
    figures.samples("warm_drop_to_start_ms", start);
    figures.samples("warm_drop_to_result_ms", result);
    figures.samples("warm_invoke_ms", invoke);
}

/// With a container for each task.
pub(crate) async fn measure_cold(stack: &Stack, s3: &Client, figures: &mut Figures) {
    stack.function("cold", "bench", START_TIME);
    put(s3, "cold", "utils/timeout.txt", "0").await;
    // The image is unpacked with the first.
    drop_task(s3, "cold", "first").await;
    tokio::time::sleep(IDLE).await;
    let (mut apptainer, mut cold) = (Samples::default(), Samples::default());
    for number in 0..SLOW {
        apptainer.time(|| run(Command::new("apptainer").args(["exec", "--no-privs", &base_image(), "true"])));
        cold.add(drop_task(s3, "cold", &format!("{number:04}")).await.1);
        tokio::time::sleep(IDLE).await;
    }
    let tasks = stack.json(&["ps", "--function", "cold"])["tasks"].clone();
    let of = |task: &Value| task["attempts"][0]["container_id"].to_string();
    let containers: BTreeSet<String> = tasks.as_array().unwrap().iter().map(of).collect();
    assert_eq!(containers.len(), SLOW + 1, "each task started a container");
    figures.samples("apptainer_exec_ms", apptainer);
    figures.samples("cold_drop_to_result_ms", cold);
    let mut usable = Samples::default();
    let cold_starts = |line: &&str| line.contains("container started") && line.contains("function=cold");
    for line in stack.log().lines().filter(cold_starts) {
        usable.add(logged(line, "usable_us") / 1000.0);
    }
    figures.samples("container_usable_ms", usable);
}

/// In a stack whose store tells nothing, while its function is busy.
pub(crate) async fn measure_polled(stack: &Stack, s3: &Client, figures: &mut Figures) {
    stack.function("warm", "bench", START_TIME);
    drop_task(s3, "warm", "first").await;
    let mut start = Samples::default();
    for number in 0..QUICK / 2 {
        start.add(drop_task(s3, "warm", &format!("{number:04}")).await.0);
    }
    figures.samples("warm_polled_drop_to_start_ms", start);
}

/// A number of a log line.
pub(crate) fn logged(line: &str, field: &str) -> f64 {
    let plain: String = strip_colours(line);
    let (_, after) = plain.split_once(&format!("{field}=")).unwrap();
    after.split_whitespace().next().unwrap().parse().unwrap()
}

pub(crate) fn strip_colours(line: &str) -> String {
    let mut parts = line.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        text + part.split_once('m').map_or("", |(_, rest)| rest)
    })
}

/// An Apptainer instance to run commands in, as one would without a runner.
struct Instance {
    name: String,
}

impl Instance {
    fn start() -> Self {
        let name = format!("gridfaas-bench-{}", std::process::id());
        // As root without CAP_SYS_RESOURCE, which machines in the cloud lack.
        let arguments = ["instance", "start", "--no-privs", &base_image(), &name];
        run(Command::new("apptainer").args(arguments).stderr(Stdio::null()));
        Self { name }
    }

    fn exec(&self) {
        let instance = format!("instance://{}", self.name);
        run(Command::new("apptainer").args(["exec", "--no-privs", &instance, "true"]));
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let stop = ["instance", "stop", &self.name];
        run(Command::new("apptainer").args(stop).stderr(Stdio::null()));
    }
}

pub(crate) fn run(command: &mut Command) {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    assert!(status.unwrap().success(), "{command:?}");
}
