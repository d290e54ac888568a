//! A port scanner at the port for streams.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use socket2::{Domain, Socket, Type};

use crate::{
    Tls, carrier, client, hub, is_open,
    overlay::{PATIENCE, Running, Site, configure, wait_for},
    web,
};

/// Of each kind, from each of four prefixes: together less than a prefix may make at once.
const OF_EACH: u8 = 10;

/// Connects from a prefix that is not the member's.
fn connect(at: SocketAddr, prefix: u8, host: u8) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let source = SocketAddr::from((Ipv4Addr::new(127, 8, prefix, 1 + host), 0));
    socket.bind(&source.into()).unwrap();
    socket.connect_timeout(&at.into(), Duration::from_secs(5)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// The first record that a TLS client sends.
fn client_hello(at: SocketAddr) -> Vec<u8> {
    let (mut connection, mut hello) = (client(at, &[b"h2", b"http/1.1"]).0, Vec::new());
    connection.write_tls(&mut hello).unwrap();
    hello
}

/// Scans the port; returns the connections on which half a record was sent.
fn scan(at: SocketAddr) -> Vec<Socket> {
    let hello = client_hello(at);
    let half = &hello[..hello.len() / 2];
    let mut waiting = Vec::new();
    for (prefix, host) in (0..4).flat_map(|prefix| (0..OF_EACH).map(move |host| (prefix, host))) {
        drop(connect(at, prefix, host));
        let plain = connect(at, prefix, host);
        (&plain).write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        // A fatal alert (RFC 8446, section 6), or the end of the connection.
        let mut answer = Vec::new();
        let ended = (&plain).read_to_end(&mut answer);
        assert!(ended.is_err() || answer.is_empty() || answer[0] == 21, "{answer:?}");
        let vanishing = connect(at, prefix, host);
        (&vanishing).write_all(&hello).unwrap();
        if host % 2 == 0 {
            // The connection is reset instead of closed.
            vanishing.set_linger(Some(Duration::ZERO)).unwrap();
        }
        drop(vanishing);
        let silent = connect(at, prefix, host);
        (&silent).write_all(half).unwrap();
        waiting.push(silent);
    }
    waiting
}

/// How many files a process has open.
fn files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// A browser's page comes.
fn browse(at: SocketAddr) {
    let mut browser = Tls::connect(at, &[b"http/1.1"]);
    browser.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(browser.rest().contains("It works!"));
}

#[test]
fn a_port_scan_keeps_nobody_out_and_leaves_no_trace() {
    let site = Site::new();
    let (hub, at) = hub(&site, true);
    let dir = site.join("leaf");
    configure(&dir, "udp = true", "udp = false");
    let log = || std::fs::read_to_string(site.dir("hub").join("log")).unwrap();
    let (files_before, said_before) = (files(hub.pid()), log());
    let waiting = scan(at);
    browse(at);
    assert!(is_open(waiting.last().unwrap()), "half a record waits for the other half");
    let leaf = Running::start(&dir, &[]);
    let server = web::serve();
    wait_for("the link", || carrier(&site, "leaf") == "tls");
    assert_eq!(web::fetch(leaf.proxy(), server).unwrap(), web::PAGE);

    wait_for("the end of those that wait", || !waiting.iter().any(is_open));
    browse(at);
    drop(leaf);
    wait_for("closed files", || files(hub.pid()) <= files_before + usize::from(OF_EACH));
    let said = log();
    let said: Vec<_> = said[said_before.len()..].lines().collect();
    // The scanner is in none of the lines, which are of the member.
    assert!(!said.iter().any(|line| line.contains("127.8.")), "{said:#?}");
    assert!(said.len() < usize::from(OF_EACH), "{said:#?}");
}
