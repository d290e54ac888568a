//! A real ssh server of this user, and bytes through a real client to it.

use std::path::{Path, PathBuf};

use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, Command},
    time::timeout,
};

use crate::{
    bytes::{MIB, Stream},
    overlay::{Site, free_tcp, wait_for},
    tools::{LIMIT, client, have, text},
};

/// The server; it ends with the test.
pub(crate) struct Sshd {
    _process: Child,
    /// The client's key, which is the server's, too.
    pub(crate) key: PathBuf,
    pub(crate) port: u16,
}

/// Whether ssh and its server can be used here; if not, says so.
pub(crate) fn is_here() -> bool {
    if !["ssh", "ssh-keygen", "sha256sum"].into_iter().all(have) {
        return false;
    }
    let privileged = rustix::process::getuid().is_root();
    // sshd insists on an absolute path and, as root, on this folder.
    let here =
        Path::new("/usr/sbin/sshd").exists() && (!privileged || Path::new("/run/sshd").exists());
    if !here {
        println!("skipped: no sshd that could be started");
    }
    here
}

/// Starts it, and waits until it answers.
pub(crate) async fn start(site: &Site) -> Sshd {
    let (key, config, port) = (site.dir("key"), site.dir("sshd_config"), free_tcp().port());
    let mut keygen = client("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key);
    text(keygen).await;
    let shown = key.display();
    let settings = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {shown}\nAuthorizedKeysFile {shown}.pub\n\
         StrictModes no\nPidFile none\nPermitRootLogin prohibit-password\n"
    );
    std::fs::write(&config, settings).unwrap();
    let process = client("/usr/sbin/sshd").args(["-D", "-e", "-f"]).arg(&config).spawn().unwrap();
    wait_for("sshd", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    Sshd { _process: process, key, port }
}

/// Lets the client run sha256sum at the server over four mebibytes, and checks what it says.
pub(crate) async fn sum_four_mebibytes(mut ssh: Command) {
    ssh.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = ssh.spawn().unwrap();
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
    let sum = Stream::of(4 * MIB).checksum();
    assert_eq!(said.split_whitespace().next(), Some(&*sum), "{output:?}");
}
