//! Replays what was recorded from the real daemon, each history in its order against a fresh node.
//!
//! `vectors.json` holds the exchanges, what has to happen before one (`first`), which members of a reply change from run
//! to run (`volatile`), and what is not replayed and why. A volatile text still has to be consistent: once an address or a
//! transaction id of the record has got its counterpart here, it is replaced by it in all later requests and replies.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a panic is how a failure is reported"
)]

#[expect(dead_code, reason = "the other tests read the head of a reply")]
mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use chain::{Address, Chain, ChainConfig, Hash256};
use common::Node;
use serde::Deserialize;
use serde_json::value::RawValue;
use service_kit::{ManualClock, Secret};
use units::{Amount, Timestamp};

#[derive(Deserialize)]
struct Vectors {
    recorded: usize,
    replayed: Vec<Exchange>,
    skipped: Vec<Skipped>,
}

#[derive(Deserialize)]
struct Exchange {
    history: String,
    name: String,
    #[serde(default)]
    first: Vec<Step>,
    method: Option<String>,
    path: Option<String>,
    version: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    auth: Option<String>,
    request: String,
    /// Absent where the daemon closed the connection without a reply.
    status: Option<u16>,
    #[serde(default)]
    reply: String,
    #[serde(default)]
    volatile: Vec<String>,
}

#[derive(Deserialize)]
struct Skipped {
    history: String,
    name: String,
    why: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Step {
    Address {
        account: String,
        recorded: String,
    },
    Deposit(Vec<(String, Amount)>),
    Mine(u32),
    Move(String, String, Amount),
    /// The deposits among the lost blocks were double-spent.
    Reorg(u32),
    /// The newest block is the counterpart of this hash.
    Tip(String),
    WaitS(i64),
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("vectors.json")).unwrap()
}

/// One history: a node, and which texts of the record stand for which here.
struct World {
    node: Node,
    chain: Chain,
    clock: Arc<ManualClock>,
    counterparts: BTreeMap<String, String>,
}

impl World {
    async fn start(history: &str) -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp::from_unix_ms(1_795_289_576_000)));
        let config = ChainConfig {
            enable_accounts: history != "accounts disabled",
            staking: history == "accounts and staking enabled",
            key_pool: if history == "encryption" { 3 } else { 100 },
            rpc_password: Secret::new("test"),
            ..ChainConfig::default()
        };
        let chain = Chain::open_with_clock(config, Arc::clone(&clock)).unwrap();
        Self {
            node: Node::start(&chain).await,
            chain,
            clock,
            counterparts: BTreeMap::new(),
        }
    }

    async fn prepare(&mut self, step: &Step) {
        match step {
            Step::Address { account, recorded } => {
                let ours = self.result("getnewaddress", &serde_json::json!([account])).await;
                self.counterparts
                    .insert(recorded.clone(), serde_json::from_str(&ours).unwrap());
            }
            Step::Deposit(outputs) => {
                let outputs = outputs.iter().map(|(to, amount)| (self.address(to), *amount));
                self.chain.deposit_many(&outputs.collect::<Vec<_>>()).unwrap();
            }
            Step::Mine(blocks) => self.chain.mine(*blocks).unwrap(),
            Step::Move(from, to, amount) => {
                let body = format!(r#"{{"method":"move","params":["{from}","{to}",{amount}]}}"#);
                assert_eq!(self.node.post(&body).await.unwrap().status, 200);
            }
            Step::Reorg(depth) => self.chain.reorg(*depth, true).unwrap(),
            Step::Tip(recorded) => {
                let ours = self.result("getbestblockhash", &serde_json::json!([])).await;
                self.counterparts
                    .insert(recorded.clone(), serde_json::from_str(&ours).unwrap());
            }
            Step::WaitS(seconds) => self.clock.advance_ms(seconds * 1000),
        }
    }

    fn address(&self, recorded: &str) -> Address {
        self.counterparts
            .get(recorded)
            .map_or(recorded, String::as_str)
            .parse()
            .unwrap()
    }

    async fn result(&self, method: &str, params: &serde_json::Value) -> String {
        let body = format!(r#"{{"method":"{method}","params":{params}}}"#);
        let reply = self.node.post(&body).await.unwrap().body;
        let members: BTreeMap<String, Box<RawValue>> = serde_json::from_str(&reply).unwrap();
        members["result"].get().to_owned()
    }

    /// The text with everything of the record replaced that has a counterpart here.
    fn translate(&self, text: &str) -> String {
        let swap = |text: String, (recorded, ours): (&String, &String)| text.replace(recorded, ours);
        self.counterparts.iter().fold(text.to_owned(), swap)
    }

    async fn replay(&mut self, exchange: &Exchange) -> Result<(), String> {
        let headers: Vec<(&str, &str)> = exchange
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let reply = self
            .node
            .exchange(&common::Request {
                method: exchange.method.as_deref().unwrap_or("POST"),
                path: exchange.path.as_deref().unwrap_or("/"),
                version: exchange.version.as_deref().unwrap_or("HTTP/1.1"),
                login: match exchange.auth.as_deref() {
                    None => Some("gridcoinrpc:test"),
                    Some("wrong") => Some("gridcoinrpc:wrong"),
                    Some(_) => None,
                },
                headers: &headers,
                body: &self.translate(&exchange.request),
            })
            .await;
        let Some(status) = exchange.status else {
            return if reply.is_none() {
                Ok(())
            } else {
                Err("answered".to_owned())
            };
        };
        let reply = reply.ok_or("no reply")?;
        if reply.status != status {
            return Err(format!(
                "status {} instead of {status}: {}",
                reply.status, reply.body
            ));
        }
        let expected = self.translate(&exchange.reply);
        if exchange.volatile.is_empty() {
            return same(&expected, &reply.body);
        }
        let expected: &RawValue = serde_json::from_str(&expected).unwrap();
        let actual: &RawValue = serde_json::from_str(&reply.body).map_err(|err| err.to_string())?;
        same(&format!("{actual}\n"), &reply.body)?;
        self.compare("", expected, actual, &exchange.volatile)
    }

    /// Compares two values in text and order, and learns the counterparts of volatile texts.
    fn compare(
        &mut self,
        name: &str,
        expected: &RawValue,
        actual: &RawValue,
        volatile: &[String],
    ) -> Result<(), String> {
        if volatile.iter().any(|key| key == name) {
            let text = |raw: &RawValue| serde_json::from_str::<String>(raw.get()).ok();
            if let (Some(recorded), Some(ours)) = (text(expected), text(actual))
                && (recorded.parse::<Hash256>().is_ok() || recorded.parse::<Address>().is_ok())
            {
                let known = self.counterparts.values().any(|known| *known == recorded);
                return match known {
                    true => same(&recorded, &ours),
                    false => {
                        self.counterparts.insert(recorded, ours);
                        Ok(())
                    }
                };
            }
            return Ok(());
        }
        if let (Some(expected), Some(actual)) = (items(expected), items(actual)) {
            same(&expected.len().to_string(), &actual.len().to_string())?;
            return expected
                .iter()
                .zip(actual)
                .try_for_each(|(expected, actual)| self.compare("", expected, actual, volatile));
        }
        match (members(expected), members(actual)) {
            (Some(expected), Some(actual)) => {
                let names = |members: &[(String, &RawValue)]| {
                    members
                        .iter()
                        .map(|(name, _)| format!("{name} "))
                        .collect::<String>()
                };
                same(&names(&expected), &names(&actual))?;
                expected
                    .iter()
                    .zip(&actual)
                    .try_for_each(|((name, expected), (_, actual))| {
                        self.compare(name, expected, actual, volatile)
                            .map_err(|err| format!("`{name}`: {err}"))
                    })
            }
            _ => same(expected.get(), actual.get()),
        }
    }
}

fn same(expected: &str, actual: &str) -> Result<(), String> {
    if expected == actual {
        Ok(())
    } else {
        Err(format!("\n  expected {expected}\n  got      {actual}"))
    }
}

fn items(raw: &RawValue) -> Option<Vec<&RawValue>> {
    serde_json::from_str(raw.get()).ok()
}

/// The members of an object in the order they stand there.
fn members(raw: &RawValue) -> Option<Vec<(String, &RawValue)>> {
    struct Ordered;

    impl<'de> serde::de::Visitor<'de> for Ordered {
        type Value = Vec<(String, &'de RawValue)>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            std::iter::from_fn(|| map.next_entry().transpose()).collect()
        }
    }

    serde::Deserializer::deserialize_map(&mut serde_json::Deserializer::from_str(raw.get()), Ordered).ok()
}

#[tokio::test]
async fn recorded_histories_go_here_as_they_went_on_the_daemon() {
    let vectors = vectors();
    let mut worlds: BTreeMap<&str, World> = BTreeMap::new();
    let mut wrong = Vec::new();
    for exchange in &vectors.replayed {
        let history = exchange.history.as_str();
        if !worlds.contains_key(history) {
            worlds.insert(history, World::start(history).await);
        }
        let world = worlds.get_mut(history).unwrap();
        for step in &exchange.first {
            world.prepare(step).await;
        }
        if let Err(difference) = world.replay(exchange).await {
            wrong.push(format!("{history}: {}: {difference}", exchange.name));
        }
    }
    for world in worlds.into_values() {
        world.node.stop().await;
    }
    assert!(
        wrong.is_empty(),
        "{} of {} differ\n{}",
        wrong.len(),
        vectors.replayed.len(),
        wrong.join("\n")
    );
}

#[test]
fn every_recorded_exchange_is_replayed_or_skipped_for_a_reason() {
    let vectors = vectors();
    println!(
        "{} of {} recorded exchanges are replayed",
        vectors.replayed.len(),
        vectors.recorded
    );
    assert_eq!(vectors.replayed.len() + vectors.skipped.len(), vectors.recorded);
    for skipped in &vectors.skipped {
        assert!(!skipped.why.is_empty(), "{}: {}", skipped.history, skipped.name);
        println!("skipped: {}: {}: {}", skipped.history, skipped.name, skipped.why);
    }
}
