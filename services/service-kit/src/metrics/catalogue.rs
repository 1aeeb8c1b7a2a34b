//! What a service measures: counters, gauges and histograms of the library `prometheus`, each with its name, its meaning and
//! the values its labels may have.

use prometheus::core::{
    Atomic, Collector, GenericCounter, GenericCounterVec, GenericGauge, GenericGaugeVec, MetricVec,
    MetricVecBuilder,
};
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, HistogramOpts, Opts, Registry};

/// A label and every value that it may have.
pub type Label<'a> = (&'a str, &'a [&'a str]);

/// From a commit on a quick disk to a task of an hour, in seconds.
const BOUNDS: [f64; 13] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0, 3600.0,
];

/// The metrics of one service. Every clone is the same one.
///
/// A metric with labels has all its series from the beginning, because one that appears only when something breaks has no rise
/// that could be seen. A name that Prometheus does not allow, or that is taken, panics: it is a mistake in the code.
#[derive(Clone, Debug, Default)]
pub struct Catalogue(Registry);

impl Catalogue {
    pub fn counter<P: Atomic + 'static>(&self, name: &str, help: &str) -> GenericCounter<P> {
        self.add(GenericCounter::new(name, help))
    }

    pub fn counter_vec<P: Atomic + 'static>(
        &self,
        name: &str,
        help: &str,
        labels: &[Label<'_>],
    ) -> GenericCounterVec<P> {
        self.add_all(
            GenericCounterVec::new(Opts::new(name, help), &names(labels)),
            labels,
        )
    }

    pub fn gauge<P: Atomic + 'static>(&self, name: &str, help: &str) -> GenericGauge<P> {
        self.add(GenericGauge::new(name, help))
    }

    pub fn gauge_vec<P: Atomic + 'static>(
        &self,
        name: &str,
        help: &str,
        labels: &[Label<'_>],
    ) -> GenericGaugeVec<P> {
        self.add_all(
            GenericGaugeVec::new(Opts::new(name, help), &names(labels)),
            labels,
        )
    }

    /// How long things took, in seconds.
    pub fn histogram(&self, name: &str, help: &str) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(BOUNDS.to_vec());
        self.add(Histogram::with_opts(options))
    }

    /// All that is in it, and its values now.
    pub fn gather(&self) -> Vec<MetricFamily> {
        self.0.gather()
    }

    fn add<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let metric = made.expect("a name and labels that Prometheus allows");
        self.0
            .register(Box::new(metric.clone()))
            .expect("a name that is not taken");
        metric
    }

    fn add_all<B: MetricVecBuilder + 'static>(
        &self,
        made: prometheus::Result<MetricVec<B>>,
        labels: &[Label<'_>],
    ) -> MetricVec<B> {
        let metrics = self.add(made);
        for values in combinations(labels) {
            metrics.with_label_values(&values);
        }
        metrics
    }
}

fn names<'a>(labels: &[Label<'a>]) -> Vec<&'a str> {
    labels.iter().map(|(name, _)| *name).collect()
}

fn combinations<'a>(labels: &[Label<'a>]) -> Vec<Vec<&'a str>> {
    labels.iter().fold(vec![Vec::new()], |before, (_, values)| {
        let longer = |one: &Vec<&'a str>| {
            let one = one.clone();
            values
                .iter()
                .map(move |value| [one.as_slice(), &[*value]].concat())
        };
        before.iter().flat_map(longer).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::CounterVec;

    #[test]
    fn every_combination_of_labels_is_there_from_the_beginning() {
        let catalogue = Catalogue::default();
        let labels: &[Label<'_>] = &[("who", &["a", "b"]), ("result", &["good", "bad"])];
        let tries: CounterVec = catalogue.counter_vec("tries_total", "Tries.", labels);
        tries.with_label_values(&["b", "good"]).inc();
        let families = catalogue.gather();
        let values = families[0].get_metric().iter().map(|metric| {
            let [result, who] = metric.get_label() else {
                panic!("{metric:?}")
            };
            (who.value(), result.value(), metric.get_counter().get_value())
        });
        assert_eq!(
            values.collect::<Vec<_>>(),
            [
                ("a", "bad", 0.0),
                ("b", "bad", 0.0),
                ("a", "good", 0.0),
                ("b", "good", 1.0)
            ]
        );
    }
}
