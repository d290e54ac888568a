//! The real ssh, through SOCKS5, to a real server of its own.

use tokio::process::Command;

use crate::{overlay::Site, sshd, tools::client};

#[tokio::test(flavor = "multi_thread")]
async fn ssh_runs_a_command_through_the_proxy() {
    if !sshd::is_here() || !has_proxy_option().await {
        return;
    }
    let site = Site::new();
    let (_exit, entry) = site.pair(&[]);
    let server = sshd::start(&site).await;
    let mut command = client("ssh");
    command.args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"]);
    command.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]);
    command.arg("-o").arg(format!("ProxyCommand=nc -X 5 -x {} %h %p", entry.proxy()));
    command.arg("-i").arg(&server.key).args(["-p", &server.port.to_string()]);
    command.args(["127.0.0.1", "sha256sum"]);
    sshd::sum_four_mebibytes(command).await;
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
