//! The routing hint: which quality of a route matters to a flow.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Which quality of a route matters to a flow.
///
/// Written `latency`, `loss`, `throughput` or `app:METRIC` in rules and in SOCKS user names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Hint {
    /// The smallest round-trip time. The default: it suits interactive use.
    #[default]
    Latency,
    /// The smallest loss rate.
    Loss,
    /// The largest throughput score √1.5 / (rtt·√p) (SOSP 2001, §5.2).
    Throughput,
    /// The best value of a metric that an application posts. `app:connect` is the node's own: the exit that is
    /// expected to connect first to the destination, by the latency of its route and the time that it took lately.
    App(AppMetric),
}

/// The name of an application-defined metric: 1 to 32 characters of `a-z`, `0-9`, `-`, `_`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AppMetric(String);

impl AppMetric {
    /// The metric that the node measures itself: how long an exit takes to connect to the destination.
    pub(crate) const CONNECT: &str = "connect";

    /// Whether it is that one.
    pub(crate) fn is_connect(&self) -> bool {
        self.0 == Self::CONNECT
    }

    /// The metric's name, without the `app:` prefix.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text is not a hint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no routing hint; use latency, loss, throughput or app:METRIC")]
pub struct ParseHintError(String);

/// The text is not a metric's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no metric; use 1 to 32 characters of a-z, 0-9, '-' and '_'")]
pub struct ParseMetricError(String);

impl FromStr for AppMetric {
    type Err = ParseMetricError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match is_metric_name(text) {
            true => Ok(Self(text.to_owned())),
            false => Err(ParseMetricError(text.chars().take(64).collect())),
        }
    }
}

impl FromStr for Hint {
    type Err = ParseHintError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "latency" => Ok(Self::Latency),
            "loss" => Ok(Self::Loss),
            "throughput" => Ok(Self::Throughput),
            _ => match text.strip_prefix("app:") {
                Some(metric) if is_metric_name(metric) => {
                    Ok(Self::App(AppMetric(metric.to_owned())))
                }
                _ => Err(ParseHintError(text.chars().take(64).collect())),
            },
        }
    }
}

fn is_metric_name(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latency => f.write_str("latency"),
            Self::Loss => f.write_str("loss"),
            Self::Throughput => f.write_str("throughput"),
            Self::App(metric) => write!(f, "app:{}", metric.0),
        }
    }
}

impl TryFrom<String> for Hint {
    type Error = ParseHintError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Hint> for String {
    fn from(hint: Hint) -> Self {
        hint.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hint_reads_back_what_it_prints() {
        for text in ["latency", "loss", "throughput", "app:page-load_2"] {
            assert_eq!(text.parse::<Hint>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn an_unknown_hint_is_refused_with_the_alternatives() {
        for text in ["", "fast", "app:", "app:With Space", &format!("app:{}", "x".repeat(33))] {
            let error = text.parse::<Hint>().unwrap_err();
            assert!(error.to_string().contains("latency, loss, throughput"), "{error}");
        }
    }
}
