//! TLS on TCP between real processes: joining, flows, proxies, and what strangers get at the port.

#![cfg(target_os = "linux")]
#![expect(unreachable_pub, clippy::unwrap_used, clippy::print_stderr, reason = "test helpers")]

#[path = "cli/overlay.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod overlay;
#[path = "streams/scanner.rs"]
mod scanner;
#[path = "cli/web.rs"]
mod web;

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use overlay::{Running, Site, configure, free_tcp, free_udp, json, wait_for};
use ronproxy::internals::identity::AnyServer;
use rustls::{
    ClientConfig, ClientConnection, SignatureScheme, StreamOwned, client::ResolvesClientCert,
    pki_types::ServerName, sign::CertifiedKey,
};
use socket2::{Domain, Socket, Type};

const LISTEN: &str = "#stream_listen = \"[::]:443\"";

/// The exit `hub`, which accepts streams at the returned address; `udp`: it uses UDP, too.
fn hub(site: &Site, udp: bool) -> (Running, SocketAddr) {
    let (dir, at) = (site.hub(), free_tcp());
    configure(&dir, LISTEN, &format!("stream_listen = \"{at}\""));
    if !udp {
        configure(&dir, "udp = true", "udp = false");
    }
    (Running::start(&dir, &[]), at)
}

fn carrier(site: &Site, name: &str) -> String {
    json(&site.dir(name), &["links"])[0]["carrier"].as_str().unwrap_or("none").to_owned()
}

#[test]
fn a_node_joins_and_has_flows_without_udp_anywhere() {
    let site = Site::new();
    let (_hub, _) = hub(&site, false);
    let dir = site.join("leaf");
    configure(&dir, "udp = true", "udp = false");
    let leaf = Running::start(&dir, &[]);
    let server = web::serve();
    wait_for("the link", || carrier(&site, "leaf") == "tls");
    assert_eq!(web::fetch(leaf.proxy(), server).unwrap(), web::PAGE);
    assert_eq!(carrier(&site, "hub"), "tls");
}

#[test]
fn a_node_without_udp_reaches_one_without_streams_through_a_relay() {
    let site = Site::new();
    let (_hub, _) = hub(&site, true);
    let far = site.dir("far");
    let invitation = overlay::must(&site.dir("hub"), &["invite", "--name", "far", "--exit"]);
    let options = ["--listen", &*free_udp().to_string(), "--exit"];
    site.join_by(invitation.trim(), "far", &options);
    configure(&far, "allow_private = []", "allow_private = [\"127.0.0.0/8\"]");
    let _far = Running::start(&far, &[]);
    let dir = site.join("leaf");
    configure(&dir, "udp = true", "udp = false");
    let leaf = Running::start(&dir, &[]);
    let server = web::serve();
    wait_for("a route to far", || {
        let mut stream = TcpStream::connect(leaf.proxy()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut answer = String::new();
        // The user `exit=far` is `ZXhpdD1mYXI6` with an empty password.
        write!(
            stream,
            "GET http://{server}/ HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\
             Proxy-Authorization: Basic ZXhpdD1mYXI6\r\n\r\n"
        )
        .unwrap();
        stream.read_to_string(&mut answer).unwrap();
        answer.ends_with(web::PAGE)
    });
    let routes = json(&dir, &["lanes"]);
    assert_eq!(routes[0]["route"], "via hub", "{routes:#}");
}

/// A node `leaf` without UDP, which dials streams by this proxy; also the line that says so.
fn leaf_by(site: &Site, proxy: &str) -> (PathBuf, String) {
    let dir = site.join("leaf");
    configure(&dir, "udp = true", "udp = false");
    let configured = format!("via_proxy = \"{proxy}\"");
    configure(&dir, "via_proxy = \"environment\"", &configured);
    (dir, configured)
}

#[test]
fn a_stream_goes_through_the_proxy_of_the_file_or_the_environment() {
    let site = Site::new();
    let (_hub, at) = hub(&site, true);
    let (proxy, asked) = http_proxy(Ipv4Addr::LOCALHOST, at);
    let (dir, configured) = leaf_by(&site, &format!("http://user:pass@{proxy}"));
    let leaf = Running::start(&dir, &[]);
    wait_for("the link", || carrier(&site, "leaf") == "tls");
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    drop(leaf);
    // One on this machine is not taken from the environment: it would mostly be the node's own.
    configure(&dir, &configured, "via_proxy = \"environment\"");
    let mut command = overlay::ronproxy(&dir);
    command.env("HTTPS_PROXY", format!("http://{proxy}"));
    let _leaf = Running::start_command(command, &dir);
    wait_for("the link", || carrier(&site, "leaf") == "tls");
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[test]
fn doctor_says_what_the_proxy_answered() {
    let site = Site::new();
    let (_hub, at) = hub(&site, true);
    let (proxy, asked) = http_proxy(Ipv4Addr::LOCALHOST, at);
    let (dir, _) = leaf_by(&site, &format!("http://user:wrong@{proxy}"));
    let _leaf = Running::start(&dir, &[]);
    let doctor = String::from_utf8(overlay::run(&dir, &["doctor"]).stdout).unwrap();
    let said = format!("the proxy {proxy} refuses: 407 Who are you; asked for {at}");
    assert!(doctor.contains(&said) && doctor.contains("correct `via_proxy`"), "{doctor}");
    assert!(!doctor.contains("wrong"), "{doctor}");
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}

/// A proxy that wants credentials and leads to `to` only; counts what it connected.
fn http_proxy(ip: Ipv4Addr, to: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let (address, asked) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
    let count = asked.clone();
    thread::spawn(move || {
        for near in listener.incoming() {
            let mut near = near.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                near.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            let wanted = format!("CONNECT {to} HTTP/1.1\r\n");
            let proved = head.contains("Proxy-Authorization: Basic dXNlcjpwYXNz\r\n");
            if !head.starts_with(&wanted) || !proved {
                near.write_all(b"HTTP/1.1 407 Who are you\r\n\r\n").unwrap();
                continue;
            }
            near.write_all(b"HTTP/1.1 200 Connected\r\nVia: me\r\n\r\n").unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            let far = TcpStream::connect(to).unwrap();
            let ways = [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)];
            for (mut from, mut to) in ways {
                thread::spawn(move || std::io::copy(&mut from, &mut to));
            }
        }
    });
    (address, asked)
}

#[test]
fn a_browser_gets_a_page_and_a_stranger_learns_nothing() {
    let site = Site::new();
    let (_hub, at) = hub(&site, true);
    let mut h1 = Tls::connect(at, &[b"http/1.1"]);
    assert_eq!((h1.alpn(), h1.was_asked()), (Some(b"http/1.1".to_vec()), false));
    h1.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let answer = h1.rest();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("It works!"), "{answer}");
    // As a browser does: it prefers HTTP/2, and the server says its settings first (RFC 9113, section 3.4).
    let mut h2 = Tls::connect(at, &[b"h2", b"http/1.1"]);
    assert_eq!((h2.alpn(), h2.was_asked()), (Some(b"h2".to_vec()), false));
    let settings = h2.read(9);
    assert_eq!((settings[0], settings[3]), (0, 4), "a SETTINGS frame, to one who has said nothing");
    h2.read(settings[2].into());
    h2.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    // Its next frames are the larger window and the acknowledgement.
    let answered = std::iter::from_fn(|| {
        let head = h2.read(9);
        h2.read(head[2].into());
        Some((head[3], head[4]))
    });
    assert!({ answered }.any(|frame| frame == (4, 1)), "the settings are acknowledged");
    // A knock of another overlay is a bad request like any other bytes.
    let answers = [[0xa5; 32], [b'x'; 32]].map(|knock| {
        let mut stranger = Tls::connect(at, &[b"http/1.1"]);
        stranger.write(&knock);
        stranger.write(b"\r\n\r\n");
        let answer = stranger.rest();
        answer.lines().filter(|line| !line.starts_with("date")).map(str::to_owned).collect()
    });
    let [garbage, text]: [Vec<String>; 2] = answers;
    assert_eq!(garbage, text);
    assert!(garbage[0].starts_with("HTTP/1.1 400"), "{garbage:?}");
}

#[test]
fn idle_connections_of_strangers_leave_streams_for_members() {
    const STRANGERS: u32 = 10_000;
    rlimit::increase_nofile_limit(20_000).unwrap();
    let site = Site::new();
    let (hub, at) = hub(&site, true);
    let dir = site.join("leaf");
    configure(&dir, "udp = true", "udp = false");
    let before = resident(hub.pid());
    // Of ten prefixes, none of which is the member's. What the node closes at once is not kept.
    let mut idle = Vec::new();
    for n in 0..STRANGERS {
        let source = Ipv4Addr::new(127, 9, u8::try_from(n % 10).unwrap(), 1 + (n / 10 % 250) as u8);
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
        if socket.connect_timeout(&at.into(), Duration::from_secs(5)).is_ok() {
            idle.push(socket);
        }
    }
    let grown = resident(hub.pid()).saturating_sub(before);
    let began = Instant::now();
    let leaf = Running::start(&dir, &[]);
    let server = web::serve();
    wait_for("the link", || carrier(&site, "leaf") == "tls");
    assert_eq!(web::fetch(leaf.proxy(), server).unwrap(), web::PAGE);
    let linked = began.elapsed();
    let open = idle.iter().filter(|socket| is_open(socket)).count();
    println!(
        "{STRANGERS} idle connections: {open} stay, {grown} KiB, a member's flow after {linked:.2?}"
    );
    assert!(open <= 10 * 32, "{open} of strangers are open");
    assert!(grown < 32 << 10, "the node grew by {grown} KiB");
}

/// Whether the node has left a connection open.
fn is_open(socket: &Socket) -> bool {
    socket.set_nonblocking(true).unwrap();
    let mut byte = [0];
    let read = (&mut &*socket).read(&mut byte);
    read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// A process's resident memory in KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A TLS client as strangers have it.
struct Tls {
    stream: StreamOwned<ClientConnection, TcpStream>,
    judge: Arc<Judge>,
}

/// Has no certificate, and notes whether the server asks for one.
#[derive(Debug, Default)]
struct Judge(AtomicBool);

/// A TLS client without a connection.
fn client(at: SocketAddr, alpn: &[&[u8]]) -> (ClientConnection, Arc<Judge>) {
    let judge = Arc::<Judge>::default();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer::new(provider)))
        .with_client_cert_resolver(judge.clone());
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let name = ServerName::IpAddress(at.ip().into());
    (ClientConnection::new(Arc::new(config), name).unwrap(), judge)
}

impl Tls {
    fn connect(at: SocketAddr, alpn: &[&[u8]]) -> Self {
        let (connection, judge) = client(at, alpn);
        let tcp = TcpStream::connect(at).unwrap();
        tcp.set_read_timeout(Some(overlay::PATIENCE)).unwrap();
        let mut tls = Self { stream: StreamOwned::new(connection, tcp), judge };
        tls.stream.conn.complete_io(&mut tls.stream.sock).unwrap();
        tls
    }

    fn alpn(&self) -> Option<Vec<u8>> {
        self.stream.conn.alpn_protocol().map(<[u8]>::to_vec)
    }

    fn was_asked(&self) -> bool {
        self.judge.0.load(Ordering::Relaxed)
    }

    fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
        self.stream.flush().unwrap();
    }

    fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Everything until the server closes.
    fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Err(error) if error.kind() != ErrorKind::UnexpectedEof => panic!("{error}"),
            _ => String::from_utf8_lossy(&bytes).into_owned(),
        }
    }
}

impl ResolvesClientCert for Judge {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}
