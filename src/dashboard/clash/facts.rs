//! This node's facts in the words of Clash.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use crate::{
    app::{FlowFacts, NodeView},
    flow::{Host, Ingress, Target},
    identity::NodeName,
};

/// The group that chooses an exit.
pub(super) const GROUP: &str = "Exit";

/// Its choice as the rules say.
pub(super) const AUTO: &str = "Auto";

/// The group that programs look for to learn the order of the others.
pub(super) const GLOBAL: &str = "GLOBAL";

/// An exit as these programs see it.
#[derive(Debug, Clone, PartialEq)]
struct Exit {
    name: NodeName,
    up: bool,
    rtt_ms: Option<f64>,
}

fn exits(view: &NodeView) -> Vec<Exit> {
    let status = view.status();
    let own = Exit { name: status.name, up: true, rtt_ms: None };
    let links = view.link_facts().into_iter().filter(|link| link.exit);
    let others = links.map(|link| Exit { name: link.peer, up: link.up, rtt_ms: link.rtt_ms });
    status.exit.then_some(own).into_iter().chain(others).collect()
}

/// All groups and exits by name.
pub(super) fn proxies(view: &NodeView) -> Map<String, Value> {
    described(&exits(view), view.steering().exit.as_ref(), SystemTime::now())
}

fn described(exits: &[Exit], now: Option<&NodeName>, at: SystemTime) -> Map<String, Value> {
    let all: Vec<&str> =
        std::iter::once(AUTO).chain(exits.iter().map(|exit| exit.name.as_str())).collect();
    let chosen = now.map_or(AUTO, NodeName::as_str);
    let group = |name: &str, all: &[&str], now: &str| json!({ "name": name, "type": "Selector", "now": now, "all": all, "udp": true, "history": [] });
    let mut proxies = Map::new();
    proxies.insert(GLOBAL.to_owned(), group(GLOBAL, &[&[GROUP], &all[..]].concat(), chosen));
    proxies.insert(GROUP.to_owned(), group(GROUP, &all, chosen));
    proxies.insert(AUTO.to_owned(), exit_facts(AUTO, true, None, at));
    for exit in exits {
        let facts = exit_facts(exit.name.as_str(), exit.up, exit.rtt_ms, at);
        proxies.insert(exit.name.to_string(), facts);
    }
    proxies
}

fn exit_facts(name: &str, up: bool, rtt_ms: Option<f64>, at: SystemTime) -> Value {
    let measured =
        rtt_ms.filter(|_| up).map(|ms| json!({ "time": time(at), "delay": whole_ms(ms) }));
    let history: Vec<Value> = measured.into_iter().collect();
    json!({ "name": name, "type": "Ronproxy", "udp": true, "alive": up, "history": history })
}

/// The exit that a name stands for: of a group the one in use, as far as that is fixed.
pub(super) fn exit_of(view: &NodeView, name: &str) -> Option<NodeName> {
    let exits = exits(view);
    if [GROUP, AUTO, GLOBAL].contains(&name) {
        let nearest = |exit: &&Exit| exit.up && exit.rtt_ms.is_some();
        let by_rtt = |a: &&Exit, b: &&Exit| f64::total_cmp(&rtt(a), &rtt(b));
        let best = exits.iter().filter(nearest).min_by(by_rtt).map(|exit| exit.name.clone());
        return view.steering().exit.filter(|_| name != AUTO).or(best);
    }
    exits.into_iter().map(|exit| exit.name).find(|exit| exit.as_str() == name)
}

fn rtt(exit: &Exit) -> f64 {
    exit.rtt_ms.unwrap_or(f64::INFINITY)
}

/// A time in whole milliseconds, at least one.
pub(super) fn whole_ms(ms: f64) -> u64 {
    u64::try_from(Duration::from_secs_f64(ms.max(1.0) / 1e3).as_millis()).unwrap_or(u64::MAX)
}

/// Bytes from and to applications since the node started.
pub(super) fn carried(view: &NodeView) -> (u64, u64) {
    let totals = view.totals();
    totals.by_route().fold((0, 0), |sum, (_, _, used)| (sum.0 + used.sent, sum.1 + used.received))
}

/// The flows.
pub(super) fn connections(view: &NodeView) -> Value {
    let (sent, received) = carried(view);
    let now = SystemTime::now();
    let flows: Vec<Value> = view.flow_facts().iter().map(|flow| connection(flow, now)).collect();
    json!({ "uploadTotal": sent, "downloadTotal": received, "connections": flows })
}

fn connection(flow: &FlowFacts, now: SystemTime) -> Value {
    let target = flow.target.parse::<Target>().ok();
    let (host, ip) = match target.as_ref().map(|target| &target.host) {
        Some(Host::Ip(ip)) => (String::new(), ip.to_string()),
        Some(host @ Host::Name(_)) => (host.to_string(), String::new()),
        None => (flow.target.clone(), String::new()),
    };
    let kind = match flow.ingress {
        Ingress::Socks5 | Ingress::Socks5Udp => "Socks5",
        Ingress::Socks4 => "Socks4",
        Ingress::HttpConnect => "HTTPS",
        Ingress::HttpForward => "HTTP",
        Ingress::Library | Ingress::Conduit => "Inner",
    };
    let route = flow.route.as_ref().map(ToString::to_string);
    // From the far end to the choice.
    let chains = [Some(flow.exit.to_string()), route, Some(GROUP.to_owned())];
    json!({
        "id": flow.label.to_string(),
        "metadata": {
            "network": if flow.ingress.has_datagrams() { "udp" } else { "tcp" },
            "type": kind,
            "sourceIP": flow.client.ip().to_string(),
            "sourcePort": flow.client.port().to_string(),
            "destinationIP": ip,
            "destinationPort": target.map_or(0, |target| target.port).to_string(),
            "host": host,
            "dnsMode": "normal",
            "processPath": "",
        },
        "upload": flow.sent,
        "download": flow.received,
        "start": time(now - Duration::from_secs_f64(flow.seconds.max(0.0))),
        "chains": chains.into_iter().flatten().collect::<Vec<_>>(),
        "rule": "Hint",
        "rulePayload": flow.hint.to_string(),
    })
}

/// What programs read of the configuration.
pub(super) fn configs(view: &NodeView) -> Value {
    let proxy = view.status().proxy.map_or(0, |proxy| proxy.port());
    json!({
        "port": 0, "socks-port": 0, "redir-port": 0, "tproxy-port": 0, "mixed-port": proxy,
        "allow-lan": false, "bind-address": "127.0.0.1", "authentication": [], "mode": "rule", "log-level": "info", "ipv6": true,
    })
}

fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_are_choices_of_a_group_that_no_node_can_be_named_as() {
        let name = |text: &str| text.parse::<NodeName>().unwrap();
        let exit = |text, up, rtt_ms| Exit { name: name(text), up, rtt_ms };
        let exits = [exit("mit", true, Some(61.7)), exit("utah", false, Some(30.0))];
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let proxies = described(&exits, Some(&name("mit")), at);
        assert_eq!(proxies[GROUP]["all"], json!(["Auto", "mit", "utah"]));
        assert_eq!(proxies[GROUP]["now"], "mit");
        assert_eq!(proxies[GLOBAL]["all"][0], "Exit");
        let measured = json!([{ "time": "2023-11-14T22:13:20.000Z", "delay": 61 }]);
        assert_eq!(
            (&proxies["mit"]["history"], &proxies["mit"]["alive"]),
            (&measured, &true.into())
        );
        assert_eq!(proxies["utah"]["history"], json!([]), "it is down");
        assert_eq!(described(&[], None, at)[GROUP]["now"], AUTO);
        for taken in [GROUP, AUTO, GLOBAL] {
            assert!(taken.parse::<NodeName>().is_err(), "{taken}");
        }
    }

    #[test]
    fn a_delay_is_never_zero() {
        assert_eq!([0.0, 0.4, 1.9, 60.0].map(whole_ms), [1, 1, 1, 60]);
    }
}
