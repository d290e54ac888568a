//! Backups of the authority, and overlays that go on from them, with real processes.

use std::{
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    overlay::{
        Running, Site, configure, free_udp, json, must, must_fail, ronproxy, run, stderr, wait_for,
    },
    web,
};

/// Writes a passphrase for scripts.
fn passphrase(site: &Site, text: &str) -> String {
    let path = site.dir("passphrase");
    std::fs::write(&path, format!("{text}\n")).unwrap();
    path.to_string_lossy().into_owned()
}

#[test]
fn an_overlay_goes_on_from_a_backup_on_another_machine() {
    let site = Site::new();
    let hub = site.hub();
    let mut old = Running::start(&hub, &[]);
    let leaf = site.join("leaf");
    let _leaf = Running::start(&leaf, &[]);
    wait_for("the link", || json(&leaf, &["links"])[0]["up"] == true);
    site.join("gone");
    site.join("early");
    let revoked = json(&hub, &["revoke", "gone"]);
    let open = site.invite("late");
    let file = site.dir("overlay.age").to_string_lossy().into_owned();
    let secret = passphrase(&site, "correct horse battery");
    // By a bare name, in the current folder.
    let backup = ["backup", "overlay.age", "--json", "--passphrase-file", &secret];
    let done = ronproxy(&hub).current_dir(site.dir("")).args(backup).output().unwrap();
    let facts: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(facts["name"], "hub", "{}", stderr(&done));
    assert!(must_fail(&hub, &["backup", &file, "--passphrase-file", &secret]).contains("exists"));
    // Revoked after the backup: the list that the members have goes on counting.
    site.join("last");
    must(&hub, &["revoke", "early"]);
    let after = json(&hub, &["revoke", "last"]);
    wait_for("the list at the leaf", || {
        json(&leaf, &["status"])["certificate"]["revocation_list"] == after["list"]
    });
    old.crash();
    std::fs::remove_dir_all(&hub).unwrap();
    let new = site.dir("new");
    let restored = json(&new, &["restore", &file, "--passphrase-file", &secret]);
    assert_eq!((&restored["name"], restored["addresses"].is_array()), (&"hub".into(), true));
    assert!(must_fail(&new, &["restore", &file, "--passphrase-file", &secret]).contains("exists"));
    let _new = Running::start(&new, &[]);
    wait_for("the link", || json(&leaf, &["links"])[0]["up"] == true);
    // An invitation from before works, a new one too, and numbers go on rising.
    must(&site.dir("late"), &["join", &open]);
    let line = must(&new, &["invite", "--name", "fresh"]);
    must(&site.dir("fresh"), &["join", line.trim()]);
    // On disk, where `revoke` reads it.
    let list = |dir: &Path| std::fs::read(dir.join("state/revoked.crl")).unwrap();
    wait_for("the newest list at the restored node", || list(&new) == list(&leaf));
    let next = json(&new, &["revoke", "late"]);
    assert!(next["list"].as_u64() > after["list"].as_u64());
    assert!(after["list"].as_u64() > revoked["list"].as_u64());
    assert_eq!(next["revoked"], 4, "gone, early, last and late");
    let early = json(&new, &["members"]);
    let early = early.as_array().unwrap().iter().find(|member| member["name"] == "early").cloned();
    assert_eq!(early.unwrap()["state"], "revoked");
    let log = json(&new, &["audit"]);
    assert!(log.as_array().unwrap().iter().any(|entry| entry["event"] == "restore"));
}

/// Makes others dial a port of this machine where nobody answers, as those of a node behind a NAT.
fn hide(dir: &Path) -> UdpSocket {
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    let line = "#advertise = [\"192.0.2.7:4600\"]";
    configure(dir, line, &format!("advertise = [\"{address}\"]"));
    nobody
}

/// Backs the authority up, loses its machine, and restores it at another address: its folder, and where
/// it will listen.
fn moved(site: &Site, hub: &mut Running) -> (PathBuf, SocketAddr) {
    let (dir, file) = (site.dir("hub"), site.dir("overlay.age").to_string_lossy().into_owned());
    let secret = passphrase(site, "correct horse battery");
    must(&dir, &["backup", &file, "--passphrase-file", &secret]);
    hub.crash();
    std::fs::remove_dir_all(&dir).unwrap();
    let (new, address) = (site.dir("new"), free_udp());
    must(&new, &["restore", &file, "--passphrase-file", &secret]);
    configure(&new, &hub.listen().to_string(), &address.to_string());
    (new, address)
}

/// Whether the node in `dir` has a link to `peer` whose path is up.
fn is_linked(dir: &Path, peer: &str) -> bool {
    let links = json(dir, &["links"]);
    links.as_array().unwrap().iter().any(|link| link["peer"] == peer && link["up"] == true)
}

#[test]
fn members_find_an_authority_that_was_restored_at_another_address() {
    let site = Site::new();
    let mut hub = Running::start(&site.hub(), &[]);
    let [leaf, hidden, away] = ["leaf", "hidden", "away"].map(|name| site.join(name));
    let _nobody = [hide(&hidden), hide(&away)];
    let shown = Running::start(&leaf, &[]);
    let running = Running::start(&hidden, &[]);
    let left = Running::start(&away, &[]);
    let all = || [&leaf, &hidden, &away].iter().all(|dir| is_linked(dir, "hub"));
    wait_for("the links", || all() && is_linked(&hidden, "leaf") && is_linked(&away, "leaf"));
    // The backup has the members that the node has written down.
    let members = site.dir("hub").join("state/members.json");
    let written = || std::fs::read_to_string(&members).unwrap_or_default();
    wait_for("the leaf's address on disk", || written().contains(&shown.listen().to_string()));
    drop(left);
    let (new, address) = moved(&site, &mut hub);
    let _new = Running::start(&new, &[]);
    // The authority dials the leaf, and the leaf tells the node that nobody can dial.
    wait_for("the leaf's link", || is_linked(&leaf, "hub"));
    wait_for("the hidden node's link", || is_linked(&hidden, "hub"));
    let _away = Running::start(&away, &[]);
    wait_for("the link of the one that was away", || is_linked(&away, "hub"));
    for dir in [&leaf, &hidden, &away] {
        let contact = std::fs::read_to_string(dir.join("state/authority.json")).unwrap();
        assert!(contact.contains(&address.to_string()), "{contact}");
    }
    let server = web::serve();
    wait_for("a page", || web::fetch(running.proxy(), server).is_ok_and(|page| page == web::PAGE));
    let line = must(&new, &["invite", "--name", "fresh"]);
    must(&site.dir("fresh"), &["join", line.trim()]);
}

#[test]
fn a_member_that_nobody_reaches_is_told_where_the_authority_is_now() {
    let site = Site::new();
    let dir = site.hub();
    configure(&dir, "certificate_lifetime = \"168h\"", "certificate_lifetime = \"15s\"");
    let mut hub = Running::start(&dir, &[]);
    let lone = site.join("lone");
    let _nobody = hide(&lone);
    let running = Running::start(&lone, &[]);
    wait_for("the link", || is_linked(&lone, "hub"));
    drop(running);
    let (new, address) = moved(&site, &mut hub);
    let _new = Running::start(&new, &[]);
    // Without a certificate it gets a link to nobody, so it has to ask the authority.
    let ended = || String::from_utf8_lossy(&run(&lone, &["doctor"]).stdout).contains("ended");
    wait_for("the end of its certificate", ended);
    let line = "#authority = [\"192.0.2.8:4600\"]";
    configure(&lone, line, &format!("authority = [\"{address}\"]"));
    let _running = Running::start(&lone, &[]);
    wait_for("the link", || is_linked(&lone, "hub"));
    let renewals = json(&lone, &["status"])["certificate"]["renewals"].as_u64();
    assert!(renewals >= Some(1), "{renewals:?}");
}

#[test]
fn only_the_passphrase_opens_a_backup_and_altered_ones_write_nothing() {
    let site = Site::new();
    let hub = site.hub();
    let file = site.dir("overlay.age");
    let name = file.to_string_lossy().into_owned();
    let secret = passphrase(&site, "correct horse battery");
    must(&hub, &["backup", &name, "--passphrase-file", &secret]);
    let bytes = std::fs::read(&file).unwrap();
    assert!(bytes.starts_with(b"age-encryption.org/v1\n"));
    let new = site.dir("new");
    let restore = |why: &str| {
        let said = must_fail(&new, &["restore", &name, "--passphrase-file", &secret]);
        assert!(said.contains(why) && !new.exists(), "{said}");
        let left = std::fs::read_dir(site.dir("")).unwrap().count();
        assert_eq!(left, 3, "hub, the backup and the passphrase");
    };
    for at in [bytes.len() / 2, bytes.len() - 1] {
        let mut altered = bytes.clone();
        altered[at] ^= 1;
        std::fs::write(&file, &altered).unwrap();
        restore("damaged");
    }
    std::fs::write(&file, &bytes[..bytes.len() - 20]).unwrap();
    restore("damaged");
    std::fs::write(&file, b"hello").unwrap();
    restore("no backup");
    std::fs::write(&file, &bytes).unwrap();
    passphrase(&site, "another passphrase");
    restore("passphrase");
    passphrase(&site, "short");
    assert!(must_fail(&hub, &["backup", "x.age", "--passphrase-file", &secret]).contains("12"));
    // Without a terminal a passphrase has to come from somewhere.
    assert!(must_fail(&new, &["restore", &name]).contains("--passphrase-file"));
}
