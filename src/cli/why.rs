//! `ronproxy why`

use clap::Args;

use super::{
    CliError, completions,
    folder::Folder,
    links::other_carrier,
    output::{Table, or_dash, wrapped},
    show::Show,
    units,
};
use crate::{
    admin,
    app::{self, CandidateFacts, Change, Choice, ExitPolicy, PolicyAnswer},
    overlay::{connects::FAILED, select::VerdictKind},
    text::Escaped,
    underlay::Carrier,
};

/// Reroutes and decisions that are printed; `--json` has up to 32.
const CHANGES: usize = 8;

/// Explain which exit and route a flow to DEST takes
///
/// Shows which rule decides, the exits in the order in which they are tried, what the first four say of the
/// flow by their own policy, every candidate route with its figures and what speaks against it, and the
/// last changes with their reasons. Exits neither resolve nor connect for it.
#[derive(Debug, Args)]
pub(super) struct Why {
    /// The destination: HOST, HOST:PORT (default port 443) or a URL
    #[arg(value_name = "DEST")]
    dest: String,
    /// Ask for this routing hint: latency, loss, throughput or app:METRIC
    #[arg(long)]
    hint: Option<String>,
    /// Ask for this exit
    #[arg(long, add = completions::exits())]
    exit: Option<String>,
    /// Ask as this user of the proxy
    #[arg(long)]
    user: Option<String>,
    #[command(flatten)]
    show: Show,
}

impl Why {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        let options = [("hint", self.hint), ("exit", self.exit), ("user", self.user)];
        self.show.answer(folder, &admin::ask(&self.dest, &options), explanation).await
    }
}

fn explanation(why: &app::Why, columns: Option<usize>) -> String {
    let app::Why { target, rule, refused, exits } = why;
    let rule = match rule {
        Some(rule) => format!("rule {rule} of config.toml decides"),
        None => "no rule matches".to_owned(),
    };
    let mut lines = told(&format!("{target}: {rule}."), columns);
    if let Some(refused) = refused {
        lines.extend(told(&format!("No flow is opened: {refused}."), columns));
    }
    if exits.len() > 1 {
        let names: Vec<_> = exits.iter().map(|choice| choice.exit.as_str()).collect();
        lines.push(format!("Exits in the order in which they are tried: {}.", names.join(", ")));
    }
    for choice in exits {
        lines.push(String::new());
        lines.extend(explained(choice, columns));
    }
    lines.join("\n")
}

/// A sentence that holds words of others.
fn told(sentence: &str, columns: Option<usize>) -> Vec<String> {
    wrapped(&Escaped(sentence).to_string(), columns, "", "  ")
}

fn explained(choice: &Choice, columns: Option<usize>) -> Vec<String> {
    let Choice { exit, hint, .. } = choice;
    let policy = choice.policy.as_ref().map(|said| format!("Its policy {}.", policy(said)));
    let policy = policy.map(|said| Escaped(said).to_string());
    let policy = policy.iter().flat_map(|said| wrapped(said, columns, "  ", "    "));
    let how = match (choice.lane, choice.route.as_deref()) {
        (None, None) => "no route leads there".to_owned(),
        (Some(lane), route) => format!("lane {lane} goes {}", route.unwrap_or("no route")),
        (None, Some(Choice::LOCAL)) => {
            let here = format!("Exit {exit}: flows leave at this node, without a lane.");
            return std::iter::once(here).chain(policy).collect();
        }
        (None, Some(route)) => format!("a new lane would go {route}"),
    };
    let mut lines = told(&format!("Exit {exit}, hint {hint}: {how}."), columns);
    lines.extend(policy);
    lines.extend(choice.connect_ms.map(connect));
    lines.push(candidates(&choice.candidates).within(columns));
    for (title, changes) in
        [("Reroutes of the lane", &choice.changes), ("Decisions by figures", &choice.decisions)]
    {
        if !changes.is_empty() {
            lines.push(format!("{title}, newest first:"));
            lines.extend(changes.iter().take(CHANGES).map(change));
        }
    }
    lines
}

/// How long the exit took to connect, if it did.
fn connect(ms: f64) -> String {
    if ms >= FAILED.as_secs_f64() * 1e3 {
        return "  It did not connect there lately.".to_owned();
    }
    format!("  It took {} lately to connect there.", units::millis(ms))
}

fn candidates(candidates: &[CandidateFacts]) -> Table {
    let heads =
        ["  ROUTE", "RTT", "LOSS OUT", "LOSS IN", "EXPECTED", "SCORE", "DELIVERED", "VERDICT"];
    let mut table = Table::new(&heads);
    for candidate in candidates {
        table.row([
            format!("  {}{}", candidate.route, over(candidate)),
            or_dash(candidate.rtt_ms.map(units::millis)),
            or_dash(candidate.loss_out_percent.map(units::percent)),
            or_dash(candidate.loss_in_percent.map(units::percent)),
            or_dash(candidate.expected_ms.map(units::millis)),
            or_dash(candidate.score.map(|score| format!("{score:.0}/s"))),
            or_dash(candidate.delivered_bps.map(units::rate)),
            verdict(candidate),
        ]);
    }
    table
}

/// What the exit says of the flow.
fn policy(said: &ExitPolicy) -> String {
    let reason = or_dash(said.reason.as_ref());
    match said.answer {
        PolicyAnswer::Allowed => "allows it".to_owned(),
        PolicyAnswer::DependsOnAddress => {
            "decides by the address that the name has there".to_owned()
        }
        PolicyAnswer::Refused => {
            let kind = or_dash(said.refusal.map(|kind| kind.name()));
            format!("refuses it ({kind}): {reason}")
        }
        PolicyAnswer::Unknown => format!("is unknown: {reason}"),
    }
}

/// What the first link goes over, if that is not UDP, how good the other carrier was, and which other node of the site
/// measured it.
fn over(candidate: &CandidateFacts) -> String {
    let over = if candidate.carrier == Some(Carrier::Tls) { ", over TLS" } else { "" };
    let by = candidate.shared_by.as_ref().map(|by| format!(", measured by {by}"));
    let other = other_carrier(candidate.other_carrier.as_ref());
    format!("{over}{other}{}", by.unwrap_or_default())
}

fn verdict(CandidateFacts { verdict, reason, .. }: &CandidateFacts) -> String {
    match verdict {
        VerdictKind::Chosen => "chosen".to_owned(),
        VerdictKind::Excluded => format!("excluded: {reason}"),
        _ => reason.clone(),
    }
}

fn change(Change { seconds_ago, from, to, reason }: &Change) -> String {
    let to = or_dash(to.as_ref());
    let way = from.as_ref().map_or_else(|| to.clone(), |from| format!("{from} → {to}"));
    let ago = units::span_in(*seconds_ago);
    Escaped(format!("  {ago} ago: {way}: {reason}")).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_explanation_names_the_rule_the_candidates_and_the_changes() {
        let facts = json!({
            "target": "web.mit.edu:443", "rule": 2, "refused": null,
            "exits": [{
                "exit": "mit", "class": null, "since_seconds": 75.2, "connect_ms": null, "posted": null, "hint": "latency", "lane": 3, "route": "via utah",
                "policy": { "answer": "refused", "refusal": "policy", "reason": "rule 2 of its deny list matches" },
                "candidates": [
                    { "route": "via utah", "carrier": "tls", "rtt_ms": 80.0, "loss_out_percent": 0.0,
                      "loss_in_percent": 0.0, "expected_ms": 80.0, "score": 108.2,
                      "delivered_bps": 96_000_000, "verdict": "chosen", "reason": "" },
                    { "route": "direct", "carrier": "udp", "rtt_ms": null,
                      "other_carrier": { "carrier": "tls", "rtt_ms": 61.0, "loss_percent": 0.0, "age_seconds": 4 },
                      "verdict": "excluded",
                      "reason": "link aros–mit is down" }
                ],
                "changes": [{ "seconds_ago": 75.2, "from": "direct", "to": "via utah",
                              "reason": "silent for 130 ms" }],
                "decisions": []
            }]
        });
        assert_eq!(
            explanation(&serde_json::from_value(facts).unwrap(), None),
            "web.mit.edu:443: rule 2 of config.toml decides.\n\
             \n\
             Exit mit, hint latency: lane 3 goes via utah.\n\
             \x20 Its policy refuses it (policy): rule 2 of its deny list matches.\n\
             \x20 ROUTE                              RTT      LOSS OUT  LOSS IN  EXPECTED  SCORE  DELIVERED    VERDICT\n\
             \x20 via utah, over TLS                 80.0 ms  0.0 %     0.0 %    80.0 ms   108/s  96.0 Mbit/s  chosen\n\
             \x20 direct (tls: 61.0 ms, 0.0 % lost)  -        -         -        -         -      -            excluded: link aros–mit is down\n\
             Reroutes of the lane, newest first:\n\
             \x20 1m15s ago: direct → via utah: silent for 130 ms"
        );
    }

    #[test]
    fn every_answer_of_an_exit_is_a_sentence() {
        for (answer, said) in [
            ("allowed", "allows it"),
            ("depends-on-address", "decides by the address that the name has there"),
            ("unknown", "is unknown: it is not asked"),
        ] {
            let facts = json!({ "answer": answer, "refusal": null, "reason": "it is not asked" });
            assert_eq!(policy(&serde_json::from_value(facts).unwrap()), said);
        }
    }

    #[test]
    fn an_exit_that_did_not_connect_lately_took_no_time() {
        assert_eq!(connect(25.0), "  It took 25.0 ms lately to connect there.");
        assert_eq!(connect(FAILED.as_secs_f64() * 1e3), "  It did not connect there lately.");
    }

    #[test]
    fn a_refused_destination_says_why() {
        let facts =
            json!({ "target": "a:1", "rule": 1, "refused": "rule 1 rejects a:1", "exits": [] });
        assert_eq!(
            explanation(&serde_json::from_value(facts).unwrap(), None),
            "a:1: rule 1 of config.toml decides.\nNo flow is opened: rule 1 rejects a:1."
        );
    }
}
