//! QUOTE: an object dropped under `quote/` is answered in `quotes/` with what running it would cost, and taken away. It is
//! never run, and nothing is charged.

use bytes::Bytes;
use serde_json::{Value, json};
use units::{Amount, CpuTime, FunctionName, Timestamp};

use crate::credit::{CreditError, Quote};
use crate::layout;
use crate::node::Node;
use crate::store::StoreError;

/// Objects answered in one look; the next look goes on.
const PAGE: u32 = 100;

#[derive(Debug, thiserror::Error)]
pub enum QuoteError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Credit(#[from] CreditError),
}

/// Answers what lies under `quote/` now. Every node may do so at once: the answers are the same.
pub async fn answer(node: &Node, function: &FunctionName) -> Result<(), QuoteError> {
    let bucket = function.as_str();
    for asked in node.store.list(bucket, layout::QUOTE, None, PAGE).await? {
        let Some((name, answer)) = layout::quote_answer(&asked.key) else {
            continue;
        };
        let quote = node.credit.quote(function, asked.size).await?;
        let document = document(name, asked.size, function, &quote, node.clock.now());
        node.store
            .put(bucket, &answer, Bytes::from(document), "application/json")
            .await?;
        // One dropped anew meanwhile is another question.
        node.store.delete(bucket, &asked.key, Some(&asked.etag)).await?;
    }
    Ok(())
}

fn document(name: &str, input_bytes: u64, function: &FunctionName, quote: &Quote, now: Timestamp) -> String {
    let figure =
        |(cpu_time, amount): (CpuTime, Amount)| json!({ "cpu_time_us": cpu_time, "amount_grc": amount });
    let found = quote.estimate.as_ref();
    let document = json!({
        "file": name,
        "input_bytes": input_bytes,
        "function": function,
        "user": quote.user,
        "cpu_time_us_per_grc": quote.price.cpu_time_per_grc(),
        "samples": found.map_or(0, |found| found.samples),
        "sample_bytes_min": found.map(|found| found.input_bytes_min),
        "sample_bytes_max": found.map(|found| found.input_bytes_max),
        "estimate": found.map_or(Value::from("no data"), |found| {
            json!({ "p50": figure(found.p50), "p90": figure(found.p90) })
        }),
        "at_ms": now,
    });
    format!("{document:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credit::Estimate;
    use units::CpuPrice;

    fn told(estimate: Option<Estimate>) -> Value {
        let quote = Quote {
            user: "alice".parse().unwrap(),
            price: CpuPrice::DEFAULT,
            estimate,
        };
        let function = "stress".parse().unwrap();
        let text = document("a.txt", 100, &function, &quote, Timestamp::from_unix_ms(7));
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn what_nothing_is_known_of_is_no_data() {
        let document = told(None);
        assert_eq!(
            (&document["estimate"], &document["samples"]),
            (&"no data".into(), &0.into())
        );
    }

    #[test]
    fn an_estimate_says_what_it_rests_on() {
        let used = |micros| {
            (
                CpuTime::from_micros(micros),
                CpuPrice::DEFAULT.cost(CpuTime::from_micros(micros)).unwrap(),
            )
        };
        let document = told(Some(Estimate {
            samples: 12,
            input_bytes_min: 60,
            input_bytes_max: 190,
            p50: used(6_000_000),
            p90: used(12_000_000),
        }));
        assert_eq!(document["samples"], 12);
        assert_eq!(document["sample_bytes_max"], 190);
        assert_eq!(document["estimate"]["p50"]["amount_grc"], "0.01000000");
        assert_eq!(document["estimate"]["p90"]["cpu_time_us"], 12_000_000);
    }
}
