//! Rivals, where they are installed: `ssh -D` and a shadowsocks pair.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use crate::{hosts::Ground, run::free_port};

pub(crate) struct Rival {
    pub(crate) name: &'static str,
    port: u16,
    processes: Vec<Child>,
    _folder: TempDir,
}

impl Rival {
    pub(crate) fn proxy(&self) -> String {
        format!("socks5h://127.0.0.1:{}", self.port)
    }
}

impl Rival {
    /// Its client and its server.
    pub(crate) fn processes(&self) -> &[Child] {
        &self.processes
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Starts them: the server beside the exit, the client beside the entry.
pub(crate) fn start(ground: &Ground) -> Vec<Rival> {
    let shadowsocks = [
        ("shadowsocks-rust", "ssserver", "sslocal"),
        ("shadowsocks-libev", "ss-server", "ss-local"),
    ];
    let mut rivals: Vec<_> = ssh(ground).into_iter().collect();
    rivals.extend(
        shadowsocks
            .into_iter()
            .filter_map(|(name, server, local)| socks(ground, name, server, local)),
    );
    for name in ["ssh -D", "shadowsocks-rust", "shadowsocks-libev"] {
        if !rivals.iter().any(|rival| rival.name == name) {
            println!("left out: {name} (not installed, or it did not start)");
        }
    }
    rivals
}

fn spawn(command: &mut Command) -> Option<Child> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
}

fn ssh(Ground { entry, exit, .. }: &Ground) -> Option<Rival> {
    let sshd = Path::new("/usr/sbin/sshd");
    if !sshd.exists() {
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    for key in ["host", "user"] {
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f", &path(key)])
            .status();
        made.ok().filter(std::process::ExitStatus::success)?;
    }
    let (server_port, port) = (free_port(), free_port());
    let config = format!(
        "Port {server_port}\nListenAddress {}\nHostKey {}\nAuthorizedKeysFile {}\n\
         PidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n",
        exit.ip,
        path("host"),
        path("user.pub")
    );
    fs::write(path("sshd_config"), config).unwrap();
    let _ = fs::create_dir_all("/run/sshd");
    let server = spawn(exit.command(sshd).args(["-D", "-f", &path("sshd_config")]))?;
    exit.wait_for_port(server_port);
    let client = spawn(entry.command("ssh").args([
        "-F",
        "none",
        "-N",
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-i",
        &path("user"),
        "-D",
        &format!("127.0.0.1:{port}"),
        "-p",
        &server_port.to_string(),
        &exit.ip.to_string(),
    ]))?;
    entry.wait_for_port(port);
    Some(Rival { name: "ssh -D", port, processes: vec![client, server], _folder: folder })
}

fn socks(
    Ground { entry, exit, .. }: &Ground,
    name: &'static str,
    server: &str,
    local: &str,
) -> Option<Rival> {
    for program in [server, local] {
        Command::new(program).arg("--version").output().ok()?;
    }
    let folder = tempfile::tempdir().unwrap();
    let (server_port, port) = (free_port(), free_port());
    let config = serde_json::json!({
        "server": exit.ip.to_string(), "server_port": server_port, "local_address": "127.0.0.1",
        "local_port": port, "password": "bench", "method": "aes-128-gcm", "timeout": 300,
    });
    let path = folder.path().join("config.json");
    fs::write(&path, config.to_string()).unwrap();
    let server = spawn(exit.command(server).arg("-c").arg(&path))?;
    exit.wait_for_port(server_port);
    let client = spawn(entry.command(local).arg("-c").arg(&path))?;
    entry.wait_for_port(port);
    Some(Rival { name, port, processes: vec![client, server], _folder: folder })
}
