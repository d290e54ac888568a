//! What a node shows of itself: pings, failures, and listings that are watched.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

use serde_json::Value;

use crate::{
    overlay::{
        Running, Site, configure, free_tcp, free_udp, json, must, must_fail, ronproxy, run,
        wait_for,
    },
    web,
};

#[test]
fn ping_measures_the_routes_to_a_node_and_names_unknown_ones() {
    let site = Site::new();
    let _nodes = site.pair(&[]);
    let dir = site.dir("leaf");
    let routes = json(&dir, &["ping", "hub"]);
    let direct = &routes[0];
    assert_eq!((&direct["route"], &direct["sent"]), (&"direct".into(), &5.into()));
    assert!(direct["mean_ms"].as_f64().unwrap() > 0.0, "{routes}");
    assert!(must(&dir, &["ping", "hub", "--count", "1"]).starts_with("ROUTE"));
    assert!(must_fail(&dir, &["ping", "nosuch"]).contains("is named nosuch"));
    assert!(must_fail(&dir, &["ping", "leaf"]).contains("leaf is this node"));
}

#[test]
fn netcheck_tells_what_passes_and_who_can_dial_this_node() {
    let site = Site::new();
    let hub = site.hub();
    let streams = format!("stream_listen = \"{}\"", free_tcp());
    configure(&hub, "#stream_listen = \"[::]:443\"", &streams);
    assert!(must_fail(&hub, &["netcheck"]).contains("ronproxy run"));
    let _hub = Running::start(&hub, &[]);
    assert!(must(&hub, &["netcheck"]).contains("nobody to ask"));
    let dir = site.join("leaf");
    let leaf = Running::start(&dir, &[]);
    wait_for("the link", || json(&dir, &["links"])[0]["up"] == true);
    let report = json(&dir, &["netcheck"]);
    assert_eq!((&report["udp"], &report["nat"]), (&true.into(), &"none".into()), "{report}");
    assert_eq!(report["outside"][0], leaf.listen().to_string());
    assert_eq!((&report["tcp"], &report["reachable_by_udp"]), (&true.into(), &true.into()));
    assert_eq!(report["reachable_by_tcp"], Value::Null, "the leaf accepts no streams");
    assert!(report["packet_bytes"].as_u64().unwrap() >= 1228, "{report}");
    let hubs = json(&hub, &["netcheck"]);
    assert_eq!((&hubs["reachable_by_tcp"], &hubs["tcp"]), (&true.into(), &Value::Null), "{hubs}");
    assert!(
        must(&dir, &["netcheck"]).contains("1 of 1 members reach this node by unsolicited UDP")
    );
    // The links are those from before: a try makes none.
    assert_eq!(json(&dir, &["links"])[0]["carrier"], "udp");
}

#[test]
fn why_says_what_the_exit_says_by_its_own_policy() {
    let site = Site::new();
    let hub = site.hub();
    configure(&hub, "deny = []", "deny = [{ port = [25] }]");
    let _hub = Running::start(&hub, &[]);
    let dir = site.join("leaf");
    let _leaf = Running::start(&dir, &[]);
    wait_for("the link", || json(&dir, &["links"])[0]["up"] == true);
    for (target, policy) in [
        ("127.0.0.1:80", "allows it."),
        (
            "mail.test:25",
            "refuses it (policy): the exit does not carry port 25 of mail.test: rule 1",
        ),
        ("web.test", "decides by the address that the name has there."),
    ] {
        // The hub judges for itself, too, and asks nobody.
        for node in [&dir, &hub] {
            let said = must(node, &["why", target]);
            assert!(said.contains(&format!("  Its policy {policy}")), "{said}");
        }
    }
}

#[test]
fn errors_tell_refused_flows_and_lost_links_with_what_to_do() {
    let site = Site::new();
    let (mut hub, leaf) = site.pair(&[]);
    let dir = site.dir("leaf");
    assert_eq!(must(&dir, &["errors"]).trim(), "Nothing has failed lately.");
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    web::tunnel(leaf.proxy(), closed).unwrap_err();
    web::tunnel(leaf.proxy(), closed).unwrap_err();
    let failure = json(&dir, &["errors"])[0].clone();
    assert_eq!((&failure["reason"], &failure["times"]), (&"connection-refused".into(), &2.into()));
    assert!(failure["what"].as_str().unwrap().contains(&closed.to_string()), "{failure}");
    hub.crash();
    // Each ping probes, so the link is soon known to be down.
    wait_for("the link's end", || {
        run(&dir, &["ping", "hub", "--count", "1"]);
        json(&dir, &["links"])[0]["up"] == false
    });
    assert_eq!(json(&dir, &["status"])["links_up"], 0);
    wait_for("its event", || json(&dir, &["errors"])[0]["reason"] == "link-down");
    let said = must(&dir, &["errors"]);
    assert!(said.contains("→ See whether hub runs.") && said.contains("2 times"), "{said}");
    assert!(must_fail(&dir, &["ping", "hub", "--count", "1"]).contains("no route to hub answered"));
}

#[test]
fn a_watched_listing_ends_by_a_signal_and_with_its_reader() {
    let site = Site::new();
    let hub = site.hub();
    let _hub = Running::start(&hub, &[]);
    let (mut child, mut lines) = watch(&hub);
    for _ in 0..2 {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["name"], "hub");
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    assert!(ended(&mut child).success());
    let (mut child, lines) = watch(&hub);
    drop(lines);
    assert!(ended(&mut child).success());
}

#[test]
fn an_exit_sees_the_flows_of_members_and_a_relay_what_it_forwards() {
    let site = Site::new();
    let hub = site.hub();
    let _hub = Running::start(&hub, &[]);
    let line = must(&hub, &["invite", "--name", "mid", "--relay"]);
    let mid = site.join_by(line.trim(), "mid", &["--listen", &free_udp().to_string()]);
    let _mid = Running::start(&mid, &[]);
    let dir = site.join("leaf");
    let mut config = std::fs::read_to_string(dir.join("config.toml")).unwrap();
    config.push_str("\n[[rule]]\nvia = \"mid\"\n");
    std::fs::write(dir.join("config.toml"), config).unwrap();
    let leaf = Running::start(&dir, &[]);
    assert!(must(&hub, &["flows", "--exit"]).contains("No flow of a member"));
    assert!(must(&mid, &["relayed"]).contains("Nothing is forwarded"));
    let server = web::serve();
    let _flow = web::tunnel(leaf.proxy(), server).unwrap();
    let flow = json(&hub, &["flows", "--exit"])[0].clone();
    let label = json(&dir, &["flows"])[0]["label"].clone();
    assert_eq!((&flow["member"], &flow["label"]), (&"leaf".into(), &label), "{flow}");
    assert!(flow["target"].is_null(), "the operator logs no destinations: {flow}");
    configure(&hub, "destinations = false", "destinations = true");
    must(&hub, &["reload"]);
    assert!(must(&hub, &["flows", "--exit"]).contains(&server.to_string()));
    web::fetch(leaf.proxy(), server).unwrap();
    let relayed = json(&mid, &["relayed"]);
    let ends: Vec<_> =
        relayed.as_array().unwrap().iter().map(|it| (&it["from"], &it["to"])).collect();
    let (hub, leaf) = (&"hub".into(), &"leaf".into());
    assert_eq!(ends, [(hub, leaf), (leaf, hub)], "{relayed}");
    assert!(relayed[0]["bytes"].as_u64().unwrap() > 1000, "{relayed}");
    let table = must(&mid, &["relayed"]);
    assert!(table.starts_with("FROM") && !table.contains(&server.to_string()), "{table}");
}

#[test]
fn logs_shows_the_last_lines_by_level_and_follows() {
    let site = Site::new();
    let hub = site.hub();
    let node = Running::start(&hub, &[]);
    let lines = json(&hub, &["logs"]);
    assert!(lines[0]["text"].as_str().unwrap().contains("enforced="), "{lines}");
    let mut follow = ronproxy(&hub);
    let follow = follow.args(["logs", "--follow", "--level", "warn"]);
    let said = site.dir("followed");
    let mut child = follow.stdout(File::create(&said).unwrap()).spawn().unwrap();
    let text = std::fs::read_to_string(hub.join("config.toml")).unwrap();
    std::fs::write(hub.join("config.toml"), "nonsense = 1").unwrap();
    // It is told among the last lines or among those that follow: the same line is logged once a minute.
    node.signal("-HUP");
    wait_for("the line about SIGHUP", || {
        let said = std::fs::read_to_string(&said).unwrap();
        said.lines().any(|line| line.contains("SIGHUP: the configuration stays as it is"))
    });
    let shown = must(&hub, &["logs", "--level", "warn"]);
    assert!(shown.lines().all(|line| line.contains("WARN")), "{shown}");
    child.kill().unwrap();
    child.wait().unwrap();
    std::fs::write(hub.join("config.toml"), text).unwrap();
    assert!(must_fail(&site.dir("none"), &["logs"]).contains("ronproxy run"));
}

#[test]
fn events_on_disk_outlive_a_crash_and_go_when_switched_off() {
    let site = Site::new();
    let hub = site.hub();
    let file = hub.join("state/events.jsonl");
    configure(&hub, "on_disk = false", "on_disk = true");
    let mut node = Running::start(&hub, &[]);
    let closed = free_tcp();
    web::tunnel(node.proxy(), closed).unwrap_err();
    let refused = |dir: &Path| {
        let events = json(dir, &["events", "--class", "refusals"]);
        events.as_array().unwrap().clone()
    };
    let before = refused(&hub);
    assert_eq!((before.len(), &before[0]["reason"]), (1, &"connection-refused".into()));
    wait_for("the file", || {
        std::fs::read_to_string(&file).is_ok_and(|text| text.contains("flow-refused"))
    });
    node.crash();
    let node = Running::start(&hub, &[]);
    assert_eq!(refused(&hub), before);
    assert_eq!(json(&hub, &["errors"])[0]["times"], 1);
    web::tunnel(node.proxy(), closed).unwrap_err();
    let after = refused(&hub);
    assert!(after.len() == 2 && after[1]["id"].as_u64() > before[0]["id"].as_u64(), "{after:?}");
    drop(node);
    configure(&hub, "on_disk = true", "on_disk = false");
    let _node = Running::start(&hub, &[]);
    assert!(refused(&hub).is_empty() && !file.exists());
}

#[test]
fn the_demo_plays_by_itself_and_no_connection_is_lost() {
    let site = Site::new();
    let options = ["demo", "--auto", "--plain", "--beat", "400ms", "--listen", "127.0.0.1:0"];
    let said = must(&site.dir("none"), &options);
    let summary = said.lines().last().unwrap();
    let expected = "3 paths cut, 1 node killed, 12 connections, 0 lost, longest pause ";
    assert!(summary.starts_with(expected), "{said}");
    let goes_on =
        |line: &str| line.ends_with("without it: 0.0 Mb/s") && !line.contains(": 0.0 Mb/s;");
    assert!(said.lines().any(goes_on), "only the overlay goes on after a cut: {said}");
    assert!(said.contains("» The node at Utah is killed."), "{said}");
}

#[test]
fn top_prints_one_picture_without_a_terminal() {
    let site = Site::new();
    let (_hub, leaf) = site.pair(&[]);
    let server = web::serve();
    let _flow = web::tunnel(leaf.proxy(), server).unwrap();
    let said = must(&site.dir("leaf"), &["top"]);
    assert!(said.starts_with("leaf (entry), running for "), "{said}");
    for part in ["LINKS: 1", "LANES: 1", "FLOWS: 1", &server.to_string(), "EVENTS"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(must_fail(&site.dir("none"), &["top"]).contains("ronproxy run"));
}

fn watch(dir: &Path) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut command = ronproxy(dir);
    let command = command.args(["status", "--watch", "--json"]).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap());
    (child, lines)
}

fn ended(child: &mut Child) -> ExitStatus {
    let mut status = None;
    wait_for("the end of a watched listing", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}
