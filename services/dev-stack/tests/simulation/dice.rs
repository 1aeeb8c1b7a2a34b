//! All chance of a run, from one seed.

use std::ops::Range;
use std::sync::Mutex;
use std::time::Duration;

use fastrand::Rng;

pub(crate) struct Dice(Mutex<Rng>);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Mutex::new(Rng::with_seed(seed)))
    }

    pub(crate) fn between(&self, range: Range<u64>) -> u64 {
        self.0.lock().unwrap().u64(range)
    }

    pub(crate) fn index(&self, len: usize) -> usize {
        self.0.lock().unwrap().usize(0..len)
    }

    pub(crate) fn percent(&self, percent: u64) -> bool {
        self.between(0..100) < percent
    }

    pub(crate) fn ms(&self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.between(range))
    }
}
