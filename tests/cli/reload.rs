//! A running node reads its configuration again, and tells systemd.

use std::{fs, os::unix::net::UnixDatagram, path::Path};

use crate::{
    overlay::{PATIENCE, Running, Site, configure, json, must, must_fail, ronproxy, wait_for},
    web,
};

const REJECT: &str = "[[rule]]\ndomain = 'blocked.test'\nreject = true\n";

fn append(dir: &Path, text: &str) {
    let file = dir.join("config.toml");
    let all = fs::read_to_string(&file).unwrap() + text;
    // In place, as a confined node may read the file that it started with.
    fs::write(file, all).unwrap();
}

fn reloads(dir: &Path) -> usize {
    let events = json(dir, &["events"]);
    events.as_array().unwrap().iter().filter(|event| event["kind"] == "reloaded").count()
}

#[test]
fn a_reload_changes_rules_and_keeps_open_flows() {
    let site = Site::new();
    let dir = site.hub();
    let node = Running::start(&dir, &[]);
    let server = web::serve();
    let mut open = web::tunnel(node.proxy(), server).unwrap();
    let why = || json(&dir, &["why", "blocked.test"]);
    assert!(why()["rule"].is_null());
    append(&dir, REJECT);
    configure(&dir, "patience = \"10min\"", "patience = \"50s\"");
    configure(&dir, "[node]\n", "[node]\nadvertise = [\"localhost:7\"]\n");
    let said = must(&dir, &["reload"]);
    assert_eq!(said.trim(), "New in force: node.advertise, rule. A restart is needed for: lane.");
    let log = || fs::read_to_string(dir.join("log")).unwrap();
    wait_for("the new address", || log().contains("advertises other addresses now"));
    assert_eq!(why()["rule"], 1);
    // A mistake is told with its line, and changes nothing.
    append(&dir, "[[rule]]\nprot = 25\n");
    let error = must_fail(&dir, &["reload"]);
    assert!(error.contains("config.toml:") && error.contains("`prot`"), "{error}");
    assert_eq!((why()["rule"].clone(), reloads(&dir)), (1.into(), 1));
    assert_eq!(web::page_over(&mut open, server).unwrap(), web::PAGE);
}

#[test]
fn sighup_reads_the_configuration_unless_it_was_ignored() {
    let site = Site::new();
    let dir = site.hub();
    let node = Running::start(&dir, &[]);
    append(&dir, REJECT);
    node.signal("-HUP");
    wait_for("the reload", || reloads(&dir) == 1);
    assert_eq!(json(&dir, &["why", "blocked.test"])["rule"], 1);
    append(&dir, "[[rule]]\nprot = 25\n");
    node.signal("-HUP");
    let log = dir.join("log");
    wait_for("the refusal", || {
        fs::read_to_string(&log).unwrap().contains("the configuration stays as it is")
    });
    assert_eq!(reloads(&dir), 1);
    drop(node);
    configure(&dir, "[[rule]]\nprot = 25\n", "");
    let node = Running::start_ignoring_hangup(&dir);
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    assert_eq!((mask("SigIgn:") & 1, mask("SigCgt:") & 1), (1, 0));
}

#[test]
fn the_service_manager_hears_of_start_reload_life_and_stop() {
    let site = Site::new();
    let dir = site.hub();
    let path = site.dir("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = ronproxy(&dir);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000");
    let mut node = Running::start_command(command, &dir);
    let mut buffer = [0; 64];
    let mut hear = |wanted: &str| loop {
        let length = manager.recv(&mut buffer).unwrap();
        let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if said == wanted {
            return;
        }
        assert_eq!(said, "WATCHDOG=1", "while waiting for {wanted}");
    };
    hear("READY=1");
    hear("WATCHDOG=1");
    must(&dir, &["reload"]);
    hear("RELOADING=1");
    hear("READY=1");
    node.signal("-TERM");
    hear("STOPPING=1");
    assert!(node.ended().success());
}
