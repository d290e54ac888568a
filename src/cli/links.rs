//! `ronproxy links`

use clap::Args;
use serde_json::Value;

use super::{
    CliError,
    folder::Folder,
    output::{Table, entries, print, print_json, text},
    units,
};

/// Show the link to each member of the overlay
#[derive(Debug, Args)]
pub(super) struct Links {
    /// Print facts as JSON
    #[arg(long)]
    json: bool,
}

impl Links {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        let facts = folder.client().get("/links").await?;
        if self.json { print_json(&facts) } else { print(table(&facts)) }
    }
}

fn table(links: &Value) -> String {
    if entries(links).is_empty() {
        return "No other member is known yet.".to_owned();
    }
    let mut table = Table::new(&[
        "PEER", "STATE", "RTT", "LOSS OUT", "LOSS IN", "SINCE", "ADDRESS", "ROLES", "LABELS",
    ]);
    for link in entries(links) {
        let up = is(link, "up");
        table.row([
            text(link, "peer"),
            text(link, "state"),
            units::millis_of(link, "rtt_ms"),
            units::percent_of(link, "loss_out_percent"),
            units::percent_of(link, "loss_in_percent"),
            units::span_of(link, "since_seconds"),
            text(link, "address"),
            if up { roles(link) } else { "-".to_owned() },
            text(link, "labels"),
        ]);
    }
    table.text()
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
