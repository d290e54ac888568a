//! Two nodes behind routers that give each destination another port, and one of the routers opens ports for those who ask.
//!
//! ```text
//! laptop ── home (NAT, miniupnpd) ── hub ── office (NAT) ── site
//! ```

use std::process::{Command, Stdio};

use crate::{
    networks::{Networks, allow_itself},
    overlay::{configure, json, wait_for},
};

/// The networks. The addresses outside are of the Internet, since miniupnpd opens no ports at others; no packet leaves the namespaces.
const SETUP: &str = "
set -e
mount -t tmpfs none /run
for name in hub home office laptop site; do
    ip netns add $name
    ip -n $name link set lo up
done
ip -n hub link add net type bridge
ip -n hub address add 100.128.0.1/24 dev net
ip -n hub link set net up
ip -n hub route add default dev net
join() {
    ip -n hub link add to-$1 type veth peer name wan netns $1
    ip -n hub link set to-$1 master net up
    ip -n $1 address add 100.128.0.$2/24 dev wan
    ip -n $1 link set wan up
    ip -n $1 route add default via 100.128.0.1
    ip -n $1 link add lan type veth peer name out netns $3
    ip -n $1 address add 10.$2.0.1/24 dev lan
    ip -n $1 link set lan up
    ip -n $3 address add 10.$2.0.2/24 dev out
    ip -n $3 link set out up
    ip -n $3 route add default via 10.$2.0.1
    ip netns exec $1 sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'
    ip netns exec $1 nft -f - <<END
table inet ports {
    chain forward {
        type filter hook forward priority 0; policy drop;
        ct state established,related accept
        iifname lan accept
        jump opened
    }
    chain prerouting { type nat hook prerouting priority -100; jump passed_on; }
    chain postrouting {
        type nat hook postrouting priority 100;
        jump named
        oifname wan masquerade fully-random
    }
    chain opened { }
    chain passed_on { }
    chain named { }
}
END
}
join home 11 laptop
join office 12 site
cat > /run/miniupnpd.conf <<END
ext_ifname=wan
listening_ip=lan
enable_natpmp=yes
enable_upnp=no
upnp_table_name=ports
upnp_nat_table_name=ports
upnp_forward_chain=opened
upnp_nat_chain=passed_on
upnp_nat_postrouting_chain=named
allow 1024-65535 10.11.0.0/24 1024-65535
END
ip netns exec home miniupnpd -d -f /run/miniupnpd.conf -P /run/miniupnpd.pid > /run/miniupnpd.log 2>&1 < /dev/null &
trap 'kill $!' EXIT
echo ready
cat
";

#[test]
fn a_port_of_the_router_gives_two_nodes_behind_nats_a_direct_link() {
    for program in ["nft", "miniupnpd"] {
        let mut find = Command::new("sh");
        find.args(["-c", &format!("command -v {program}")]).stdout(Stdio::null());
        if !find.status().unwrap().success() {
            println!("skipped: no {program}");
            return;
        }
    }
    let Some(networks) = Networks::of(SETUP) else { return };
    let _hub = networks.found(&["--no-entry"]);
    let laptop = networks.join("laptop", &[], &["--proxy", "127.0.0.1:0"]);
    let site = networks.join("site", &["--exit"], &["--exit", "--no-entry"]);
    allow_itself(&site);
    configure(&laptop, "map_port = true", "map_port = false");
    let _exit = networks.start("site", &[]);

    let entry = networks.start("laptop", &[]);
    wait_for("a route", || json(&laptop, &["routes"])[0]["route"] == "via hub");
    let report = json(&laptop, &["netcheck"]);
    assert!(report["router_port"].is_null() && report["router_problem"].is_null(), "{report}");
    assert_eq!(link_to_laptop(&site), None, "neither NAT lets in what the other sends");
    drop(entry);

    configure(&laptop, "map_port = false", "map_port = true");
    let mut entry = networks.start("laptop", &[]);
    let outside = "100.128.0.11:4600";
    wait_for("a direct link", || link_to_laptop(&site).as_deref() == Some(outside));
    wait_for("a direct route", || json(&laptop, &["routes"])[0]["route"] == "direct");
    let report = json(&laptop, &["netcheck"]);
    assert_eq!(report["router_port"], outside, "{report}");
    assert_eq!(report["reachable_by_udp"], true, "{report}");
    let said = networks.must("laptop", &["netcheck"], "");
    assert!(said.contains(&format!("router      passes {outside} on to this node")), "{said}");
    // The other router knows none of the protocols.
    let report = json(&site, &["netcheck"]);
    assert!(report["router_problem"].to_string().contains("10.12.0.1: PCP: "), "{report}");

    assert!(passed_on(&networks).contains("4600"), "{}", passed_on(&networks));
    entry.signal("-TERM");
    entry.ended();
    wait_for("the port to be closed", || !passed_on(&networks).contains("4600"));
}

/// Where the exit sees the laptop, if there is a link and it is up.
fn link_to_laptop(site: &std::path::Path) -> Option<String> {
    let links = json(site, &["links"]);
    let is_up = |link: &&serde_json::Value| link["peer"] == "laptop" && link["up"] == true;
    links.as_array().unwrap().iter().find(is_up)?["address"].as_str().map(str::to_owned)
}

/// What the laptop's router passes on.
fn passed_on(networks: &Networks) -> String {
    let mut list = networks.on("home");
    list.args(["nft", "list", "chain", "inet", "ports", "passed_on"]);
    String::from_utf8(list.output().unwrap().stdout).unwrap()
}
