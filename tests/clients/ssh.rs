//! The real ssh, through SOCKS5, to a real server of its own.

use std::{os::unix::fs::MetadataExt as _, path::Path};

use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};

use crate::{
    bytes::{MIB, Stream},
    overlay::{Site, free_tcp, wait_for},
    tools::{LIMIT, client, have, text},
};

#[tokio::test(flavor = "multi_thread")]
async fn ssh_runs_a_command_through_the_proxy() {
    let privileged = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    if !["ssh", "ssh-keygen", "sha256sum"].into_iter().all(have) || !has_proxy_option().await {
        return;
    }
    // sshd insists on an absolute path and, as root, on this folder.
    if !Path::new("/usr/sbin/sshd").exists() || (privileged && !Path::new("/run/sshd").exists()) {
        println!("skipped: no sshd that could be started");
        return;
    }
    let site = Site::new();
    let (_exit, entry) = site.pair(&[]);
    let key = site.dir("key");
    let mut keygen = client("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key);
    text(keygen).await;
    let port = free_tcp().port();
    let _server = start_sshd(&site, &key, port);
    wait_for("sshd", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let mut command = client("ssh");
    command.args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"]);
    command.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]);
    command.arg("-o").arg(format!("ProxyCommand=nc -X 5 -x {} %h %p", entry.proxy()));
    command.arg("-i").arg(&key).args(["-p", &port.to_string(), "127.0.0.1", "sha256sum"]);
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let talking = async {
        for block in Stream::of(4 * MIB) {
            input.write_all(&block).await.unwrap();
        }
        drop(input);
        child.wait_with_output().await.unwrap()
    };
    let output = timeout(LIMIT, talking).await.expect("ssh hangs");
    let said = String::from_utf8_lossy(&output.stdout);
    let checksum = Stream::of(4 * MIB).checksum();
    assert_eq!(said.split_whitespace().next(), Some(&*checksum), "{}", output.status);
}

/// Starts sshd for this user and this key; it ends with the test.
fn start_sshd(site: &Site, key: &Path, port: u16) -> tokio::process::Child {
    let config = site.dir("sshd_config");
    let key = key.display();
    let text = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {key}\nAuthorizedKeysFile {key}.pub\n\
         StrictModes no\nPidFile none\nPermitRootLogin prohibit-password\n"
    );
    std::fs::write(&config, text).unwrap();
    client("/usr/sbin/sshd").args(["-D", "-e", "-f"]).arg(&config).spawn().unwrap()
}

/// Whether there is an nc that speaks SOCKS, as that of OpenBSD does.
async fn has_proxy_option() -> bool {
    let help = Command::new("nc").arg("-h").output().await;
    let found = help.is_ok_and(|help| String::from_utf8_lossy(&help.stderr).contains("-X proto"));
    if !found {
        println!("skipped: no nc that speaks SOCKS");
    }
    found
}
