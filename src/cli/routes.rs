//! `ronproxy routes`

use std::collections::BTreeSet;

use clap::Args;
use serde_json::Value;

use super::{
    CliError, completions,
    folder::Folder,
    output::{Table, entries, text},
    show::Show,
    units,
};

/// Show the route to each exit, and what was left aside
///
/// One line for each lane in use, and for each exit without one what a new lane would take.
#[derive(Debug, Args)]
pub(super) struct Routes {
    /// Only the routes to this exit
    #[arg(add = completions::exits())]
    exit: Option<String>,
    #[command(flatten)]
    show: Show,
}

impl Routes {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        let client = folder.client();
        let read = async || {
            let all = client.get("/routes").await?;
            wanted(&all, self.exit.as_ref())
        };
        self.show.run(read, |routes, columns| table(routes, columns)).await
    }
}

/// The routes to `exit`, or to all.
fn wanted(all: &Value, exit: Option<&String>) -> Result<Vec<Value>, CliError> {
    let is_wanted = |choice: &&Value| exit.is_none_or(|exit| text(choice, "exit") == *exit);
    let routes: Vec<Value> = entries(all).iter().filter(is_wanted).cloned().collect();
    match exit {
        Some(exit) if routes.is_empty() => {
            let known: BTreeSet<_> =
                entries(all).iter().map(|choice| text(choice, "exit")).collect();
            let known: Vec<_> = known.into_iter().collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Err(CliError::say(format!("no exit is named {exit}; known are: {known}")))
        }
        _ => Ok(routes),
    }
}

fn table(routes: &[Value], columns: Option<usize>) -> String {
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
    table.within(columns)
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_without_routes_is_told_each_exit_once() {
        let all = json!([{ "exit": "mit" }, { "exit": "mit" }, { "exit": "cmu" }]);
        let known = |exit: &str| wanted(&all, Some(&exit.to_owned())).map(|routes| routes.len());
        assert_eq!(known("mit").unwrap(), 2);
        let error = known("utah").unwrap_err().to_string();
        assert_eq!(error, "no exit is named utah; known are: cmu, mit");
    }
}
