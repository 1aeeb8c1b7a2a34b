//! Metrics against a real Prometheus: what a stack shows is well formed, and every panel and alert under `deployment` finds
//! what it asks for.
//!
//! Needs Debian's package `prometheus`, which `deployment/scripts/test.sh` installs.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{DEADLINE, Stack};
use serde_json::Value;
use service_kit::metrics::{Catalogue, MetricFamily};

fn deployment(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../deployment")
        .join(path);
    path.canonicalize().unwrap()
}

fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    // The older version, in which a body comes in one piece.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    let reply = String::from_utf8(reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 "), "{path}: {reply}");
    body.to_owned()
}

/// A tool of Prometheus, told `input`.
fn promtool(arguments: &[&str], input: &str) {
    let mut tool = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("no promtool; hint: `apt-get install prometheus`");
    tool.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = tool.wait_with_output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

/// Prometheus, looking at one address every second, with our rules.
struct Prometheus {
    server: Child,
    address: SocketAddr,
}

impl Prometheus {
    fn start(folder: &Path, target: SocketAddr) -> Self {
        let rules = deployment("prometheus/alerts.yml");
        let config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: ['{}']\nscrape_configs:\n  - job_name: gridfaas\n    static_configs: [{{ targets: ['{target}'] }}]\n",
            rules.display()
        );
        let config_file = folder.join("prometheus.yml");
        fs::write(&config_file, config).unwrap();
        // It cannot choose a port by itself.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let server = Command::new("prometheus")
            .arg(format!("--config.file={}", config_file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("prometheus").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("no prometheus; hint: `apt-get install prometheus`");
        let prometheus = Self { server, address };
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(started.elapsed() < DEADLINE, "prometheus does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        prometheus
    }

    fn ask(&self, path: &str) -> Value {
        let answer: Value = serde_json::from_str(&get(self.address, path)).unwrap();
        assert_eq!(answer["status"], "success", "{path}: {answer}");
        answer["data"].clone()
    }

    /// What an expression is now, series by series.
    fn query(&self, expression: &str) -> Vec<Value> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        self.ask(&format!("/api/v1/query?query={encoded}"))["result"]
            .as_array()
            .unwrap()
            .clone()
    }

    /// Waits until an expression finds something.
    fn assert_has_data(&self, expression: &str) {
        let started = Instant::now();
        while self.query(expression).is_empty() {
            assert!(started.elapsed() < DEADLINE, "no data: {expression}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _killed = self.server.kill();
        let _reaped = self.server.wait();
    }
}

#[test]
fn every_panel_and_every_alert_finds_what_it_asks_for() {
    let Some(stack) = Stack::start_with(&["--metrics-port", "0"]) else {
        return;
    };
    let log = stack.log();
    let told = log
        .lines()
        .find_map(|line| line.split("metrics address=").nth(1))
        .unwrap();
    let target: SocketAddr = told.trim().parse().unwrap();
    stack.text(&["user", "add", "alice"]);
    stack.text(&["user", "fund", "alice", "1", "--mine", "--wait"]);
    stack.function(
        "count",
        "alice",
        "for i in {1..30000}; do :; done\n[ $(basename $1) != bad ]\n",
    );
    stack.put_object("count", "utils/function.toml", "max_attempts = 1");
    let prometheus = Prometheus::start(stack.folder(), target);
    let submit = |name: &str| {
        let file = stack.file(name, "x");
        stack.run(&["submit", "count", &file, "--wait"]);
    };
    for name in ["a", "b", "bad"] {
        submit(name);
    }

    // Counted as they should be, and in base units.
    let value = |expression: &str| -> f64 {
        let series = prometheus.query(expression);
        series.first().map_or(f64::NAN, |series| {
            series["value"][1].as_str().unwrap().parse().unwrap()
        })
    };
    let started = Instant::now();
    while value("sum(gridfaas_attempts_total)") != 3.0 {
        assert!(started.elapsed() < DEADLINE, "{}", get(target, "/metrics"));
        std::thread::sleep(Duration::from_millis(100));
    }
    let page = get(target, "/metrics");
    promtool(&["check", "metrics"], &page);
    assert_eq!(value("gridfaas_attempts_total{outcome=\"gave-up\"}"), 1.0);
    assert_eq!(value("gridfaas_attempt_start_seconds_count"), 3.0);
    let tasks = stack.json(&["ps"])["tasks"].clone();
    let used_us: u64 = tasks
        .as_array()
        .unwrap()
        .iter()
        .map(|task| task["cpu_time_us"].as_u64().unwrap())
        .sum();
    let charged: i64 = tasks
        .as_array()
        .unwrap()
        .iter()
        .map(|task| common::halfords(&task["amount"]))
        .sum();
    // The container's own few instructions come on top.
    let counted = value("gridfaas_container_cpu_seconds_total");
    let used = Duration::from_micros(used_us).as_secs_f64();
    assert!(
        (used..used + 5.0).contains(&counted),
        "{used} s used, {counted} s counted"
    );
    let halfords = value("gridfaas_transferred_grc_total{kind=\"charge\"}") * 1e8;
    assert_eq!(format!("{halfords:.0}"), charged.to_string());

    // Every panel.
    let dashboard = fs::read_to_string(deployment("grafana/gridfaas.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() > 20);
    for target in panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap())
    {
        let expression = target["expr"].as_str().unwrap().replace("$__rate_interval", "1m");
        prometheus.assert_has_data(&expression);
        selectors(&expression).for_each(|selector| prometheus.assert_has_data(selector));
    }

    // Every alert can be judged, asks for what there is, and is silent while all is well.
    let alerts = deployment("prometheus/alerts.yml");
    promtool(&["check", "rules", alerts.to_str().unwrap()], "");
    let rules = prometheus.ask("/api/v1/rules");
    let rules = rules["groups"][0]["rules"].as_array().unwrap();
    assert!(rules.len() > 8);
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        selectors(rule["query"].as_str().unwrap()).for_each(|selector| prometheus.assert_has_data(selector));
    }
    assert_eq!(
        prometheus.query("ALERTS{alertstate=\"firing\"}"),
        Vec::<Value>::new()
    );
}

/// The series that an expression asks for, with their labels. Each is there from the beginning.
fn selectors(expression: &str) -> impl Iterator<Item = &str> {
    expression.match_indices("gridfaas_").map(|(start, _)| {
        let rest = &expression[start..];
        let name = rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        let labels = if rest[name..].starts_with('{') {
            rest[name..].find('}').unwrap() + 1
        } else {
            0
        };
        &rest[..name + labels]
    })
}

/// The reference, as the code would have it.
fn reference(catalogue: &Catalogue) -> String {
    let row = |family: &MetricFamily| {
        let mut labels = BTreeMap::<&str, BTreeSet<&str>>::new();
        for label in family.get_metric().iter().flat_map(|metric| metric.get_label()) {
            labels.entry(label.name()).or_default().insert(label.value());
        }
        let labels: Vec<String> = labels
            .into_iter()
            .map(|(name, values)| format!("`{name}`: {}", Vec::from_iter(values).join(", ")))
            .collect();
        let kind = format!("{:?}", family.get_field_type()).to_lowercase();
        let (name, help, labels) = (family.name(), family.help(), labels.join("; "));
        format!("| `{name}` | {kind} | {help} | {labels} |\n")
    };
    let heading = "| Metric | Kind | What it tells | Labels |\n|---|---|---|---|\n";
    heading.to_owned() + &catalogue.gather().iter().map(row).collect::<String>()
}

#[test]
fn the_reference_lists_every_metric_as_it_is() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    let page = fs::read_to_string(page).unwrap();
    for (title, catalogue) in [
        (
            "container-manager",
            &container_manager::metrics::METRICS.catalogue,
        ),
        ("credit-manager", &credit_manager::metrics::METRICS.catalogue),
        ("Both", &service_kit::metrics::COMMON.catalogue),
    ] {
        let expected = format!("## {title}\n\n{}", reference(catalogue));
        assert!(
            page.contains(&expected),
            "docs/metrics.md has to say:\n\n{expected}"
        );
    }
}
