//! Commands that go on showing, and readers that go away or are slow.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    overlay::{Running, Site, json, ronproxy, wait_for},
    web,
};

#[test]
fn a_command_that_follows_ends_when_its_reader_goes() {
    let site = Site::new();
    let _nodes = site.pair(&[]);
    let dir = site.dir("leaf");
    for arguments in [
        "events --follow",
        "events --follow --json",
        "logs --follow",
        "status --watch",
        "links --watch --json",
    ] {
        // Nothing happens any more, so only the closed pipe can end it.
        let line = format!(
            "set -o pipefail; '{}' --dir '{}' {arguments} | head -1",
            env!("CARGO_BIN_EXE_ronproxy"),
            dir.display()
        );
        let started = Instant::now();
        let output = Command::new("bash").args(["-c", &line]).output().unwrap();
        let took = started.elapsed();
        assert!(output.status.success(), "{arguments}: {output:?}");
        assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), 1, "{arguments}");
        assert!(output.stderr.is_empty(), "{arguments}: {output:?}");
        // An idle answer of the node takes four seconds.
        assert!(took < Duration::from_secs(3), "{arguments}: {took:?}");
    }
}

#[test]
fn a_slow_reader_of_events_is_told_what_it_missed() {
    // As many as three times what a node keeps of a class, and a pipe holds some hundred.
    const EVENTS: usize = 3072;
    let site = Site::new();
    let hub = site.hub();
    let file = hub.join("config.toml");
    let rules = std::fs::read_to_string(&file).unwrap() + "\n[[rule]]\nport = 1\nreject = true\n";
    std::fs::write(file, rules).unwrap();
    let node = Running::start(&hub, &[]);
    let arguments = ["events", "--follow", "--json", "--class", "refusals"];
    let mut reader = ronproxy(&hub).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
    let refuse = || web::tunnel(node.proxy(), ([192, 0, 2, 1], 1).into()).unwrap_err();
    refuse();
    let mut lines = BufReader::new(reader.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(next()["kind"], "flow-refused");
    (1..EVENTS).for_each(|_| drop(refuse()));
    wait_for("all refusals", || json(&hub, &["events", "--class", "refusals"])[99]["id"] == EVENTS);
    let (mut read, mut missed) = (1, 0);
    while read + missed < EVENTS as u64 {
        match next() {
            line if line["dropped"].is_u64() => missed += line["dropped"].as_u64().unwrap(),
            _ => read += 1,
        }
    }
    println!("of {EVENTS} events a slow reader got {read}, and was told of {missed} others");
    assert!(missed > 0 && read > 1024, "{read} {missed}");
    reader.kill().unwrap();
    reader.wait().unwrap();
}
