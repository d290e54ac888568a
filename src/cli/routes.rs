//! `ronproxy routes`

use clap::Args;
use serde_json::Value;

use super::{
    CliError,
    folder::Folder,
    output::{Table, entries, print, print_json, text},
    units,
};

/// Show the route to each exit, and what was left aside
///
/// One line for each lane in use, and for each exit without one what a new lane would take.
#[derive(Debug, Args)]
pub(super) struct Routes {
    /// Only the routes to this exit
    exit: Option<String>,
    /// Print facts as JSON, with all candidates and the last changes
    #[arg(long)]
    json: bool,
}

impl Routes {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        let all = folder.client().get("/routes").await?;
        let wanted =
            |choice: &&Value| self.exit.as_ref().is_none_or(|e| text(choice, "exit") == *e);
        let routes: Vec<Value> = entries(&all).iter().filter(wanted).cloned().collect();
        if routes.is_empty()
            && let Some(exit) = &self.exit
        {
            let known: Vec<_> = entries(&all).iter().map(|choice| text(choice, "exit")).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(CliError::say(format!("no exit is named {exit}; known are: {known}")));
        }
        if self.json { print_json(&routes) } else { print(table(&routes)) }
    }
}

fn table(routes: &[Value]) -> String {
    if routes.is_empty() {
        return "No exit is known yet.".to_owned();
    }
    let mut table = Table::new(&[
        "EXIT",
        "HINT",
        "LANE",
        "ROUTE",
        "RTT",
        "LOSS OUT",
        "LOSS IN",
        "SINCE",
        "NEXT BEST",
    ]);
    for choice in routes {
        let route = text(choice, "route");
        let candidates = entries(&choice["candidates"]);
        let used = candidates.iter().find(|candidate| text(candidate, "route") == route);
        let used = used.unwrap_or(&Value::Null);
        table.row([
            text(choice, "exit"),
            text(choice, "hint"),
            text(choice, "lane"),
            if route == "-" { "none".to_owned() } else { route.clone() },
            units::millis_of(used, "rtt_ms"),
            units::percent_of(used, "loss_out_percent"),
            units::percent_of(used, "loss_in_percent"),
            units::span_of(choice, "since_seconds"),
            next_best(candidates, &route),
        ]);
    }
    table.text()
}

fn next_best(candidates: &[Value], route: &str) -> String {
    let usable = |candidate: &&Value| {
        text(candidate, "verdict") != "excluded" && text(candidate, "route") != route
    };
    let next = candidates.iter().find(usable);
    next.map_or_else(
        || "-".to_owned(),
        |next| format!("{} ({})", text(next, "route"), units::millis_of(next, "rtt_ms")),
    )
}
