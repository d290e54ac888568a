//! `ronproxy routes`

use std::collections::BTreeSet;

use clap::Args;

use super::{
    CliError, completions,
    folder::Folder,
    output::{Table, or_dash},
    show::Show,
    units,
};
use crate::{
    app::{CandidateFacts, Choice},
    overlay::select::VerdictKind,
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
            let all: Vec<Choice> = client.get("/routes").await?;
            wanted(all, self.exit.as_deref())
        };
        self.show.run(read, table).await
    }
}

/// The routes to `exit`, or to all.
fn wanted(mut all: Vec<Choice>, exit: Option<&str>) -> Result<Vec<Choice>, CliError> {
    let Some(exit) = exit else { return Ok(all) };
    let known: BTreeSet<String> = all.iter().map(|choice| choice.exit.to_string()).collect();
    all.retain(|choice| choice.exit.as_str() == exit);
    if all.is_empty() {
        let known: Vec<String> = known.into_iter().collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return Err(CliError::say(format!("no exit is named {exit}; known are: {known}")));
    }
    Ok(all)
}

fn table(routes: &Vec<Choice>, columns: Option<usize>) -> String {
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
        let used = choice.candidates.iter().find(|candidate| is_route(candidate, choice));
        table.row([
            choice.exit.to_string(),
            choice.hint.to_string(),
            or_dash(choice.lane),
            choice.route.clone().unwrap_or_else(|| "none".to_owned()),
            or_dash(used.and_then(|used| used.rtt_ms).map(units::millis)),
            or_dash(used.and_then(|used| used.loss_out_percent).map(units::percent)),
            or_dash(used.and_then(|used| used.loss_in_percent).map(units::percent)),
            or_dash(choice.since_seconds.map(units::span_in)),
            next_best(choice),
        ]);
    }
    table.within(columns)
}

/// Whether the candidate is the route that was chosen.
fn is_route(candidate: &CandidateFacts, choice: &Choice) -> bool {
    choice.route.as_ref().is_some_and(|route| candidate.route.to_string() == *route)
}

fn next_best(choice: &Choice) -> String {
    let usable = |candidate: &&CandidateFacts| {
        candidate.verdict != VerdictKind::Excluded && !is_route(candidate, choice)
    };
    let next = choice.candidates.iter().find(usable);
    or_dash(
        next.map(|next| format!("{} ({})", next.route, or_dash(next.rtt_ms.map(units::millis)))),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_without_routes_is_told_each_exit_once() {
        let choice = |exit| json!({ "exit": exit, "hint": "loss", "candidates": [], "changes": [], "decisions": [] });
        let all = json!([choice("mit"), choice("mit"), choice("cmu")]);
        let all: Vec<Choice> = serde_json::from_value(all).unwrap();
        let known = |exit| wanted(all.clone(), Some(exit)).map(|routes| routes.len());
        assert_eq!(known("mit").unwrap(), 2);
        let error = known("utah").unwrap_err().to_string();
        assert_eq!(error, "no exit is named utah; known are: cmu, mit");
    }
}
