//! A program without proxy support on the IPv4-only host, before an IPv6-only exit.

use std::path::Path;

use crate::{
    networks::Networks,
    overlay::{configure, json, stderr, wait_for},
};

/// A server of the site's own IPv6 address: sends what it gets back, of TCP and of UDP.
const ECHO: &str = r#"
import socket, sys, threading
host, port = sys.argv[1], int(sys.argv[2])
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
udp.bind((host, port))
def datagrams():
    while True:
        data, peer = udp.recvfrom(2000)
        udp.sendto(data, peer)
threading.Thread(target=datagrams, daemon=True).start()
tcp = socket.create_server((host, port), family=socket.AF_INET6)
print("ready", flush=True)
while True:
    one, _ = tcp.accept()
    while data := one.recv(65536):
        one.sendall(data)
    one.close()
"#;

/// Sends 1 MiB by TCP and a datagram to an IPv6 address, and compares what comes back.
const CLIENT: &str = r#"
import os, socket, sys, threading
host, port = sys.argv[1], int(sys.argv[2])
sent = os.urandom(1 << 20)
tcp = socket.create_connection((host, port), 20)
def send():
    tcp.sendall(sent)
    tcp.shutdown(socket.SHUT_WR)
threading.Thread(target=send).start()
got = b""
while data := tcp.recv(65536):
    got += data
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
udp.settimeout(5)
for _ in range(4):
    udp.sendto(b"over IPv6", (host, port))
    try:
        back = udp.recvfrom(2000)
        break
    except TimeoutError:
        back = None
print(got == sent, back and back[0], back and back[1][:2])
"#;

#[test]
fn a_program_without_ipv6_reaches_an_ipv6_destination() {
    if !Path::new("/usr/bin/python3").exists() {
        println!("skipped: no /usr/bin/python3");
        return;
    }
    let Some(networks) = Networks::make() else { return };
    let _hub = networks.found(&["--no-entry"]);
    let laptop = networks.join("laptop", &[], &[]);
    let site = networks.join("site", &["--exit"], &["--exit", "--no-entry"]);
    configure(&site, "allow_private = []", "allow_private = [\"2001:db8::/32\"]");
    let _entry = networks.start("laptop", &[]);
    let _exit = networks.start("site", &[]);
    let check = networks.run("laptop", &["exec", "--check"], "");
    if !check.status.success() {
        println!("skipped: {}", stderr(&check).trim());
        return;
    }
    wait_for("a route", || json(&laptop, &["routes"])[0]["route"] == "via hub");

    let (host, port) = ("2001:db8:6::2", "7007");
    let mut echo = networks.on("site");
    echo.args(["/usr/bin/python3", "-c", ECHO, host, port]).stdout(std::process::Stdio::piped());
    let mut echo = Ended(echo.spawn().unwrap());
    let mut ready = String::new();
    let said = std::io::BufReader::new(echo.0.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut { said }, &mut ready).unwrap();
    let client = ["exec", "--", "/usr/bin/python3", "-c", CLIENT, host, port];
    let output = networks.run("laptop", &client, "");
    let said = String::from_utf8_lossy(&output.stdout);
    let expected = format!("True b'over IPv6' ('{host}', {port})");
    assert_eq!(said.trim(), expected, "{}", stderr(&output));
}

/// A process that ends with the test.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
