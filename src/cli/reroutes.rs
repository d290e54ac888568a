//! The route of a lane, and its reroutes, in the listings of flows and lanes.

use super::units;
use crate::{flow::WaitsFor, lane::RerouteFacts};

/// The route in use with a word on its past: `via utah (2 reroutes, last: silent for 130 ms, 12s
/// ago, stall 290 ms)`.
pub(super) fn route(route: &str, count: u64, history: &[RerouteFacts]) -> String {
    let times = match count {
        0 => return route.to_owned(),
        1 => "1 reroute".to_owned(),
        _ => format!("{count} reroutes"),
    };
    let last = history.last().map_or_else(String::new, |last| format!(", last: {}", told(last)));
    format!("{route} ({times}{last})")
}

/// Whether a flow moves bytes, and since when not. These are the dashboard's words. `still` is what
/// [`still`] says of it.
pub(super) fn state(still: String, opening: bool, quiet_seconds: f64) -> String {
    match still {
        still if still != "-" => still,
        _ if opening => "opening".to_owned(),
        _ if quiet_seconds < QUIET => "active".to_owned(),
        _ => format!("quiet for {}", units::span_in(quiet_seconds)),
    }
}

/// A flow without a byte for less than this many seconds is active: listings are shown each second.
const QUIET: f64 = 2.0;

/// For how long a lane or flow stands still.
pub(super) fn still(seconds: Option<f64>, waits_for: Option<WaitsFor>) -> String {
    let Some(seconds) = seconds else { return "-".to_owned() };
    let span = units::span_in(seconds);
    let side = match waits_for {
        Some(WaitsFor::Client) => "client",
        Some(WaitsFor::Destination) => "destination",
        _ => return format!("stands still for {span}"),
    };
    format!("stands still for {span}: the {side} takes no more")
}

/// One reroute, without its routes.
fn told(reroute: &RerouteFacts) -> String {
    let stall = reroute.stall_ms;
    let stall = stall.map_or_else(|| "still silent".to_owned(), |ms| format!("stall {ms:.0} ms"));
    format!("{}, {} ago, {stall}", reroute.reason, units::span_in(reroute.seconds_ago))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reroute(seconds_ago: f64, reason: &str, stall_ms: Option<f64>) -> RerouteFacts {
        let (from, to) = ("direct".parse().unwrap(), "via utah".parse().unwrap());
        RerouteFacts { seconds_ago, from, to, reason: reason.to_owned(), stall_ms }
    }

    #[test]
    fn a_route_that_never_changed_stands_alone() {
        assert_eq!(route("direct", 0, &[]), "direct");
    }

    #[test]
    fn a_route_tells_how_often_why_when_and_at_what_cost_it_changed() {
        let old = reroute(90.0, "a better route", Some(3.0));
        let last = reroute(12.4, "silent for 130 ms", Some(290.2));
        let expected = "via utah (2 reroutes, last: silent for 130 ms, 12s ago, stall 290 ms)";
        assert_eq!(route("via utah", 2, &[old, last]), expected);
    }

    #[test]
    fn stalled_and_quiet_flows_show_it_with_the_time() {
        let flow = |opening, quiet, seconds| state(still(seconds, None), opening, quiet);
        assert_eq!(flow(true, 0.0, None), "opening");
        assert_eq!(flow(false, 1.9, None), "active");
        assert_eq!(flow(false, 65.0, None), "quiet for 1m05s");
        assert_eq!(flow(false, 9.0, Some(7.4)), "stands still for 7s");
        let held = still(Some(7.4), Some(WaitsFor::Client));
        assert_eq!(held, "stands still for 7s: the client takes no more");
        assert_eq!(still(None, None), "-");
    }

    #[test]
    fn a_stall_that_lasts_is_no_figure_yet() {
        let last = reroute(0.2, "silent for 98 ms", None);
        let expected = "via utah (1 reroute, last: silent for 98 ms, 0s ago, still silent)";
        assert_eq!(route("via utah", 1, &[last]), expected);
    }
}
