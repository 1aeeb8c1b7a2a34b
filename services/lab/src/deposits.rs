//! How long a deposit takes.
//!
//! A chain with proof of stake finds blocks at random: the time to the next one does not depend on how long the last one is
//! ago. A deposit is in the first block after it was sent, and credited when enough blocks are on top and somebody looks.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Deserialize;
use units::Amount;

/// What the published prototype saw, of 750 deposits: quartiles, 90th percentile and slowest, in seconds.
const PUBLISHED: [u64; 5] = [35, 75, 130, 215, 740];
const PUBLISHED_COUNT: u32 = 750;
/// The columns of the table, in thousandths of all deposits.
const QUANTILES: [usize; 5] = [250, 500, 750, 900, 1000];

/// Deposits sent one after the other to a chain that is simulated.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deposits {
    pub amount: Amount,
    pub every_s: u32,
    pub count: u32,
    /// Mean time between two blocks.
    pub spacing_s: u32,
    /// The block a deposit is in counts as one. The first is what a virtual run has; the table has all.
    pub confirmations: Vec<u32>,
    /// How often the wallet is asked.
    pub poll_s: u32,
    pub seed: u64,
}

impl Deposits {
    /// When each deposit is credited in a virtual run, in the order they are.
    pub(crate) fn credited(&self) -> Vec<Duration> {
        let confirmations = self.confirmations.first().copied().unwrap_or(1);
        let mut credited: Vec<Duration> = self.run(confirmations).map(|(_, credited)| credited).collect();
        credited.sort();
        credited
    }

    /// How long each deposit takes from sent to credited, shortest first.
    pub fn latencies(&self, confirmations: u32) -> Vec<Duration> {
        let mut latencies: Vec<Duration> = self
            .run(confirmations)
            .map(|(sent, credited)| credited.saturating_sub(sent))
            .collect();
        latencies.sort();
        latencies
    }

    /// Sent and credited.
    fn run(&self, confirmations: u32) -> impl Iterator<Item = (Duration, Duration)> {
        let mut random = fastrand::Rng::with_seed(self.seed);
        let spacing = f64::from(self.spacing_s.max(1));
        let mut found = Duration::ZERO;
        let mut blocks: Vec<Duration> = Vec::new();
        let poll = Duration::from_secs(self.poll_s.max(1).into());
        (0..self.count).map(move |number| {
            let sent = Duration::from_secs(u64::from(number) * u64::from(self.every_s));
            blocks.retain(|block| *block > sent);
            // The block a deposit is in, and those on top of it.
            let needed = usize::try_from(confirmations.max(1)).unwrap_or(usize::MAX);
            while blocks.len() < needed {
                // The gaps of a memoryless process; 1 - [0, 1) is never 0.
                found += Duration::from_secs_f64(-(1.0 - random.f64()).ln() * spacing);
                if found > sent {
                    blocks.push(found);
                }
            }
            let polls = blocks[needed - 1].as_secs() / poll.as_secs() + 1;
            (sent, Duration::from_secs(polls * poll.as_secs()))
        })
    }

    /// Quantiles beside the published ones, as a Markdown table.
    pub fn table(&self) -> String {
        let mut text = String::from(
            "| Confirmations | Deposits | 25 % within | 50 % | 75 % | 90 % | All |\n|---|---|---|---|---|---|---|\n",
        );
        let mut row = |name: String, count: u32, quantiles: [u64; 5]| {
            let [first, second, third, ninth, all] = quantiles;
            // Writing to a `String` cannot fail.
            let _ = writeln!(
                text,
                "| {name} | {count} | {first} s | {second} s | {third} s | {ninth} s | {all} s |"
            );
        };
        row("1, published".to_owned(), PUBLISHED_COUNT, PUBLISHED);
        for confirmations in &self.confirmations {
            let latencies = self.latencies(*confirmations);
            let quantile = |part: usize| {
                let last = latencies.len().saturating_sub(1);
                latencies.get(last * part / 1000).map_or(0, Duration::as_secs)
            };
            row(
                format!("{confirmations}, simulated"),
                self.count,
                QUANTILES.map(quantile),
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deposits() -> Deposits {
        Deposits {
            amount: Amount::from_grc(1).unwrap(),
            every_s: 90,
            count: 750,
            spacing_s: 90,
            confirmations: vec![1, 10],
            poll_s: 10,
            seed: 1,
        }
    }

    #[test]
    fn one_confirmation_takes_as_long_as_was_published() {
        let latencies = deposits().latencies(1);
        assert_eq!(latencies.len(), 750);
        for (part, published) in QUANTILES.into_iter().zip(PUBLISHED).take(4) {
            let found = latencies[749 * part / 1000].as_secs();
            assert!(
                found.abs_diff(published) <= published / 5,
                "{part} thousandths: {found} s, published {published} s"
            );
        }
    }

    #[test]
    fn ten_confirmations_take_ten_blocks() {
        let mean = |confirmations| {
            let latencies = deposits().latencies(confirmations);
            latencies.iter().sum::<Duration>().as_secs() / 750
        };
        assert!((85..=115).contains(&mean(1)), "{}", mean(1));
        assert!((800..=1000).contains(&mean(10)), "{}", mean(10));
    }
}
