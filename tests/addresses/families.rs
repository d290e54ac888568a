//! An IPv4-only and an IPv6-only node meet through one that has both.

use crate::{
    networks::{Networks, allow_itself},
    overlay::{configure, json, wait_for},
};

#[test]
fn nodes_of_different_families_meet_through_a_relay_of_both() {
    let Some(networks) = Networks::make() else { return };
    let hub = networks.found(&[]);
    assert_eq!(hub.listen().to_string(), "[::]:4600");
    let laptop = networks.join("laptop", &[], &["--proxy", "127.0.0.1:0"]);
    let site = networks.join("site", &["--exit"], &["--exit", "--no-entry"]);
    allow_itself(&site);
    let entry = networks.start("laptop", &[]);
    let exit = networks.start("site", &["--dashboard", "[::1]:0"]);

    let address = |of: &str| {
        let links = json(&laptop, &["links"]);
        let link = links.as_array().unwrap().iter().find(|link| link["peer"] == of).cloned();
        link.map(|link| link["address"].to_string()).unwrap_or_default()
    };
    wait_for("the IPv4 link", || address("hub") == "\"198.51.100.1:4600\"");
    wait_for("the IPv6 link", || {
        let links = json(&site, &["links"]);
        let links = links.as_array().unwrap();
        links.iter().any(|link| link["address"] == "[2001:db8:6::1]:4600" && link["up"] == true)
    });
    wait_for("a route", || json(&laptop, &["routes"])[0]["route"] == "via hub");
    // An IPv6 destination of the IPv6-only exit.
    let url = format!("http://{}/", exit.dashboard());
    let proxy = format!("socks5h://{}", entry.proxy());
    let mut curl = networks.on("laptop");
    curl.args(["curl", "--silent", "--show-error", "--max-time", "20", "--output", "/dev/null"]);
    curl.args(["--write-out", "%{http_code}", "--proxy", &proxy, &url]);
    let output = curl.output().unwrap();
    let (code, said) = (String::from_utf8_lossy(&output.stdout), crate::overlay::stderr(&output));
    assert!(code.starts_with(|c: char| ('2'..='4').contains(&c)), "{code} {said}");
    assert_eq!(json(&laptop, &["lanes"])[0]["route"], "via hub");
    assert_eq!(address("site"), "null", "no link between the families");
    // Both families of the hub are told by default, and the stable address of the other.
    wait_for("the addresses", || {
        let told = std::fs::read_to_string(laptop.join("state/members.json")).unwrap_or_default();
        let all = ["198.51.100.1:4600", "[2001:db8:6::1]:4600", "[2001:db8:6::2]:4600"];
        all.iter().all(|at| told.contains(at))
    });
}

#[test]
fn a_node_that_has_ipv6_and_tcp_only_joins_and_has_flows() {
    let Some(networks) = Networks::make() else { return };
    networks.must("hub", &["init", "--name", "hub", "--exit", "--proxy", "127.0.0.1:0"], "");
    let hub = networks.site.dir("hub");
    allow_itself(&hub);
    configure(&hub, "#stream_listen = \"[::]:443\"", "stream_listen = \"[::]:443\"");
    configure(&hub, "udp = true", "udp = false");
    let running = networks.start("hub", &["--dashboard", "127.0.0.1:0"]);
    let site = networks.join("site", &[], &["--proxy", "127.0.0.1:0"]);
    let entry = networks.start("site", &[]);
    wait_for("the link", || {
        let link = &json(&site, &["links"])[0];
        link["up"] == true && link["carrier"] == "tls" && link["address"] == "[2001:db8:6::1]:443"
    });
    let mut curl = networks.on("site");
    let (url, proxy) =
        (format!("http://{}/", running.dashboard()), format!("http://{}", entry.proxy()));
    curl.args(["curl", "--silent", "--max-time", "20", "--output", "/dev/null"]);
    curl.args(["--write-out", "%{http_code}", "--proxy", &proxy, &url]);
    let code = String::from_utf8(curl.output().unwrap().stdout).unwrap();
    assert!(code.starts_with(|c: char| ('2'..='4').contains(&c)), "{code}");
}
