//! `ronproxy netcheck`

use std::net::SocketAddr;

use clap::Args;

use super::{
    CliError,
    folder::Folder,
    output::{Table, columns, or_dash, print, print_json, wrapped},
    units,
};
use crate::{
    app::{Nat, NetReport},
    mesh::ReachFacts,
    overlay::select::LOSSY,
    underlay::Carrier,
};

/// Check what this machine's network lets pass: UDP, NAT, who can dial this node, TLS on TCP, packet size
///
/// It asks the members of the overlay, no other servers: each tries to reach this node, which tries to reach
/// each of them. At most 16 are tried, those with a link first.
#[derive(Debug, Args)]
pub(super) struct Netcheck {
    /// Print facts as JSON
    #[arg(long)]
    json: bool,
}

impl Netcheck {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        let report: NetReport = folder.client().get("/netcheck").await?;
        if self.json {
            return print_json(&report);
        }
        print(words(&report, columns()))
    }
}

/// The report in words, and a table of the members.
fn words(report: &NetReport, columns: Option<usize>) -> String {
    if report.members.is_empty() {
        return "No other member is known yet, so there is nobody to ask.".to_owned();
    }
    let lines = [
        ("UDP", Some(udp(report))),
        ("NAT", Some(nat(report).to_owned())),
        ("router", router(report)),
        ("dialled", Some(dialled(report))),
        ("TLS on TCP", Some(tcp(report))),
        ("packets", Some(packets(report))),
    ];
    let lines = lines.into_iter().filter_map(|(of, found)| found.map(|found| (of, found)));
    let lines = lines.flat_map(|(of, found)| {
        wrapped(&found, columns, &format!("{of:12}"), &format!("{:12}", ""))
    });
    let lines: Vec<_> = lines.collect();
    format!("{}\n\n{}", lines.join("\n"), table(&report.members).within(columns))
}

/// How many of the members have this fact, of those of which it is known.
fn count(report: &NetReport, fact: fn(&ReachFacts) -> Option<bool>) -> (usize, usize) {
    let known = report.members.iter().filter_map(fact);
    known.fold((0, 0), |(yes, all), fact| (yes + usize::from(fact), all + 1))
}

fn udp(report: &NetReport) -> String {
    let lossy = report.members.iter().filter_map(|member| {
        Some(format!("{} to {}", units::percent(udp_loss(member)?), member.peer))
    });
    let lossy = lossy.collect::<Vec<_>>().join(", ");
    let lost = format!("it lost round trips when it was measured, {lossy}");
    match count(report, |member| member.udp) {
        (_, 0) => "is not used: see `udp` under [node]".to_owned(),
        (0, _) if !lossy.is_empty() => format!("is answered by no member now; {lost}"),
        (yes, all) if !lossy.is_empty() => {
            format!("passes to {yes} of {all} members and back; {lost}")
        }
        (0, _) => {
            "passes to no member: this network may block it; links go over TLS on TCP, where a \
                   member accepts that (`stream_listen` under [node] there)"
                .to_owned()
        }
        (yes, all) => format!("passes to {yes} of {all} members and back"),
    }
}

/// The round trips that UDP to the member loses, in percent, if it loses much or a stream is used for it. All are lost
/// where it does not pass.
fn udp_loss(member: &ReachFacts) -> Option<f64> {
    let by_udp = member.carrier.as_deref() == Some(Carrier::Udp.name());
    let loss = member.udp_loss_percent.filter(|loss| units::is_part(*loss))?;
    (!by_udp || loss > LOSSY.fraction() * 100.0).then_some(loss)
}

fn nat(report: &NetReport) -> &'static str {
    match report.nat {
        Some(Nat::None) => "none: members see packets come from where they leave this machine",
        Some(Nat::EndpointIndependent) => {
            "one outside address for all members: they can dial it while this node keeps its links"
        }
        Some(Nat::EndpointDependent) => {
            "another outside address or port for each member: two nodes behind such NATs have no link by \
             UDP; flows between them go via a relay"
        }
        Some(Nat::Unknown) => {
            "one: a member sees another address than this machine's; a second one would show its kind"
        }
        None => "not known: there is no link over UDP",
    }
}

/// What the router said, if the node asked it.
fn router(report: &NetReport) -> Option<String> {
    let open = |at: SocketAddr| format!("passes {at} on to this node, as it says");
    let refused = |why| format!("opens no port for this node; {why}");
    report.router_port.map(open).or(report.router_problem.as_ref().map(refused))
}

fn dialled(report: &NetReport) -> String {
    let by = |protocol: &str, fact| match count(report, fact) {
        (_, 0) => None,
        (0, _) => Some(format!("nobody reaches this node by unsolicited {protocol}")),
        (yes, all) => {
            Some(format!("{yes} of {all} members reach this node by unsolicited {protocol}"))
        }
    };
    let found = [
        by("UDP", |member| member.reached_by_udp),
        by("TLS on TCP", |member| member.reached_by_tcp),
    ];
    let found: Vec<_> = found.into_iter().flatten().collect();
    match found.is_empty() {
        true => "not known: no member could try to reach this node".to_owned(),
        false => found.join("; "),
    }
}

fn tcp(report: &NetReport) -> String {
    match count(report, |member| member.tcp) {
        (_, 0) => {
            "could not be tried: no member accepts it, or this node does not use it".to_owned()
        }
        (yes, all) => format!("passes to {yes} of {all} members that accept it"),
    }
}

fn packets(report: &NetReport) -> String {
    report.packet_bytes.map_or_else(
        || "not known: there is no link over UDP".to_owned(),
        |bytes| format!("of up to {bytes} bytes (IP) pass to all members with a link over UDP"),
    )
}

fn table(members: &[ReachFacts]) -> Table {
    let heads = ["MEMBER", "LINK", "UDP", "TLS", "REACHES US", "SEES US AT", "PACKETS", "PROBLEM"];
    let mut table = Table::new(&heads);
    for member in members {
        let lost = udp_loss(member).map(|loss| format!(", {} lost", units::percent(loss)));
        let yes = |fact: Option<bool>| match fact {
            Some(true) => "yes".to_owned(),
            Some(false) => "no".to_owned(),
            None => "-".to_owned(),
        };
        let by = |(fact, name): (Option<bool>, &str)| {
            fact.map(|fact| format!("{name}: {}", if fact { "yes" } else { "no" }))
        };
        let reaches = [(member.reached_by_udp, "UDP"), (member.reached_by_tcp, "TLS")];
        let reaches: Vec<_> = reaches.into_iter().filter_map(by).collect();
        table.row([
            member.peer.to_string(),
            or_dash(member.carrier.as_ref()),
            yes(member.udp) + &lost.unwrap_or_default(),
            yes(member.tcp),
            if reaches.is_empty() { "-".to_owned() } else { reaches.join(", ") },
            or_dash(member.sees_us),
            or_dash(member.packet_bytes),
            or_dash(member.tcp_problem.as_ref()),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn member() -> ReachFacts {
        ReachFacts {
            peer: "mit".parse().unwrap(),
            carrier: Some("udp".to_owned()),
            udp: Some(true),
            udp_loss_percent: Some(0.4),
            tcp: None,
            tcp_problem: None,
            sees_us: Some("192.0.2.1:4600".parse().unwrap()),
            leaves_from: Some("10.0.0.7:4600".parse().unwrap()),
            reached_by_udp: Some(false),
            reached_by_tcp: None,
            packet_bytes: Some(1469),
        }
    }

    fn report(nat: Option<Nat>, members: Vec<ReachFacts>) -> NetReport {
        NetReport {
            udp: None,
            tcp: None,
            nat,
            outside: BTreeSet::new(),
            router_port: None,
            router_problem: None,
            reachable_by_udp: None,
            reachable_by_tcp: None,
            packet_bytes: members.first().and_then(|member| member.packet_bytes),
            members,
        }
    }

    #[test]
    fn a_report_says_in_words_what_passes() {
        let utah = ReachFacts { peer: "utah".parse().unwrap(), tcp: Some(true), ..member() };
        let report = report(Some(Nat::EndpointIndependent), vec![member(), utah]);
        let said = words(&report, None);
        for part in [
            "UDP         passes to 2 of 2 members and back",
            "NAT         one outside address for all members",
            "dialled     nobody reaches this node by unsolicited UDP",
            "TLS on TCP  passes to 1 of 1 members that accept it",
            "packets     of up to 1469 bytes (IP) pass",
            "\nutah    udp   yes  yes  UDP: no     192.0.2.1:4600  1469     -",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        for columns in [40, 80] {
            let narrow = words(&report, Some(columns));
            assert!(narrow.lines().all(|line| line.chars().count() <= columns), "{narrow}");
        }
    }

    #[test]
    fn a_router_that_was_asked_is_named_with_what_it_said() {
        let unasked = report(Some(Nat::Unknown), vec![member()]);
        assert!(!words(&unasked, None).contains("router"));
        let open = NetReport { router_port: "192.0.2.1:4601".parse().ok(), ..unasked.clone() };
        assert!(words(&open, None).contains("\nrouter      passes 192.0.2.1:4601 on to this node"));
        let problem = Some("10.0.0.1: PCP: Not authorized".to_owned());
        let refused = words(&NetReport { router_problem: problem, ..unasked }, None);
        assert!(refused.contains("opens no port for this node; 10.0.0.1: PCP: Not"), "{refused}");
    }

    #[test]
    fn blocked_and_unknown_protocols_come_with_advice() {
        let carrier = Some("tls".to_owned());
        let blocked = ReachFacts {
            udp: Some(false),
            udp_loss_percent: None,
            carrier,
            reached_by_udp: None,
            ..member()
        };
        let said = words(&report(None, vec![blocked]), None);
        assert!(said.contains("passes to no member") && said.contains("stream_listen"), "{said}");
        assert!(said.contains("NAT         not known"), "{said}");
        assert!(said.contains("no member could try to reach this node"), "{said}");
        assert!(words(&report(None, Vec::new()), None).contains("nobody to ask"));
    }

    #[test]
    fn udp_that_passes_and_loses_is_told_from_udp_that_does_not_pass() {
        let of = |carrier: &str, passes, lost| ReachFacts {
            carrier: Some(carrier.to_owned()),
            udp: Some(passes),
            udp_loss_percent: lost,
            ..member()
        };
        let udp = |member| words(&report(None, vec![member]), None);
        let lossy = udp(of("tls", true, Some(36.0)));
        for part in [
            "UDP         passes to 1 of 1 members and back; it lost round trips when it was measured, 36.0 % to mit\n",
            "yes, 36.0 % lost",
        ] {
            assert!(lossy.contains(part), "{part}: {lossy}");
        }
        let now_silent = udp(of("tls", false, Some(36.0)));
        assert!(
            now_silent.contains("UDP         is answered by no member now; it lost"),
            "{now_silent}"
        );
        for blocked in [None, Some(100.0)] {
            let blocked = udp(of("tls", false, blocked));
            assert!(
                blocked.contains("passes to no member") && !blocked.contains("lost"),
                "{blocked}"
            );
        }
        for (lost, is_named) in [(0.4, false), (36.0, true)] {
            assert_eq!(udp(of("udp", true, Some(lost))).contains("lost"), is_named);
        }
    }
}
