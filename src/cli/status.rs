//! `ronproxy status`

use clap::Args;

use super::{
    CliError,
    folder::Folder,
    output::{or_dash, wrapped},
    show::Show,
    units,
};
use crate::{
    admin::StatusReport,
    app::{CertificateStatus, Counts, Measuring},
    identity::{Roles, UnixTime, skew_in_words},
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

fn table(status: &StatusReport, columns: Option<usize>) -> String {
    let StatusReport { node, run, up_seconds, stopping } = status;
    let roles = units::roles(Roles { exit: node.exit, relay: node.relay });
    let state = if *stopping { "stopping after" } else { "running for" };
    let up = units::span(*up_seconds);
    let lines = [
        ("node", format!("{} ({roles})", node.name)),
        ("state", format!("{state} {up}, pid {}", run.pid)),
        ("proxy", or_dash(node.proxy)),
        ("UDP", run.listen.to_string()),
        ("members", format!("{} known, {} with a link that is up", node.members, node.links_up)),
        ("lanes", format!("{} as entry, {} as exit", node.lanes_out, node.lanes_in)),
        ("flows", format!("{} as entry, {} as exit", node.flows, node.exit_flows)),
        ("ended", counts(&node.ended_flows)),
        ("forwarded", units::bytes(node.forwarded_bytes)),
        ("dropped", counts(&node.dropped)),
        ("dropped UDP", counts(&node.dropped_datagrams)),
        ("reordered", counts(&node.reordered)),
        ("refused", counts(&node.refused_clients)),
        ("handshakes", counts(&node.handshakes)),
        ("measuring", measuring(&node.measuring)),
        ("confined", run.confinement.clone()),
        ("certificate", certificate(&node.certificate, UnixTime::now().as_secs())),
        ("clock", clock(&node.certificate)),
        ("version", node.version.to_string()),
    ];
    let told = |(name, value): (&str, String)| {
        let value = Escaped(value).to_string();
        wrapped(&value, columns, &format!("{name:12} "), &" ".repeat(13)).join("\n")
    };
    lines.map(told).join("\n")
}

fn measuring(plan: &Measuring) -> String {
    let (planned, budget) = (units::rate(plan.planned_bps), units::rate(plan.budget_bps));
    let over = if plan.over_budget { ": over budget" } else { "" };
    let seconds = plan.probe_interval_ms / 1e3;
    format!("{planned} planned of {budget}{over}; each link every {seconds:.1} s")
}

/// The names and numbers of a listing that are not zero.
fn counts(counts: &Counts) -> String {
    let named = counts.iter().filter(|(_, number)| *number > 0);
    let named: Vec<String> = named.map(|(name, number)| format!("{number} {name}")).collect();
    if named.is_empty() { "nothing".to_owned() } else { named.join(", ") }
}

fn certificate(facts: &CertificateStatus, now: u64) -> String {
    if facts.revoked {
        return "revoked; see `ronproxy doctor`".to_owned();
    }
    let validity = match facts.expires.checked_sub(now) {
        Some(left) => format!("valid for {}", units::span(left)),
        None => "ended; see `ronproxy doctor`".to_owned(),
    };
    let ago = |at| format!(", renewed {} ago", units::span(now.saturating_sub(at)));
    let renewed = facts.renewed.map(ago).unwrap_or_default();
    let failed = facts.renewal_error.as_ref();
    let failed = failed.map(|error| format!(", last renewal failed: {error}")).unwrap_or_default();
    let refused = match facts.refused_as_revoked {
        0 => "",
        _ => ", but a member refuses it as revoked; see `ronproxy doctor`",
    };
    format!("{validity}{renewed}{failed}{refused}")
}

fn clock(facts: &CertificateStatus) -> String {
    match facts.clock_ahead_seconds.map(skew_in_words) {
        None => "not compared with the authority's".to_owned(),
        Some(None) => "agrees with the authority's".to_owned(),
        Some(Some(words)) => format!("{words} the authority's; set it, best by NTP"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_shows_the_end_and_the_renewals_of_the_certificate() {
        let mut facts = CertificateStatus { expires: 90_000, ..CertificateStatus::default() };
        assert_eq!(certificate(&facts, 3_600), "valid for 1d00h");
        assert!(certificate(&facts, 90_001).starts_with("ended"));
        facts.renewed = Some(3_000);
        facts.renewal_error = Some("no answer".to_owned());
        let told = certificate(&facts, 3_600);
        assert!(
            told.contains("renewed 10m00s ago") && told.contains("failed: no answer"),
            "{told}"
        );
        facts.refused_as_revoked = 2;
        let said = certificate(&facts, 3_600);
        let hearsay = "but a member refuses it as revoked";
        assert!(said.starts_with("valid for") && said.contains(hearsay), "{said}");
        facts.clock_ahead_seconds = Some(-3 * 86_400);
        assert_eq!(clock(&facts), "3 days behind the authority's; set it, best by NTP");
    }

    #[test]
    fn measuring_shows_the_plan_and_the_budget() {
        let mut plan = Measuring {
            budget_bps: 32_000,
            planned_bps: 11_250,
            probe_interval_ms: 500.0,
            ..Measuring::default()
        };
        assert_eq!(measuring(&plan), "11.2 kbit/s planned of 32.0 kbit/s; each link every 0.5 s");
        plan.over_budget = true;
        assert!(measuring(&plan).contains("over budget"));
    }
}
