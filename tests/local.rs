//! A node and its own machine: what it may reach, what it logs, and who can read it.

#![cfg(unix)]
#![expect(unreachable_pub, clippy::unwrap_used, clippy::print_stderr, reason = "test helpers")]

#[path = "cli/overlay.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod overlay;
#[path = "cli/web.rs"]
mod web;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixListener,
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex},
    thread,
};

use overlay::{Running, Site, configure, free_udp, json, must, must_fail, run, stderr, wait_for};

/// Fetches the page by a name that the exit resolves.
fn fetch_by_name(proxy: SocketAddr, port: u16) -> String {
    let mut stream = TcpStream::connect(proxy).unwrap();
    stream.set_read_timeout(Some(overlay::PATIENCE)).unwrap();
    write!(stream, "GET http://localhost:{port}/ HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn log(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("log")).unwrap()
}

#[test]
fn a_confined_node_does_all_that_an_unconfined_one_does() {
    let site = Site::new();
    let (_hub, leaf) = site.pair(&[]);
    let server = web::serve();
    let answer = fetch_by_name(leaf.proxy(), server.port());
    assert!(answer.ends_with(web::PAGE), "{answer}");
    assert_eq!(web::fetch(leaf.proxy(), server).unwrap(), web::PAGE);
    for name in ["hub", "leaf"] {
        let confinement = json(&site.dir(name), &["status"])["confinement"].clone();
        let confinement = confinement.as_str().unwrap();
        assert!(log(&site.dir(name)).contains("confinement"), "{}", log(&site.dir(name)));
        if confinement.starts_with("none: this system has no Landlock") {
            println!("skipped: {confinement}");
            return;
        }
        assert!(confinement.starts_with("Landlock: own folder, no programs"), "{confinement}");
        assert_eq!(confinement.contains("no TCP connection"), name == "leaf", "{confinement}");
        assert!(must(&site.dir(name), &["status"]).contains(confinement));
    }
    // A newcomer is written down, with a certificate from here.
    let third = Running::start(&site.join("third"), &[]);
    wait_for("the members", || {
        let members = must(&site.dir("hub"), &["links"]);
        members.contains("third") && members.contains("leaf")
    });
    drop(third);
    for warning in ["WARN", "ERROR", "denied"] {
        assert!(!log(&site.dir("hub")).contains(warning), "{}", log(&site.dir("hub")));
    }
}

#[test]
fn the_confinement_can_be_switched_off() {
    let site = Site::new();
    let hub = site.hub();
    configure(&hub, "confine = true", "confine = false");
    let _hub = Running::start(&hub, &[]);
    assert_eq!(json(&hub, &["status"])["confinement"], "off, by the configuration");
}

#[test]
fn the_logs_of_both_ends_name_destinations_only_when_asked_to() {
    for asked in [false, true] {
        let site = Site::new();
        let hub = site.hub();
        if asked {
            configure(&hub, "destinations = false", "destinations = true");
        }
        let _hub = Running::start(&hub, &[]);
        let leaf = site.join("leaf");
        if asked {
            configure(&leaf, "destinations = false", "destinations = true");
        }
        let running = Running::start(&leaf, &[]);
        wait_for("the link", || json(&leaf, &["links"])[0]["up"] == true);
        let server = web::serve();
        fetch_by_name(running.proxy(), server.port());
        // A refusal repeats the destination in its sentence.
        let refused = TcpStream::connect(running.proxy()).and_then(|mut stream| {
            write!(stream, "CONNECT 10.9.8.7:{} HTTP/1.1\r\n\r\n", server.port())?;
            stream.read(&mut [0; 12])
        });
        assert_eq!(refused.unwrap(), 12);
        for dir in [&hub, &leaf] {
            let text = log(dir);
            assert!(text.contains("flow open") && text.contains("flow refused"), "{text}");
            for destination in ["localhost", "10.9.8.7", &format!(":{}", server.port())] {
                assert_eq!(text.contains(destination), asked, "{destination}: {text}");
            }
        }
    }
}

/// What drives a terminal and forges a line of a log.
const HOSTILE: &str = "\u{1b}[2J\u{9b}31m\r\n2026-01-01T00:00:00Z ERROR forged";

#[test]
fn text_of_a_client_stays_inside_its_line_of_the_log() {
    let site = Site::new();
    let hub = site.hub();
    let running = Running::start(&hub, &[]);
    let mut stream = TcpStream::connect(running.proxy()).unwrap();
    let user = format!("hint={HOSTILE},exit=x");
    let length = u8::try_from(user.len()).unwrap();
    stream.write_all(&[&[5, 1, 2, 1, length], user.as_bytes(), &[1, b'x']].concat()).unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [5, 2, 1, 1]);
    wait_for("the line", || log(&hub).contains("SOCKS5 client refused"));
    let text = log(&hub);
    assert!(!text.contains(['\u{1b}', '\u{9b}', '\r']), "{text:?}");
    assert!(!text.lines().any(|line| line.starts_with("2026-01-01T00:00:00Z ERROR")), "{text}");
}

#[test]
fn listings_show_what_peers_wrote_as_harmless_text() {
    let site = Site::new();
    let dir = site.hub();
    let listener = UnixListener::bind(overlay::socket(&dir)).unwrap();
    // Few words are free: a link's state and carrier, and a flow's destination. The others are of types.
    let links = serde_json::json!([{
        "peer": "mit", "state": HOSTILE, "up": true, "carrier": HOSTILE, "control_bytes": [0, 0], "labels": 0,
        "exit": true, "relay": false,
    }]);
    let flow = serde_json::json!({
        "label": "00000007", "target": HOSTILE, "exit": "mit", "lane": null, "route": "direct", "reroutes": 0,
        "history": [], "hint": "latency", "ingress": "socks5", "client": "127.0.0.1:9", "state": "open",
        "seconds": 1.0, "sent": 0, "received": 0, "datagrams": null, "quiet_seconds": 1.0,
        "stands_still_seconds": null, "waits_for": null,
    });
    let mut forged = flow.clone();
    forged["exit"] = HOSTILE.into();
    let body = Arc::new(Mutex::new(String::new()));
    let answer = body.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.extend(byte);
            }
            let text = answer.lock().unwrap().clone();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                text.len()
            );
            // A command that has read enough may be gone.
            let _ = stream.write_all(format!("{head}{text}").as_bytes());
        }
    });
    for (command, listed) in [("flows", serde_json::json!([flow])), ("links", links)] {
        *body.lock().unwrap() = listed.to_string();
        let table = must(&dir, &[command]);
        assert_eq!(table.lines().count(), 2, "{table}");
        assert!(table.contains(r"\u{1b}[2J\u{9b}31m\r\n2026"), "{table}");
        for shown in [table, must(&dir, &[command, "--json"])] {
            assert!(!shown.replace('\n', "").contains(char::is_control), "{shown:?}");
        }
    }
    *body.lock().unwrap() = serde_json::json!([forged]).to_string();
    let said = must_fail(&dir, &["flows"]);
    assert!(said.contains("is no node name"), "{said}");
    assert!(!said.replace('\n', "").contains(char::is_control), "{said:?}");
    // The same is to be expected of a node of another version.
    let found = String::from_utf8(run(&dir, &["doctor"]).stdout).unwrap();
    assert!(found.contains("FAIL  node         runs in another version"), "{found}");
    assert!(found.contains("restart it, so that it has this version"), "{found}");
}

#[test]
fn an_invitation_on_standard_input_is_not_among_the_processes() {
    let site = Site::new();
    let _hub = Running::start(&site.hub(), &[]);
    let said = run(&site.dir("hub"), &["invite", "--name", "leaf"]);
    assert!(stderr(&said).contains("ronproxy join -"), "{}", stderr(&said));
    let line = String::from_utf8(said.stdout).unwrap();
    // Without an argument it waits for the line, as with `-`.
    let mut child = overlay::ronproxy(&site.dir("leaf"))
        .args(["join", "--listen", &free_udp().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    if let Ok(arguments) = std::fs::read(format!("/proc/{}/cmdline", child.id())) {
        assert!(!String::from_utf8_lossy(&arguments).contains("ron1:"));
    }
    // The input stays open, as at a terminal: the line's end is enough.
    let mut input = child.stdin.take().unwrap();
    write!(input, "\n{line}").unwrap();
    let status = child.wait().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(status.success() && said.is_empty(), "{said}");
    drop(input);
    let line = site.invite("third");
    let said = run(&site.dir("third"), &["join", &line]);
    assert!(stderr(&said).contains("could see the invitation"), "{}", stderr(&said));
}

/// The tests that the threat model names as proof.
#[test]
fn every_test_that_the_threat_model_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/threat-model.md")).unwrap();
    let mut source = String::new();
    for folder in ["src", "tests"] {
        read_all(&root.join(folder), &mut source);
    }
    // Names of tests are sentences; other words in code style are short.
    let named = text.split('`').skip(1).step_by(2).filter(|word| word.matches('_').count() >= 4);
    let named: Vec<&str> = named.collect();
    assert!(named.len() > 15, "{named:?}");
    for name in named {
        assert!(source.contains(&format!("fn {name}(")), "there is no test {name}");
    }
}

fn read_all(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
}
