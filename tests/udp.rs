//! UDP ASSOCIATE through real processes: a DNS question, QUIC and HTTP/3, iperf3, and its figures.

#![cfg(unix)]
#![expect(unreachable_pub, clippy::unwrap_used, reason = "test helpers")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a skipped test says so")]

#[path = "cli/datagrams.rs"]
mod datagrams;
#[path = "cli/overlay.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod overlay;

#[path = "udp/programs.rs"]
mod programs;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use datagrams::{answer, serve};
use noq::{ClientConfig, Endpoint, ServerConfig};
use overlay::{PATIENCE, Site, json, must, wait_for};
use rustls::{
    RootCertStore,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

/// A SOCKS5 client's association.
struct Association {
    _control: TcpStream,
    socket: UdpSocket,
    proxy: SocketAddr,
}

impl Association {
    fn begin(proxy: SocketAddr) -> Self {
        let mut control = TcpStream::connect(proxy).unwrap();
        control.set_read_timeout(Some(PATIENCE)).unwrap();
        control.write_all(&[5, 1, 0]).unwrap();
        let mut method = [0; 2];
        control.read_exact(&mut method).unwrap();
        control.write_all(&[5, 3, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
        let mut reply = [0; 10];
        control.read_exact(&mut reply).unwrap();
        assert_eq!((method, &reply[..4]), ([5, 0], &[5, 0, 0, 1][..]));
        let ip: [u8; 4] = reply[4..8].try_into().unwrap();
        let proxy = (ip, u16::from_be_bytes([reply[8], reply[9]])).into();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { _control: control, socket, proxy }
    }

    fn send(&self, host: &str, port: u16, payload: &[u8]) {
        let length = u8::try_from(host.len()).unwrap();
        let framed =
            [&[0, 0, 0, 3, length], host.as_bytes(), &port.to_be_bytes(), payload].concat();
        self.socket.send_to(&framed, self.proxy).unwrap();
    }

    /// The source of the next datagram, and its content.
    fn receive(&self) -> (SocketAddr, Vec<u8>) {
        let mut buffer = [0; 4_096];
        let (length, from) = self.socket.recv_from(&mut buffer).expect("an answer");
        assert_eq!((from, &buffer[..4]), (self.proxy, &[0, 0, 0, 1][..]));
        let ip: [u8; 4] = buffer[4..8].try_into().unwrap();
        ((ip, u16::from_be_bytes([buffer[8], buffer[9]])).into(), buffer[10..length].to_vec())
    }

    /// Lets a program that knows no SOCKS send to the address that this returns; all goes to `port`.
    fn wrap(self, port: u16) -> SocketAddr {
        let (near, association) = (UdpSocket::bind("127.0.0.1:0").unwrap(), Arc::new(self));
        let address = near.local_addr().unwrap();
        let (inward, back) = (near.try_clone().unwrap(), association.clone());
        thread::spawn(move || {
            let mut buffer = [0; 4_096];
            let mut begun = false;
            // It ends with the test.
            while let Ok((length, program)) = near.recv_from(&mut buffer) {
                association.send("localhost", port, &buffer[..length]);
                if !std::mem::replace(&mut begun, true) {
                    let (inward, back) = (inward.try_clone().unwrap(), back.clone());
                    thread::spawn(move || {
                        loop {
                            let (_, payload) = back.receive();
                            if inward.send_to(&payload, program).is_err() {
                                return;
                            }
                        }
                    });
                }
            }
        });
        address
    }
}

#[test]
fn a_dns_question_is_answered_and_the_flow_is_shown() {
    let site = Site::new();
    let (_hub, leaf) = site.pair(&[]);
    let port = serve(|question, _| Some(answer(question)));
    let association = Association::begin(leaf.proxy());
    let question =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x04test\x00\x00\x01\x00\x01";
    association.send("localhost", port, question);
    let (from, answered) = association.receive();
    assert_eq!((from.port(), answered), (port, answer(question)));
    let dir = site.dir("leaf");
    let flow = &json(&dir, &["flows"])[0];
    assert_eq!(flow["target"], format!("localhost:{port}"));
    assert_eq!((&flow["ingress"], &flow["exit"]), (&"socks5-udp".into(), &"hub".into()));
    assert_eq!(
        (&flow["datagrams"]["sent"], &flow["datagrams"]["received"]),
        (&1.into(), &1.into())
    );
    assert!(must(&dir, &["flows"]).contains("1 sent, 1 received, 0 lost"));
    // What is denied for connections is denied here.
    association.send("10.9.8.7", port, b"x");
    wait_for("the denial", || {
        json(&site.dir("hub"), &["status"])["dropped_datagrams"].to_string().contains("denied")
    });
    drop(association);
    wait_for("the end of the flow", || json(&dir, &["flows"]).as_array().unwrap().is_empty());
}

#[test]
fn dig_is_answered_through_an_association() {
    if Command::new("dig").arg("-v").output().is_err() {
        eprintln!("skipped: dig not found");
        return;
    }
    let site = Site::new();
    let (_hub, leaf) = site.pair(&[]);
    let server = serve(|question, _| Some(answer(question)));
    let near = Association::begin(leaf.proxy()).wrap(server);
    let port = near.port().to_string();
    let asked = Command::new("dig")
        .args([
            "@127.0.0.1",
            "-p",
            &port,
            "a.test",
            "A",
            "+noedns",
            "+tries=1",
            "+time=10",
            "+short",
        ])
        .output()
        .unwrap();
    assert!(asked.status.success(), "{asked:?}");
    assert_eq!(String::from_utf8_lossy(&asked.stdout).trim(), "192.0.2.80");
}

#[test]
fn all_destinations_see_one_source_address() {
    let site = Site::new();
    let (_hub, leaf) = site.pair(&[]);
    let tells = |_: &[u8], from: SocketAddr| Some(from.to_string().into_bytes());
    let (one, other) = (serve(tells), serve(tells));
    let association = Association::begin(leaf.proxy());
    let sources = [("localhost", one), ("127.0.0.1", other)].map(|(host, port)| {
        association.send(host, port, b"?");
        association.receive().1
    });
    assert_eq!(sources[0], sources[1]);
    // A stranger at that address reaches nobody: it was not asked.
    let source: SocketAddr = String::from_utf8(sources[0].clone()).unwrap().parse().unwrap();
    let stranger = UdpSocket::bind("127.0.0.9:0").unwrap();
    stranger.send_to(b"unasked", source).unwrap();
    wait_for("the drop", || {
        json(&site.dir("hub"), &["status"])["dropped_datagrams"].to_string().contains("unsolicited")
    });
}

#[tokio::test]
async fn a_quic_connection_goes_through_an_association() {
    let site = Site::new();
    let (_hub, leaf) = site.pair(&[]);
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let certificate = made.cert.der().clone();
    let config = ServerConfig::with_single_cert(vec![certificate.clone()], key).unwrap();
    let server = Endpoint::server(config, ([127, 0, 0, 1], 0).into()).unwrap();
    let port = server.local_addr().unwrap().port();
    tokio::spawn(async move {
        let conn = server.accept().await.unwrap().await.unwrap();
        let (mut send, mut recv) = conn.accept_bi().await.unwrap();
        let content = recv.read_to_end(1 << 20).await.unwrap();
        send.write_all(&content).await.unwrap();
        send.finish().unwrap();
        conn.closed().await;
    });
    let near = Association::begin(leaf.proxy()).wrap(port);
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
    client
        .set_default_client_config(ClientConfig::with_root_certificates(Arc::new(roots)).unwrap());
    let echoed = async {
        let conn = client.connect(near, "localhost").unwrap().await.unwrap();
        let (mut send, mut recv) = conn.open_bi().await.unwrap();
        let content: Vec<u8> = (0..300_000_u32).map(|n| n.to_be_bytes()[3]).collect();
        send.write_all(&content).await.unwrap();
        send.finish().unwrap();
        assert!(recv.read_to_end(1 << 20).await.unwrap() == content);
    };
    tokio::time::timeout(PATIENCE, echoed).await.expect("the connection stands still");
}

/// The median time of an exchange.
fn median(mut exchange: impl FnMut()) -> Duration {
    let mut times: Vec<_> = (0..2_000)
        .map(|_| {
            let start = Instant::now();
            exchange();
            thread::sleep(Duration::from_micros(200));
            start.elapsed() - Duration::from_micros(200)
        })
        .collect();
    times.sort_unstable();
    times[1_000]
}

/// Measures, and does not check: `cargo test --release --test udp -- --ignored --nocapture`.
#[test]
#[ignore = "its figures need a quiet machine"]
fn figures_of_delay_and_loss() {
    let site = Site::new();
    let (_hub, leaf) = site.pair(&[]);
    let port = serve(|payload, _| Some(payload.to_vec()));
    let direct = UdpSocket::bind("127.0.0.1:0").unwrap();
    direct.connect(("127.0.0.1", port)).unwrap();
    let association = Association::begin(leaf.proxy());
    for _ in 0..100 {
        association.send("localhost", port, b"warm");
        association.receive();
    }
    let mut buffer = [0; 4_096];
    let without = median(|| {
        direct.send(&[0; 200]).unwrap();
        direct.recv(&mut buffer).unwrap();
    });
    let with = median(|| {
        association.send("localhost", port, &[0; 200]);
        association.receive();
    });
    eprintln!("round trip: {without:?} directly, {with:?} through both nodes");
    // 50 Mbit/s of 1,200 bytes each way, for five seconds.
    let (sent, start) = (26_000_u32, Instant::now());
    let association = Arc::new(association);
    let receiving = association.clone();
    association.socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let receiver = thread::spawn(move || {
        let mut buffer = [0; 4_096];
        std::iter::from_fn(|| receiving.socket.recv_from(&mut buffer).ok()).count()
    });
    for number in 0..sent {
        association.send("localhost", port, &[0; 1_200]);
        let due = Duration::from_secs_f64(f64::from(number) / 5_208.0);
        thread::sleep(due.saturating_sub(start.elapsed()));
    }
    let took = start.elapsed();
    let back = receiver.join().unwrap();
    let lost = f64::from(sent) - f64::from(u32::try_from(back).unwrap());
    eprintln!(
        "sent {sent} in {took:?}, {back} came back, lost {:.3} %",
        lost / f64::from(sent) * 100.0
    );
    for name in ["leaf", "hub"] {
        eprintln!("{name} dropped {}", json(&site.dir(name), &["status"])["dropped_datagrams"]);
    }
    eprintln!("{}", json(&site.dir("leaf"), &["flows"])[0]["datagrams"]);
}
