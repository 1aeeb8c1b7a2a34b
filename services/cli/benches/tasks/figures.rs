//! What was measured: samples, and the summary they end in.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

/// Milliseconds, unless the key says otherwise.
#[derive(Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn add(&mut self, ms: f64) {
        self.0.push(ms);
    }

    pub(crate) fn time(&mut self, work: impl FnOnce()) {
        let began = Instant::now();
        work();
        self.add(ms_since(began));
    }

    fn percentile(&self, percent: usize) -> f64 {
        self.0[(self.0.len() * percent / 100).min(self.0.len() - 1)]
    }
}

pub(crate) fn ms_since(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1000.0
}

/// The summary: what an earlier run measured stays until it is measured again.
pub(crate) struct Figures {
    earlier: BTreeMap<String, Value>,
    now: BTreeMap<String, Value>,
}

impl Figures {
    pub(crate) fn read(path: &Path) -> Self {
        let text = fs::read(path).unwrap_or_default();
        Self {
            earlier: serde_json::from_slice(&text).unwrap_or_default(),
            now: BTreeMap::new(),
        }
    }

    pub(crate) fn write(&self, path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut all = self.earlier.clone();
        all.extend(self.now.clone());
        let summary = serde_json::to_string_pretty(&all).unwrap();
        fs::write(path, summary + "\n").unwrap();
    }

    pub(crate) fn number(&mut self, key: &str, number: f64) {
        self.now.insert(key.to_owned(), json!(hundredths(number)));
    }

    pub(crate) fn samples(&mut self, key: &str, mut samples: Samples) {
        samples.0.sort_by(f64::total_cmp);
        let figures = json!({
            "p50": hundredths(samples.percentile(50)),
            "p90": hundredths(samples.percentile(90)),
            "n": samples.0.len(),
        });
        self.now.insert(key.to_owned(), figures);
    }

    pub(crate) fn show(&self) {
        println!("{:44} {:>10} {:>10} {:>6}", "", "p50", "p90", "n");
        self.now.iter().for_each(show);
        println!("\nMeasured before:");
        let is_old = |(key, _): &(&String, &Value)| !self.now.contains_key(*key);
        self.earlier.iter().filter(is_old).for_each(show);
    }
}

fn show((key, value): (&String, &Value)) {
    match value {
        Value::Object(of) => println!("{key:44} {:>10} {:>10} {:>6}", of["p50"], of["p90"], of["n"]),
        number => println!("{key:44} {number:>10}"),
    }
}

fn hundredths(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}
