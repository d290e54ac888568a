//! Not one packet leaves the machine but the node's: all that comes out of its network is captured at the far end of the
//! cable, while programs send in every way that they can.
//!
//! The same programs run without `ronproxy exec` in the end, and the capture sees what leaves.

use std::{
    io::{BufRead as _, BufReader, Lines, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use crate::{
    networks::{Networks, allow_itself},
    overlay::{Running, json, stderr, wait_for},
    tools::have,
};

const SENDERS: &str = include_str!("senders.py");
const CAPTURE: &str = include_str!("capture.py");

/// Writes a frame to the cable that lets the capture tell what it has seen.
const FENCE: &str = "
import socket
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(('out', 0))
wire.send(b'\\xff' * 6 + bytes(6) + b'\\x88\\xb5' + bytes(46))
";

/// A page and an echo on the exit's own machine; prints their ports.
const SERVERS: &str = "
import http.server, socket, threading
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(('127.0.0.1', 0))
def echo():
    while True:
        udp.sendto(*udp.recvfrom(2000))
threading.Thread(target=echo, daemon=True).start()
web = http.server.ThreadingHTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler)
print(web.server_port, udp.getsockname()[1], flush=True)
web.serve_forever()
";

/// Gives `laptop` IPv6 too, with routes and neighbours that are known: what leaves is sent at once. Its kernel says
/// nothing of its own accord, but for reports of groups.
const BOTH_FAMILIES: &str = "
set -e
cd /proc/sys/net/ipv6/conf/out
echo 0 > router_solicitations
ip link set out addrgenmode none
echo 0 > disable_ipv6
ip address add 2001:db8:4::2/64 dev out nodad
ip -6 route add default via 2001:db8:4::1
ip neigh replace 2001:db8:4::1 lladdr $1 dev out
ip neigh replace 198.51.100.1 lladdr $1 dev out
";

/// A program of a host that prints lines, and does something for each line that it gets.
struct Talker {
    child: Child,
    ask: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
}

impl Talker {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let ask = child.stdin.take().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, ask, said }
    }

    fn line(&mut self) -> String {
        self.said.next().expect("the program has ended").unwrap()
    }

    fn ask(&mut self) -> String {
        self.ask.write_all(b"\n").unwrap();
        self.line()
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn python(mut command: Command, script: &str, arguments: &[&str]) -> Talker {
    command.args(["python3", "-c", script]).args(arguments);
    Talker::start(command)
}

/// `laptop` with a node, the exit `hub` at the other end of its cable, and a capture there.
struct Cable {
    networks: Networks,
    capture: Talker,
    _servers: Talker,
    ports: Vec<String>,
    laptop: Running,
    _hub: Running,
}

impl Cable {
    fn lay() -> Option<Self> {
        let networks = Networks::make()?;
        networks.must("hub", &["init", "--name", "hub", "--exit"], "");
        allow_itself(&networks.site.dir("hub"));
        networks.know("hub", "127.0.0.1 web.test");
        let hub = networks.start("hub", &[]);
        let dir = networks.join("laptop", &[], &[]);
        let check = networks.run("laptop", &["exec", "--check"], "");
        if !check.status.success() {
            println!("skipped: {}", stderr(&check).trim());
            return None;
        }
        let mut shown = networks.on("hub");
        let shown = shown.args(["cat", "/sys/class/net/four/address"]).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        let mut change = networks.on("laptop");
        change.args(["sh", "-c", BOTH_FAMILIES, "sh", shown.trim()]);
        assert!(change.status().unwrap().success());
        let mut capture = python(networks.on("hub"), CAPTURE, &["four"]);
        assert_eq!(capture.line(), "ready");
        let mut servers = python(networks.on("hub"), SERVERS, &[]);
        let ports = servers.line().split(' ').map(str::to_owned).collect();
        let laptop = networks.start("laptop", &[]);
        wait_for("the link", || json(&dir, &["links"])[0]["up"] == true);
        Some(Self { networks, capture, _servers: servers, ports, laptop, _hub: hub })
    }

    /// The senders as a program of `ronproxy exec` on `laptop`.
    fn senders(&self) -> Talker {
        let mut exec = self.networks.ronproxy("laptop");
        exec.args(["exec", "--"]);
        let ports: Vec<_> = self.ports.iter().map(String::as_str).collect();
        let mut senders = python(exec, SENDERS, &ports);
        assert_eq!(senders.line(), "ready");
        senders
    }

    /// The kinds of packets that have left `laptop` since the last question.
    fn left(&mut self) -> Vec<String> {
        let mut fence = self.networks.on("laptop");
        assert!(fence.args(["python3", "-c", FENCE]).status().unwrap().success());
        let mut all = Vec::new();
        loop {
            let line = self.capture.line();
            if let Some(missed) = line.strip_prefix("missed ") {
                assert_eq!(missed, "0", "the capture is too slow");
                return all;
            }
            all.push(line);
        }
    }
}

/// What the kernel of `laptop` sends by itself: reports of its own address, and answers to the exit when the node is gone.
const KERNEL: [&str; 3] = [
    "arp 198.51.100.1",
    "icmp 3 198.51.100.2 > 198.51.100.1",
    "icmp6 143 :: > ff02::16 ff02::1:ff00:2",
];

/// What leaves of the senders when nothing holds it back.
const LEAKS: [&str; 19] = [
    "tcp 198.51.100.2 * > 203.0.113.9 80",
    "tcp 2001:db8:4::2 * > 2001:db8:99::9 80",
    "udp 198.51.100.2 * > 203.0.113.9 9999",
    "udp 2001:db8:4::2 * > 2001:db8:99::9 9999",
    "udp 198.51.100.2 * > 198.51.100.1 4600",
    "udp 198.51.100.2 * > 203.0.113.9 9996",
    "fragment > 203.0.113.9",
    "udp 198.51.100.2 * > 203.0.113.53 53",
    "udp 198.51.100.2 * > 255.255.255.255 67",
    "udp 198.51.100.2 * > 203.0.113.9 9998",
    "udp 198.51.100.2 * > 203.0.113.9 9997",
    "icmp 8 198.51.100.2 > 203.0.113.9",
    "icmp6 128 2001:db8:4::2 > 2001:db8:99::9",
    "253 198.51.100.2 > 203.0.113.9",
    "253 2001:db8:4::2 > 2001:db8:99::9",
    "252 198.51.100.2 > 203.0.113.9",
    "251 2001:db8:4::2 > 2001:db8:99::9",
    "udp 198.51.100.2 * > 224.0.0.251 5353",
    "udp 2001:db8:4::2 * > ff02::fb 5353",
];

/// Whether a line is of this kind, in which `*` stands for a port.
fn is(kind: &str, line: &str) -> bool {
    let (kind, line) = (kind.split(' '), line.split(' '));
    kind.clone().count() == line.clone().count()
        && kind.zip(line).all(|(kind, word)| kind == "*" || kind == word)
}

#[test]
fn not_one_packet_of_a_program_leaves_but_by_the_node() {
    if !["python3", "curl"].into_iter().all(have) {
        return;
    }
    let Some(mut cable) = Cable::lay() else { return };
    let port = cable.laptop.listen().port();
    // The node also tries the exit's other address.
    let node = [
        format!("udp 198.51.100.2 {port} > 198.51.100.1 4600"),
        format!("udp 2001:db8:4::2 {port} > 2001:db8:6::1 4600"),
    ];
    let foreign = |left: Vec<String>| {
        let of_none = left.into_iter().filter(|line| !KERNEL.contains(&&**line));
        of_none.filter(|line| !node.contains(line)).collect::<Vec<_>>()
    };
    let mut inside = cable.senders();
    let said = inside.ask();
    println!("inside: {said}");
    let left = cable.left();
    assert!(said.starts_with("curl ok, echo ok, "), "{said}");
    assert!(left.contains(&node[0]), "{left:?}");
    assert_eq!(foreign(left), [""; 0], "left beside the node");

    cable.laptop.crash();
    assert_eq!(foreign(cable.left()), [""; 0], "left as the node crashed");
    let said = inside.ask();
    println!("without the node: {said}");
    assert!(!said.contains("curl ok") && !said.contains("echo ok"), "{said}");
    let left = cable.left();
    assert!(!left.iter().any(|line| node.contains(line)), "{left:?}");
    assert_eq!(foreign(left), [""; 0], "left without the node");

    inside.child.kill().unwrap();
    inside.child.wait().unwrap();
    let said = inside.ask();
    println!("without `ronproxy exec`: {said}");
    assert!(!said.contains("curl ok") && !said.contains("echo ok"), "{said}");
    assert_eq!(foreign(cable.left()), [""; 0], "left without `ronproxy exec`");

    // The capture sees what leaves. Last, as the kernel repeats its reports of groups after a while.
    let mut outside = python(cable.networks.on("laptop"), SENDERS, &[]);
    assert_eq!(outside.line(), "ready");
    println!("outside: {}", outside.ask());
    let seen = cable.left();
    for kind in LEAKS {
        assert!(seen.iter().any(|line| is(kind, line)), "{kind} is not seen in {seen:#?}");
    }
}
