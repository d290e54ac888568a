//! `ronproxy flows`

use clap::Args;
use serde_json::Value;

use super::{
    CliError,
    folder::Folder,
    output::{Table, entries, print, print_json, text},
    reroutes, units,
};

/// Show the flows of this entry: every connection through its proxy, its route and its reroutes
#[derive(Debug, Args)]
pub(super) struct Flows {
    /// Print facts as JSON
    #[arg(long)]
    json: bool,
}

impl Flows {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        let facts = folder.client().get("/flows").await?;
        if self.json { print_json(&facts) } else { print(table(&facts)) }
    }
}

fn table(flows: &Value) -> String {
    if entries(flows).is_empty() {
        return "No flow is open.".to_owned();
    }
    let heads = ["LABEL", "TARGET", "EXIT", "ROUTE", "HINT", "STATE", "AGE", "SENT", "RECEIVED"];
    let mut table = Table::new(&heads);
    for flow in entries(flows) {
        table.row([
            text(flow, "label"),
            text(flow, "target"),
            text(flow, "exit"),
            reroutes::route(flow),
            text(flow, "hint"),
            text(flow, "state"),
            units::span_of(flow, "seconds"),
            units::bytes_of(flow, "sent"),
            units::bytes_of(flow, "received"),
        ]);
    }
    table.text()
}
