//! Programs that know no SOCKS, through an association: HTTP/3 by aioquic, and iperf3.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
};

use serde_json::Value;

use crate::{
    Association,
    overlay::{PATIENCE, Running, Site, free_tcp, stderr, wait_for},
};

/// Where `.ci/run` puts aioquic.
const AIOQUIC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/aioquic");

/// Loss that one may see on a busy machine, in percent. The figures are those of a quiet one.
const MOST_LOST: f64 = 2.0;

/// Says that a test is left out, as a program is missing. `RON_CLIENTS` names programs that must be there.
fn skip(program: &str) {
    let needed = env::var("RON_CLIENTS").unwrap_or_default();
    assert!(!needed.split(' ').any(|name| name == program), "{program} is missing");
    println!("skipped: {program} not found");
}

/// A program that ends with the test.
struct Ended(Child);

impl Ended {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Python with aioquic.
fn python() -> Command {
    let mut python = Command::new("python3");
    let known = env::var_os("PYTHONPATH")
        .into_iter()
        .flat_map(|path| env::split_paths(&path).collect::<Vec<_>>());
    python.env("PYTHONPATH", env::join_paths(known.chain([AIOQUIC.into()])).unwrap());
    python
}

#[test]
fn http_3_downloads_through_an_association() {
    let found = python().args(["-c", "import aioquic"]).output();
    if !found.is_ok_and(|output| output.status.success()) {
        return skip("aioquic");
    }
    let site = Site::new();
    let (_hub, leaf) = site.pair(&[]);
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (certificate, key, told) = (site.dir("cert.pem"), site.dir("key.pem"), site.dir("port"));
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let mut server = python();
    server.args(["-c", include_str!("h3_server.py")]).args([&certificate, &key, &told]);
    let _server = Ended::start(&mut server);
    wait_for("the server", || told.exists());
    let port: u16 = fs::read_to_string(&told).unwrap().parse().unwrap();
    for (way, port) in [("directly", port), ("through both nodes", wrapped(&leaf, port))] {
        let mut client = python();
        client.args(["-c", include_str!("h3_client.py")]).arg(&certificate);
        let output = client.args([&port.to_string(), "3000000"]).output().unwrap();
        assert!(output.status.success(), "{way}: {}", stderr(&output));
        println!("HTTP/3 {way}: {}", String::from_utf8_lossy(&output.stdout).trim());
    }
}

/// A port that leads to `port` through a new association.
fn wrapped(leaf: &Running, port: u16) -> u16 {
    Association::begin(leaf.proxy()).wrap(port).port()
}

#[test]
fn iperf3_sends_and_receives_datagrams_through_an_association() {
    if Command::new("iperf3").arg("--version").output().is_err() {
        return skip("iperf3");
    }
    let site = Site::new();
    let (_hub, leaf) = site.pair(&[]);
    for (way, reverse) in [("to the server", None), ("and back", Some("--reverse"))] {
        let (_server, server) = chosen("a port for iperf3", iperf3);
        let near = chosen("a port beside an association", || {
            beside(wrapped(&leaf, server.port()), server)
        });
        let mut client = Command::new("iperf3");
        client.args(["--client", "127.0.0.1", "--port", &near.to_string(), "--json"]);
        client.args(["--udp", "--bitrate", "20M", "--length", "1200", "--time", "2"]);
        let output = client.args(reverse).output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(output.status.success(), "{way}: {report:#}");
        let sum = &report["end"]["sum"];
        let (sent, lost) =
            (sum["packets"].as_u64().unwrap(), sum["lost_percent"].as_f64().unwrap());
        println!("iperf3 {way}: {lost:.3} % lost of {sent}");
        assert!(sent > 4_000 && lost < MOST_LOST, "{way}: {sum:#}");
    }
}

/// What is made at a port that other tests may take first: at another one then.
fn chosen<T>(what: &str, make: impl FnMut() -> Option<T>) -> T {
    std::iter::repeat_with(make).take(20).flatten().next().expect(what)
}

/// A server for one test, once it listens; nothing if its port is taken.
fn iperf3() -> Option<(Ended, SocketAddr)> {
    let at = free_tcp();
    let mut command = Command::new("iperf3");
    command.args(["--server", "--one-off", "--forceflush", "--bind", "127.0.0.1"]);
    command.args(["--port", &at.port().to_string()]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut server = Ended(command.spawn().unwrap());
    let said = BufReader::new(server.0.stdout.take().unwrap()).lines();
    let (listens, told) = mpsc::channel();
    // It reads to the end, so that the server can go on writing.
    thread::spawn(move || {
        for line in said.map_while(Result::ok) {
            if line.starts_with("Server listening") {
                let _ = listens.send(());
            }
        }
    });
    match told.recv_timeout(PATIENCE) {
        Ok(()) => Some((server, at)),
        Err(mpsc::RecvTimeoutError::Disconnected) => None,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("iperf3 does not listen"),
    }
}

/// Leads TCP connections at this port to `server`: those by which the two ends of iperf3 agree. Nothing if it is taken.
fn beside(port: u16, server: SocketAddr) -> Option<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
    thread::spawn(move || {
        // It ends with the test.
        for near in listener.incoming() {
            let (near, far) = (near.unwrap(), TcpStream::connect(server).unwrap());
            let back = (far.try_clone().unwrap(), near.try_clone().unwrap());
            for (mut from, mut to) in [(near, far), back] {
                thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    Some(port)
}
