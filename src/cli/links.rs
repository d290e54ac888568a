//! `ronproxy links`

use clap::Args;

use super::{
    CliError,
    folder::Folder,
    output::{Table, or_dash},
    show::Show,
    units,
};
use crate::{
    identity::Roles,
    mesh::{CarrierFacts, LinkFacts},
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

fn table(links: &Vec<LinkFacts>, columns: Option<usize>) -> String {
    if links.is_empty() {
        return "No other member is known yet.".to_owned();
    }
    let more = ["DELIVERED", "CONTROL", "SINCE", "CARRIER", "ADDRESS", "ROLES", "LABELS"];
    let mut table = Table::new(&[&QUALITY[..], &more].concat());
    for link in links {
        let LinkFacts { exit, relay, .. } = *link;
        let more = [
            or_dash(link.delivered_bps.map(units::rate)),
            or_dash(link.control_bps.map(units::rate)),
            or_dash(link.since_seconds.map(units::span)),
            carrier(link),
            or_dash(link.address),
            or_dash(link.up.then(|| units::roles(Roles { exit, relay }))),
            link.labels.to_string(),
        ];
        table.row(quality(link).into_iter().chain(more));
    }
    table.within(columns)
}

/// The heads of [`quality`].
pub(super) const QUALITY: [&str; 5] = ["PEER", "STATE", "RTT", "LOSS OUT", "LOSS IN"];

/// Whose link it is, and how good.
pub(super) fn quality(link: &LinkFacts) -> [String; 5] {
    [
        link.peer.to_string(),
        link.state.clone(),
        rtt(link),
        or_dash(link.loss_out_percent.map(units::percent)),
        or_dash(link.loss_in_percent.map(units::percent)),
    ]
}

/// What it goes over, and how good the other carrier was.
fn carrier(link: &LinkFacts) -> String {
    format!("{}{}", or_dash(link.carrier.as_ref()), other_carrier(link.other_carrier.as_ref()))
}

/// How good the carrier was that the link does not go over, if it was measured.
pub(super) fn other_carrier(other: Option<&CarrierFacts>) -> String {
    let Some(CarrierFacts { carrier, rtt_ms, loss_percent, .. }) = other else {
        return String::new();
    };
    let (rtt, loss) = (units::millis(*rtt_ms), units::percent(*loss_percent));
    format!(" ({carrier}: {rtt}, {loss} lost)")
}

/// The round trip, and which other node of the site measured it.
fn rtt(link: &LinkFacts) -> String {
    let rtt = or_dash(link.rtt_ms.map(units::millis));
    link.shared_by.as_ref().map_or(rtt.clone(), |by| format!("{rtt} by {by}"))
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
            "address": "192.0.2.1:4500", "control_bytes": [7, 9], "labels": 1, "exit": false, "relay": true,
        });
        let table = table(&serde_json::from_value(json!([link])).unwrap(), None);
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
