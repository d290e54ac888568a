//! Real processes whose places run out, and the sockets of their flows.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::RawFd,
    thread,
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use socket2::Socket;

use crate::{
    overlay::{Running, Site, configure, json, wait_for},
    web,
};

/// Places in these tests.
const PLACES: usize = 6;

/// A flow with traffic within this time keeps its place.
const ACTIVE: Duration = Duration::from_secs(10);

/// A server that sends everything back.
fn serve_echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || {
                let stream = stream?;
                std::io::copy(&mut &stream, &mut &stream)
            });
        }
    });
    address
}

/// Whether a byte comes back.
fn is_alive(stream: &mut TcpStream) -> bool {
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut [0]).is_ok()
}

/// A hub and a leaf whose configurations have these lines in the place of others.
fn pair(site: &Site, hub: Option<[&str; 2]>, leaf: Option<[&str; 2]>) -> (Running, Running) {
    let start = |dir: &std::path::Path, lines: Option<[&str; 2]>| {
        if let Some([line, by]) = lines {
            configure(dir, line, by);
        }
        Running::start(dir, &[])
    };
    let hub = start(&site.hub(), hub);
    let dir = site.join("leaf");
    let leaf = start(&dir, leaf);
    wait_for("the link", || json(&dir, &["links"])[0]["up"] == true);
    (hub, leaf)
}

/// Takes all places, rests, and lets the first flow and nobody else move something: then the second one
/// goes for a new one.
fn the_longest_idle_goes(proxy: SocketAddr) {
    let echo = serve_echo();
    let mut held = Vec::new();
    for _ in 0..PLACES {
        let mut stream = web::tunnel(proxy, echo).unwrap();
        assert!(is_alive(&mut stream));
        held.push(stream);
    }
    thread::sleep(ACTIVE + Duration::from_millis(500));
    assert!(is_alive(&mut held[0]));
    let mut new = web::tunnel(proxy, echo).unwrap();
    assert!(is_alive(&mut new), "the new flow has no place");
    // It ends as a reset.
    assert!(held[1].read_exact(&mut [0]).is_err());
    let alive: Vec<_> = held.iter_mut().map(is_alive).collect();
    assert_eq!(alive, [true, false, true, true, true, true]);
}

#[test]
fn the_longest_idle_flow_of_a_full_exit_ends_for_a_new_one() {
    let site = Site::new();
    let limit = ["max_flows_per_entry = 2048", "max_flows_per_entry = 6"];
    let (_hub, leaf) = pair(&site, Some(limit), None);
    the_longest_idle_goes(leaf.proxy());
}

#[test]
fn the_longest_idle_client_of_a_full_entry_ends_for_a_new_one() {
    let site = Site::new();
    let limit = ["max_connections = 4096", "max_connections = 6"];
    let (_hub, leaf) = pair(&site, None, Some(limit));
    the_longest_idle_goes(leaf.proxy());
}

/// Copies of a process's TCP sockets that are connected.
fn sockets(pid: u32) -> Vec<(Socket, SocketAddr, SocketAddr)> {
    let pidfd = pidfd_open(Pid::from_raw(pid.try_into().unwrap()).unwrap(), PidfdFlags::empty());
    let pidfd = pidfd.unwrap();
    let numbers = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let numbers = numbers.filter_map(|file| file.ok()?.file_name().to_str()?.parse::<RawFd>().ok());
    let copies = numbers.filter_map(|fd| pidfd_getfd(&pidfd, fd, PidfdGetfdFlags::empty()).ok());
    let ends = copies.map(Socket::from).filter_map(|socket| {
        let (local, peer) = (socket.local_addr().ok()?, socket.peer_addr().ok()?);
        Some((socket, local.as_socket()?, peer.as_socket()?))
    });
    ends.collect()
}

#[test]
fn both_sockets_of_a_flow_are_probed_and_given_up_after_15_minutes() {
    let site = Site::new();
    let (hub, leaf) = pair(&site, None, None);
    let (proxy, echo) = (leaf.proxy(), serve_echo());
    let mut stream = web::tunnel(proxy, echo).unwrap();
    assert!(is_alive(&mut stream));
    let client = stream.local_addr().unwrap();
    let at_entry =
        sockets(leaf.pid()).into_iter().filter(|(_, at, to)| (*at, *to) == (proxy, client));
    let at_exit = sockets(hub.pid()).into_iter().filter(|(_, _, to)| *to == echo);
    for ends in [at_entry.collect::<Vec<_>>(), at_exit.collect()] {
        assert_eq!(ends.len(), 1, "the process's socket is not to be had");
        let socket = &ends[0].0;
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(120));
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(900)));
    }
}
