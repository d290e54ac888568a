//! `ronproxy top`

use std::{
    collections::HashMap,
    io::{self, IsTerminal as _},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use clap::Args;
use serde_json::Value;

use super::{
    CliError,
    folder::Folder,
    links::{self, is, roles},
    output::{Table, entries, rows, text, wrapped},
    reroutes,
    show::Show,
    units,
};
use crate::{
    admin::ClientError,
    events::{Page, Record},
};

/// Rows of a picture that is not on a terminal.
const ROWS: usize = 50;

/// Events at the end of a picture: the last reroutes and what caused them.
const EVENTS: usize = 6;

/// Links and lanes in a picture; more are counted. A person looks at those in trouble, which are first.
const FEW: usize = 5;

/// Show links, lanes, flows with their rates, and events of the running node, each second
///
/// Links that are down and flows that stand still are first, then what carries most. It ends by Ctrl-C.
/// Without a terminal it prints one picture.
#[derive(Debug, Args)]
pub(super) struct Top {
    /// Print facts as JSON, once
    #[arg(long)]
    json: bool,
}

/// The bytes that flows had carried when they were last looked at.
#[derive(Debug, Default)]
struct Rates(Option<(Instant, HashMap<String, u64>)>);

impl Top {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        let (client, rates) = (folder.client(), Mutex::new(Rates::default()));
        let read = async || {
            let mut facts = client.get("/overview?flows=1&limit=100").await?;
            let mut rates = rates.lock().unwrap_or_else(PoisonError::into_inner);
            rates.add(Instant::now(), &mut facts);
            Ok(facts)
        };
        let watch = !self.json && io::stdout().is_terminal();
        let height = rows().unwrap_or(ROWS);
        let picture = |facts: &Value, columns| picture(facts, columns, height);
        // A picture that cannot be read is an error at once, and not an empty screen.
        records(&read().await?)?;
        Show::new(self.json, watch).run(read, picture).await
    }
}

impl Rates {
    /// Gives each flow the field `rate_bps`, from what it carried since the last time; none the first time.
    fn add(&mut self, now: Instant, facts: &mut Value) {
        let flows = facts.get_mut("flows").and_then(Value::as_array_mut);
        let mut carried = HashMap::new();
        for flow in flows.into_iter().flatten() {
            let bytes = |field: &str| flow.get(field).and_then(Value::as_u64).unwrap_or(0);
            let (label, total) = (text(flow, "label"), bytes("sent") + bytes("received"));
            let rate = self.0.as_ref().and_then(|(at, before)| {
                let millis = u64::try_from(now.duration_since(*at).as_millis()).ok()?.max(1);
                let new = total.saturating_sub(*before.get(&label)?);
                Some(new.saturating_mul(8000) / millis)
            });
            carried.insert(label, total);
            flow["rate_bps"] = rate.into();
        }
        self.0 = Some((now, carried));
    }
}

fn records(facts: &Value) -> Result<Vec<Record>, CliError> {
    let events = facts.get("events").cloned().unwrap_or_default();
    let page = serde_json::from_value::<Page>(events);
    Ok(page.map_err(|error| ClientError::Unreadable(error.to_string()))?.events)
}

/// Everything, in about so many rows.
fn picture(facts: &Value, columns: Option<usize>, height: usize) -> String {
    let list = |field: &str| facts.get(field).map(entries).unwrap_or_default().to_vec();
    let (mut links, lanes, mut flows) = (list("links"), list("lanes"), list("flows"));
    links.sort_by_key(|link| is(link, "up"));
    let rate = |flow: &Value| flow.get("rate_bps").and_then(Value::as_u64).unwrap_or(0);
    let is_still = |flow: &Value| flow.get("stands_still_seconds").is_some_and(Value::is_number);
    flows.sort_by_key(|flow| (!is_still(flow), std::cmp::Reverse(rate(flow))));
    let mut lines = wrapped(&head(facts, &links), columns, "", "  ");
    lines.extend(part("LINKS", &links, FEW, columns, &link_table));
    lines.extend(part("LANES", &lanes, FEW, columns, &lane_table));
    let events = records(facts).unwrap_or_default();
    let room = height.saturating_sub(lines.len() + events.len().min(EVENTS) + 6).max(1);
    lines.extend(part("FLOWS", &flows, room, columns, &flow_table));
    lines.extend([String::new(), "EVENTS".to_owned()]);
    for Record { at_ms, event, .. } in events.iter().rev().take(EVENTS) {
        let clock = units::date(at_ms / 1000);
        let clock = clock.split(' ').next_back().unwrap_or_default();
        lines.extend(wrapped(&format!("{clock}  {event}"), columns, "", "    "));
    }
    lines.join("\n")
}

fn head(facts: &Value, links: &[Value]) -> String {
    let status = facts.get("status").unwrap_or(&Value::Null);
    let up = links.iter().filter(|link| is(link, "up")).count();
    let state = if is(status, "stopping") { "stopping after" } else { "running for" };
    format!(
        "{} ({}), {state} {}, {up} of {} links up, proxy {}",
        text(status, "name"),
        roles(status),
        units::span_of(status, "up_seconds"),
        links.len(),
        text(status, "proxy"),
    )
}

/// A titled table of the first `most` entries.
fn part(
    title: &str,
    all: &[Value],
    most: usize,
    columns: Option<usize>,
    table: &dyn Fn(&[Value]) -> Table,
) -> Vec<String> {
    let shown = &all[..all.len().min(most)];
    let title = match all.len() - shown.len() {
        0 => format!("{title}: {}", all.len()),
        hidden => format!("{title}: {}, of which {hidden} are not shown", all.len()),
    };
    let mut lines = vec![String::new(), title];
    if !shown.is_empty() {
        lines.extend(table(shown).within(columns).lines().map(str::to_owned));
    }
    lines
}

fn link_table(links: &[Value]) -> Table {
    let mut table = Table::new(&[&links::QUALITY[..], &["SINCE"]].concat());
    for link in links {
        table.row(links::quality(link).into_iter().chain([units::span_of(link, "since_seconds")]));
    }
    table
}

fn lane_table(lanes: &[Value]) -> Table {
    let mut table = Table::new(&["LANE", "END", "PEER", "ROUTE", "RTT", "REROUTES", "STATE"]);
    for lane in lanes {
        table.row([
            text(lane, "lane"),
            text(lane, "end"),
            text(lane, "peer"),
            text(lane, "route"),
            units::millis_of(lane, "rtt_ms"),
            text(lane, "reroutes"),
            reroutes::still(lane["stands_still_seconds"].as_f64(), None),
        ]);
    }
    table
}

fn flow_table(flows: &[Value]) -> Table {
    let mut table = Table::new(&["DESTINATION", "ROUTE", "RATE", "SENT", "RECEIVED", "STATE"]);
    for flow in flows {
        table.row([
            text(flow, "target"),
            text(flow, "route"),
            units::rate_of(flow, "rate_bps"),
            units::bytes_of(flow, "sent"),
            units::bytes_of(flow, "received"),
            state(flow),
        ]);
    }
    table
}

/// Whether a flow moves bytes, and since when not.
fn state(flow: &Value) -> String {
    let waits_for = serde_json::from_value(flow["waits_for"].clone()).unwrap_or_default();
    let still = reroutes::still(flow["stands_still_seconds"].as_f64(), waits_for);
    let opening = flow["state"] == "opening";
    reroutes::state(still, opening, flow["quiet_seconds"].as_f64().unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn facts(received: u64) -> Value {
        let flow = |label: &str, received: u64, still: Option<f64>| {
            json!({ "label": label, "target": "web.mit.edu:443", "route": "via utah", "sent": 100,
                    "received": received, "state": "open", "quiet_seconds": 0.2,
                    "stands_still_seconds": still })
        };
        json!({
            "status": { "name": "aros", "exit": false, "relay": false, "up_seconds": 65,
                        "proxy": "127.0.0.1:1080", "stopping": false },
            "links": [
                { "peer": "mit", "state": "up", "up": true, "rtt_ms": 60.0, "since_seconds": 9 },
                { "peer": "utah", "state": "down", "up": false, "rtt_ms": null },
            ],
            "lanes": [{ "lane": 1, "end": "entry", "peer": "mit", "route": "via utah",
                        "rtt_ms": 80.0, "reroutes": 2, "stands_still_seconds": null }],
            "flows": [flow("a", 5, None), flow("b", received, None), flow("c", 7, Some(3.2))],
            "events": { "events": [
                { "id": 1, "at_ms": 1_893_456_061_000_u64, "kind": "link-down", "peer": "utah" }
            ], "dropped": 0, "next": 1 },
        })
    }

    #[test]
    fn trouble_is_first_then_what_carries_most() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        rates.add(start, &mut facts(1_000));
        let mut now = facts(126_000);
        rates.add(start + Duration::from_secs(1), &mut now);
        let expected = "\
aros (entry), running for 1m05s, 1 of 2 links up, proxy 127.0.0.1:1080

LINKS: 2
PEER  STATE  RTT      LOSS OUT  LOSS IN  SINCE
utah  down   -        -         -        -
mit   up     60.0 ms  -         -        9s

LANES: 1
LANE  END    PEER  ROUTE     RTT      REROUTES  STATE
1     entry  mit   via utah  80.0 ms  2         -

FLOWS: 3
DESTINATION      ROUTE     RATE        SENT   RECEIVED  STATE
web.mit.edu:443  via utah  0 bit/s     100 B  7 B       stands still for 3s
web.mit.edu:443  via utah  1.0 Mbit/s  100 B  126.0 kB  active
web.mit.edu:443  via utah  0 bit/s     100 B  5 B       active

EVENTS
00:01:01  the link to utah is down";
        assert_eq!(picture(&now, Some(80), 24), expected);
    }

    #[test]
    fn a_small_terminal_shows_the_number_of_what_has_no_room() {
        let told = picture(&facts(1), Some(80), 5);
        assert!(told.contains("FLOWS: 3, of which 2 are not shown"), "{told}");
        let narrow = picture(&facts(1), Some(40), 24);
        assert!(narrow.lines().all(|line| line.chars().count() <= 40), "{narrow}");
    }
}
