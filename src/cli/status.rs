//! `ronproxy status`

use clap::Args;
use serde_json::Value;

use super::{
    CliError,
    folder::Folder,
    links::{is, roles},
    output::{entries, text, wrapped},
    show::Show,
    units,
};
use crate::{
    identity::{UnixTime, skew_in_words},
    text::Escaped,
};

/// Show what the running node is doing
#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    show: Show,
}

impl Status {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        self.show.answer(folder, "/status", table).await
    }
}

fn table(status: &Value, columns: Option<usize>) -> String {
    let pair = |a: &str, what_a: &str, b: &str, what_b: &str| {
        format!("{} {what_a}, {} {what_b}", text(status, a), text(status, b))
    };
    let state = if is(status, "stopping") { "stopping after" } else { "running for" };
    let up = units::span_of(status, "up_seconds");
    let lines = [
        ("node", format!("{} ({})", text(status, "name"), roles(status))),
        ("state", format!("{state} {up}, pid {}", text(status, "pid"))),
        ("proxy", text(status, "proxy")),
        ("UDP", text(status, "listen")),
        ("members", pair("members", "known", "links_up", "with a link that is up")),
        ("lanes", pair("lanes_out", "as entry", "lanes_in", "as exit")),
        ("flows", pair("flows", "as entry", "exit_flows", "as exit")),
        ("ended", counts(status, "ended_flows")),
        ("forwarded", units::bytes_of(status, "forwarded_bytes")),
        ("dropped", counts(status, "dropped")),
        ("dropped UDP", counts(status, "dropped_datagrams")),
        ("reordered", counts(status, "reordered")),
        ("refused", counts(status, "refused_clients")),
        ("handshakes", counts(status, "handshakes")),
        ("measuring", measuring(status)),
        ("confined", text(status, "confinement")),
        ("certificate", certificate(status, UnixTime::now().as_secs())),
        ("clock", clock(status)),
        ("version", text(status, "version")),
    ];
    let told = |(name, value): (&str, String)| {
        wrapped(&value, columns, &format!("{name:12} "), &" ".repeat(13)).join("\n")
    };
    lines.map(told).join("\n")
}

fn measuring(status: &Value) -> String {
    let Some(plan) = status.get("measuring") else { return "-".to_owned() };
    let rate = |field| units::rate_of(plan, field);
    let seconds = plan.get("probe_interval_ms").and_then(Value::as_f64).unwrap_or(0.0) / 1e3;
    let (planned, budget) = (rate("planned_bps"), rate("budget_bps"));
    let over = if is(plan, "over_budget") { ": over budget" } else { "" };
    format!("{planned} planned of {budget}{over}; each link every {seconds:.1} s")
}

/// The names and numbers of a listing that are not zero.
fn counts(status: &Value, field: &str) -> String {
    let counts = status.get(field).map(entries).unwrap_or_default();
    let named = counts.iter().filter_map(|count| {
        let number = count.get(1)?.as_u64().filter(|number| *number > 0)?;
        Some(format!("{number} {}", Escaped(count.get(0)?.as_str()?)))
    });
    let named: Vec<String> = named.collect();
    if named.is_empty() { "nothing".to_owned() } else { named.join(", ") }
}

fn certificate(status: &Value, now: u64) -> String {
    let Some(facts) = status.get("certificate") else { return "-".to_owned() };
    let seconds = |field| facts.get(field).and_then(Value::as_u64);
    if is(facts, "revoked") {
        return "revoked; see `ronproxy doctor`".to_owned();
    }
    let refused = seconds("refused_as_revoked").filter(|times| *times > 0);
    let refused = refused.map(|_| ", but a member refuses it as revoked; see `ronproxy doctor`");
    let validity = match seconds("expires").map(|expires| expires.checked_sub(now)) {
        Some(Some(left)) => format!("valid for {}", units::span(left)),
        Some(None) => "ended; see `ronproxy doctor`".to_owned(),
        None => return "-".to_owned(),
    };
    let renewed = seconds("renewed")
        .map(|at| format!(", renewed {} ago", units::span(now.saturating_sub(at))));
    let failed = facts.get("renewal_error").and_then(Value::as_str);
    let failed = failed.map(|error| format!(", last renewal failed: {error}"));
    let parts = [renewed, failed].map(Option::unwrap_or_default).concat();
    format!("{validity}{parts}{}", refused.unwrap_or_default())
}

fn clock(status: &Value) -> String {
    let ahead = status.pointer("/certificate/clock_ahead_seconds").and_then(Value::as_i64);
    match ahead.map(skew_in_words) {
        None => "not compared with the authority's".to_owned(),
        Some(None) => "agrees with the authority's".to_owned(),
        Some(Some(words)) => format!("{words} the authority's; set it, best by NTP"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn status_shows_the_end_and_the_renewals_of_the_certificate() {
        let mut facts = json!({ "expires": 90_000, "revoked": false, "renewed": null,
            "renewal_error": null, "clock_ahead_seconds": null });
        let told = |facts: &Value, now| certificate(&json!({ "certificate": facts }), now);
        assert_eq!(told(&facts, 3_600), "valid for 1d00h");
        assert!(told(&facts, 90_001).starts_with("ended"));
        facts["renewed"] = 3_000.into();
        facts["renewal_error"] = "no answer".into();
        let told = told(&facts, 3_600);
        assert!(
            told.contains("renewed 10m00s ago") && told.contains("failed: no answer"),
            "{told}"
        );
        facts["refused_as_revoked"] = 2.into();
        let said = certificate(&json!({ "certificate": facts }), 3_600);
        let hearsay = "but a member refuses it as revoked";
        assert!(said.starts_with("valid for") && said.contains(hearsay), "{said}");
        facts["clock_ahead_seconds"] = (-3 * 86_400).into();
        let told = clock(&json!({ "certificate": facts }));
        assert_eq!(told, "3 days behind the authority's; set it, best by NTP");
    }

    #[test]
    fn measuring_shows_the_plan_and_the_budget() {
        let mut plan = json!({
            "budget_bps": 32_000, "planned_bps": 11_250, "probe_interval_ms": 500.0,
            "advert_interval_seconds": 14.0, "over_budget": false,
        });
        let told = measuring(&json!({ "measuring": plan }));
        assert_eq!(told, "11.2 kbit/s planned of 32.0 kbit/s; each link every 0.5 s");
        plan["over_budget"] = true.into();
        assert!(measuring(&json!({ "measuring": plan })).contains("over budget"));
    }
}
