//! `ronproxy netcheck`

use clap::Args;
use serde_json::Value;

use super::{
    CliError,
    folder::Folder,
    output::{Table, columns, entries, print, print_json, text, wrapped},
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
        let report = folder.client().get("/netcheck").await?;
        if self.json {
            return print_json(&report);
        }
        print(words(&report, columns()))
    }
}

/// The report in words, and a table of the members.
fn words(report: &Value, columns: Option<usize>) -> String {
    if entries(&report["members"]).is_empty() {
        return "No other member is known yet, so there is nobody to ask.".to_owned();
    }
    let lines = [
        ("UDP", udp(report)),
        ("NAT", nat(report).to_owned()),
        ("dialled", dialled(report)),
        ("TLS on TCP", tcp(report)),
        ("packets", packets(report)),
    ];
    let lines = lines.into_iter().flat_map(|(of, found)| {
        wrapped(&found, columns, &format!("{of:12}"), &format!("{:12}", ""))
    });
    let lines: Vec<_> = lines.collect();
    format!("{}\n\n{}", lines.join("\n"), table(&report["members"]).within(columns))
}

/// How many of the members have this fact, of those of which it is known.
fn count(report: &Value, field: &str) -> (usize, usize) {
    let known = entries(&report["members"]).iter().filter_map(|member| member[field].as_bool());
    known.fold((0, 0), |(yes, all), fact| (yes + usize::from(fact), all + 1))
}

fn udp(report: &Value) -> String {
    match count(report, "udp") {
        (_, 0) => "is not used: see `udp` under [node]".to_owned(),
        (0, _) => {
            "passes to no member: this network may block it; links go over TLS on TCP, where a \
                   member accepts that (`stream_listen` under [node] there)"
                .to_owned()
        }
        (yes, all) => format!("passes to {yes} of {all} members and back"),
    }
}

fn nat(report: &Value) -> &'static str {
    match report["nat"].as_str() {
        Some("none") => "none: members see packets come from where they leave this machine",
        Some("endpoint-independent") => {
            "one outside address for all members: they can dial it while this node keeps its links"
        }
        Some("endpoint-dependent") => {
            "another outside address or port for each member: two nodes behind such NATs have no link by \
             UDP; flows between them go via a relay"
        }
        Some("unknown") => {
            "one: a member sees another address than this machine's; a second one would show its kind"
        }
        _ => "not known: there is no link over UDP",
    }
}

fn dialled(report: &Value) -> String {
    let by = |protocol: &str, field: &str| match count(report, field) {
        (_, 0) => None,
        (0, _) => Some(format!("nobody reaches this node by unsolicited {protocol}")),
        (yes, all) => {
            Some(format!("{yes} of {all} members reach this node by unsolicited {protocol}"))
        }
    };
    let found = [by("UDP", "reached_by_udp"), by("TLS on TCP", "reached_by_tcp")];
    let found: Vec<_> = found.into_iter().flatten().collect();
    match found.is_empty() {
        true => "not known: no member could try to reach this node".to_owned(),
        false => found.join("; "),
    }
}

fn tcp(report: &Value) -> String {
    match count(report, "tcp") {
        (_, 0) => {
            "could not be tried: no member accepts it, or this node does not use it".to_owned()
        }
        (yes, all) => format!("passes to {yes} of {all} members that accept it"),
    }
}

fn packets(report: &Value) -> String {
    report["packet_bytes"].as_u64().map_or_else(
        || "not known: there is no link over UDP".to_owned(),
        |bytes| format!("of up to {bytes} bytes (IP) pass to all members with a link over UDP"),
    )
}

fn table(members: &Value) -> Table {
    let heads = ["MEMBER", "LINK", "UDP", "TLS", "REACHES US", "SEES US AT", "PACKETS", "PROBLEM"];
    let mut table = Table::new(&heads);
    for member in entries(members) {
        let yes = |field: &str| match member[field].as_bool() {
            Some(true) => "yes",
            Some(false) => "no",
            None => "-",
        };
        let by = |(field, name): (&str, &str)| {
            member[field]
                .as_bool()
                .map(|fact| format!("{name}: {}", if fact { "yes" } else { "no" }))
        };
        let reaches = [("reached_by_udp", "UDP"), ("reached_by_tcp", "TLS")];
        let reaches: Vec<_> = reaches.into_iter().filter_map(by).collect();
        table.row([
            text(member, "peer"),
            text(member, "carrier"),
            yes("udp").to_owned(),
            yes("tcp").to_owned(),
            if reaches.is_empty() { "-".to_owned() } else { reaches.join(", ") },
            text(member, "sees_us"),
            text(member, "packet_bytes"),
            text(member, "tcp_problem"),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn member(facts: Value) -> Value {
        let mut member = json!({
            "peer": "mit", "carrier": "udp", "udp": true, "tcp": null, "tcp_problem": null,
            "sees_us": "192.0.2.1:4600", "leaves_from": "10.0.0.7:4600", "reached_by_udp": false,
            "reached_by_tcp": null, "packet_bytes": 1469,
        });
        let facts = facts.as_object().unwrap().clone();
        member.as_object_mut().unwrap().extend(facts);
        member
    }

    #[test]
    fn a_report_says_in_words_what_passes() {
        let members = [member(json!({})), member(json!({ "peer": "utah", "tcp": true }))];
        let report = json!({
            "nat": "endpoint-independent", "packet_bytes": 1469, "members": members,
        });
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
    fn blocked_and_unknown_protocols_come_with_advice() {
        let blocked = json!({ "udp": false, "carrier": "tls", "reached_by_udp": null });
        let said = words(&json!({ "members": [member(blocked)] }), None);
        assert!(said.contains("passes to no member") && said.contains("stream_listen"), "{said}");
        assert!(said.contains("NAT         not known"), "{said}");
        assert!(said.contains("no member could try to reach this node"), "{said}");
        assert!(words(&json!({ "members": [] }), None).contains("nobody to ask"));
    }
}
