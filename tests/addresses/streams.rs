//! TLS on TCP to a node that has both families, from one that has IPv4 only: directly, and by a proxy that the
//! environment names.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use crate::{
    networks::{Networks, told},
    overlay::{Running, configure, json, stderr, wait_for},
};

/// The overlay's first node, which accepts streams at this address of the host `hub` and tells port 443, of IPv6 first.
fn hub(networks: &Networks, listen: &str) -> Running {
    let advertise = ["--advertise", "[2001:db8:6::1]:4600", "--advertise", "198.51.100.1:4600"];
    let init = [&["init", "--name", "hub", "--no-entry"][..], &advertise].concat();
    networks.must("hub", &init, "");
    let line = format!("stream_listen = \"{listen}\"\nstream_port = 443");
    configure(&networks.site.dir("hub"), "#stream_listen = \"[::]:443\"", &line);
    networks.start("hub", &[])
}

#[test]
fn netcheck_finds_tcp_open_where_one_family_has_no_route() {
    let Some(networks) = Networks::make() else { return };
    let _hub = hub(&networks, "[::]:443");
    let laptop = networks.join("laptop", &[], &["--no-entry"]);
    configure(&laptop, "udp = true", "udp = false");
    let _entry = networks.start("laptop", &[]);
    wait_for("the link", || json(&laptop, &["links"])[0]["carrier"] == "tls");
    let told = || std::fs::read_to_string(laptop.join("state/members.json")).unwrap_or_default();
    wait_for("both addresses", || told().contains("[2001:db8:6::1]:4600"));
    let report = json(&laptop, &["netcheck"]);
    assert_eq!(report["tcp"], true, "{report:#}");
    assert!(report["members"][0]["tcp_problem"].is_null(), "{report:#}");
}

/// A proxy at 198.51.100.1:3128 that prints what it is asked for, and leads to 127.0.0.1:443 for 198.51.100.1:443. After
/// SIGUSR1 it takes no more connections.
const PROXY: &str = r#"
import signal, socket, threading
server = socket.create_server(("198.51.100.1", 3128))
signal.signal(signal.SIGUSR1, lambda *_: server.shutdown(socket.SHUT_RDWR))
def copy(one, other):
    try:
        while data := one.recv(65536):
            other.sendall(data)
    finally:
        other.shutdown(socket.SHUT_WR)
def serve(near):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += near.recv(1)
    asked = head.split(b"\r\n")[0].decode()
    print(asked, flush=True)
    if asked != "CONNECT 198.51.100.1:443 HTTP/1.1":
        near.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")
        return near.close()
    far = socket.create_connection(("127.0.0.1", 443))
    near.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
    threading.Thread(target=copy, args=(near, far)).start()
    copy(far, near)
print("ready", flush=True)
try:
    while True:
        threading.Thread(target=serve, args=(server.accept()[0],)).start()
except OSError:
    server.close()
    print("closed", flush=True)
"#;

/// The proxy, which ends with this.
struct Proxy {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn start(networks: &Networks) -> Self {
        let mut command = networks.on("hub");
        command.args(["/usr/bin/python3", "-c", PROXY]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (out, said) = (child.stdout.take().unwrap(), Arc::<Mutex<Vec<_>>>::default());
        let lines = said.clone();
        thread::spawn(move || {
            BufReader::new(out).lines().for_each(|line| lines.lock().unwrap().push(line.unwrap()));
        });
        let proxy = Self { child, said };
        proxy.wait_for("ready", 1);
        proxy
    }

    /// Waits until it has said a line so many times.
    fn wait_for(&self, line: &str, times: usize) {
        wait_for(line, || self.count(line) >= times);
    }

    fn count(&self, line: &str) -> usize {
        self.said.lock().unwrap().iter().filter(|said| *said == line).count()
    }

    fn take_no_more(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-USR1", &pid]).status().unwrap().success());
        self.wait_for("closed", 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command of the laptop for which this variable alone names the proxy.
fn by_proxy(networks: &Networks, variable: &str) -> Command {
    let mut command = networks.ronproxy("laptop");
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command.env(variable, "http://198.51.100.1:3128");
    command
}

#[test]
fn streams_and_join_go_by_the_proxy_of_the_environment() {
    if !Path::new("/usr/bin/python3").exists() {
        println!("skipped: no /usr/bin/python3");
        return;
    }
    let Some(networks) = Networks::make() else { return };
    // Nothing but the proxy reaches the port.
    let hub_dir = networks.site.dir("hub");
    let hub = hub(&networks, "127.0.0.1:443");
    drop(hub);
    configure(&hub_dir, "udp = true", "udp = false");
    let _hub = networks.start("hub", &[]);
    let proxy = Proxy::start(&networks);
    let asked = "CONNECT 198.51.100.1:443 HTTP/1.1";

    let line = networks.must("hub", &["invite", "--name", "laptop"], "");
    let direct = networks.run("laptop", &["join", "-", "--no-entry"], &line);
    assert_eq!((direct.status.code(), proxy.count(asked)), (Some(1), 0), "{}", stderr(&direct));
    let mut join = by_proxy(&networks, "HTTPS_PROXY");
    let joined = told(join.args(["join", "-", "--no-entry"]), &line);
    assert!(joined.status.success(), "{}", stderr(&joined));
    assert!(proxy.count(asked) > 0);

    let laptop = networks.site.dir("laptop");
    for variable in ["HTTPS_PROXY", "all_proxy"] {
        let before = proxy.count(asked);
        let _entry = Running::start_command(by_proxy(&networks, variable), &laptop);
        wait_for("the link", || json(&laptop, &["links"])[0]["carrier"] == "tls");
        assert!(proxy.count(asked) > before, "{variable}: the proxy was not asked");
    }
    let _entry = Running::start_command(by_proxy(&networks, "HTTPS_PROXY"), &laptop);
    wait_for("the link", || json(&laptop, &["links"])[0]["carrier"] == "tls");
    // The link shows that TCP passes, where another dial would fail now.
    proxy.take_no_more();
    let report = json(&laptop, &["netcheck"]);
    assert_eq!((&report["udp"], &report["tcp"]), (&false.into(), &true.into()), "{report:#}");
}
