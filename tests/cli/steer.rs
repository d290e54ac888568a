//! `ronproxy use`, `hint` and `avoid` over a restart.

use std::path::Path;

use crate::overlay::{Running, Site, json, must, must_fail};

/// The exit and the hint that new flows are steered to.
fn steered(dir: &Path) -> (String, String) {
    let why = json(dir, &["why", "a.test"]);
    let choice = &why["exits"][0];
    (choice["exit"].to_string(), choice["hint"].to_string())
}

#[test]
fn a_paused_rule_decides_nothing_until_it_is_taken_back() {
    let site = Site::new();
    let dir = site.found("hub", &["--listen", "127.0.0.1:0"]);
    let config = dir.join("config.toml");
    let plain = std::fs::read_to_string(&config).unwrap();
    let rules = "\n[[rule]]\ndomain = \"a.test\"\nreject = true\n[[rule]]\nhint = \"loss\"\n";
    std::fs::write(&config, format!("{plain}{rules}")).unwrap();
    let rule = || json(&dir, &["why", "a.test"])["rule"].clone();
    let hub = Running::start(&dir, &[]);
    assert_eq!(rule(), 1);
    let listed = must(&dir, &["rules"]);
    assert!(listed.contains("in force") && listed.contains("domain a.test → reject"), "{listed}");
    assert!(must(&dir, &["pause", "1"]).contains("without one rule"));
    assert_eq!(rule(), 2);
    assert_eq!(steered(&dir).1, "\"loss\"");
    drop(hub);
    let hub = Running::start(&dir, &[]);
    assert_eq!(rule(), 1, "it was not saved");
    let paused = json(&dir, &["pause", "1", "--save"])["paused"].clone();
    drop(hub);
    // It is the same rule in another place.
    let more = "\n[[rule]]\nport = 25\nreject = true\n";
    std::fs::write(&config, format!("{plain}{more}{rules}")).unwrap();
    let _hub = Running::start(&dir, &[]);
    assert_eq!(rule(), 3);
    let listed = json(&dir, &["rules"]);
    assert_eq!((&listed[1]["id"], &listed[1]["paused"]), (&paused[0], &true.into()), "{listed}");
    must(&dir, &["pause", "2", "--not", "--save"]);
    assert_eq!(rule(), 2);
    assert!(must_fail(&dir, &["pause", "9"]).contains("`ronproxy rules` lists them"));
    must(&dir, &["pause", "2", "--save"]);
    std::fs::write(&config, plain).unwrap();
    must(&dir, &["reload"]);
    let steered = json(&dir, &["hint", "loss", "--save"]);
    assert_eq!(steered["paused"], serde_json::json!([]), "no such rule is left: {steered}");
}

#[test]
fn saved_steering_survives_a_restart_and_the_rest_does_not() {
    let site = Site::new();
    let dir = site.found("hub", &["--listen", "127.0.0.1:0"]);
    let start = || Running::start(&dir, &[]);
    let hub = start();
    assert!(must(&dir, &["use", "hub", "--save"]).contains("exit hub"));
    assert!(must(&dir, &["hint", "loss"]).contains("hint loss"));
    assert_eq!(steered(&dir).1, "\"loss\"");
    drop(hub);
    let hub = start();
    assert!(must(&dir, &["hint", "throughput", "--save"]).contains("exit hub, hint throughput"));
    drop(hub);
    let hub = start();
    assert_eq!(steered(&dir).1, "\"throughput\"");
    for back in ["use", "hint"] {
        must(&dir, &[back, "auto", "--save"]);
    }
    drop(hub);
    let hub = start();
    assert_eq!(steered(&dir).1, "\"latency\"");
    drop(hub);

    // A damaged file is named in the log, and the node runs.
    std::fs::write(dir.join("state/steering.json"), "{").unwrap();
    let _hub = start();
    assert!(std::fs::read_to_string(dir.join("log")).unwrap().contains("steering.json is damaged"));
    assert!(must_fail(&dir, &["use", "nobody", "--save"]).contains("nobody"));
    assert_eq!(std::fs::read_to_string(dir.join("state/steering.json")).unwrap(), "{");
}
