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
fn what_is_saved_holds_after_a_restart_and_the_rest_does_not() {
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
