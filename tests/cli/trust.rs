//! Revocation and renewal between real processes.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use super::overlay::{Running, Site, configure, is_rid_of, json, must, wait_for};
use super::web;

/// What a revocation may take to act.
pub const WITHIN: Duration = Duration::from_secs(5);

/// How often the server sends a byte.
const PACE: Duration = Duration::from_millis(10);

/// Sends a byte again and again to everyone who connects, until the test's process ends.
pub fn drip() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || {
                let mut stream = stream.unwrap();
                while stream.write_all(b"x").is_ok() {
                    sleep(PACE);
                }
            });
        }
    });
    address
}

#[test]
fn a_revocation_acts_within_five_seconds_while_a_download_goes_on() {
    let site = Site::new();
    let hub = site.hub();
    let _hub = Running::start(&hub, &[]);
    let dirs = ["ann", "bob", "cat", "eve"].map(|name| site.join(name));
    let nodes = dirs.each_ref().map(|dir| Running::start(dir, &[]));
    wait_for("the mesh", || {
        dirs.iter().all(|dir| {
            let links = json(dir, &["links"]);
            links.as_array().unwrap().iter().filter(|link| link["up"] == true).count() == 4
        })
    });
    let [ann, _, cat, eve] = &nodes;
    let server = drip();
    let mut download = web::tunnel(ann.proxy(), server).unwrap();
    let mut hers = web::tunnel(eve.proxy(), server).unwrap();
    for stream in [&mut download, &mut hers] {
        stream.read_exact(&mut [0; 50]).unwrap();
    }
    // One node is away when it happens.
    cat.signal("-STOP");
    let start = Instant::now();
    let said = must(&hub, &["revoke", "eve"]);
    assert!(said.contains("eve is revoked"), "{said}");
    wait_for("the end of eve", || {
        [&hub, &dirs[0], &dirs[1]].iter().all(|dir| is_rid_of(dir, "eve"))
    });
    assert!(start.elapsed() < WITHIN, "{:?}", start.elapsed());
    cat.signal("-CONT");
    let back = Instant::now();
    wait_for("the end of eve, later", || is_rid_of(&dirs[2], "eve"));
    assert!(back.elapsed() < WITHIN, "{:?}", back.elapsed());
    let start = Instant::now();
    download.read_exact(&mut [0; 200]).unwrap();
    assert!(start.elapsed() < WITHIN, "{:?}", start.elapsed());
    wait_for("eve to be alone", || json(&dirs[3], &["status"])["links_up"] == 0);
    wait_for("eve to be told", || must(&dirs[3], &["status"]).contains("revoked"));
    // After a restart as before: the list is in the folder.
    drop(nodes);
    let _ann = Running::start(&dirs[0], &[]);
    let _eve = Running::start(&dirs[3], &[]);
    wait_for("ann's link", || json(&dirs[0], &["status"])["links_up"] == 1);
    sleep(Duration::from_secs(2));
    assert_eq!(json(&dirs[3], &["status"])["links_up"], 0);
}

#[test]
fn certificates_of_seconds_are_renewed_while_a_flow_is_open() {
    let site = Site::new();
    let hub = site.hub();
    configure(&hub, "certificate_lifetime = \"168h\"", "certificate_lifetime = \"15s\"");
    let _hub = Running::start(&hub, &[]);
    let dir = site.join("leaf");
    let leaf = Running::start(&dir, &[]);
    wait_for("the link", || json(&dir, &["links"])[0]["up"] == true);
    let mut stream = web::tunnel(leaf.proxy(), drip()).unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(40) {
        stream.read_exact(&mut [0; 20]).unwrap();
    }
    let status = json(&dir, &["status"]);
    let certificate = &status["certificate"];
    assert!(certificate["renewals"].as_u64().unwrap() >= 3, "{certificate}");
    assert_eq!(certificate["renewal_error"], serde_json::Value::Null);
    must(&dir, &["doctor"]);
    assert!(must(&dir, &["status"]).contains("renewed"));
    // Off until long after the end of its certificate, it comes back by itself.
    drop((stream, leaf));
    sleep(Duration::from_secs(20));
    let leaf = Running::start(&dir, &[]);
    let server = web::serve();
    wait_for("a page", || web::fetch(leaf.proxy(), server).is_ok_and(|page| page == web::PAGE));
    let log = std::fs::read_to_string(dir.join("log")).unwrap();
    assert!(log.contains("ended") && log.contains("is renewed"), "{log}");
}
