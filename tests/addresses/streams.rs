//! TLS on TCP to a node that has both families, from one that has IPv4 only.

use crate::{
    networks::Networks,
    overlay::{Running, configure, json, wait_for},
};

/// The overlay's first node, which accepts streams at this address of the host `hub` and tells port 443, of IPv6 first.
fn hub(networks: &Networks, listen: &str) -> Running {
    let advertise = ["--advertise", "[2001:db8:6::1]:4600", "--advertise", "198.51.100.1:4600"];
    let init = [&["init", "--name", "hub", "--no-entry"][..], &advertise].concat();
    networks.must("hub", &init, "");
    let line = format!("stream_listen = \"{listen}\"\nstream_port = 443");
    configure(&networks.site.dir("hub"), "#stream_listen = \"0.0.0.0:443\"", &line);
    networks.start("hub", &[])
}

#[test]
fn netcheck_finds_tcp_open_where_one_family_has_no_route() {
    let Some(networks) = Networks::make() else { return };
    let _hub = hub(&networks, "[::]:443");
    let laptop = networks.join("laptop", &[], &["--no-entry"]);
    configure(&laptop, "udp = true", "udp = false");
    let _entry = networks.start("laptop", &[]);
    wait_for("the link", || json(&laptop, &["links"])[0]["carrier"] == "tls");
    let told = || std::fs::read_to_string(laptop.join("state/members.json")).unwrap_or_default();
    wait_for("both addresses", || told().contains("[2001:db8:6::1]:4600"));
    let report = json(&laptop, &["netcheck"]);
    assert_eq!(report["tcp"], true, "{report:#}");
    assert!(report["members"][0]["tcp_problem"].is_null(), "{report:#}");
}
