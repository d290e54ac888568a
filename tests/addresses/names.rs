//! A node that is known by name, and the name leads elsewhere.

use crate::{
    networks::Networks,
    overlay::{json, stderr, wait_for},
};

#[test]
fn a_node_is_found_at_the_new_address_of_its_name() {
    let Some(networks) = Networks::make() else { return };
    networks.know("laptop", "198.51.100.1 hub.test");
    let hub = networks.found(&["--no-entry", "--advertise", "hub.test:4600"]);
    let laptop = networks.join("laptop", &[], &["--no-entry"]);
    let mut entry = networks.start("laptop", &[]);
    let at = |address: &str| {
        let link = &json(&laptop, &["links"])[0];
        link["up"] == true && link["address"] == address
    };
    wait_for("the link", || at("198.51.100.1:4600"));

    // It moves while it does not run, and has forgotten the others: they have to find it.
    drop(hub);
    forget_members(&networks);
    networks.change("hub", "address del 198.51.100.1/24 dev four");
    networks.change("hub", "address add 198.51.100.9/24 dev four");
    networks.change("hub", "route replace default dev four");
    networks.know("laptop", "198.51.100.9 hub.test");
    let hub = networks.start("hub", &[]);
    wait_for("the link to the new address", || at("198.51.100.9:4600"));

    // The name is remembered over a restart, when nobody is where it was.
    entry.crash();
    drop(hub);
    forget_members(&networks);
    networks.change("hub", "address del 198.51.100.9/24 dev four");
    networks.change("hub", "address add 198.51.100.10/24 dev four");
    networks.know("laptop", "198.51.100.10 hub.test");
    let _hub = networks.start("hub", &[]);
    let _entry = networks.start("laptop", &[]);
    wait_for("the link after a restart", || at("198.51.100.10:4600"));
}

#[test]
fn a_name_without_an_address_is_said_and_stops_nothing() {
    let Some(networks) = Networks::make() else { return };
    let advertise = ["--advertise", "hub.test:4600", "--advertise", "198.51.100.1:4600"];
    let _hub = networks.found(&advertise);
    // Nobody knows the name: the other address of the invitation is used.
    let line = networks.must("hub", &["invite", "--name", "laptop"], "");
    let joined = networks.run("laptop", &["join", "-", "--no-entry"], &line);
    assert!(joined.status.success(), "{}", stderr(&joined));
    assert!(stderr(&joined).contains("cannot resolve hub.test"), "{}", stderr(&joined));
    let laptop = networks.site.dir("laptop");
    let _entry = networks.start("laptop", &[]);
    wait_for("the link", || json(&laptop, &["links"])[0]["up"] == true);
    let log = || std::fs::read_to_string(networks.site.dir("hub").join("log")).unwrap();
    wait_for("a line about the name", || log().contains("cannot resolve hub.test"));
    let doctor = |who, code| {
        let told = networks.run(who, &["doctor"], "");
        let said = String::from_utf8_lossy(&told.stdout).into_owned();
        assert_eq!(told.status.code(), Some(code), "{said}");
        said
    };
    assert!(doctor("hub", 1).contains("correct `advertise`"));
    assert!(doctor("laptop", 0).contains("the invitation's name of the authority's node"));

    let only = ["invite", "--name", "site", "--advertise", "hub.test:4600"];
    let line = networks.must("hub", &only, "");
    let failed = networks.run("site", &["join", "-"], &line);
    assert_eq!(failed.status.code(), Some(1));
    let said = stderr(&failed);
    assert!(said.contains("cannot resolve hub.test") && said.contains("still good"), "{said}");
    networks.know("site", "2001:db8:6::1 hub.test");
    networks.must("site", &["join", "-"], &line);
}

/// The hub knows nobody when it starts again.
fn forget_members(networks: &Networks) {
    match std::fs::remove_file(networks.site.dir("hub").join("state/members.json")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
        _ => {}
    }
}
