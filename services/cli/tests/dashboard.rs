//! The dashboard in a real browser, on a stack with real containers: every page, by clicking, against the command line.
//!
//! Leaves pictures of the pages in `target/tmp`.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use std::path::Path;
use std::process::{Command, Stdio};

use common::Stack;
use common::browser::Browser;
use serde_json::{Value, json};

const TAB: char = '\u{E004}';
const ENTER: char = '\u{E007}';
const LEFT: char = '\u{E012}';

/// The text of a table: each row's cells.
fn table(browser: &Browser, title: &str) -> Vec<Vec<String>> {
    let rows = browser.run(&format!(
        "const title = [...document.querySelectorAll('section h2')].find((h2) => h2.textContent === '{title}');
         const rows = title.parentElement.querySelectorAll('tbody tr');
         return [...rows].map((row) => [...row.cells].map((cell) => cell.textContent));"
    ));
    serde_json::from_value(rows).unwrap()
}

/// The value of a tile.
fn tile(browser: &Browser, label: &str) -> String {
    let value = browser.run(&format!(
        "const name = [...document.querySelectorAll('dt')].find((dt) => dt.textContent === '{label}');
         return name.nextElementSibling.textContent;"
    ));
    value.as_str().unwrap().to_owned()
}

/// Microseconds as a page writes them.
fn seconds(microseconds: &Value) -> String {
    let ms = microseconds.as_u64().unwrap() / 1000;
    format!("{}.{:03} s", ms / 1000, ms % 1000)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn picture(browser: &Browser, name: &str) {
    browser.screenshot(&Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.png")));
}

/// A user with two good tasks, one that failed and one that runs.
fn stack_with_work() -> Option<Stack> {
    let stack = Stack::start()?;
    stack.text(&["user", "add", "alice"]);
    stack.text(&["user", "fund", "alice", "5", "--mine", "--wait"]);
    let script = "for i in {1..30000}; do :; done\ncase $(basename $1) in\n  bad) echo this cannot work; exit 3 ;;\n  long) sleep 600 ;;\nesac\n";
    stack.function("count", "alice", script);
    stack.put_object("count", "utils/function.toml", "max_attempts = 1");
    for name in ["a&b<i>.txt", "good", "bad"] {
        let file = stack.file(name, "x");
        stack.run(&["submit", "count", &file, "--wait"]);
    }
    let file = stack.file("long", "x");
    stack.text(&["submit", "count", &file]);
    stack.until("the long task", &["ps", "--live"], |tasks| {
        tasks["tasks"][0]["state"] == "running"
    });
    Some(stack)
}

#[test]
fn every_page_shows_what_the_command_line_says() {
    let Some(mut stack) = stack_with_work() else {
        return;
    };
    let address = stack.endpoints().dashboard_url.unwrap();
    let url = address.split("/?").next().unwrap().to_owned();
    let browser = Browser::start();

    // Without the key nothing is seen.
    browser.open(&url);
    browser.until("document.querySelector('[role=alert]')?.textContent.includes('has not been let in')");
    browser.log("browser");

    // Overview, and on by its links.
    browser.open(&address);
    browser.until(&format!("location.href === '{url}/'"));
    browser.until("document.querySelector('tbody a')");
    browser.until("document.getElementById('link').textContent === 'Live'");
    assert_eq!(tile(&browser, "Running"), "1");
    assert_eq!(tile(&browser, "Queued"), "0");
    let balance = || text(&stack.json(&["balance", "alice"])["balance"]);
    let users = table(&browser, "Users");
    assert_eq!(
        (users.len(), users[0][0].as_str(), users[0][2].as_str()),
        (1, "alice", "good")
    );
    assert_eq!(table(&browser, "Functions")[0][..2], ["count", "alice"]);
    picture(&browser, "overview");

    browser.click("a[href='/users/alice']");
    browser.until("document.title.startsWith('alice')");
    browser.until("document.querySelectorAll('[aria-labelledby=table-receipts] tbody tr').length === 4");
    // A task that sleeps uses next to nothing, yet the balance may move between the two questions.
    let (before, shown, after) = (balance(), tile(&browser, "Balance"), balance());
    assert!(
        after <= shown.replace(" GRC", "") || shown == format!("{before} GRC"),
        "{before} {shown} {after}"
    );
    let statement = stack.json(&["statement", "alice"]);
    let newest = statement["entries"].as_array().unwrap().last().unwrap();
    browser.until(&format!(
        "document.querySelector('[aria-labelledby=table-statement] tbody').textContent.includes('{}')",
        newest["balance"].as_str().unwrap()
    ));
    assert_eq!(
        browser.run("return [...document.querySelectorAll('figure h2')].map((h2) => h2.textContent)"),
        json!(["Funds", "CPU", "Tasks"])
    );
    let receipt = browser.run(
        "return fetch(document.querySelector('[aria-labelledby=table-receipts] a[href*=\"receipt\"]').href).then((reply) => reply.text())",
    );
    let receipt = stack.file("receipt.json", receipt.as_str().unwrap());
    let key = stack.file("node.pem", &stack.text(&["node", "key"]));
    stack.text(&["receipt", "verify", &receipt, "--key", &key]);
    picture(&browser, "user");

    browser.click("a[href='/functions/count']");
    browser.until("document.querySelectorAll('[aria-labelledby=table-tasks] tbody tr').length === 4");
    let listed = stack.json(&["ps", "--function", "count"]);
    let shown = table(&browser, "Tasks");
    for (task, shown) in listed["tasks"].as_array().unwrap().iter().zip(&shown) {
        assert_eq!(shown[..2], [text(&task["task"]), text(&task["state"])]);
        if task["state"] != "running" {
            let expected = [
                seconds(&task["cpu_time_us"]),
                seconds(&task["throttled_us"]),
                text(&task["amount"]),
            ];
            assert_eq!(shown[4..], expected);
        }
    }
    assert_eq!(shown[3][0], "a&b<i>.txt", "a name is text and no markup");
    assert_eq!(
        browser.run("return document.querySelectorAll('rect.bar').length"),
        3
    );
    browser.click("details summary");
    browser.until("document.querySelector('details pre').textContent.includes('this cannot work')");
    picture(&browser, "function");

    browser.click("nav a[href='/node']");
    browser.until("document.querySelector('tbody tr')");
    browser.until("document.querySelector('h1').textContent === 'Node local'");
    let container = stack.json(&["node", "containers"])[0].clone();
    let shown = &table(&browser, "Containers")[0];
    assert_eq!(
        shown[..4],
        ["container_id", "function", "user", "policy"].map(|key| text(&container[key]))
    );
    assert_eq!(shown[9], "1");
    picture(&browser, "node");

    // What is not there is said.
    browser.open(&format!("{url}/users/bob"));
    browser.until("document.querySelector('[role=alert]')?.textContent.includes('`bob`')");

    // Nothing was asked of anybody else, and nothing went wrong but that question.
    for entry in browser.log("performance") {
        let message: Value = serde_json::from_str(entry["message"].as_str().unwrap()).unwrap();
        let message = &message["message"];
        let page = message["params"]["documentURL"].as_str().unwrap_or_default();
        // Of our pages: the browser has a start page of its own.
        if message["method"] == "Network.requestWillBeSent" && page.starts_with(&url) {
            let asked = message["params"]["request"]["url"].as_str().unwrap();
            assert!(asked.starts_with(&url) || asked.starts_with("data:"), "{asked}");
        }
    }
    let complaints = browser.log("browser");
    let complaint = |entry: &&Value| !entry["message"].as_str().unwrap().contains("/api/users/bob");
    assert_eq!(complaints.iter().find(complaint), None);

    // It is live: the stack's end is seen, and told.
    browser.open(&url);
    browser.until("document.getElementById('link').textContent === 'Live'");
    stack.stop();
    browser.until("document.getElementById('link').textContent.startsWith('Connection lost')");
}

/// The least contrast of text with what is behind it, as WCAG counts it, and whose text it is.
const CONTRAST: &str = "
    const parse = (colour) => (colour.match(/[\\d.]+/g) ?? []).map(Number);
    const part = (value) => ((value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    const luminance = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
    const behind = (element) => {
      const colour = parse(getComputedStyle(element).backgroundColor);
      return colour[3] === 0 ? behind(element.parentElement) : colour;
    };
    let least = [21, ''];
    for (const element of document.querySelectorAll('body *')) {
      const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
      if (!own || !element.checkVisibility()) continue;
      const style = getComputedStyle(element);
      const colour = element instanceof SVGElement ? style.fill : style.color;
      const [a, b] = [luminance(parse(colour)), luminance(behind(element))];
      const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      if (contrast < least[0]) least = [contrast, `${element.tagName} ${element.textContent}`];
    }
    return least;";

#[test]
fn it_is_readable_on_a_phone_in_the_dark_and_without_a_mouse() {
    let Some(stack) = stack_with_work() else { return };
    // A dashboard of its own beside the stack's, as for services that run apart.
    let mut served = stack.gridfaas();
    served
        .args(["dashboard", "--port", "0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut served = Served(served.spawn().unwrap());
    let address = served.first_line();
    let url = address.split("/?").next().unwrap();
    let browser = Browser::start();
    browser.open(&address);
    let pages = [
        ("overview", "/"),
        ("user", "/users/alice"),
        ("function", "/functions/count"),
        ("node", "/node"),
    ];
    for scheme in ["light", "dark"] {
        for (width, device) in [(1280, "desk"), (360, "phone")] {
            browser.devtools(
                "Emulation.setEmulatedMedia",
                json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] }),
            );
            browser.devtools(
                "Emulation.setDeviceMetricsOverride",
                json!({ "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500 }),
            );
            for (name, path) in pages {
                browser.open(&format!("{url}{path}"));
                browser.until("document.querySelector('tbody tr') && document.querySelector('.plot text')");
                let overflow = browser.run(
                    "return [document.documentElement.scrollWidth, [...document.querySelectorAll('main *')].filter((element) => element.getBoundingClientRect().right > innerWidth + 1).map((element) => element.outerHTML.slice(0, 80))]",
                );
                assert!(
                    overflow[0].as_u64().unwrap() <= width,
                    "{name} at {width}: {overflow:#}"
                );
                let contrast = browser.run(CONTRAST);
                assert!(
                    contrast[0].as_f64().unwrap() >= 4.5,
                    "{name}, {scheme}: {contrast}"
                );
                picture(&browser, &format!("{name}-{device}-{scheme}"));
            }
        }
    }

    // Without a mouse: past the heading, then everything that can be used can be reached, and plots can be read.
    browser.open(&format!("{url}/users/alice"));
    browser.until("document.querySelectorAll('.plot text').length > 9");
    browser.press(TAB);
    assert_eq!(
        browser.run("return document.activeElement.textContent"),
        "Skip to content"
    );
    browser.press(ENTER);
    browser.until("document.activeElement.id === 'main'");
    let reached = "document.activeElement.matches('svg.plot')";
    for _ in 0..10 {
        browser.press(TAB);
        if browser.run(&format!("return {reached}")) == true {
            break;
        }
    }
    browser.until(reached);
    browser.until("document.activeElement.getAttribute('aria-valuetext').startsWith('now: balance')");
    browser.press(LEFT);
    browser.until("/^\\d\\d:\\d\\d:\\d\\d: balance [\\d.]+, debt limit -2.0+$/.test(document.activeElement.getAttribute('aria-valuetext'))");
    // What is drawn anew every second keeps the place of whoever is in it.
    let link = "document.querySelector('[aria-labelledby=table-functions] a')";
    browser.run(&format!("window.kept = {link}; window.kept.focus()"));
    let drawn = browser.run("return document.querySelector('.plot .line').getAttribute('d')");
    browser.until(&format!(
        "document.querySelector('.plot .line').getAttribute('d') !== {drawn}"
    ));
    assert_eq!(
        browser.run(&format!(
            "return document.activeElement === {link} && {link} === window.kept"
        )),
        true
    );
    // Every control has a name, and headings have no gaps.
    let nameless = browser.run(
        "return [...document.querySelectorAll('a[href], input, [tabindex=\"0\"]')].filter((element) => !(element.textContent.trim() || element.ariaLabel || element.labels?.length)).map((element) => element.outerHTML)",
    );
    assert_eq!(nameless, json!([]));
    assert_eq!(browser.run("return document.querySelectorAll('h1').length"), 1);
}

/// A process that is ended with the test.
struct Served(std::process::Child);

impl Served {
    fn first_line(&mut self) -> String {
        use std::io::BufRead as _;
        let mut line = String::new();
        let stdout = self.0.stdout.as_mut().unwrap();
        std::io::BufReader::new(stdout).read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
fn a_dashboard_without_a_stack_says_how_to_start_one() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_gridfaas"))
        .args(["dashboard", "--port", "0"])
        .env("GRIDFAAS_DATA_DIR", folder.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("gridfaas up"));
}
