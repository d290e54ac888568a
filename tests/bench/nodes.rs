//! An entry and an exit at the ends of the cable, and servers beside the exit.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::{
    cable::{Cable, Host},
    usage::memory_mib,
};

/// How long anything may take that takes a second or two.
const PATIENCE: Duration = Duration::from_secs(30);

/// The entry's proxy.
const PROXY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1080);

/// What a server does with a connection: the first byte says it.
pub(crate) const SEND: u8 = b's';
pub(crate) const ECHO: u8 = b'e';
pub(crate) const TAKE: u8 = b't';

/// Connections that wait for a server.
const BACKLOG: i32 = 16;

/// Bytes read or written at once.
const BLOCK: usize = 64 << 10;

/// A server beside the exit.
pub(crate) struct Server {
    port: u16,
    /// The congestion control of its side of a connection, and of clients without ronproxy.
    congestion: String,
    /// The bytes that it took.
    pub(crate) taken: Arc<AtomicU64>,
}

/// The nodes of two hosts.
pub(crate) struct Nodes {
    pub(crate) cable: Cable,
    folder: TempDir,
    exit: Option<Child>,
    entry: Option<Child>,
}

impl Nodes {
    /// An exit with these lines of its configuration replaced, and an entry that has joined and does not run yet.
    pub(crate) fn set(cable: Cable, lines: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut nodes = Self { cable, folder, exit: None, entry: None };
        let at = format!("{}:4600", nodes.cable.exit.ip);
        let exit = nodes.dir("exit");
        let init = ["init", "--name", "exit", "--exit", "--advertise", &at];
        must(&nodes.cable.exit, &exit, &init);
        configure(&exit, "allow_private = []", "allow_private = [\"127.0.0.0/8\"]");
        lines.iter().for_each(|(line, by)| configure(&exit, line, by));
        nodes.exit = Some(start(&nodes.cable.exit, &exit));
        let line = must(&nodes.cable.exit, &exit, &["invite", "--name", "entry"]);
        must(&nodes.cable.entry, &nodes.dir("entry"), &["join", line.trim()]);
        nodes
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the entry, and returns when its proxy is there.
    pub(crate) fn start_entry(&mut self) {
        self.end_entry();
        self.entry = Some(start(&self.cable.entry, &self.dir("entry")));
    }

    pub(crate) fn end_entry(&mut self) {
        end(&mut self.entry);
    }

    /// Starts the entry with UDP blocked or not, and waits until its link is over that.
    pub(crate) fn start_over(&mut self, carrier: &str) {
        self.end_entry();
        self.cable.block_udp(carrier == "tls");
        self.start_entry();
        let began = Instant::now();
        while self.carrier() != carrier {
            assert!(began.elapsed() < PATIENCE, "the link is not over {carrier}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// What the entry's link goes over.
    pub(crate) fn carrier(&self) -> String {
        let links = must(&self.cable.entry, &self.dir("entry"), &["links", "--json"]);
        let links: Value = serde_json::from_str(&links).unwrap();
        links[0]["carrier"].as_str().unwrap_or("none").to_owned()
    }

    /// The most memory that the entry and the exit had so far, in MiB.
    pub(crate) fn peak_mib(&self) -> [f64; 2] {
        [&self.entry, &self.exit].map(|node| memory_mib(node.as_ref().unwrap(), "VmHWM"))
    }

    /// Starts a server whose connections use this congestion control.
    pub(crate) fn serve(&self, congestion: &str) -> Server {
        let taken = Arc::<AtomicU64>::default();
        let (count, name) = (taken.clone(), congestion.to_owned());
        let port = self.cable.exit.run(move || serve(&name, &count));
        Server { port, congestion: congestion.to_owned(), taken }
    }

    /// A connection to a server by plain TCP.
    pub(crate) fn direct(&self, server: &Server, wanted: u8) -> TcpStream {
        let to = SocketAddr::from((self.cable.exit.ip, server.port));
        let congestion = server.congestion.clone();
        self.cable.entry.run(move || {
            let socket = tcp(&congestion);
            socket.connect(&to.into()).unwrap();
            open(socket.into(), wanted)
        })
    }

    /// A connection to a server through the entry and the exit, by SOCKS5 (RFC 1928).
    pub(crate) fn flow(&self, server: &Server, wanted: u8) -> TcpStream {
        let port = server.port;
        self.cable.entry.run(move || {
            let mut stream = TcpStream::connect(PROXY).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let [high, low] = port.to_be_bytes();
            stream.write_all(&[5, 1, 0, 5, 1, 0, 1, 127, 0, 0, 1, high, low]).unwrap();
            let mut reply = [0; 12];
            stream.read_exact(&mut reply).unwrap();
            assert_eq!(reply[3], 0, "SOCKS refused: {reply:?}");
            open(stream, wanted)
        })
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        end(&mut self.entry);
        end(&mut self.exit);
    }
}

fn open(mut stream: TcpStream, wanted: u8) -> TcpStream {
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&[wanted]).unwrap();
    stream
}

/// A socket of TCP with this congestion control.
fn tcp(congestion: &str) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_tcp_congestion(congestion.as_bytes()).unwrap();
    socket
}

/// Serves on a free port of the host, and counts what it takes.
fn serve(congestion: &str, taken: &Arc<AtomicU64>) -> u16 {
    let socket = tcp(congestion);
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into()).unwrap();
    socket.listen(BACKLOG).unwrap();
    let listener = TcpListener::from(socket);
    let port = listener.local_addr().unwrap().port();
    let taken = taken.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, taken) = (stream.unwrap(), taken.clone());
            stream.set_nodelay(true).unwrap();
            thread::spawn(move || answer(stream, &taken));
        }
    });
    port
}

/// Does what a client wants, until it goes.
fn answer(mut stream: TcpStream, taken: &AtomicU64) {
    let (mut wanted, mut key, mut block) = ([0], [0], vec![0; BLOCK]);
    if stream.read_exact(&mut wanted).is_err() {
        return;
    }
    match wanted[0] {
        SEND => while stream.write_all(&block).is_ok() {},
        ECHO => while stream.read_exact(&mut key).and_then(|()| stream.write_all(&key)).is_ok() {},
        TAKE => {
            while let Ok(read @ 1..) = stream.read(&mut block) {
                taken.fetch_add(read as u64, Ordering::Relaxed);
            }
        }
        other => panic!("nobody asks for {other}"),
    }
}

fn program(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ronproxy"));
    command.arg("--dir").arg(dir).env_remove("RON_LOG").stdin(Stdio::null());
    command
}

fn must(host: &Host, dir: &Path, arguments: &[&str]) -> String {
    let mut command = program(dir);
    command.args(arguments);
    let output = host.run(move || command.output().unwrap());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn start(host: &Host, dir: &Path) -> Child {
    let mut command = program(dir);
    command.args(["run", "--json", "--proxy", &PROXY.to_string(), "--dashboard", "127.0.0.1:0"]);
    command.stdout(Stdio::piped()).stderr(fs::File::create(dir.join("log")).unwrap());
    let mut child = host.run(move || command.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let log = || fs::read_to_string(dir.join("log")).unwrap_or_default();
    assert!(line.starts_with('{'), "a node did not start: {}", log());
    child
}

fn end(node: &mut Option<Child>) {
    if let Some(mut child) = node.take() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

fn configure(dir: &Path, line: &str, by: &str) {
    let file = dir.join("config.toml");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(line), "{line}");
    fs::write(file, text.replacen(line, by, 1)).unwrap();
}
