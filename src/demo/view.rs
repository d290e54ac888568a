//! What the demo shows, as lines of text. PURE.

use std::{net::SocketAddr, time::Duration};

use super::{
    facts::{Change, Condition, FlowFact, paths_of},
    paths::PathId,
    text::{Line, Tone, bytes, line, mbits, millis},
    watch::{Event, PathView, Snapshot},
};

/// The commands to try, with the proxy's real address.
#[must_use]
pub(super) fn try_it(proxy: SocketAddr) -> Vec<Line> {
    let curl = |rest: &str| line(format!("curl --proxy socks5h://{proxy} {rest}"), Tone::Plain);
    vec![
        curl("http://campus.mit.test/"),
        curl("-# -o /dev/null 'http://campus.mit.test/big?mb=20'"),
        line(
            format!(
                "browser: SOCKS5 (with DNS) or HTTP proxy {proxy}, then open http://campus.mit.test/"
            ),
            Tone::Plain,
        ),
    ]
}

/// What the keys do, and what to press next.
#[must_use]
pub(super) fn keys(snapshot: &Snapshot) -> Vec<Line> {
    let key = |keys: &str, what: &str| {
        vec![(format!("{keys:>4}  "), Tone::Strong), (what.to_owned(), Tone::Plain)]
    };
    let mut lines = vec![
        key("1", "cut the path in use"),
        key("2-6", "cut or heal that path"),
        key("l", "path 1 loses 30 %, or not"),
        key("u m", "kill/start Utah, MediaOne"),
        key("h", "heal everything"),
        key("d", "download 20 MiB to watch"),
        key("b", "a link to the dashboard"),
        key("? q", "help, quit"),
    ];
    lines.extend(advice(snapshot).into_iter().map(|text| line(text, Tone::Good)));
    lines
}

/// What `?` shows: the keys, and the same in words.
#[must_use]
pub(super) fn help(snapshot: &Snapshot, proxy: SocketAddr) -> Vec<Line> {
    let said = [
        "The bold line is the route in use. Download with d, then cut it with 1:",
        "the overlay moves the download to another route within a moment.",
        "",
        "With a program of yours:",
    ];
    let mut lines = keys(snapshot);
    lines.extend(said.map(|text| line(text, Tone::Plain)));
    lines.extend(try_it(proxy));
    lines.push(line("Esc or ? goes back.", Tone::Good));
    lines
}

/// The paths in few columns, for a terminal that is too narrow for the map.
#[must_use]
pub(super) fn narrow_paths(snapshot: &Snapshot) -> Vec<Line> {
    let row = snapshot.paths.iter().map(|view| {
        let (state, tone) = match view.condition {
            Condition::Cut => ("CUT".to_owned(), Tone::Bad),
            _ if !view.linked => ("down".to_owned(), Tone::Bad),
            Condition::Lossy(rate) => (format!("{rate} loss"), Tone::Warn),
            Condition::Whole if view.in_use => (mbits(view.rate), Tone::Good),
            Condition::Whole => (String::new(), Tone::Plain),
        };
        let rtt = view.rtt.map_or_else(|| "-".to_owned(), millis);
        let used = if view.in_use { '━' } else { ' ' };
        let text = format!("{} {used} {:<16} {rtt:>7} {state}", view.path.number(), view.path);
        line(text, tone)
    });
    row.collect()
}

/// The keys in one line, for a small terminal.
#[must_use]
pub(super) fn keys_in_a_line() -> Line {
    let keys = [
        ("1", "cut"),
        ("2-6", "paths"),
        ("l", "lose"),
        ("u m", "kill"),
        ("h", "heal"),
        ("d", "download"),
        ("b", "page"),
        ("?", "help"),
        ("q", "quit"),
    ];
    let of = |(key, what): (&str, &str)| {
        [(key.to_owned(), Tone::Strong), (format!(" {what}  "), Tone::Plain)]
    };
    keys.into_iter().flat_map(of).collect()
}

/// The next thing worth doing, in one line.
#[must_use]
pub(super) fn advice_in_a_line(snapshot: &Snapshot) -> Line {
    line(advice(snapshot).join(" "), Tone::Good)
}

/// The next thing worth doing, in two lines.
fn advice(snapshot: &Snapshot) -> [String; 2] {
    let broken =
        snapshot.paths.iter().any(|path| !path.linked) || snapshot.running.contains(&false);
    let used = snapshot.lanes.first().and_then(|lane| paths_of(&lane.route).first().copied());
    let busy = snapshot.flows.iter().any(|flow| flow.rate > 0);
    let stalled = snapshot.flows.iter().any(|flow| flow.stalled.is_some());
    match (busy, used) {
        _ if stalled => {
            ["The download stands still:".to_owned(), "wait, or heal with h.".to_owned()]
        }
        (true, Some(_)) => {
            ["Press 1: cut the path in use.".to_owned(), "The download goes on.".to_owned()]
        }
        _ if broken => ["h heals everything.".to_owned(), String::new()],
        _ => ["Start with d, or with curl:".to_owned(), "? shows how.".to_owned()],
    }
}

/// The paths as a table, for text.
#[must_use]
pub(super) fn paths(snapshot: &Snapshot) -> Vec<Line> {
    snapshot.paths.iter().map(path).collect()
}

fn path(view: &PathView) -> Line {
    let state = if view.linked { "up" } else { "down" };
    let rtt = view.rtt.map_or_else(|| "-".to_owned(), millis);
    let lost = view.lost.map_or_else(|| "-".to_owned(), |lost| lost.to_string());
    let used = if view.in_use { "in use" } else { "" };
    let text = format!(
        "{} {:<17} {state:<5} rtt {rtt:<7} lost {lost:<7} {:<10} {used}",
        view.path.number(),
        view.path,
        mbits(view.rate),
    );
    line(text, if view.linked { Tone::Plain } else { Tone::Bad })
}

/// The lanes, one a line.
#[must_use]
pub(super) fn lanes(snapshot: &Snapshot) -> Vec<Line> {
    if snapshot.lanes.is_empty() {
        return vec![line("none yet: the first flow opens one", Tone::Dim)];
    }
    let row = snapshot.lanes.iter().map(|lane| {
        let rtt = lane.rtt.map_or_else(|| "-".to_owned(), millis);
        let chosen = format!("chosen by {}", lane.hint);
        vec![
            (format!("{:<3} arosnet → {:<9} ", lane.lane, lane.peer), Tone::Plain),
            (format!("{:<13} ", lane.route.to_string()), Tone::Good),
            (format!("rtt {rtt:<7} reroutes {:<4} {chosen}", lane.reroutes), Tone::Plain),
        ]
    });
    row.collect()
}

/// The flows, one a line, the newest last.
#[must_use]
pub(super) fn flows(snapshot: &Snapshot) -> Vec<Line> {
    if snapshot.flows.is_empty() {
        return vec![line("none", Tone::Dim)];
    }
    let row = snapshot.flows.iter().map(|flow| {
        let fact = &flow.fact;
        let (state, tone) = match flow.stalled {
            Some(still) => (format!("STALLED {}", millis(still)), Tone::Bad),
            None => (mbits(flow.rate), Tone::Good),
        };
        vec![
            (format!("{}  {:<26} ", fact.label, fact.target), Tone::Plain),
            (format!("{:>10} in {:>9} out  ", bytes(fact.received), bytes(fact.sent)), Tone::Plain),
            (format!("{state:<17}"), tone),
            (fact.route.clone().unwrap_or_default(), Tone::Plain),
            (rerouted(fact), Tone::Warn),
        ]
    });
    row.collect()
}

/// How often a flow was rerouted, and the last time why and at what cost.
fn rerouted(fact: &FlowFact) -> String {
    let Some(Change { reason, stall, .. }) = &fact.last else { return String::new() };
    let stall = stall.map_or_else(String::new, |stall| format!(", stall {}", millis(stall)));
    format!("  rerouted {}×, last: {reason}{stall}", fact.reroutes)
}

/// A reroute: both routes, why, and what it cost if that is known.
#[must_use]
pub(super) fn change(change: &Change) -> String {
    let Change { from, to, reason, stall } = change;
    let stall = stall.map_or_else(String::new, |stall| format!(", stall {}", millis(stall)));
    format!("{from} → {to} ({reason}){stall}")
}

/// An event with its time.
#[must_use]
pub(super) fn event(event: &Event) -> Line {
    let survived = ["went on", "goes on", "REROUTED", "arrived"];
    let loud = ["CUT", "KILLED", "down", "failed", "stands still"];
    let good = ["healed", "up:", "started"];
    if event.text.starts_with('»') {
        let text = (event.text.clone(), Tone::Strong);
        return vec![(format!("{} ", clock(event.at)), Tone::Dim), text];
    }
    let contains = |words: &[&str]| words.iter().any(|word| event.text.contains(word));
    let tone = match () {
        () if contains(&survived) => Tone::Good,
        () if contains(&loud) => Tone::Bad,
        () if contains(&good) => Tone::Good,
        () => Tone::Plain,
    };
    vec![(format!("{} ", clock(event.at)), Tone::Dim), (event.text.clone(), tone)]
}

fn clock(at: Duration) -> String {
    let tenths = at.as_millis() / 100;
    format!("{:>3}:{:02}.{}", tenths / 600, tenths / 10 % 60, tenths % 10)
}

/// What changes rarely: when this text changes, the plain view prints the paths again.
#[must_use]
pub(super) fn shape(snapshot: &Snapshot) -> String {
    let path = |path: &PathView| format!("{:?}{}{}", path.condition, path.linked, path.in_use);
    PathId::all().zip(&snapshot.paths).map(|(_, view)| path(view)).collect()
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
