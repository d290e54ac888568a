//! `ronproxy top`

use std::{
    cmp::Reverse,
    collections::HashMap,
    io::{self, IsTerminal as _},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{
    CliError,
    folder::Folder,
    lanes, links,
    output::{Table, or_dash, rows, wrapped},
    reroutes,
    show::Show,
    units,
};
use crate::{
    admin::{Overview, StatusReport},
    app::{FlowFacts, LaneStatus},
    events::Record,
    flow::{FlowLabel, FlowState},
    identity::Roles,
    mesh::LinkFacts,
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
struct Rates(Option<(Instant, HashMap<FlowLabel, u64>)>);

/// A flow, and how fast it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct RatedFlow {
    #[serde(flatten)]
    facts: FlowFacts,
    /// What it carries in bits per second; `None` the first time, and in the node's answer.
    #[serde(default)]
    rate_bps: Option<u64>,
}

/// What the node answers, with rates.
type Facts = Overview<RatedFlow>;

impl Top {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        let (client, rates) = (folder.client(), Mutex::new(Rates::default()));
        let read = async || {
            let mut facts: Facts = client.get("/overview?flows=1&limit=100").await?;
            let mut rates = rates.lock().unwrap_or_else(PoisonError::into_inner);
            rates.add(Instant::now(), facts.flows.as_deref_mut().unwrap_or_default());
            Ok(facts)
        };
        let watch = !self.json && io::stdout().is_terminal();
        let height = rows().unwrap_or(ROWS);
        let picture = |facts: &Facts, columns| picture(facts, columns, height);
        // A picture that cannot be read is an error at once, and not an empty screen.
        read().await?;
        Show::new(self.json, watch).run(read, picture).await
    }
}

impl Rates {
    /// Gives each flow its rate, from what it carried since the last time.
    fn add(&mut self, now: Instant, flows: &mut [RatedFlow]) {
        let mut carried = HashMap::new();
        for RatedFlow { facts, rate_bps } in flows {
            let (label, total) = (facts.label, facts.sent.saturating_add(facts.received));
            *rate_bps = self.0.as_ref().and_then(|(at, before)| {
                let millis = u64::try_from(now.duration_since(*at).as_millis()).ok()?.max(1);
                let new = total.saturating_sub(*before.get(&label)?);
                Some(new.saturating_mul(8000) / millis)
            });
            carried.insert(label, total);
        }
        self.0 = Some((now, carried));
    }
}

/// Everything, in about so many rows.
fn picture(facts: &Facts, columns: Option<usize>, height: usize) -> String {
    let mut links: Vec<&LinkFacts> = facts.links.iter().collect();
    links.sort_by_key(|link| link.up);
    let lanes: Vec<&LaneStatus> = facts.lanes.iter().collect();
    let mut flows: Vec<&RatedFlow> = facts.flows.iter().flatten().collect();
    let is_still = |flow: &RatedFlow| flow.facts.stands_still_seconds.is_some();
    flows.sort_by_key(|flow| (!is_still(flow), Reverse(flow.rate_bps.unwrap_or(0))));
    let mut lines = wrapped(&head(&facts.status, &links), columns, "", "  ");
    lines.extend(part("LINKS", &links, FEW, columns, &link_table));
    lines.extend(part("LANES", &lanes, FEW, columns, &lane_table));
    let events = &facts.events.events;
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

fn head(status: &StatusReport, links: &[&LinkFacts]) -> String {
    let StatusReport { node, up_seconds, stopping, .. } = status;
    let up = links.iter().filter(|link| link.up).count();
    let state = if *stopping { "stopping after" } else { "running for" };
    format!(
        "{} ({}), {state} {}, {up} of {} links up, proxy {}",
        node.name,
        units::roles(Roles { exit: node.exit, relay: node.relay }),
        units::span(*up_seconds),
        links.len(),
        or_dash(node.proxy),
    )
}

/// A titled table of the first `most` entries.
fn part<T>(
    title: &str,
    all: &[T],
    most: usize,
    columns: Option<usize>,
    table: &dyn Fn(&[T]) -> Table,
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

fn link_table(links: &[&LinkFacts]) -> Table {
    let mut table = Table::new(&[&links::QUALITY[..], &["SINCE"]].concat());
    for link in links {
        let since = or_dash(link.since_seconds.map(units::span));
        table.row(links::quality(link).into_iter().chain([since]));
    }
    table
}

fn lane_table(lanes: &[&LaneStatus]) -> Table {
    let mut table = Table::new(&["LANE", "END", "PEER", "ROUTE", "RTT", "REROUTES", "STATE"]);
    for LaneStatus { end, rtt_ms, facts, .. } in lanes {
        table.row([
            facts.lane.to_string(),
            lanes::end(*end).to_owned(),
            facts.peer.to_string(),
            facts.route.to_string(),
            or_dash(rtt_ms.map(units::millis)),
            facts.reroutes.to_string(),
            reroutes::still(facts.stands_still_seconds, None),
        ]);
    }
    table
}

fn flow_table(flows: &[&RatedFlow]) -> Table {
    let mut table = Table::new(&["DESTINATION", "ROUTE", "RATE", "SENT", "RECEIVED", "STATE"]);
    for RatedFlow { facts, rate_bps } in flows {
        table.row([
            facts.target.clone(),
            or_dash(facts.route.as_ref()),
            or_dash(rate_bps.map(units::rate)),
            units::bytes(facts.sent),
            units::bytes(facts.received),
            state(facts),
        ]);
    }
    table
}

/// Whether a flow moves bytes, and since when not.
fn state(flow: &FlowFacts) -> String {
    let still = reroutes::still(flow.stands_still_seconds, flow.waits_for);
    reroutes::state(still, flow.state == FlowState::Opening, flow.quiet_seconds)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::app::{CertificateStatus, Measuring};

    /// What a node answers whose second flow has received so much.
    fn facts(received: u64) -> Facts {
        let flow = |label: u32, received: u64, still: Option<f64>| {
            json!({ "label": format!("{label:08x}"), "target": "web.mit.edu:443", "exit": "mit", "lane": 1,
                    "route": "via utah", "reroutes": 0, "history": [], "hint": "latency", "ingress": "socks5",
                    "client": "127.0.0.1:9", "sent": 100, "received": received, "state": "open",
                    "seconds": 9.0, "quiet_seconds": 0.2, "stands_still_seconds": still })
        };
        let link = |peer, state, rtt_ms: Option<f64>, since: Option<u64>| {
            json!({ "peer": peer, "state": state, "up": state == "up", "rtt_ms": rtt_ms, "since_seconds": since,
                    "control_bytes": [0, 0], "labels": 0, "exit": false, "relay": true })
        };
        let facts = json!({
            "status": status(),
            "links": [link("mit", "up", Some(60.0), Some(9)), link("utah", "down", None, None)],
            "far_links": [],
            "lanes": [{ "lane": 1, "end": "entry", "peer": "mit", "route": "via utah", "hint": "latency",
                        "carries": "connections", "rtt_ms": 80.0, "packets": [1, 1], "bytes": [1, 1],
                        "reroutes": 2, "last_reroute": null, "history": [], "stands_still_seconds": null }],
            "flows": [flow(1, 5, None), flow(2, received, None), flow(3, 7, Some(3.2))],
            "steering": { "exit": null, "hint": null, "avoid": [], "paused": [] },
            "paths": null,
            "events": { "events": [
                { "id": 1, "at_ms": 1_893_456_061_000_u64, "kind": "link-down", "peer": "utah" }
            ], "dropped": 0, "next": 1 },
        });
        serde_json::from_value(facts).unwrap()
    }

    fn status() -> serde_json::Value {
        json!({
            "name": "aros", "version": "0", "exit": false, "relay": false, "proxy": "127.0.0.1:1080",
            "members": 2, "links_up": 1, "lanes_out": 1, "lanes_in": 0, "flows": 3, "exit_flows": 0,
            "forwarded": 0, "forwarded_bytes": 0, "dropped": [["no-label", 3]], "reordered": [],
            "refused_clients": [], "handshakes": [], "ended_flows": [], "dropped_datagrams": [],
            "dropped_messages": [], "exit_windows": [0, 0], "measuring": Measuring::default(),
            "certificate": CertificateStatus::default(), "pid": 7, "listen": "0.0.0.0:4500",
            "authority": false, "invites": false, "confinement": "none", "up_seconds": 65, "stopping": false,
        })
    }

    #[test]
    fn trouble_is_first_then_what_carries_most() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        rates.add(start, facts(1_000).flows.as_mut().unwrap());
        let mut now = facts(126_000);
        rates.add(start + Duration::from_secs(1), now.flows.as_mut().unwrap());
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
