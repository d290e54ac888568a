//! The node in Prometheus' text format, version 0.0.4.

use std::fmt::{self, Write};

use crate::{
    app::{CertificateStatus, NodeStatus, NodeView},
    events::{STALL_BOUNDS, Totals},
    flow::RefusalKind,
    mesh::LinkFacts,
    overlay::connects::ConnectTotals,
};

/// What `Content-Type` says.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics of a node.
pub(super) fn of(view: &NodeView) -> String {
    text(&view.status(), &view.link_facts(), &view.totals(), &view.connect_totals())
}

fn text(
    status: &NodeStatus,
    links: &[LinkFacts],
    totals: &Totals,
    connects: &[(String, ConnectTotals)],
) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_all(&mut text, status, links)
        .and_then(|()| write_totals(&mut text, totals))
        .and_then(|()| write_connects(&mut text, connects));
    text
}

/// What connects cost since the node started, by exit: destinations would be series without end.
fn write_connects(out: &mut String, connects: &[(String, ConnectTotals)]) -> fmt::Result {
    let help = "How long exits took to connect to destinations, without the lane's round trip.";
    head(out, "exit_connect_seconds", help, "summary")?;
    for (exit, ConnectTotals { connected, seconds, .. }) in connects {
        writeln!(out, "ronproxy_exit_connect_seconds_sum{{exit=\"{exit}\"}} {seconds}")?;
        writeln!(out, "ronproxy_exit_connect_seconds_count{{exit=\"{exit}\"}} {connected}")?;
    }
    let help = "Destinations of this entry's flows to which exits could not connect.";
    head(out, "exit_connects_failed_total", help, "counter")?;
    for (exit, totals) in connects {
        let failed = [
            (RefusalKind::Unreachable, totals.unreachable),
            (RefusalKind::TimedOut, totals.timed_out),
        ];
        for (reason, count) in failed {
            let labels = format!("exit=\"{exit}\",reason=\"{}\"", reason.name());
            writeln!(out, "ronproxy_exit_connects_failed_total{{{labels}}} {count}")?;
        }
    }
    Ok(())
}

/// What happened since the node started.
fn write_totals(out: &mut String, totals: &Totals) -> fmt::Result {
    head(out, "reroutes_total", "Changes of routes of lanes that start or end here.", "counter")?;
    for (reason, count) in totals.reroutes() {
        writeln!(out, "ronproxy_reroutes_total{{reason=\"{reason}\"}} {count}")?;
    }
    let help = "How long lanes stood still when they changed their route.";
    head(out, "reroute_stall_seconds", help, "histogram")?;
    let (counts, sum) = totals.stalls();
    let bounds = STALL_BOUNDS.map(|ms| (f64::from(ms) / 1e3).to_string()).into_iter();
    for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(counts) {
        writeln!(out, "ronproxy_reroute_stall_seconds_bucket{{le=\"{bound}\"}} {count}")?;
    }
    writeln!(out, "ronproxy_reroute_stall_seconds_sum {sum}")?;
    writeln!(out, "ronproxy_reroute_stall_seconds_count {}", counts[counts.len() - 1])?;
    let help = "Flows of this entry that opened, by exit and the route on which they did.";
    head(out, "opened_flows_total", help, "counter")?;
    for (exit, route, used) in totals.by_route() {
        let labels = format!("exit=\"{exit}\",route=\"{route}\"");
        writeln!(out, "ronproxy_opened_flows_total{{{labels}}} {}", used.flows)?;
    }
    let help = "Bytes that flows of this entry carried, by exit and route.";
    head(out, "carried_bytes_total", help, "counter")?;
    for (exit, route, used) in totals.by_route() {
        for (direction, bytes) in [("sent", used.sent), ("received", used.received)] {
            writeln!(
                out,
                "ronproxy_carried_bytes_total{{exit=\"{exit}\",route=\"{route}\",direction=\"{direction}\"}} {bytes}"
            )?;
        }
    }
    head(out, "refused_flows_total", "Flows of this entry that were refused.", "counter")?;
    for (reason, count) in totals.refused() {
        writeln!(out, "ronproxy_refused_flows_total{{reason=\"{reason}\"}} {count}")?;
    }
    Ok(())
}

fn write_all(out: &mut String, status: &NodeStatus, links: &[LinkFacts]) -> fmt::Result {
    let gauges = [
        ("members", "Known members, without this node.", status.members),
        ("links_up", "Members with a link.", status.links_up),
        ("lanes_out", "Lanes this node opened.", status.lanes_out),
        ("lanes_in", "Lanes that end here.", status.lanes_in),
        ("flows", "Flows of this entry.", status.flows),
        ("exit_flows", "Flows that leave here.", status.exit_flows),
    ];
    for (name, help, value) in gauges {
        head(out, name, help, "gauge")?;
        writeln!(out, "ronproxy_{name} {value}")?;
    }
    head(out, "forwarded_packets_total", "Packets forwarded for others.", "counter")?;
    writeln!(out, "ronproxy_forwarded_packets_total {}", status.forwarded)?;
    head(out, "forwarded_bytes_total", "Bytes of these packets.", "counter")?;
    writeln!(out, "ronproxy_forwarded_bytes_total {}", status.forwarded_bytes)?;
    head(out, "dropped_packets_total", "Packets dropped, by reason.", "counter")?;
    for (reason, count) in &status.dropped {
        writeln!(out, "ronproxy_dropped_packets_total{{reason=\"{reason}\"}} {count}")?;
    }
    head(out, "reordered_packets_total", "Packets of lanes that came out of order.", "counter")?;
    for (outcome, count) in &status.reordered {
        writeln!(out, "ronproxy_reordered_packets_total{{outcome=\"{outcome}\"}} {count}")?;
    }
    head(out, "handshakes_total", "Connections that others began, by outcome.", "counter")?;
    for (outcome, count) in &status.handshakes {
        writeln!(out, "ronproxy_handshakes_total{{outcome=\"{outcome}\"}} {count}")?;
    }
    head(out, "ended_flows_total", "Flows that a limit ended, by limit.", "counter")?;
    for (limit, count) in &status.ended_flows {
        writeln!(out, "ronproxy_ended_flows_total{{limit=\"{limit}\"}} {count}")?;
    }
    let help = "Datagrams of applications that were dropped, by reason.";
    head(out, "dropped_datagrams_total", help, "counter")?;
    for (reason, count) in &status.dropped_datagrams {
        writeln!(out, "ronproxy_dropped_datagrams_total{{reason=\"{reason}\"}} {count}")?;
    }
    let help =
        "Messages of neighbours, and addresses in their records, that were dropped, by reason.";
    head(out, "dropped_messages_total", help, "counter")?;
    for (reason, count) in &status.dropped_messages {
        writeln!(out, "ronproxy_dropped_messages_total{{reason=\"{reason}\"}} {count}")?;
    }
    write_certificate(out, &status.certificate)?;
    head(out, "refused_clients_total", "Local clients that the proxy does not serve.", "counter")?;
    for (reason, count) in &status.refused_clients {
        writeln!(out, "ronproxy_refused_clients_total{{reason=\"{reason}\"}} {count}")?;
    }
    head(out, "exit_window_bytes", "What flows may leave unread or unacknowledged here.", "gauge")?;
    let (unread, unacknowledged) = status.exit_windows;
    writeln!(out, "ronproxy_exit_window_bytes{{kind=\"unread\"}} {unread}")?;
    writeln!(out, "ronproxy_exit_window_bytes{{kind=\"unacknowledged\"}} {unacknowledged}")?;
    head(out, "link_up", "Whether the link to a member stands.", "gauge")?;
    for link in links {
        writeln!(out, "ronproxy_link_up{{peer=\"{}\"}} {}", link.peer, u8::from(link.up))?;
    }
    head(out, "link_rtt_seconds", "The link's round-trip time.", "gauge")?;
    for link in links {
        if let Some(rtt) = link.rtt_ms {
            writeln!(out, "ronproxy_link_rtt_seconds{{peer=\"{}\"}} {}", link.peer, rtt / 1e3)?;
        }
    }
    head(out, "link_loss_ratio", "The link's loss, 0 to 1.", "gauge")?;
    for link in links {
        for (direction, loss) in [("out", link.loss_out_percent), ("in", link.loss_in_percent)] {
            let labels = format!("peer=\"{}\",direction=\"{direction}\"", link.peer);
            if let Some(loss) = loss {
                writeln!(out, "ronproxy_link_loss_ratio{{{labels}}} {}", loss / 100.0)?;
            }
        }
    }
    head(out, "build_info", "1, with the program's version.", "gauge")?;
    writeln!(out, "ronproxy_build_info{{version=\"{}\"}} 1", status.version)?;
    Ok(())
}

fn write_certificate(out: &mut String, certificate: &CertificateStatus) -> fmt::Result {
    let gauges = [
        (
            "certificate_expires_seconds",
            "When the certificate ends, since 1970.",
            certificate.expires,
        ),
        (
            "certificate_renewed_seconds",
            "When the certificate was last renewed, since 1970; 0: not since the start.",
            certificate.renewed.unwrap_or(0),
        ),
        ("certificate_revoked", "Whether the certificate is revoked.", certificate.revoked.into()),
        (
            "revocation_list",
            "The number of the revocation list in force.",
            certificate.revocation_list,
        ),
    ];
    for (name, help, value) in gauges {
        head(out, name, help, "gauge")?;
        writeln!(out, "ronproxy_{name} {value}")?;
    }
    head(out, "certificate_renewals_total", "Renewals of the certificate, by outcome.", "counter")?;
    for (outcome, count) in
        [("renewed", certificate.renewals), ("failed", certificate.renewals_failed)]
    {
        writeln!(out, "ronproxy_certificate_renewals_total{{outcome=\"{outcome}\"}} {count}")?;
    }
    head(
        out,
        "revocation_lists_ignored_total",
        "Lists from neighbours not taken over.",
        "counter",
    )?;
    for (reason, count) in &certificate.lists_ignored {
        writeln!(out, "ronproxy_revocation_lists_ignored_total{{reason=\"{reason}\"}} {count}")?;
    }
    if let Some(ahead) = certificate.clock_ahead_seconds {
        let help = "By how much this machine's clock is ahead of the authority's.";
        head(out, "clock_ahead_seconds", help, "gauge")?;
        writeln!(out, "ronproxy_clock_ahead_seconds {ahead}")?;
    }
    Ok(())
}

fn head(out: &mut String, name: &str, help: &str, kind: &str) -> fmt::Result {
    writeln!(out, "# HELP ronproxy_{name} {help}\n# TYPE ronproxy_{name} {kind}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Measuring;

    #[test]
    fn every_sample_has_a_type_and_a_number() {
        let status = NodeStatus {
            name: "a".parse().unwrap(),
            version: "0".into(),
            exit: false,
            relay: true,
            proxy: None,
            members: 2,
            links_up: 1,
            lanes_out: 0,
            lanes_in: 0,
            flows: 0,
            exit_flows: 0,
            forwarded: 7,
            forwarded_bytes: 8_400,
            dropped: vec![("unknown_label".into(), 3)],
            reordered: vec![("held".into(), 12), ("late".into(), 1)],
            refused_clients: vec![("other-user".into(), 5)],
            handshakes: vec![("prefix-rate".into(), 5)],
            ended_flows: vec![("idle".into(), 1)],
            dropped_datagrams: vec![("too-large".into(), 4)],
            dropped_messages: vec![("digest-over-budget".into(), 2)],
            exit_windows: (2, 3),
            measuring: Measuring::default(),
            certificate: CertificateStatus {
                lists_ignored: vec![("forged".into(), 1)],
                clock_ahead_seconds: Some(-7),
                ..CertificateStatus::default()
            },
        };
        let link = LinkFacts {
            peer: "b".parse().unwrap(),
            up: true,
            address: None,
            carrier: Some("udp".into()),
            other_carrier: None,
            rtt_ms: Some(2.5),
            state: "up".into(),
            loss_out_percent: Some(4.0),
            loss_in_percent: None,
            delivered_bps: None,
            shared_by: None,
            shared_age_seconds: None,
            since_seconds: None,
            control_bytes: (0, 0),
            control_bps: None,
            labels: 0,
            exit: false,
            relay: false,
        };
        let mut totals = Totals::default();
        totals.carried("b", Some("via c"), (5, 70));
        let connects = ConnectTotals { connected: 4, seconds: 0.1, unreachable: 0, timed_out: 2 };
        let text = text(&status, &[link], &totals, &[("b".to_owned(), connects)]);
        assert!(text.contains("ronproxy_exit_connect_seconds_sum{exit=\"b\"} 0.1\n"));
        assert!(text.contains("ronproxy_exit_connect_seconds_count{exit=\"b\"} 4\n"));
        assert!(text.contains("failed_total{exit=\"b\",reason=\"timed-out\"} 2\n"), "{text}");
        assert!(text.contains("ronproxy_link_loss_ratio{peer=\"b\",direction=\"out\"} 0.04\n"));
        assert!(text.contains("{exit=\"b\",route=\"via c\",direction=\"received\"} 70\n"));
        assert!(text.contains("_bucket{le=\"0.05\"} 0\n"), "{text}");
        // As the gauge of links says what the series of links say.
        let up = text.lines().filter(|line| line.starts_with("ronproxy_link_up{"));
        let up = up.filter(|line| line.ends_with(" 1")).count();
        assert!(text.contains(&format!("ronproxy_links_up {up}\n")));
        assert!(text.contains("ronproxy_dropped_packets_total{reason=\"unknown_label\"} 3\n"));
        assert!(text.contains("ronproxy_refused_clients_total{reason=\"other-user\"} 5\n"));
        assert!(text.contains("ronproxy_reordered_packets_total{outcome=\"late\"} 1\n"));
        assert!(text.contains("_datagrams_total{reason=\"too-large\"} 4\n"));
        assert!(text.contains("_messages_total{reason=\"digest-over-budget\"} 2\n"));
        assert!(text.contains("ronproxy_link_rtt_seconds{peer=\"b\"} 0.0025\n"));
        for sample in text.lines().filter(|line| !line.starts_with('#')) {
            let (series, value) = sample.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let family =
                ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let name = family.filter(|name| name.ends_with("_seconds")).unwrap_or(name);
            assert!(text.contains(&format!("# TYPE {name} ")), "{sample}");
            value.parse::<f64>().unwrap();
        }
    }
}
