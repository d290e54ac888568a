//! The route of a lane, and its reroutes, in the listings of flows and lanes.

use serde_json::Value;

use super::{
    output::{entries, text},
    units,
};

/// The route in use with a word on its past: `via utah (2 reroutes, last: silent for 130 ms, 12s
/// ago, stall 290 ms)`.
pub(super) fn route(facts: &Value) -> String {
    let route = text(facts, "route");
    let count = facts.get("reroutes").and_then(Value::as_u64).unwrap_or(0);
    let times = match count {
        0 => return route,
        1 => "1 reroute".to_owned(),
        _ => format!("{count} reroutes"),
    };
    let history = facts.get("history").map(entries).unwrap_or_default();
    let last = history.last().map_or_else(String::new, |last| format!(", last: {}", told(last)));
    format!("{route} ({times}{last})")
}

/// One reroute, without its routes.
fn told(reroute: &Value) -> String {
    let stall = reroute.get("stall_ms").and_then(Value::as_f64);
    let stall = stall.map_or_else(|| "still silent".to_owned(), |ms| format!("stall {ms:.0} ms"));
    let ago = units::span_of(reroute, "seconds_ago");
    format!("{}, {ago} ago, {stall}", text(reroute, "reason"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_route_that_never_changed_stands_alone() {
        assert_eq!(route(&json!({ "route": "direct", "reroutes": 0, "history": [] })), "direct");
        assert_eq!(route(&json!({ "route": null })), "-");
    }

    #[test]
    fn a_route_tells_how_often_why_when_and_at_what_cost_it_changed() {
        let old = json!({ "seconds_ago": 90.0, "reason": "a better route", "stall_ms": 3.0 });
        let last = json!({ "seconds_ago": 12.4, "reason": "silent for 130 ms", "stall_ms": 290.2 });
        let facts = json!({ "route": "via utah", "reroutes": 2, "history": [old, last] });
        let expected = "via utah (2 reroutes, last: silent for 130 ms, 12s ago, stall 290 ms)";
        assert_eq!(route(&facts), expected);
    }

    #[test]
    fn a_stall_that_lasts_is_no_figure_yet() {
        let last = json!({ "seconds_ago": 0.2, "reason": "silent for 98 ms", "stall_ms": null });
        let facts = json!({ "route": "via utah", "reroutes": 1, "history": [last] });
        let expected = "via utah (1 reroute, last: silent for 98 ms, 0s ago, still silent)";
        assert_eq!(route(&facts), expected);
    }
}
