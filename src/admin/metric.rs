//! A value that somebody posts for a metric of their own, as it stands in a request's query. Pure.

use super::question::sentence;
use crate::{
    flow::AppMetric,
    identity::NodeName,
    overlay::posted::{Better, Declared},
    quantity::parse_duration,
};

/// A value of a metric for an exit.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Post {
    /// The metric.
    pub metric: AppMetric,
    /// The exit.
    pub exit: NodeName,
    /// The value.
    pub value: f64,
    /// How the metric is to be read.
    pub declared: Declared,
}

/// The path and query of `post`.
#[cfg(feature = "cli")]
#[must_use]
pub(crate) fn post(post: &Post) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("name", post.metric.as_str()).append_pair("exit", post.exit.as_str());
    query.append_pair("value", &post.value.to_string());
    if post.declared.better == Better::More {
        query.append_pair("better", "more");
    }
    query.append_pair("half_life", &format!("{}s", post.declared.half_life.as_secs()));
    format!("/metric?{}", query.finish())
}

/// Reads it.
///
/// # Errors
/// A sentence that says what to write instead.
pub(super) fn read(query: &str) -> Result<Post, String> {
    let (mut metric, mut exit, mut value, mut declared) = (None, None, None, Declared::default());
    for (name, text) in form_urlencoded::parse(query.as_bytes()) {
        match name.as_ref() {
            "name" => metric = Some(text.parse().map_err(sentence)?),
            "exit" => exit = Some(text.parse().map_err(sentence)?),
            "value" => value = Some(text.parse().map_err(|_| format!("{text:?} is no number"))?),
            "better" if text == "less" => declared.better = Better::Less,
            "better" if text == "more" => declared.better = Better::More,
            "better" => return Err(format!("{text:?} is not better: write less or more")),
            "half_life" => {
                let half_life = parse_duration(&text).map_err(sentence)?;
                declared = declared.with_half_life(half_life).map_err(sentence)?;
            }
            other => {
                return Err(format!(
                    "{other:?} means nothing here; write name, exit, value, better or half_life"
                ));
            }
        }
    }
    match (metric, exit, value) {
        (Some(metric), Some(exit), Some(value)) => Ok(Post { metric, exit, value, declared }),
        _ => Err("say what to post, as in /metric?name=page-load&exit=mit&value=0.4".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_posted_value_reads_back() {
        let declared = Declared { better: Better::More, half_life: Duration::from_secs(90) };
        let (metric, exit) = ("page-load".parse().unwrap(), "mit".parse().unwrap());
        let asked = Post { metric, exit, value: 0.25, declared };
        let path = post(&asked);
        assert_eq!(path, "/metric?name=page-load&exit=mit&value=0.25&better=more&half_life=90s");
        assert_eq!(read(path.strip_prefix("/metric?").unwrap()), Ok(asked));
        let plain = read("name=a&exit=mit&value=1").unwrap();
        assert_eq!(plain.declared, Declared::default());
    }

    #[test]
    fn nonsense_is_answered_with_what_to_write() {
        for (query, expected) in [
            ("", "say what"),
            ("name=A+B", "metric"),
            ("name=a&exit=A", "name"),
            ("value=fast", "number"),
            ("better=best", "less or more"),
            ("half_life=0s", "24 h"),
            ("colour=red", "write name"),
        ] {
            let error = read(query).unwrap_err();
            assert!(error.contains(expected), "{query}: {error}");
        }
    }
}
