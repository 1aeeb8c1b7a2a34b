//! A crash of everything, until it serves again and has taken over what runs.

use std::time::Instant;

use serde_json::Value;

use crate::common::Stack;
use crate::figures::{Figures, Samples, ms_since};

const CRASHES: usize = 5;
/// Functions and tasks of each that run across a crash: a hundred together.
const FUNCTIONS: usize = 2;
const TASKS: u64 = 50;

pub(crate) fn measure(stack: &mut Stack, figures: &mut Figures) {
    let mut serving = Samples::default();
    for _ in 0..CRASHES {
        serving.time(|| stack.crash_and_restart());
    }
    figures.samples("restart_to_serving_ms", serving);

    let names: Vec<String> = (0..FUNCTIONS).map(|number| format!("sleeps{number}")).collect();
    for name in &names {
        stack.function(name, "bench", "sleep 300");
        let settings = format!("concurrency = {TASKS}\nmemory_mib = 16");
        stack.put_object(name, "utils/function.toml", &settings);
        for task in 0..TASKS {
            stack.put_object(name, &format!("input/{task:02}"), "x");
        }
    }
    let all = TASKS * u64::try_from(FUNCTIONS).unwrap();
    let running = |containers: &Value| {
        let containers = containers.as_array().unwrap().iter();
        containers
            .map(|container| container["running_tasks"].as_u64().unwrap())
            .sum::<u64>()
            == all
    };
    stack.until("a hundred tasks", &["node", "containers"], running);
    let began = Instant::now();
    stack.crash_and_restart();
    stack.until("a hundred tasks again", &["node", "containers"], running);
    figures.number("readopt_100_tasks_ms", ms_since(began));
}
