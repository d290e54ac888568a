//! Real processes in temporary folders.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take that should take a second or two: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The program, on `dir`.
pub fn ronproxy(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ronproxy"));
    command.arg("--dir").arg(dir).env_remove("RON_LOG").stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub fn run(dir: &Path, arguments: &[&str]) -> Output {
    ronproxy(dir).args(arguments).output().unwrap()
}

/// Runs a command that must succeed; returns its stdout.
pub fn must(dir: &Path, arguments: &[&str]) -> String {
    let output = run(dir, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that must fail with code 1 and one line on stderr; returns that line.
pub fn must_fail(dir: &Path, arguments: &[&str]) -> String {
    let output = run(dir, arguments);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
    let sentences = said.lines().filter(|line| line.starts_with("ronproxy: "));
    assert_eq!(sentences.count(), 1, "{said}");
    said
}

/// A command's facts.
pub fn json(dir: &Path, arguments: &[&str]) -> Value {
    serde_json::from_str(&must(dir, &[arguments, &["--json"]].concat())).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Whether `dir`'s node has neither link to nor lane with `peer`.
pub fn is_rid_of(dir: &Path, peer: &str) -> bool {
    ["links", "lanes"].iter().all(|listing| {
        json(dir, &[listing]).as_array().unwrap().iter().all(|entry| entry["peer"] != peer)
    })
}

/// Waits until `condition` holds.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "{what} did not happen within {PATIENCE:?}");
        sleep(Duration::from_millis(50));
    }
}

/// Replaces a line of a node's configuration.
pub fn configure(dir: &Path, line: &str, by: &str) {
    let file = dir.join("config.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let changed = text.replacen(line, by, 1);
    assert_ne!(changed, text);
    std::fs::write(file, changed).unwrap();
}

/// A UDP address that is free now.
pub fn free_udp() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A TCP address that is free now.
pub fn free_tcp() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The command with SIGHUP in effect. A child inherits that its parent ignores the signal, so tests that `nohup` runs
/// would start nodes that never hear it. The `env` of GNU undoes that.
fn hearing_hangup(command: Command) -> Command {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    if ignored.is_none_or(|mask| mask & 1 == 0) {
        return command;
    }
    let mut hearing = Command::new("env");
    hearing.arg("--default-signal=HUP").arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => hearing.env(name, value),
            None => hearing.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        hearing.current_dir(folder);
    }
    hearing.stdin(Stdio::null());
    hearing
}

/// A running node. Dropping it ends it.
pub struct Running {
    child: Child,
    log: PathBuf,
    /// What it said when it was ready.
    pub ready: Value,
}

impl Running {
    /// Starts `ronproxy run` and waits until it is ready.
    pub fn start(dir: &Path, arguments: &[&str]) -> Self {
        Self::start_as(ronproxy(dir), dir, arguments)
    }

    /// Starts `ronproxy run` with no more than `files` open files.
    pub fn start_with_few_files(dir: &Path, files: u32) -> Self {
        let mut command = Command::new("sh");
        let script = format!("ulimit -n {files}; exec \"$0\" \"$@\"");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_ronproxy"), "--dir"]).arg(dir);
        command.env_remove("RON_LOG").stdin(Stdio::null());
        Self::start_as(command, dir, &[])
    }

    /// Starts `ronproxy run` by this command, with its environment.
    pub fn start_command(command: Command, dir: &Path) -> Self {
        Self::start_as(command, dir, &[])
    }

    /// Starts `ronproxy run` with SIGHUP ignored, as `nohup` does.
    pub fn start_ignoring_hangup(dir: &Path) -> Self {
        let mut command = Command::new("sh");
        let script = "trap '' HUP; exec \"$0\" \"$@\"";
        command.args(["-c", script, env!("CARGO_BIN_EXE_ronproxy"), "--dir"]).arg(dir);
        command.env_remove("RON_LOG").stdin(Stdio::null());
        Self::start_as(command, dir, &[])
    }

    /// Starts `ronproxy run` with its log in the file `log`.
    pub fn start_with_log(dir: &Path, log: &str) -> Self {
        Self::start_logging(ronproxy(dir), log.into(), &[])
    }

    /// Starts it by this command, which names the program and the folder.
    pub fn start_as(command: Command, dir: &Path, arguments: &[&str]) -> Self {
        Self::start_logging(command, dir.join("log"), arguments)
    }

    fn start_logging(command: Command, log: PathBuf, arguments: &[&str]) -> Self {
        let mut command = hearing_hangup(command);
        if let Some(filter) = std::env::var_os("RON_TEST_LOG") {
            command.env("RON_LOG", filter);
        }
        command.args(["run", "--json", "--proxy", "127.0.0.1:0"]);
        if !arguments.contains(&"--dashboard") {
            command.args(["--dashboard", "127.0.0.1:0"]);
        }
        let mut child = command
            .args(arguments)
            .stdout(Stdio::piped())
            // What a predecessor said stays: a test may want to read it.
            .stderr(File::options().append(true).create(true).open(&log).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line);
        let ready =
            ready.unwrap_or_else(|error| panic!("not ready ({error}): {line}{}", said(&log)));
        Self { child, log, ready }
    }

    pub fn proxy(&self) -> SocketAddr {
        self.ready["proxy"].as_str().unwrap().parse().unwrap()
    }

    pub fn dashboard(&self) -> SocketAddr {
        self.ready["dashboard"].as_str().unwrap().parse().unwrap()
    }

    pub fn listen(&self) -> SocketAddr {
        self.ready["listen"].as_str().unwrap().parse().unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, such as `-TERM`, to this one process.
    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        wait_for("the end of a node", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Ends it as `kill -9` does.
    pub fn crash(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            // libtest shows it with the failure.
            eprintln!("--- {}\n{}", self.log.display(), said(&self.log));
        }
    }
}

/// What is in a log, if it is a file.
fn said(log: &Path) -> String {
    if log.is_file() { std::fs::read_to_string(log).unwrap_or_default() } else { String::new() }
}

/// A folder for several nodes.
pub struct Site(TempDir);

impl Site {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn dir(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Makes the overlay `hub`, an exit that may reach this machine.
    pub fn hub(&self) -> PathBuf {
        self.found("hub", &["--listen", &free_udp().to_string()])
    }

    /// Makes the overlay `name`, an exit that may reach this machine, with these options of `init`.
    pub fn found(&self, name: &str, options: &[&str]) -> PathBuf {
        let dir = self.dir(name);
        must(&dir, &[&["init", "--name", name, "--exit"], options].concat());
        configure(&dir, "allow_private = []", "allow_private = [\"127.0.0.0/8\"]");
        dir
    }

    /// Invites `name`.
    pub fn invite(&self, name: &str) -> String {
        must(&self.dir("hub"), &["invite", "--name", name]).trim().to_owned()
    }

    /// Joins as `name`, with the line on standard input.
    pub fn join(&self, name: &str) -> PathBuf {
        self.join_by(&self.invite(name), name, &["--listen", &free_udp().to_string()])
    }

    /// Joins as `name` by this line, with these options of `join`.
    pub fn join_by(&self, line: &str, name: &str, options: &[&str]) -> PathBuf {
        let dir = self.dir(name);
        let mut child = ronproxy(&dir)
            .args(["join", "-"])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        writeln!(child.stdin.take().unwrap(), "{line}").unwrap();
        assert!(child.wait().unwrap().success());
        dir
    }

    /// An overlay of `hub`, the exit, and `leaf`, both running and linked.
    pub fn pair(&self, leaf_arguments: &[&str]) -> (Running, Running) {
        let hub = Running::start(&self.hub(), &[]);
        let dir = self.join("leaf");
        let leaf = Running::start(&dir, leaf_arguments);
        wait_for("the link", || json(&dir, &["links"])[0]["up"] == true);
        (hub, leaf)
    }
}

/// The admin socket of the node in `dir`.
pub fn socket(dir: &Path) -> PathBuf {
    dir.join("state/control.sock")
}
