//! The authority's own process and commands, with real processes.

use std::{
    path::Path,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use super::overlay::{Running, Site, json, must, must_fail, run, stderr, wait_for};

/// The processes that `parent` started, which may have no other name than ours.
fn children(parent: u32) -> Vec<u32> {
    let stat = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    let pids = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let stat = stat(*pid).unwrap_or_default();
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let alive = fields.next().is_some_and(|state| state != "Z");
        alive && fields.next() == Some(&parent.to_string())
    })
    .collect()
}

fn is_running(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}/exe")).exists()
}

fn kill(signal: &str, pid: u32) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

fn is_worker(pid: u32) -> bool {
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    words.split(|byte| *byte == 0).any(|word| word == b"--worker")
}

/// The worker and the spare that a keeper has started.
fn started_by(keeper: u32) -> (u32, u32) {
    let mut found = None;
    wait_for("the worker and the spare", || {
        let (workers, spares): (Vec<_>, Vec<_>) =
            children(keeper).into_iter().partition(|pid| is_worker(*pid));
        let ([worker], [spare]) = (&workers[..], &spares[..]) else { return false };
        found = Some((*worker, *spare));
        true
    });
    found.unwrap()
}

/// The keeper and the worker of a node that has the authority.
fn signers(node: &Running) -> (u32, u32) {
    let mut found = None;
    wait_for("the keeper", || {
        let [keeper] = children(node.pid())[..] else { return false };
        found = Some(keeper);
        true
    });
    let keeper = found.unwrap();
    (keeper, started_by(keeper).0)
}

#[test]
#[cfg(target_os = "linux")]
fn a_killed_signer_is_started_again_and_the_node_goes_on() {
    let site = Site::new();
    let hub = site.hub();
    let mut node = Running::start(&hub, &[]);
    let (keeper, worker) = signers(&node);
    kill("-KILL", worker);
    let another = |was: u32| children(keeper).iter().any(|pid| *pid != was && is_worker(*pid));
    wait_for("another worker", || another(worker));
    let one = site.join("one");
    // A worker that hangs is no answer; the joiner is told so in a sentence.
    let (_, worker) = signers(&node);
    kill("-STOP", worker);
    // Links are set up meanwhile; the worker is replaced only after 20 s.
    let start = Instant::now();
    let _one = Running::start(&one, &[]);
    wait_for("the link", || json(&one, &["links"])[0]["up"] == true);
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    let line = site.invite("two");
    let said = must_fail(&site.dir("two"), &["join", &line]);
    assert!(said.contains("cannot issue certificates just now"), "{said}");
    assert_eq!(json(&hub, &["status"])["name"], "hub");
    wait_for("another worker", || another(worker));
    // The token was not used up.
    must(&site.dir("two"), &["join", &line]);
    // The signer ends with its node, however that ends, and ignores signals before.
    let (_, worker) = signers(&node);
    for signal in ["-TERM", "-INT", "-HUP"] {
        kill(signal, keeper);
        kill(signal, worker);
    }
    must(&hub, &["status"]);
    assert!(is_running(keeper) && is_running(worker));
    node.crash();
    wait_for("the end of the signer", || !is_running(keeper) && !is_running(worker));
}

#[test]
#[cfg(target_os = "linux")]
fn a_killed_keeper_is_replaced_by_its_spare_each_time() {
    let site = Site::new();
    let hub = site.hub();
    let mut node = Running::start(&hub, &[]);
    let (mut keeper, mut worker) = signers(&node);
    for name in ["one", "two"] {
        let (_, spare) = started_by(keeper);
        kill("-KILL", keeper);
        // The worker has the key: it ends with its keeper.
        wait_for("the end of the worker", || !is_running(worker));
        keeper = spare;
        (worker, _) = started_by(keeper);
        site.join(name);
    }
    // A spare that is killed is replaced, too, and the keeper goes on.
    let (_, spare) = started_by(keeper);
    kill("-KILL", spare);
    wait_for("another spare", || started_by(keeper).1 != spare);
    assert_eq!(started_by(keeper).0, worker);
    // The same line is logged once a minute.
    let log = std::fs::read_to_string(hub.join("log")).unwrap();
    assert_eq!(log.matches("the signer process ended; starting another").count(), 1, "{log}");
    assert_eq!(log.matches("the spare signer process ended; starting another").count(), 1, "{log}");
    let (_, spare) = started_by(keeper);
    node.crash();
    wait_for("the end of all", || ![keeper, worker, spare].into_iter().any(is_running));
}

#[test]
#[cfg(target_os = "linux")]
fn the_node_opens_no_file_of_the_authority_or_memory_of_the_signer() {
    let site = Site::new();
    let hub = site.hub();
    let node = Running::start(&hub, &[]);
    let (keeper, worker) = signers(&node);
    site.join("leaf");
    for pid in [node.pid(), keeper] {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd"));
        // The keeper does not show its files to anybody but root.
        for link in open.into_iter().flatten().flatten() {
            let target = std::fs::read_link(link.path()).unwrap_or_default();
            assert!(!target.to_string_lossy().contains("authority/"), "{pid}: {target:?}");
        }
    }
    // Not dumpable: what belongs to the process in /proc is root's.
    use std::os::unix::fs::MetadataExt as _;
    for pid in [keeper, worker] {
        let owner = std::fs::metadata(format!("/proc/{pid}/environ")).unwrap().uid();
        assert_eq!(owner, 0, "{pid}");
    }
    let key = std::fs::read_to_string(hub.join("authority/ca.key")).unwrap();
    let secret = key.lines().nth(1).unwrap();
    let shown = Command::new("ps").args(["-ef", "-ww"]).output();
    let shown = shown.map(|ps| String::from_utf8_lossy(&ps.stdout).into_owned());
    assert!(!shown.unwrap_or_default().contains(secret));
}

#[test]
fn an_older_layout_is_brought_up_to_date_at_start_and_says_so() {
    let site = Site::new();
    let hub = site.hub();
    for name in ["ca.key", "ca.crt", "issued"] {
        std::fs::rename(hub.join("authority").join(name), hub.join(name)).unwrap();
    }
    for name in ["node.crt", "revoked.crl"] {
        std::fs::rename(hub.join("state").join(name), hub.join(name)).unwrap();
    }
    std::fs::remove_dir_all(hub.join("authority")).unwrap();
    let _hub = Running::start(&hub, &[]);
    assert!(std::fs::read_to_string(hub.join("log")).unwrap().contains("brought up to date"));
    assert!(hub.join("authority/ca.key").exists() && !hub.join("ca.key").exists());
    site.join("leaf");
}

#[test]
fn invitations_are_listed_and_taken_back_and_no_token_is_shown() {
    let site = Site::new();
    let hub = site.hub();
    let _hub = Running::start(&hub, &[]);
    let line = site.invite("leaf");
    let facts = json(&hub, &["invite", "--name", "mit", "--exit", "--group", "research"]);
    let other = facts["invitation"].as_str().unwrap();
    let all = json(&hub, &["invite", "--list"]);
    assert_eq!((&all[0]["name"], &all[0]["state"]), (&"leaf".into(), &"open".into()));
    assert_eq!((&all[1]["exit"], &all[1]["groups"][0]), (&true.into(), &"research".into()));
    let table = must(&hub, &["invite", "--list"]);
    assert!(table.contains("research") && !table.contains(&line[20..60]), "{table}");
    must(&hub, &["invite", "--cancel", "leaf"]);
    must(&hub, &["invite", "--cancel", facts["id"].as_str().unwrap()]);
    // The authority speaks with joiners while any invitation is open.
    site.invite("cornell");
    for line in [&line, other] {
        let said = must_fail(&site.dir("leaf"), &["join", line]);
        assert!(said.contains("taken back"), "{said}");
    }
    must(&hub, &["invite", "--cancel", "cornell"]);
    sleep(Duration::from_secs(1));
    assert!(must_fail(&site.dir("leaf"), &["join", other]).contains("takes in nobody"));
    assert!(must_fail(&hub, &["invite", "--cancel", "leaf"]).contains("--list"));
    // A damaged record is named and hides nothing.
    std::fs::write(hub.join("authority/invitations/x.json"), "{").unwrap();
    let listed = run(&hub, &["invite", "--list"]);
    assert!(stderr(&listed).contains("x.json") && listed.status.success());
    assert_eq!(run(&hub, &["invite", "--name", "a", "--list"]).status.code(), Some(2));
}

#[test]
fn revoke_refuses_the_authoritys_own_node_without_the_flag() {
    let site = Site::new();
    let (_hub, _leaf) = site.pair(&[]);
    let hub = site.dir("hub");
    let said = must_fail(&hub, &["revoke", "hub"]);
    assert!(said.contains("the overlay would end") && said.contains("--even-the-authority"));
    let facts = json(&hub, &["revoke", "leaf"]);
    assert_eq!((&facts["name"], &facts["running"]), (&"leaf".into(), &true.into()));
    let next = json(&hub, &["revoke", "hub", "--even-the-authority"]);
    assert!(next["list"].as_u64() > facts["list"].as_u64());
}

#[test]
fn a_revoked_node_cannot_join_again_by_an_older_invitation() {
    let site = Site::new();
    let hub = site.hub();
    let _hub = Running::start(&hub, &[]);
    let (first, second, other) = (site.invite("leaf"), site.invite("leaf"), site.invite("other"));
    site.join_by(&first, "leaf", &[]);
    let facts = json(&hub, &["revoke", "leaf"]);
    assert_eq!(facts["cancelled"].as_array().unwrap().len(), 1);
    let said = must_fail(&site.dir("again"), &["join", second.trim()]);
    assert!(said.contains("was taken back"), "{said}");
    site.join_by(&other, "other", &[]);
}

#[test]
fn revoke_of_a_name_that_is_only_invited_says_so_and_succeeds() {
    let site = Site::new();
    let hub = site.hub();
    let _hub = Running::start(&hub, &[]);
    let (first, second, third) = (site.invite("late"), site.invite("late"), site.invite("other"));
    let said = must(&hub, &["revoke", "late"]);
    assert_eq!(said.matches("is cancelled").count(), 2, "{said}");
    assert!(said.contains("No certificate of late is in force"), "{said}");
    for line in [first, second] {
        let said = must_fail(&site.dir("late"), &["join", line.trim()]);
        assert!(said.contains("was taken back"), "{said}");
    }
    let facts = json(&hub, &["revoke", "other"]);
    assert_eq!(facts["cancelled"].as_array().unwrap().len(), 1, "{facts}");
    assert!(facts["list"].is_null() && facts["revoked"].is_null(), "{facts}");
    assert!(must_fail(&site.dir("other"), &["join", third.trim()]).contains("was taken back"));
    let said = must_fail(&hub, &["revoke", "late"]);
    assert!(said.contains("no node is named late"), "{said}");
}

/// A command of the authority that can write no byte to a file, as on a full disk.
#[cfg(target_os = "linux")]
fn on_a_full_disk(dir: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("sh");
    let script = "trap '' XFSZ; ulimit -f 0; exec \"$0\" --dir \"$@\"";
    command.args(["-c", script, env!("CARGO_BIN_EXE_ronproxy")]).arg(dir).args(arguments);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", stderr(&output));
    stderr(&output)
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_leaves_nothing_half_done() {
    let site = Site::new();
    let hub = site.hub();
    let mut command = Command::new("sh");
    // The signer may write no byte later, and is not to be killed for it.
    let script = "trap '' XFSZ; exec \"$0\" --dir \"$@\"";
    command.args(["-c", script, env!("CARGO_BIN_EXE_ronproxy")]).arg(&hub);
    let node = Running::start_command(command, &hub);
    let leaf = site.join("leaf");
    let listed = |command: &[&str]| json(&hub, command).as_array().unwrap().clone();
    let open = |name: &str| {
        let all = listed(&["invite", "--list"]);
        all.iter().filter(|i| i["name"] == name && i["state"] == "open").count()
    };
    let state = || {
        let all = listed(&["members"]);
        all.iter().find(|member| member["name"] == "leaf").unwrap()["state"].clone()
    };
    let list = std::fs::read(hub.join("authority/revoked.crl")).unwrap();
    let said = on_a_full_disk(&hub, &["invite", "--name", "late"]);
    assert!(said.contains("free space") && open("late") == 0, "{said}");
    let said = on_a_full_disk(&hub, &["revoke", "leaf"]);
    assert!(said.contains("free space") && state() == "valid", "{said}");
    assert_eq!(std::fs::read(hub.join("authority/revoked.crl")).unwrap(), list);
    // The signer's disk is full while somebody joins.
    let line = site.invite("late");
    let (_, worker) = signers(&node);
    let limit = |size: &str| {
        let arguments = ["--pid", &worker.to_string(), &format!("--fsize={size}")];
        assert!(Command::new("prlimit").args(arguments).status().unwrap().success());
    };
    limit("0:unlimited");
    let said = must_fail(&site.dir("late"), &["join", &line]);
    assert!(said.contains("look at its log"), "{said}");
    assert_eq!(open("late"), 1, "the invitation is open again");
    assert!(!listed(&["members"]).iter().any(|member| member["name"] == "late"));
    limit("unlimited:unlimited");
    site.join_by(&line, "late", &[]);
    must(&hub, &["revoke", "leaf"]);
    assert_eq!(state(), "revoked");
    assert!(leaf.exists());
}

#[test]
fn members_shows_every_certified_name_and_what_became_of_it() {
    let site = Site::new();
    let (_hub, _leaf) = site.pair(&[]);
    let hub = site.dir("hub");
    let invite = ["invite", "--name", "utah", "--relay", "--group", "research"];
    let line = must(&hub, &invite);
    must(&site.dir("utah"), &["join", line.trim()]);
    must(&hub, &["revoke", "utah"]);
    let of = |dir: &Path, name: &str| {
        let all = json(dir, &["members"]);
        all.as_array().unwrap().iter().find(|member| member["name"] == name).cloned().unwrap()
    };
    let (own, leaf, utah) = (of(&hub, "hub"), of(&hub, "leaf"), of(&hub, "utah"));
    assert_eq!((&own["state"], &own["exit"]), (&"valid".into(), &true.into()));
    assert_eq!((&leaf["state"], &leaf["seen_seconds_ago"]), (&"valid".into(), &0.into()));
    assert_eq!((&utah["state"], &utah["relay"]), (&"revoked".into(), &true.into()));
    assert_eq!((&utah["groups"][0], utah["serial"].is_string()), (&"research".into(), true));
    assert!(utah["revoked"].is_u64() && utah["seen_seconds_ago"].as_u64() < Some(600));
    assert!(must(&hub, &["members"]).contains("utah"));
    // Elsewhere: what that node knows.
    let seen = of(&site.dir("leaf"), "hub");
    assert_eq!(seen["seen_seconds_ago"], 0);
    assert!(of(&site.dir("leaf"), "leaf")["expires"].is_u64());
}

#[test]
fn the_audit_log_has_each_deed_with_its_author() {
    let site = Site::new();
    let hub = site.hub();
    let _hub = Running::start(&hub, &[]);
    site.join("leaf");
    site.invite("other");
    must(&hub, &["invite", "--cancel", "other"]);
    must(&hub, &["revoke", "leaf"]);
    let log = json(&hub, &["audit"]);
    let events: Vec<_> =
        log.as_array().unwrap().iter().map(|e| e["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["issue", "invite", "join", "invite", "cancel", "revoke"]);
    assert_eq!((&log[2]["name"], &log[2]["by"]), (&"leaf".into(), &"127.0.0.1".into()));
    assert!(log[1]["by"].as_str().unwrap().starts_with("uid "));
    assert!(log[2]["serial"].is_string());
    assert!(must(&hub, &["audit", "--last", "1"]).contains("revoke"));
    assert!(must_fail(&site.dir("leaf"), &["audit"]).contains("ronproxy init"));
}
