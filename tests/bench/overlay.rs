//! Three real nodes in processes of their own: entry, exit, relay.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    rc::Rc,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    hosts::{Ground, Host},
    run::free_port,
    usage::memory_mib,
};

/// The rules of the entry: the SOCKS user name decides whether the relay is forced.
const RULES: &str = "
[[entry.users]]
name = \"direct\"
password = \"bench\"
[[entry.users]]
name = \"relayed\"
password = \"bench\"
[[rule]]
user = \"relayed\"
exit = \"exit\"
via = \"relay\"
[[rule]]
user = \"direct\"
exit = \"exit\"
direct = true
";

pub(crate) struct Overlay {
    nodes: Vec<Child>,
    port: u16,
    folder: TempDir,
    hosts: [Rc<Host>; 3],
}

impl Overlay {
    /// Starts the nodes on these hosts, with these settings of `[lane]` beside the defaults, and waits until all
    /// links are up.
    pub(crate) fn start(ground: &Ground, lane: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().to_owned();
        let dir = |name: &str| at.join(name);
        let hosts = [ground.exit.clone(), ground.relay.clone(), ground.entry.clone()];
        let [exit, relay, entry] = &hosts;
        let port = free_port();
        let listen = format!("{}:{}", exit.ip, free_port());
        ronproxy(exit, &dir("exit"), &["init", "--name", "exit", "--exit", "--listen", &listen]);
        edit(&dir("exit"), |text| {
            let allowed = "allow_private = [\"127.0.0.0/8\", \"10.0.0.0/8\"]";
            let text = text.replace("allow_private = []", allowed);
            with_lane(&text, lane)
        });
        let first = run(exit, &dir("exit"), "127.0.0.1:0");
        let mut overlay = Self { nodes: vec![first], port, folder, hosts: hosts.clone() };
        for (name, role) in [("relay", Some("--relay")), ("entry", None)] {
            overlay.join(name, role);
        }
        edit(&dir("entry"), |text| format!("{text}{RULES}"));
        for name in ["relay", "entry"] {
            edit(&dir(name), |text| with_lane(&text, lane));
        }
        let more = [
            run(relay, &dir("relay"), "127.0.0.1:0"),
            run(entry, &dir("entry"), &format!("127.0.0.1:{port}")),
        ];
        entry.wait_for_port(port);
        for (host, name) in [(exit, "exit"), (relay, "relay"), (entry, "entry")] {
            wait_for_links(host, &dir(name));
        }
        overlay.nodes.extend(more);
        overlay
    }

    /// Another member, which is not started: its folder.
    pub(crate) fn join(&self, name: &str, role: Option<&str>) -> PathBuf {
        let [exit, relay, entry] = &self.hosts;
        let host = if name == "relay" { relay } else { entry };
        let invite = [&["invite", "--name", name], role.as_slice()].concat();
        let line = ronproxy(exit, &self.dir("exit"), &invite);
        let listen = format!("{}:{}", host.ip, free_port());
        ronproxy(host, &self.dir(name), &["join", line.trim(), "--listen", &listen]);
        self.dir(name)
    }

    /// The folder of the member of this name.
    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The proxy as curl wants it, for this user.
    pub(crate) fn proxy(&self, user: &str) -> String {
        format!("socks5h://{user}:bench@127.0.0.1:{}", self.port)
    }

    /// A connection through the proxy by SOCKS5 with user and password (RFC 1928, RFC 1929).
    pub(crate) fn connect(&self, to: SocketAddr) -> TcpStream {
        let SocketAddr::V4(to) = to else { panic!("loopback is IPv4 here") };
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(&[5, 1, 2]).unwrap();
        stream.read_exact(&mut [0; 2]).unwrap();
        stream.write_all(b"\x01\x06direct\x05bench").unwrap();
        stream.read_exact(&mut [0; 2]).unwrap();
        let mut request = vec![5, 1, 0, 1];
        request.extend(to.ip().octets());
        request.extend(to.port().to_be_bytes());
        stream.write_all(&request).unwrap();
        let mut reply = [0; 10];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(reply[1], 0, "SOCKS refused: {reply:?}");
        stream
    }

    /// The exit, the relay and the entry.
    pub(crate) fn processes(&self) -> &[Child] {
        &self.nodes
    }

    /// Resident memory of the entry and the exit, in MiB.
    pub(crate) fn resident_mib(&self) -> (f64, f64) {
        (memory_mib(&self.nodes[2], "VmRSS"), memory_mib(&self.nodes[0], "VmRSS"))
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

/// The configuration with these keys of `[lane]` in place of the defaults.
fn with_lane(text: &str, lane: &str) -> String {
    let set = |line: &str| line.split(" =").next().unwrap_or_default().to_owned();
    let keys: Vec<String> = lane.lines().map(set).collect();
    let kept = text.lines().filter(|line| !keys.contains(&set(line)) || line.starts_with('#'));
    let text: String = kept.map(|line| format!("{line}\n")).collect();
    text.replace("[lane]\n", &format!("[lane]\n{lane}\n"))
}

fn edit(dir: &Path, change: impl Fn(String) -> String) {
    let path = dir.join("config.toml");
    fs::write(&path, change(fs::read_to_string(&path).unwrap())).unwrap();
}

fn program(host: &Host, dir: &Path) -> Command {
    // Cargo names it where it was built along.
    let built = option_env!("CARGO_BIN_EXE_ronproxy").map(Into::into);
    let executable = built.or_else(|| env::var_os("RON_PROGRAM"));
    let mut command = host.command(executable.expect("RON_PROGRAM has to name the program"));
    command.arg("--dir").arg(dir);
    command
}

/// Runs a command to its end; what it printed.
fn ronproxy(host: &Host, dir: &Path, arguments: &[&str]) -> String {
    let output = program(host, dir).args(arguments).stderr(Stdio::piped()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn run(host: &Host, dir: &Path, proxy: &str) -> Child {
    let mut command = program(host, dir);
    command.args(["run", "--proxy", proxy]).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !program(host, dir).arg("status").output().is_ok_and(|output| output.status.success()) {
        assert!(Instant::now() < deadline, "the node in {} did not start", dir.display());
        std::thread::sleep(Duration::from_millis(50));
    }
    child
}

fn wait_for_links(host: &Host, dir: &Path) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let links: serde_json::Value =
            serde_json::from_str(&ronproxy(host, dir, &["links", "--json"])).unwrap();
        let up = links.as_array().unwrap().iter().filter(|link| link["up"] == true).count();
        if up == 2 {
            return;
        }
        assert!(Instant::now() < deadline, "links of {}: {links}", dir.display());
        std::thread::sleep(Duration::from_millis(100));
    }
}
