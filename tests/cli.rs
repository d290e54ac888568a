//! The program from outside: real processes, folders, ports and signals.

#![cfg(unix)]
#![expect(unreachable_pub, clippy::unwrap_used, clippy::print_stderr, reason = "test helpers")]

#[path = "cli/authority.rs"]
mod authority;
#[path = "cli/backup.rs"]
mod backup;
#[path = "cli/completions.rs"]
mod completions;
#[cfg(target_os = "linux")]
#[path = "cli/fast_clocks.rs"]
mod fast_clocks;
#[path = "cli/follow.rs"]
mod follow;
#[path = "cli/invite.rs"]
mod invite;
#[path = "cli/overlay.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod overlay;
#[path = "cli/reload.rs"]
mod reload;
#[path = "cli/see.rs"]
mod see;
#[path = "cli/shells.rs"]
mod shells;
#[path = "cli/steer.rs"]
mod steer;
#[path = "cli/terminal.rs"]
mod terminal;
#[path = "cli/trust.rs"]
mod trust;
#[path = "cli/web.rs"]
mod web;
#[path = "cli/words.rs"]
mod words;

use std::{
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;

use overlay::{Running, Site, free_udp, json, must, must_fail, run, stderr, wait_for};

#[test]
fn a_page_behind_the_exit_is_fetched_through_the_proxy() {
    let site = Site::new();
    let (_hub, leaf) = site.pair(&[]);
    let server = web::serve();
    assert_eq!(web::fetch(leaf.proxy(), server).unwrap(), web::PAGE);
    for scheme in ["socks5h", "socks4a", "http"] {
        let proxy = format!("{scheme}://{}", leaf.proxy());
        let url = format!("http://{server}/");
        let curl = Command::new("curl").args(["-sS", "-m", "20", "-x", &proxy, &url]).output();
        // Without curl the hand-written client has to do.
        let Ok(curl) = curl else { return };
        assert_eq!(String::from_utf8_lossy(&curl.stdout), web::PAGE, "{scheme}: {}", stderr(&curl));
    }
}

#[test]
fn listings_show_the_open_flow_as_a_table_and_as_json() {
    let site = Site::new();
    let (_hub, leaf) = site.pair(&[]);
    let dir = site.dir("leaf");
    let server = web::serve();
    let _flow = web::tunnel(leaf.proxy(), server).unwrap();
    let flows = json(&dir, &["flows"]);
    assert_eq!(flows[0]["target"], server.to_string());
    assert_eq!(flows[0]["exit"], "hub");
    assert_eq!(flows[0]["route"], "direct");
    assert_eq!((&flows[0]["reroutes"], &flows[0]["history"]), (&0.into(), &serde_json::json!([])));
    let status = json(&dir, &["status"]);
    assert_eq!((&status["flows"], &status["links_up"]), (&1.into(), &1.into()));
    assert_eq!(status["pid"], leaf.ready["pid"]);
    let lanes = json(&dir, &["lanes"]);
    assert_eq!(lanes[0]["peer"], "hub");
    assert_eq!(flows[0]["lane"], lanes[0]["lane"]);
    assert_eq!(status["measuring"]["budget_bps"], 32_000);
    let table = must(&dir, &["flows"]);
    let (head, row) = table.split_once('\n').unwrap();
    assert_eq!(head.find("DESTINATION"), row.find("127.0.0.1"), "{table}");
    for command in ["status", "links", "lanes"] {
        assert!(!must(&dir, &[command]).contains('\u{1b}'));
    }
    assert!(must(&dir, &["env"]).contains(&format!("ALL_PROXY=socks5h://{}", leaf.proxy())));
    must(&dir, &["doctor"]);
}

#[test]
fn why_names_the_rule_the_exits_and_what_speaks_against_each_route() {
    let site = Site::new();
    let (_hub, leaf) = site.pair(&[]);
    let dir = site.dir("leaf");
    let why = json(&dir, &["why", "web.mit.edu", "--hint", "loss"]);
    assert_eq!((&why["target"], &why["rule"]), (&"web.mit.edu:443".into(), &Value::Null));
    let exit = &why["exits"][0];
    assert_eq!((&exit["exit"], &exit["hint"]), (&"hub".into(), &"loss".into()));
    assert_eq!((&exit["lane"], &exit["route"]), (&Value::Null, &"direct".into()));
    assert_eq!(exit["candidates"][0]["verdict"], "chosen");
    let server = web::serve();
    let _flow = web::tunnel(leaf.proxy(), server).unwrap();
    let said = must(&dir, &["why", &server.to_string()]);
    assert!(said.contains("no rule matches") && said.contains(" goes direct."), "{said}");
    let routes = json(&dir, &["routes", "hub"]);
    assert_eq!((&routes[0]["route"], routes[0]["lane"].is_u64()), (&"direct".into(), true));
    assert!(must(&dir, &["routes"]).starts_with("EXIT"));
    assert!(must_fail(&dir, &["routes", "nowhere"]).contains("known are: hub"));
    let unknown = json(&dir, &["why", "web.mit.edu", "--exit", "nosuch"]);
    assert!(unknown["refused"].as_str().unwrap().contains("is named nosuch"), "{unknown}");
    let url = json(&dir, &["why", "http://web.mit.edu/a"]);
    assert_eq!(url["target"], "web.mit.edu:80");
    assert!(must_fail(&dir, &["why", "a:b:c"]).contains("write it as web.mit.edu"));
    assert!(must_fail(&dir, &["why", "a", "--hint", "speed"]).contains("hint"));
}

#[test]
fn an_idle_node_stops_at_once_and_leaves_a_clean_folder() {
    let site = Site::new();
    let (mut hub, mut leaf) = site.pair(&[]);
    let start = Instant::now();
    leaf.signal("-TERM");
    assert_eq!(leaf.ended().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
    let dir = site.dir("leaf");
    assert!(!dir.join("state/control.sock").exists());
    assert!(std::fs::read_to_string(dir.join("state/members.json")).unwrap().contains("hub"));
    assert!(must_fail(&dir, &["status"]).contains("ronproxy run"));
    must(&site.dir("hub"), &["stop"]);
    assert_eq!(hub.ended().code(), Some(0));
}

#[test]
fn open_flows_delay_the_end_for_the_drain_time_only() {
    let site = Site::new();
    let (_hub, mut leaf) = site.pair(&["--drain", "2s"]);
    let _flow = web::tunnel(leaf.proxy(), web::serve()).unwrap();
    let start = Instant::now();
    leaf.signal("-TERM");
    assert_eq!(leaf.ended().code(), Some(0));
    let took = start.elapsed();
    assert!((Duration::from_millis(1500)..Duration::from_secs(10)).contains(&took), "{took:?}");
}

#[test]
fn a_second_signal_ends_the_node_at_once() {
    let site = Site::new();
    let (_hub, mut leaf) = site.pair(&["--drain", "10min"]);
    let _flow = web::tunnel(leaf.proxy(), web::serve()).unwrap();
    leaf.signal("-INT");
    let dir = site.dir("leaf");
    wait_for("stopping", || json(&dir, &["status"])["stopping"] == true);
    leaf.signal("-INT");
    assert_eq!(leaf.ended().code(), Some(130));
    assert!(!dir.join("state/control.sock").exists());
}

#[test]
fn a_closed_terminal_and_a_log_that_fails_do_not_stop_the_node() {
    let site = Site::new();
    let mut hub = Running::start_with_log(&site.hub(), "/dev/full");
    let dir = site.dir("hub");
    hub.signal("-HUP");
    // Every join writes into the log.
    let leaf = Running::start(&site.join("leaf"), &[]);
    hub.signal("-HUP");
    wait_for("the link", || json(&dir, &["links"])[0]["up"] == true);
    assert_eq!(web::fetch(leaf.proxy(), web::serve()).unwrap(), web::PAGE);
    hub.signal("-TERM");
    assert_eq!(hub.ended().code(), Some(0));
}

#[test]
fn a_folder_too_deep_for_a_socket_is_refused_by_init() {
    let site = Site::new();
    let dir = site.dir(&"x".repeat(120));
    let said = must_fail(&dir, &["init", "--name", "hub", "--listen", "127.0.0.1:0"]);
    assert!(said.contains("--dir") && said.contains("107 bytes"), "{said}");
    assert!(!dir.exists());
}

#[test]
fn an_invitation_works_once_unaltered_and_in_time() {
    let site = Site::new();
    let hub = site.hub();
    let line = site.invite("leaf");
    let join = |dir: &str, line: &str| must_fail(&site.dir(dir), &["join", line]);
    let unanswered = run(&site.dir("none"), &["join", &line]);
    assert!(stderr(&unanswered).contains("ronproxy run"), "{}", stderr(&unanswered));
    let _hub = Running::start(&hub, &[]);
    must(&site.dir("leaf"), &["join", &line]);
    assert!(join("again", &line).contains("used"));
    assert!(!site.dir("again").join("config.toml").exists());
    let changed = if line.ends_with('A') { "B" } else { "A" };
    let altered = format!("{}{changed}{}", &line[..40], &line[41..]);
    assert!(altered == line || join("x", &altered).contains("altered"));
    assert!(join("x", &line[..line.len() - 9]).contains("cut off"));
    assert!(join("x", "hello").contains("ron1:"));
    let late = must(&hub, &["invite", "--name", "late", "--expires", "0s"]);
    let said = join("x", late.trim());
    assert!(said.contains("the invitation expired"), "{said}");
    assert!(must_fail(&hub, &["invite", "--name", "leaf"]).contains("ronproxy revoke leaf"));
    must(&hub, &["revoke", "leaf"]);
    must(&hub, &["invite", "--name", "leaf"]);
    assert!(must_fail(&site.dir("leaf"), &["invite", "--name", "y"]).contains("ronproxy init"));
}

#[test]
fn init_and_join_never_overwrite_a_node() {
    let site = Site::new();
    let hub = site.hub();
    let before = std::fs::read(hub.join("node.key")).unwrap();
    let listen = free_udp().to_string();
    let said = must_fail(&hub, &["init", "--name", "other", "--listen", &listen]);
    assert!(said.contains("--dir"), "{said}");
    let line = site.invite("leaf");
    assert!(must_fail(&hub, &["join", &line]).contains("exists"));
    assert_eq!(std::fs::read(hub.join("node.key")).unwrap(), before);
    for secret in ["node.key", "authority/ca.key", "authority/audit.jsonl", "config.toml"] {
        let mode = std::fs::metadata(hub.join(secret)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
    // A configuration without a node would win over the options.
    let other = site.dir("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("config.toml"), "").unwrap();
    must_fail(&other, &["init", "--name", "other", "--listen", &listen]);
}

#[test]
fn a_node_that_is_nowhere_must_be_advertised_before_inviting() {
    let site = Site::new();
    let hub = site.dir("hub");
    must(&hub, &["init", "--name", "hub", "--listen", "0.0.0.0:0"]);
    assert!(must_fail(&hub, &["invite", "--name", "leaf"]).contains("advertise"));
    let options = ["--advertise", "hub.test:4600", "--advertise", "[2001:db8::1]:4600"];
    let facts = json(&hub, &[&["invite", "--name", "leaf"][..], &options].concat());
    assert_eq!(facts["addresses"][0], "[2001:db8::1]:4600");
    assert_eq!(facts["names"][0], "hub.test:4600");
    assert!(facts["invitation"].as_str().unwrap().starts_with("ron2:"));
    let other = site.dir("other");
    let advertise = ["--listen", "0.0.0.0:4600", "--advertise", "192.0.2.1:4600"];
    must(&other, &[&["init", "--name", "hub"][..], &advertise].concat());
    let facts = json(&other, &["invite", "--name", "leaf", "--group", "research"]);
    assert_eq!(facts["addresses"][0], "192.0.2.1:4600");
    assert_eq!(facts["running"], false);
}

#[test]
fn a_taken_port_is_named_with_what_to_do() {
    let site = Site::new();
    let hub = site.dir("hub");
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    must(&hub, &["init", "--name", "hub", "--listen", &listen]);
    let said = must_fail(&hub, &["run"]);
    assert!(said.contains(&listen) && said.contains("config.toml"), "{said}");
    assert!(!hub.join("state/control.sock").exists());
    let doctor = run(&hub, &["doctor", "--json"]);
    assert_eq!(doctor.status.code(), Some(1));
    let findings: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
    let udp = findings.as_array().unwrap().iter().find(|finding| finding["check"] == "UDP");
    assert_eq!(udp.unwrap()["ok"], false);
    drop(taken);
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = proxy.local_addr().map(|a| (proxy, a.to_string())).unwrap();
    assert!(must_fail(&hub, &["run", "--proxy", &proxy.1]).contains("in use"));
}

#[test]
fn a_configuration_error_names_its_line_and_the_nearest_key() {
    let site = Site::new();
    let config = site.hub().join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("patience = \"10min\"\n", "pateince = \"10min\"\n"))
        .unwrap();
    let line = text.lines().position(|line| line.starts_with("patience")).unwrap() + 1;
    let said = must_fail(&site.dir("hub"), &["run"]);
    assert!(said.contains(&format!("config.toml:{line}:")), "{said}");
    assert!(said.contains("did you mean `patience`?"), "{said}");
}

#[test]
fn a_second_run_in_the_same_folder_is_refused_and_names_the_first() {
    let site = Site::new();
    let dir = site.hub();
    let hub = Running::start(&dir, &[]);
    let said = must_fail(&dir, &["run"]);
    assert!(said.contains(&format!("already running in this folder, pid {}", hub.ready["pid"])));
    assert_eq!(said.lines().count(), 1, "nothing was begun before: {said}");
    assert_eq!(json(&dir, &["status"])["pid"], hub.ready["pid"]);
}

#[test]
fn new_flows_work_soon_after_the_exit_was_killed_and_started_again() {
    let site = Site::new();
    let (mut hub, leaf) = site.pair(&[]);
    let server = web::serve();
    assert_eq!(web::fetch(leaf.proxy(), server).unwrap(), web::PAGE);
    let members = site.dir("hub").join("state/members.json");
    wait_for("the members", || {
        std::fs::read_to_string(&members).is_ok_and(|text| text.contains("leaf"))
    });
    hub.crash();
    // The killed process left its socket behind.
    assert!(site.dir("hub").join("state/control.sock").exists());
    let _hub = Running::start(&site.dir("hub"), &[]);
    let start = Instant::now();
    wait_for("a flow", || web::fetch(leaf.proxy(), server).is_ok_and(|page| page == web::PAGE));
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn the_admin_socket_is_private_and_answers_nonsense_with_a_sentence() {
    let site = Site::new();
    let dir = site.hub();
    let _hub = Running::start(&dir, &[]);
    let socket = dir.join("state/control.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let ask = |request: &str| ask(&socket, request);
    assert!(ask("GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 404"));
    assert!(ask("GET /stop HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 405"));
    assert!(ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").contains("\nronproxy_members 0\n"));
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000));
    assert!(!ask(&long).contains("200 OK"));
    // Silent clients, more than are served at once, delay others until their time is up.
    let silent: Vec<_> = (0..40).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    assert_eq!(json(&dir, &["status"])["name"], "hub");
    drop(silent);
}

#[test]
fn help_is_no_error_and_a_wrong_command_line_is_one_of_its_own() {
    let nowhere = Path::new("/nonexistent/ronproxy");
    for (arguments, code) in [
        (&["--help"][..], 0),
        (&["--version"], 0),
        (&["completions", "bash"], 0),
        (&["man"], 0),
        (&["man", "join"], 0),
        (&["frob"], 2),
        (&["run", "--proxy", "nowhere"], 2),
        (&["init", "--name", "UPPER", "--listen", "127.0.0.1:1"], 2),
        (&["run"], 1),
        (&["status"], 1),
        (&["man", "frob"], 1),
    ] {
        let output = run(nowhere, arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
    }
}

fn ask(socket: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // The server may answer, and close, before it has read all.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}
