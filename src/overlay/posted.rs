//! Values of metrics that applications define and post. Pure.
//!
//! A value is a mean that forgets: a post counts half as much after each half-life, and a value to which
//! nobody adds is gone after eight. Nothing depends on a value: without one, routes and exits rank by latency.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    candidates::AppValue,
    means::{DEFAULT_HALF_LIFE, Means},
};
use crate::{
    flow::{AppMetric, Route},
    identity::NodeName,
};

/// Metrics of one node. A program has a handful, and whoever may post is its user.
pub const MAX_METRICS: usize = 64;

/// The bounds of a half-life: probes change within seconds, and a day is as long as events are kept.
const HALF_LIFE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

/// Which values of a metric are better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    /// Small ones: a time, a loss, a price.
    #[default]
    Less,
    /// Large ones: a rate, a quality.
    More,
}

/// How a metric is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Declared {
    /// Which values are better.
    pub better: Better,
    /// After how long a post counts half as much.
    pub half_life: Duration,
}

impl Default for Declared {
    fn default() -> Self {
        Self { better: Better::Less, half_life: DEFAULT_HALF_LIFE }
    }
}

/// The half-life of a metric is out of bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a half-life of {0:?} is out of bounds; give one from 1 s to 24 h")]
pub struct HalfLifeError(Duration);

impl Declared {
    /// The same with another half-life.
    ///
    /// # Errors
    /// When it is not from 1 s to 24 h.
    pub fn with_half_life(self, half_life: Duration) -> Result<Self, HalfLifeError> {
        match HALF_LIFE.contains(&half_life) {
            true => Ok(Self { half_life, ..self }),
            false => Err(HalfLifeError(half_life)),
        }
    }
}

/// Why a value is not taken.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PostError {
    /// Not a number, infinite or negative.
    #[error("{0} is no value of a metric; post a finite number that is at least 0")]
    Value(f64),
    /// The node measures this metric itself.
    #[error("this node measures the metric {0:?} itself; post under another name")]
    BuiltIn(&'static str),
    /// There are too many metrics.
    #[error("this node has {MAX_METRICS} metrics; a value is forgotten after eight half-lives")]
    TooMany,
}

/// All values that were posted at one node.
#[derive(Debug, Default)]
pub struct Posted {
    metrics: BTreeMap<AppMetric, Metric>,
}

/// For an exit by whatever route, and for one by this route.
type Place = (NodeName, Option<Route>);

#[derive(Debug, Default)]
struct Metric {
    better: Better,
    values: Means<Place>,
}

impl Posted {
    /// Takes a value for `exit`, and for `route` to it if it is known. The last declaration of a metric
    /// holds; with the other direction, older values mean nothing and are gone.
    ///
    /// # Errors
    /// For a number that is no value, for the metric `connect`, which the node measures itself, and for a metric
    /// too many.
    pub fn post(
        &mut self,
        now: Instant,
        name: &AppMetric,
        declared: Declared,
        (exit, route): (&NodeName, Option<&Route>),
        value: f64,
    ) -> Result<(), PostError> {
        if !value.is_finite() || value < 0.0 {
            return Err(PostError::Value(value));
        }
        if name.is_connect() {
            return Err(PostError::BuiltIn(AppMetric::CONNECT));
        }
        if !self.metrics.contains_key(name) && self.metrics.len() >= MAX_METRICS {
            self.metrics.retain(|_, metric| metric.values.is_alive(now));
            if self.metrics.len() >= MAX_METRICS {
                return Err(PostError::TooMany);
            }
        }
        let metric = self.metrics.entry(name.clone()).or_default();
        if metric.better != declared.better {
            metric.values.clear();
        }
        (metric.better, metric.values.half_life) = (declared.better, declared.half_life);
        metric.values.add(now, (exit.clone(), None), value);
        if let Some(route) = route {
            metric.values.add(now, (exit.clone(), Some(route.clone())), value);
        }
        Ok(())
    }

    /// The value of `exit`, or of `route` to it, as it was posted.
    #[must_use]
    pub fn mean(
        &self,
        now: Instant,
        name: &AppMetric,
        exit: &NodeName,
        route: Option<&Route>,
    ) -> Option<f64> {
        self.metrics.get(name)?.values.mean(now, &(exit.clone(), route.cloned()))
    }

    /// The same as a figure of which less is better.
    #[must_use]
    pub fn value(
        &self,
        now: Instant,
        name: &AppMetric,
        exit: &NodeName,
        route: Option<&Route>,
    ) -> Option<AppValue> {
        let mean = self.mean(now, name, exit, route)?;
        match self.metrics.get(name)?.better {
            Better::Less => AppValue::new(mean),
            Better::More => AppValue::inverse(mean),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::means::MAX_VALUES, *};

    fn name(text: &str) -> AppMetric {
        text.parse().unwrap()
    }

    fn node(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    fn declared(better: Better, seconds: u64) -> Declared {
        Declared { better, half_life: Duration::from_secs(seconds) }
    }

    #[test]
    fn a_post_counts_half_after_a_half_life_and_is_gone_after_eight() {
        let (mut posted, start, load) = (Posted::default(), Instant::now(), name("load"));
        let at = |seconds| start + Duration::from_secs(seconds);
        let less = declared(Better::Less, 60);
        posted.post(at(0), &load, less, (&node("mit"), None), 3.0).unwrap();
        posted.post(at(60), &load, less, (&node("mit"), None), 0.0).unwrap();
        let mean = posted.mean(at(60), &load, &node("mit"), None).unwrap();
        assert!((mean - 1.0).abs() < 1e-9, "{mean}");
        assert!(posted.mean(at(60 + 8 * 60 - 1), &load, &node("mit"), None).is_some());
        assert_eq!(posted.mean(at(60 + 8 * 60), &load, &node("mit"), None), None);
    }

    #[test]
    fn the_better_value_is_the_smaller_figure_in_both_directions() {
        let (mut posted, now) = (Posted::default(), Instant::now());
        for (metric, better) in [("time", Better::Less), ("rate", Better::More)] {
            for (exit, value) in [("good", 0.4), ("bad", 9e9)] {
                let value = if better == Better::Less { value } else { 4e9 / value };
                let to = (&node(exit), None);
                posted.post(now, &name(metric), declared(better, 60), to, value).unwrap();
            }
            let figure = |exit| posted.value(now, &name(metric), &node(exit), None).unwrap();
            assert!(figure("good") < figure("bad"), "{metric}");
        }
        // With the other direction, what was posted before means nothing.
        let to = (&node("new"), None);
        posted.post(now, &name("time"), declared(Better::More, 60), to, 1.0).unwrap();
        assert_eq!(posted.mean(now, &name("time"), &node("good"), None), None);
    }

    #[test]
    fn nonsense_is_refused_and_the_extremes_are_values() {
        let (mut posted, now, exit) = (Posted::default(), Instant::now(), node("mit"));
        for value in [f64::NAN, f64::INFINITY, -1e-9] {
            let to = (&exit, None);
            assert!(posted.post(now, &name("a"), Declared::default(), to, value).is_err());
        }
        let to = (&exit, None);
        let own = posted.post(now, &name("connect"), Declared::default(), to, 1.0);
        assert_eq!(own, Err(PostError::BuiltIn("connect")));
        for better in [Better::Less, Better::More] {
            for value in [0.0, f64::MIN_POSITIVE, f64::MAX, f64::MAX] {
                let to = (&exit, None);
                posted.post(now, &name("a"), declared(better, 1), to, value).unwrap();
                assert!(posted.mean(now, &name("a"), &exit, None).unwrap().is_finite());
                let figure = posted.value(now, &name("a"), &exit, None).unwrap();
                // The figure of a route without a value is larger still.
                assert!(figure.millionths() < u64::MAX);
            }
        }
    }

    #[test]
    fn values_without_end_fill_no_more_than_the_caps() {
        let (mut posted, start) = (Posted::default(), Instant::now());
        let minute = declared(Better::Less, 60);
        for n in 0..3 * MAX_VALUES {
            let now = start + Duration::from_millis(n as u64);
            let to = (&node(&format!("n{n}")), None);
            posted.post(now, &name("m"), minute, to, 1.0).unwrap();
        }
        let now = start + Duration::from_secs(4);
        assert_eq!(posted.metrics[&name("m")].values.len(), MAX_VALUES);
        let last = node(&format!("n{}", 3 * MAX_VALUES - 1));
        assert!(posted.mean(now, &name("m"), &last, None).is_some(), "the newest stays");
        for n in 1..MAX_METRICS {
            posted.post(now, &name(&format!("m{n}")), minute, (&last, None), 1.0).unwrap();
        }
        let more = |posted: &mut Posted, now| {
            posted.post(now, &name("one-more"), minute, (&last, None), 1.0)
        };
        assert_eq!(more(&mut posted, now), Err(PostError::TooMany));
        // Metrics that nobody posts any more make room.
        more(&mut posted, now + Duration::from_secs(8 * 60)).unwrap();
    }
}
