//! Members and invitations by the running node: by its socket, as the dashboard asks.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, SystemTime},
};

use serde_json::Value;

use crate::overlay::{Running, Site, configure, free_udp, json, must, socket, wait_for};

/// The status of the answer, and the answer.
fn ask(dir: &Path, method: &str, path: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket(dir)).unwrap();
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn invite(dir: &Path, name: &str) -> (u16, String) {
    ask(dir, "POST", &format!("/api/v1/invite?name={name}"))
}

fn members(dir: &Path) -> Vec<Value> {
    let (status, body) = ask(dir, "GET", "/api/v1/members");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

#[test]
fn an_invitation_of_the_dashboard_lets_an_entry_join_and_is_audited() {
    let site = Site::new();
    let hub = site.hub();
    configure(&hub, "invite_from_dashboard = false", "invite_from_dashboard = true");
    let _node = Running::start(&hub, &[]);
    // The second certificate shall end later than the first: the order of the listings is that of names.
    let began = SystemTime::now();
    assert_eq!(json(&hub, &["status"])["invites"], true);
    let (status, body) = invite(&hub, "leaf");
    assert_eq!(status, 200, "{body}");
    let given: Value = serde_json::from_str(&body).unwrap();
    let line = given["invitation"].as_str().unwrap();
    wait_for("the next second", || began.elapsed().unwrap() > Duration::from_secs(1));
    let leaf = site.join_by(line, "leaf", &["--listen", &free_udp().to_string()]);
    let audit = json(&hub, &["audit"]);
    let by = |event: &str| {
        let lines = audit.as_array().unwrap().iter();
        lines
            .filter(|line| line["event"] == event)
            .map(|line| line["by"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(by("invite"), ["this node's dashboard"]);
    assert_eq!(by("join"), ["127.0.0.1"]);
    let list = json(&hub, &["invite", "--list"]);
    assert_eq!((&list[0]["id"], &list[0]["state"]), (&given["id"], &"used".into()));
    assert_eq!((&list[0]["exit"], &list[0]["relay"]), (&false.into(), &false.into()));
    let (status, said) = invite(&hub, "leaf");
    assert!(status == 400 && said.contains("the name leaf is taken"), "{status} {said}");

    // What the command lists, the running node shows, too.
    wait_for("the new member", || members(&hub).len() == 2);
    let _leaf = Running::start(&leaf, &[]);
    wait_for("the link", || json(&leaf, &["links"])[0]["up"] == true);
    for dir in [&hub, &leaf] {
        wait_for("the same members by both", || {
            let shown = members(dir);
            shown.len() == 2
                && shown.iter().all(|member| member["seen_seconds_ago"] == 0)
                && Value::from(shown) == json(dir, &["members"])
        });
    }
    let (status, said) = invite(&leaf, "third");
    assert!(status == 403 && said.contains("has not the overlay's authority"), "{status} {said}");
    must(&hub, &["revoke", "leaf"]);
    wait_for("the revocation", || members(&hub)[1]["state"] == "revoked");
}

#[test]
fn the_dashboard_invites_nobody_unless_that_is_configured() {
    let site = Site::new();
    let hub = site.hub();
    let _node = Running::start(&hub, &[]);
    assert_eq!(json(&hub, &["status"])["invites"], false);
    let (status, said) = invite(&hub, "leaf");
    assert_eq!(status, 403, "{said}");
    assert!(
        said.contains("invite_from_dashboard = true") && said.contains("--name leaf"),
        "{said}"
    );
    assert_eq!(json(&hub, &["invite", "--list"]), Value::Array(Vec::new()));
    let (status, said) = invite(&hub, "A%20B");
    assert!(status == 400 && said.contains("name"), "{status} {said}");
}
