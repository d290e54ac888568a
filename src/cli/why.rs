//! `ronproxy why`

use clap::Args;
use serde_json::Value;

use super::{
    CliError, completions,
    folder::Folder,
    links::other_carrier,
    output::{Table, entries, text, wrapped},
    show::Show,
    units,
};
use crate::admin;

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

fn explanation(facts: &Value, columns: Option<usize>) -> String {
    let target = text(facts, "target");
    let rule = match facts["rule"].as_u64() {
        Some(rule) => format!("rule {rule} of config.toml decides"),
        None => "no rule matches".to_owned(),
    };
    let mut lines = wrapped(&format!("{target}: {rule}."), columns, "", "  ");
    if facts["refused"].is_string() {
        let refused = format!("No flow is opened: {}.", text(facts, "refused"));
        lines.extend(wrapped(&refused, columns, "", "  "));
    }
    let exits = entries(&facts["exits"]);
    if exits.len() > 1 {
        let names: Vec<_> = exits.iter().map(|exit| text(exit, "exit")).collect();
        lines.push(format!("Exits in the order in which they are tried: {}.", names.join(", ")));
    }
    for exit in exits {
        lines.push(String::new());
        lines.extend(choice(exit, columns));
    }
    lines.join("\n")
}

fn choice(choice: &Value, columns: Option<usize>) -> Vec<String> {
    let (exit, hint) = (text(choice, "exit"), text(choice, "hint"));
    let route = match text(choice, "route") {
        route if route == "-" => "no route".to_owned(),
        route => route,
    };
    let policy = policy(&choice["policy"]).map(|said| format!("Its policy {said}."));
    let policy = policy.iter().flat_map(|said| wrapped(said, columns, "  ", "    "));
    let how = match choice["lane"].as_u64() {
        None if route == "no route" => "no route leads there".to_owned(),
        Some(lane) => format!("lane {lane} goes {route}"),
        None if route == "local" => {
            let here = format!("Exit {exit}: flows leave at this node, without a lane.");
            return std::iter::once(here).chain(policy).collect();
        }
        None => format!("a new lane would go {route}"),
    };
    let mut lines = wrapped(&format!("Exit {exit}, hint {hint}: {how}."), columns, "", "  ");
    lines.extend(policy);
    match choice["connect_ms"].as_f64() {
        None => {}
        Some(ms) if ms >= 10_000.0 => lines.push("  It did not connect there lately.".to_owned()),
        Some(_) => {
            let took = units::millis_of(choice, "connect_ms");
            lines.push(format!("  It took {took} lately to connect there."));
        }
    }
    let mut table = Table::new(&[
        "  ROUTE",
        "RTT",
        "LOSS OUT",
        "LOSS IN",
        "EXPECTED",
        "SCORE",
        "DELIVERED",
        "VERDICT",
    ]);
    for candidate in entries(&choice["candidates"]) {
        table.row([
            format!("  {}{}", text(candidate, "route"), over(candidate)),
            units::millis_of(candidate, "rtt_ms"),
            units::percent_of(candidate, "loss_out_percent"),
            units::percent_of(candidate, "loss_in_percent"),
            units::millis_of(candidate, "expected_ms"),
            candidate["score"].as_f64().map_or_else(|| "-".to_owned(), |s| format!("{s:.0}/s")),
            units::rate_of(candidate, "delivered_bps"),
            verdict(candidate),
        ]);
    }
    lines.push(table.within(columns));
    for (title, field) in
        [("Reroutes of the lane", "changes"), ("Decisions by figures", "decisions")]
    {
        let changes = entries(&choice[field]);
        if !changes.is_empty() {
            lines.push(format!("{title}, newest first:"));
            lines.extend(changes.iter().take(CHANGES).map(change));
        }
    }
    lines
}

/// What the exit says of the flow; `None`: it was not to be asked.
fn policy(said: &Value) -> Option<String> {
    let reason = || text(said, "reason");
    Some(match said["answer"].as_str()? {
        "allowed" => "allows it".to_owned(),
        "depends-on-address" => "decides by the address that the name has there".to_owned(),
        "refused" => format!("refuses it ({}): {}", text(said, "refusal"), reason()),
        _ => format!("is unknown: {}", reason()),
    })
}

/// What the first link goes over, if that is not UDP, how good the other carrier was, and which other node of the site measured it.
fn over(candidate: &Value) -> String {
    let over = if candidate["carrier"] == "tls" { ", over TLS" } else { "" };
    let by = candidate["shared_by"].as_str().map(|by| format!(", measured by {by}"));
    format!("{over}{}{}", other_carrier(candidate), by.unwrap_or_default())
}

fn verdict(candidate: &Value) -> String {
    match text(candidate, "verdict").as_str() {
        "chosen" => "chosen".to_owned(),
        "excluded" => format!("excluded: {}", text(candidate, "reason")),
        _ => text(candidate, "reason"),
    }
}

fn change(change: &Value) -> String {
    let ago = units::span_of(change, "seconds_ago");
    let (from, to) = (text(change, "from"), text(change, "to"));
    let way = if from == "-" { to } else { format!("{from} → {to}") };
    format!("  {ago} ago: {way}: {}", text(change, "reason"))
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
                "exit": "mit", "hint": "latency", "lane": 3, "route": "via utah",
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
            explanation(&facts, None),
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
            assert_eq!(policy(&facts).as_deref(), Some(said));
        }
        assert_eq!(policy(&Value::Null), None);
    }

    #[test]
    fn an_exit_that_did_not_connect_lately_took_no_time() {
        let said = |ms: Value| choice(&json!({ "exit": "mit", "connect_ms": ms }), None).join("\n");
        assert!(said(json!(25.0)).contains("It took 25.0 ms lately to connect there."));
        let failed = said(json!(10_000.0));
        assert!(failed.contains("It did not connect there lately."), "{failed}");
        assert!(!failed.contains("It took") && !said(Value::Null).contains("lately"));
    }

    #[test]
    fn a_refused_destination_says_why() {
        let facts =
            json!({ "target": "a:1", "rule": 1, "refused": "rule 1 rejects a:1", "exits": [] });
        assert_eq!(
            explanation(&facts, None),
            "a:1: rule 1 of config.toml decides.\nNo flow is opened: rule 1 rejects a:1."
        );
    }
}
