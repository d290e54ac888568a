//! `ronproxy links`

use clap::Args;
use serde_json::Value;

use super::{
    CliError,
    folder::Folder,
    output::{Table, entries, text},
    show::Show,
    units,
};

/// Show the link to each member of the overlay
#[derive(Debug, Args)]
pub(super) struct Links {
    #[command(flatten)]
    show: Show,
}

impl Links {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        self.show.answer(folder, "/links", table).await
    }
}

fn table(links: &Value, columns: Option<usize>) -> String {
    if entries(links).is_empty() {
        return "No other member is known yet.".to_owned();
    }
    let more = ["DELIVERED", "CONTROL", "SINCE", "CARRIER", "ADDRESS", "ROLES", "LABELS"];
    let mut table = Table::new(&[&QUALITY[..], &more].concat());
    for link in entries(links) {
        let up = is(link, "up");
        let more = [
            units::rate_of(link, "delivered_bps"),
            units::rate_of(link, "control_bps"),
            units::span_of(link, "since_seconds"),
            carrier(link),
            text(link, "address"),
            if up { roles(link) } else { "-".to_owned() },
            text(link, "labels"),
        ];
        table.row(quality(link).into_iter().chain(more));
    }
    table.within(columns)
}

/// The heads of [`quality`].
pub(super) const QUALITY: [&str; 5] = ["PEER", "STATE", "RTT", "LOSS OUT", "LOSS IN"];

/// Whose link it is, and how good.
pub(super) fn quality(link: &Value) -> [String; 5] {
    [
        text(link, "peer"),
        text(link, "state"),
        rtt(link),
        units::percent_of(link, "loss_out_percent"),
        units::percent_of(link, "loss_in_percent"),
    ]
}

/// What it goes over, and how good the other carrier was.
fn carrier(link: &Value) -> String {
    format!("{}{}", text(link, "carrier"), other_carrier(link))
}

/// How good the carrier was that the link does not go over, if it was measured.
pub(super) fn other_carrier(link: &Value) -> String {
    let other = &link["other_carrier"];
    if other.is_null() {
        return String::new();
    }
    let (rtt, loss) = (units::millis_of(other, "rtt_ms"), units::percent_of(other, "loss_percent"));
    format!(" ({}: {rtt}, {loss} lost)", text(other, "carrier"))
}

/// The round trip, and which other node of the site measured it.
fn rtt(link: &Value) -> String {
    let rtt = units::millis_of(link, "rtt_ms");
    link["shared_by"].as_str().map_or(rtt.clone(), |by| format!("{rtt} by {by}"))
}

/// A node's roles as text.
pub(super) fn roles(facts: &Value) -> String {
    let named = [("exit", "exit"), ("relay", "relay")];
    let roles: Vec<&str> =
        named.into_iter().filter(|(field, _)| is(facts, field)).map(|(_, name)| name).collect();
    if roles.is_empty() { "entry".to_owned() } else { roles.join("+") }
}

/// Whether a field is true.
pub(super) fn is(facts: &Value, field: &str) -> bool {
    facts.get(field).and_then(Value::as_bool).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_link_shows_what_it_delivered_what_it_costs_and_since_when_it_is_so() {
        let link = json!({
            "peer": "utah", "state": "up", "up": true, "rtt_ms": 12.0, "shared_by": "attic", "loss_out_percent": 0.0,
            "loss_in_percent": null, "delivered_bps": 93_400_000, "control_bps": 5_912,
            "since_seconds": 125, "carrier": "tls",
            "other_carrier": { "carrier": "udp", "rtt_ms": 11.0, "loss_percent": 36.0, "age_seconds": 40 },
            "address": "192.0.2.1:4500", "relay": true, "labels": 1,
        });
        let table = table(&json!([link]), None);
        let row: Vec<&str> = table.lines().last().unwrap().split("  ").map(str::trim).collect();
        let row: Vec<&str> = row.into_iter().filter(|cell| !cell.is_empty()).collect();
        let expected = [
            "utah",
            "up",
            "12.0 ms by attic",
            "0.0 %",
            "-",
            "93.4 Mbit/s",
            "5.9 kbit/s",
            "2m05s",
            "tls (udp: 11.0 ms, 36.0 % lost)",
            "192.0.2.1:4500",
            "relay",
            "1",
        ];
        assert_eq!(row, expected);
    }
}
