//! Programs and web pages that the dashboard does not know, at its port.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use crate::{
    overlay::{PATIENCE, Running, Site, configure, json, must},
    processes::usage,
};

/// The end of a node's answer to one request.
struct Answer {
    status: u16,
    text: String,
}

/// Sends a request with these header lines; `HOST` stands for the right ones.
fn ask(at: SocketAddr, method: &str, path: &str, headers: &str) -> Answer {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let headers = headers.replace("HOST", &at.to_string());
    write!(stream, "{method} {path} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    Answer { status: status.unwrap_or_else(|| panic!("no answer: {text:?}")), text }
}

const PATHS: [&str; 14] = [
    "/",
    "/index.html",
    "/app.js",
    "/style.css",
    "/metrics",
    "/status",
    "/api/v1/status",
    "/api/v1/links",
    "/api/v1/members",
    "/api/v1/invite?name=mole",
    "/api/v1/events",
    "/api/v1/overview?flows=1",
    "/api/v1/why?dest=example.org",
    "/open?link=AAAA",
];

/// A node with a dashboard, and what names it.
fn stage(site: &Site) -> (Running, SocketAddr) {
    let node = Running::start(&site.hub(), &[]);
    let at = node.dashboard();
    (node, at)
}

#[test]
fn without_a_token_the_dashboard_tells_nothing() {
    let site = Site::new();
    let (_node, at) = stage(&site);
    for path in PATHS {
        for shown in [
            "",
            "Authorization: Bearer wrong\r\n",
            "Authorization: Basic aHViOmh1Yg==\r\n",
            &format!("Cookie: ronproxy-{}=wrong\r\n", at.port()),
        ] {
            for method in ["GET", "POST", "HEAD"] {
                let answer = ask(at, method, path, &format!("Host: HOST\r\n{shown}"));
                assert_eq!(answer.status, 401, "{method} {path} {shown}: {}", answer.text);
                let lower = answer.text.to_lowercase();
                for secret in ["hub", env!("CARGO_PKG_VERSION"), "access-control", "set-cookie"] {
                    assert!(!lower.contains(secret), "{path} tells {secret}: {lower}");
                }
            }
        }
    }
    for (path, word) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
        let answer = ask(at, "GET", path, "Host: HOST\r\n");
        assert_eq!((answer.status, answer.text.ends_with(word)), (200, true), "{}", answer.text);
    }
}

#[test]
fn other_hosts_origins_and_methods_are_refused_with_the_right_token() {
    let site = Site::new();
    let (_node, at) = stage(&site);
    let token = must(&site.dir("hub"), &["open", "--token"]);
    let right = format!("Authorization: Bearer {}\r\n", token.trim());
    let status = |method: &str, headers: &str| {
        ask(at, method, "/api/v1/status", &format!("{right}{headers}")).status
    };
    assert_eq!(status("GET", "Host: HOST\r\n"), 200);
    assert_eq!(status("GET", "Host: HOST\r\nOrigin: http://HOST\r\n"), 200);
    for host in ["evil.example", "evil.example:1090", "127.0.0.1", "localhost", ""] {
        assert_eq!(status("GET", &format!("Host: {host}\r\n")), 421, "{host}");
    }
    for other in [
        "Origin: http://evil.example\r\n",
        "Origin: null\r\n",
        "Origin: http://127.0.0.1:1\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: same-site\r\n",
    ] {
        assert_eq!(status("GET", &format!("Host: HOST\r\n{other}")), 403, "{other}");
        assert_eq!(status("POST", &format!("Host: HOST\r\n{other}")), 403, "{other}");
    }
    for method in ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "NONSENSE"] {
        assert_eq!(status(method, "Host: HOST\r\n"), 405, "{method}");
    }
}

#[test]
fn a_link_of_another_page_leads_to_the_closed_page_and_no_further() {
    let site = Site::new();
    let (_node, at) = stage(&site);
    let link = json(&site.dir("hub"), &["open"])["link"].as_str().unwrap().to_owned();
    let path = link.strip_prefix(&format!("http://{at}")).unwrap();
    let opened = ask(at, "GET", path, "Host: HOST\r\n");
    let cookie = opened.text.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
    // A browser that sent the cookie along in spite of SameSite=Strict.
    let cookie = format!("Host: HOST\r\nCookie: {}\r\n", cookie.split(';').next().unwrap());
    let visit = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n";
    let document = format!("{cookie}{visit}Sec-Fetch-Dest: document\r\n");
    let closed = ask(at, "GET", "/", &document);
    assert_eq!(closed.status, 401, "{}", closed.text);
    assert!(closed.text.contains("This page is closed") && !closed.text.contains("hub"));
    for (method, path, headers) in [
        ("GET", "/", format!("{cookie}{visit}Sec-Fetch-Dest: iframe\r\n")),
        ("GET", "/", format!("{document}Origin: http://evil.example\r\n")),
        ("GET", "/app.js", document.clone()),
        ("GET", "/api/v1/status", document.clone()),
        ("POST", "/api/v1/stop", document.clone()),
        ("POST", "/", document.clone()),
    ] {
        let answer = ask(at, method, path, &headers);
        assert_eq!(answer.status, 403, "{method} {path}: {}", answer.text);
    }
    // A click on the closed page is of this origin.
    let click = format!("{cookie}Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate\r\n");
    assert_eq!(ask(at, "GET", "/?", &click).status, 200);
}

#[test]
fn no_node_but_the_demo_has_paths_to_cut() {
    let site = Site::new();
    let (_node, at) = stage(&site);
    let token = must(&site.dir("hub"), &["open", "--token"]);
    let right = format!("Host: HOST\r\nAuthorization: Bearer {}\r\n", token.trim());
    let post = |headers: &str| ask(at, "POST", "/api/v1/path?from=hub&to=hub&cut=1", headers);
    assert_eq!(post(&right).status, 404);
    assert_eq!(post("Host: HOST\r\n").status, 401);
    let overview = ask(at, "GET", "/api/v1/overview", &right);
    assert!(overview.text.contains("\"paths\":null"), "{}", overview.text);
}

#[test]
fn a_link_opens_the_dashboard_once_and_other_pages_change_nothing() {
    let site = Site::new();
    let (node, at) = stage(&site);
    let link = json(&site.dir("hub"), &["open"])["link"].as_str().unwrap().to_owned();
    let path = link.strip_prefix(&format!("http://{at}")).unwrap();
    // A page that guesses the port cannot use up the link by a frame or a form.
    assert_eq!(ask(at, "GET", path, "Host: HOST\r\nSec-Fetch-Site: cross-site\r\n").status, 403);
    let opened = ask(at, "GET", path, "Host: HOST\r\n");
    assert_eq!(opened.status, 303, "{}", opened.text);
    let cookie = opened.text.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
    assert!(cookie.contains("; HttpOnly") && cookie.contains("; SameSite=Strict"), "{cookie}");
    assert_eq!(ask(at, "GET", path, "Host: HOST\r\n").status, 401, "it works once");
    let cookie = format!("Cookie: {}\r\n", cookie.split(';').next().unwrap());
    for path in ["/", "/app.js", "/api/v1/status"] {
        let page = ask(at, "GET", path, &format!("Host: HOST\r\n{cookie}"));
        assert_eq!(page.status, 200, "{path}");
        assert!(page.text.contains("default-src 'none'; script-src 'self'"), "{}", page.text);
        assert!(page.text.contains("cache-control: no-store"), "{}", page.text);
    }
    let post = |more: &str| {
        ask(
            at,
            "POST",
            "/api/v1/stop",
            &format!("Host: HOST\r\nContent-Length: 0\r\n{cookie}{more}"),
        )
    };
    assert_eq!(post("").status, 403, "no browser sends a POST without Origin");
    assert_eq!(post("Origin: http://evil.example\r\n").status, 403);
    assert_eq!(json(&site.dir("hub"), &["status"])["stopping"], false);
    drop(node);
}

#[test]
fn thousands_of_wrong_tokens_and_idle_clients_leave_the_node_unharmed() {
    let site = Site::new();
    let (node, at) = stage(&site);
    let token = must(&site.dir("hub"), &["open", "--token"]);
    let before = usage(node.pid()).resident;
    // They take all places, and send nothing.
    let idle: Vec<_> = (0..100).map(|_| TcpStream::connect(at).unwrap()).collect();
    let guessers: Vec<_> = (0..4)
        .map(|guesser| {
            thread::spawn(move || {
                let mut wrong = 0;
                for n in 0..500 {
                    let guess = format!("Host: HOST\r\nAuthorization: Bearer {guesser}-{n}\r\n");
                    wrong += usize::from(ask(at, "GET", "/api/v1/status", &guess).status == 401);
                }
                wrong
            })
        })
        .collect();
    let wrong: usize = guessers.into_iter().map(|guesser| guesser.join().unwrap()).sum();
    assert_eq!(wrong, 2000);
    let started = Instant::now();
    let right = format!("Host: HOST\r\nAuthorization: Bearer {}\r\n", token.trim());
    assert_eq!(ask(at, "GET", "/api/v1/status", &right).status, 200);
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    let grown = usage(node.pid()).resident.saturating_sub(before);
    println!("2,000 wrong tokens, 100 idle clients: {} KiB more memory", grown / 1024);
    assert!(grown < 16 << 20, "{grown}");
    let log = std::fs::read_to_string(site.dir("hub").join("log")).unwrap();
    let told = log.lines().filter(|line| line.contains("was shown to the dashboard")).count();
    assert!((1..=3).contains(&told), "{log}");
    drop(idle);
}

#[test]
fn a_hundred_thousand_wrong_tokens_leave_the_owner_its_answers() {
    let site = Site::new();
    let (node, at) = stage(&site);
    let token = must(&site.dir("hub"), &["open", "--token"]);
    let right = format!("Host: HOST\r\nAuthorization: Bearer {}\r\n", token.trim());
    let before = usage(node.pid()).resident;
    let guessers: Vec<_> = (0..4).map(|n| thread::spawn(move || guess(at, n, 25_000))).collect();
    let mut slowest = Duration::ZERO;
    while guessers.iter().any(|guesser| !guesser.is_finished()) {
        let started = Instant::now();
        assert_eq!(ask(at, "GET", "/api/v1/status", &right).status, 200);
        slowest = slowest.max(started.elapsed());
    }
    let refused: usize = guessers.into_iter().map(|guesser| guesser.join().unwrap()).sum();
    assert_eq!(refused, 100_000);
    let grown = usage(node.pid()).resident.saturating_sub(before);
    println!(
        "100,000 wrong tokens: the owner waited {slowest:?}, {} KiB more memory",
        grown / 1024
    );
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    assert!(grown < 16 << 20, "{grown}");
    let log = std::fs::read_to_string(site.dir("hub").join("log")).unwrap();
    let told = log.lines().filter(|line| line.contains("was shown to the dashboard")).count();
    assert!((1..=101).contains(&told), "at most one line for a thousand: {told}");
}

/// Shows so many wrong tokens, a thousand on a connection, many before the first answer is read; returns how
/// many were refused.
fn guess(at: SocketAddr, guesser: usize, tokens: usize) -> usize {
    const AT_ONCE: usize = 100;
    let connect = || {
        let stream = TcpStream::connect(at).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    let (mut stream, mut refused, mut buffer) = (connect(), 0, vec![0; 1 << 16]);
    for first in (0..tokens).step_by(AT_ONCE) {
        if first % 1000 == 0 {
            stream = connect();
        }
        let requests: String = (first..first + AT_ONCE)
            .map(|n| {
                format!(
                    "GET /api/v1/status HTTP/1.1\r\nHost: {at}\r\nAuthorization: Bearer {guesser}-{n}\r\n\r\n"
                )
            })
            .collect();
        stream.write_all(requests.as_bytes()).unwrap();
        let mut answers = String::new();
        while answers.matches("`ronproxy open` gives one").count() < AT_ONCE {
            let read = stream.read(&mut buffer).unwrap();
            assert!(read > 0, "the node closed the connection: {answers}");
            answers.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
        refused += answers.matches("HTTP/1.1 401 ").count();
    }
    refused
}

#[test]
fn a_thousand_connections_leave_the_owner_its_answers() {
    rlimit::increase_nofile_limit(4096).unwrap();
    let site = Site::new();
    let (node, at) = stage(&site);
    let token = must(&site.dir("hub"), &["open", "--token"]);
    let right = format!("Host: HOST\r\nAuthorization: Bearer {}\r\n", token.trim());
    let before = usage(node.pid()).resident;
    let mut tabs = Vec::new();
    let mut slowest = Duration::ZERO;
    for n in 0..1000 {
        let mut tab = TcpStream::connect(at).unwrap();
        // Some ask and read nothing, some ask half, some ask nothing.
        let said = ["GET / HTTP/1.1\r\nHost: HOST\r\n\r\n", "GET /api", ""][n % 3];
        // One that has given way by now is closed.
        let _ = tab.write_all(said.replace("HOST", &at.to_string()).as_bytes());
        tabs.push(tab);
        if n % 100 == 99 {
            let started = Instant::now();
            assert_eq!(ask(at, "GET", "/api/v1/status", &right).status, 200);
            slowest = slowest.max(started.elapsed());
        }
    }
    let grown = usage(node.pid()).resident.saturating_sub(before);
    println!("1,000 connections: the owner waited {slowest:?}, {} KiB more memory", grown / 1024);
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    assert!(grown < 16 << 20, "{grown}");
    drop(tabs);
}

#[test]
fn no_page_and_no_stranger_invites_and_the_owner_only_where_configured() {
    let site = Site::new();
    let (_node, at) = stage(&site);
    let hub = site.dir("hub");
    let invite = |headers: &str| ask(at, "POST", "/api/v1/invite?name=mole", headers);
    let token = must(&hub, &["open", "--token"]);
    let right = format!("Host: HOST\r\nAuthorization: Bearer {}\r\n", token.trim());
    let said = invite(&right);
    assert_eq!(said.status, 403);
    assert!(said.text.contains("the dashboard may not invite here: set"), "{}", said.text);
    for (headers, status) in [
        ("Host: HOST\r\n", 401),
        ("Host: HOST\r\nAuthorization: Bearer wrong\r\n", 401),
        (&format!("{right}Origin: http://evil.example\r\n"), 403),
        (&format!("{right}Sec-Fetch-Site: cross-site\r\n"), 403),
        (&right.replace("HOST", "evil.example"), 421),
    ] {
        let answer = invite(headers);
        assert_eq!(answer.status, status, "{headers}: {}", answer.text);
        assert!(!answer.text.contains("invite"), "{headers}: {}", answer.text);
    }
    assert_eq!(ask(at, "GET", "/api/v1/invite?name=mole", &right).status, 405);
    assert_eq!(ask(at, "GET", "/api/v1/members", "Host: HOST\r\n").status, 401);
    assert_eq!(json(&hub, &["invite", "--list"]), serde_json::json!([]));
}

#[test]
fn a_thousand_requests_for_invitations_give_eight_and_harm_nobody() {
    let site = Site::new();
    let hub = site.hub();
    configure(&hub, "invite_from_dashboard = false", "invite_from_dashboard = true");
    let node = Running::start(&hub, &[]);
    let at = node.dashboard();
    let token = must(&hub, &["open", "--token"]);
    let right = format!("Host: HOST\r\nAuthorization: Bearer {}\r\n", token.trim());
    let before = usage(node.pid()).resident;
    let askers: Vec<_> = (0..4)
        .map(|asker| {
            let right = right.clone();
            thread::spawn(move || {
                let mut given = 0;
                for n in 0..250 {
                    let path = format!("/api/v1/invite?name=mole-{asker}-{n}");
                    let answer = ask(at, "POST", &path, &right);
                    let refused = answer.status == 400 && answer.text.contains("which is the most");
                    assert!(refused || answer.status == 200, "{}", answer.text);
                    given += usize::from(answer.status == 200);
                    assert_eq!(ask(at, "GET", "/api/v1/members", &right).status, 200);
                }
                given
            })
        })
        .collect();
    // Meanwhile the authority works for others.
    let started = Instant::now();
    site.join("leaf");
    let joined = started.elapsed();
    let given: usize = askers.into_iter().map(|asker| asker.join().unwrap()).sum();
    let grown = usage(node.pid()).resident.saturating_sub(before);
    println!(
        "1,000 requests: {given} invitations, a join took {joined:?}, {} KiB more",
        grown / 1024
    );
    assert_eq!(given, 8);
    assert!(joined < Duration::from_secs(10), "{joined:?}");
    assert!(grown < 16 << 20, "{grown}");
    let audit = json(&hub, &["audit"]);
    let lines = audit.as_array().unwrap().iter();
    assert_eq!(lines.filter(|line| line["by"] == "this node's dashboard").count(), 8);
    let log = std::fs::read_to_string(hub.join("log")).unwrap();
    assert!(log.lines().count() < 60, "{log}");
}

#[test]
fn a_taken_port_costs_the_dashboard_and_not_the_node() {
    let site = Site::new();
    let hub = site.hub();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap().to_string();
    let node = Running::start(&hub, &["--dashboard", &at]);
    assert!(node.ready["dashboard"].is_null(), "{}", node.ready);
    let log = std::fs::read_to_string(hub.join("log")).unwrap();
    assert!(log.contains("set another port with dashboard.listen"), "{log}");
    let said = crate::overlay::must_fail(&hub, &["open"]);
    assert!(said.contains("no dashboard"), "{said}");
}

#[test]
fn metrics_are_open_to_all_only_where_that_is_configured() {
    let site = Site::new();
    let hub = site.hub();
    configure(&hub, "metrics = \"token\"", "metrics = \"open\"");
    let node = Running::start(&hub, &[]);
    let at = node.dashboard();
    let metrics = ask(at, "GET", "/metrics", "Host: HOST\r\n");
    assert_eq!(metrics.status, 200);
    assert!(metrics.text.contains("ronproxy_links_up 0\n"), "{}", metrics.text);
    assert_eq!(ask(at, "GET", "/api/v1/status", "Host: HOST\r\n").status, 401);
}
