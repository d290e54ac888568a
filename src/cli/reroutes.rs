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

/// Whether a flow moves bytes, and since when not. These are the dashboard's words.
pub(super) fn state(flow: &Value) -> String {
    let quiet = flow.get("quiet_seconds").and_then(Value::as_f64).unwrap_or(0.0);
    match still(flow) {
        still if still != "-" => still,
        _ if flow["state"] == "opening" => "opening".to_owned(),
        _ if quiet < QUIET => "active".to_owned(),
        _ => format!("quiet for {}", units::span_of(flow, "quiet_seconds")),
    }
}

/// A flow without a byte for less than this many seconds is active: listings are shown each second.
const QUIET: f64 = 2.0;

/// For how long a lane or flow stands still.
pub(super) fn still(facts: &Value) -> String {
    match units::span_of(facts, "stands_still_seconds") {
        none if none == "-" => none,
        span => match facts.get("waits_for").and_then(Value::as_str) {
            Some(side @ ("client" | "destination")) => {
                format!("stands still for {span}: the {side} takes no more")
            }
            _ => format!("stands still for {span}"),
        },
    }
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
    fn stalled_and_quiet_flows_show_it_with_the_time() {
        let flow = |state: &str, quiet: f64, still: Option<f64>| {
            super::state(
                &json!({ "state": state, "quiet_seconds": quiet, "stands_still_seconds": still }),
            )
        };
        assert_eq!(flow("opening", 0.0, None), "opening");
        assert_eq!(flow("open", 1.9, None), "active");
        assert_eq!(flow("open", 65.0, None), "quiet for 1m05s");
        assert_eq!(flow("open", 9.0, Some(7.4)), "stands still for 7s");
        let held = json!({ "stands_still_seconds": 7.4, "waits_for": "client" });
        assert_eq!(still(&held), "stands still for 7s: the client takes no more");
        assert_eq!(still(&json!({ "stands_still_seconds": null })), "-");
    }

    #[test]
    fn a_stall_that_lasts_is_no_figure_yet() {
        let last = json!({ "seconds_ago": 0.2, "reason": "silent for 98 ms", "stall_ms": null });
        let facts = json!({ "route": "via utah", "reroutes": 1, "history": [last] });
        let expected = "via utah (1 reroute, last: silent for 98 ms, 0s ago, still silent)";
        assert_eq!(route(&facts), expected);
    }
}
