//! Clients as processes, and what Linux tells of the nodes' processes.

use std::{
    env, fs,
    net::SocketAddr,
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use tokio::{process::Command, time::timeout};

use crate::overlay::{json, wait_for};

/// The longest any client may take; only a hang reaches it.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Whether transfers are to be as large as a release needs them.
pub fn heavy() -> bool {
    env::var("RON_HEAVY").is_ok_and(|value| value == "1")
}

/// Whether `program` is on this machine; says so if not.
pub fn have(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if !found {
        println!("skipped: {program} not found");
    }
    found
}

/// A client that the machine's own proxy settings do not concern. It ends with the test.
pub fn client(program: &str) -> Command {
    let mut command = Command::new(program);
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// curl through `proxy`, a URL.
pub fn curl(proxy: &str) -> Command {
    let mut command = client("curl");
    let limit = LIMIT.as_secs().to_string();
    command.args(["-q", "-sS", "--fail", "--max-time", &limit, "--noproxy", "", "--proxy", proxy]);
    command
}

/// Runs a client to its end.
pub async fn finish(mut command: Command) -> Output {
    timeout(LIMIT, command.output()).await.expect("a client hangs").unwrap()
}

/// Runs a client that must succeed; returns its stdout as text.
pub async fn text(command: Command) -> String {
    let what = format!("{:?}", command.as_std());
    let output = finish(command).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {} {said}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until neither end has a flow.
pub fn wait_until_idle(entry: &Path, exit: &Path) {
    wait_for("the end of all flows", || {
        json(entry, &["status"])["flows"] == 0 && json(exit, &["status"])["exit_flows"] == 0
    });
}

/// The memory a process holds, in bytes.
pub fn resident(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// Whether the process `pid` holds the TCP connection whose own end is `address`.
pub fn opened_by(pid: u32, address: SocketAddr) -> bool {
    let port = format!(":{:04X}", address.port());
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let columns = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut inodes =
        columns.filter(|row| row.len() > 9 && row[1].ends_with(&port)).map(|row| row[9].to_owned());
    inodes.any(|inode| {
        let socket = format!("socket:[{inode}]");
        let files = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let mut links = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        links.any(|link| link.as_os_str() == socket.as_str())
    })
}
