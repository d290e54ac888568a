//! Clients that belong to another user of this machine.

use std::{process::Stdio, time::Duration};

use ronproxy::internals::entry::{Config, Entry, LocalUsers};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::support::{DirectDialer, LIMIT, Proxy, config, echo};

/// A shell that speaks TCP by itself, as the user `nobody`; `None` where the test cannot become it.
async fn as_nobody(port: u16, script: &str) -> Option<String> {
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port} || exit 9; {script}");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "bash", "-c", &script]);
    let output = command.current_dir("/").stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(LIMIT, output).await.expect("no hang");
    match output {
        Ok(output) if output.status.success() => {
            Some(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(why.contains("setpriv"), "{why}");
            println!("skipped: this test needs root to become another user: {why}");
            None
        }
        Err(error) => {
            println!("skipped: no setpriv here: {error}");
            None
        }
    }
}

const SOCKS5: &str = r"printf '\5\1\0\5\1\0\1\177\0\0\1\0\11' >&3; od -An -tx1 -v <&3";
const SOCKS5_PASSWORD: &str =
    r"printf '\5\1\2\1\1a\1b\5\1\0\1\177\0\0\1\0\11' >&3; od -An -tx1 -v <&3";
const SOCKS4: &str = r"printf '\4\1\0\11\177\0\0\1\0' >&3; od -An -tx1 -v <&3";
const CONNECT: &str = r"printf 'CONNECT 127.0.0.1:9 HTTP/1.1\r\n\r\n' >&3; cat <&3";
const PAC: &str = r"printf 'GET /proxy.pac HTTP/1.1\r\nHost: x\r\n\r\n' >&3; cat <&3";

#[tokio::test]
async fn another_local_user_is_refused_in_its_own_protocol() {
    let dialer = std::sync::Arc::new(DirectDialer::default());
    let entry = Entry::bind(config(), dialer.clone()).await.unwrap();
    let (port, refused) = (entry.local_addr().port(), entry.refused());
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(entry.run(shutdown.clone(), Duration::ZERO));
    for (script, expected) in [
        (SOCKS5, " 05 00 05 02 00 01 00 00 00 00 00 00\n"),
        (SOCKS5_PASSWORD, " 05 02 01 00 05 02 00 01 00 00 00 00 00 00\n"),
        (SOCKS4, " 00 5b 00 00 00 00 00 00\n"),
    ] {
        let Some(answer) = as_nobody(port, script).await else { return };
        assert_eq!(answer, expected);
    }
    for script in [CONNECT, PAC] {
        let Some(answer) = as_nobody(port, script).await else { return };
        assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
        assert!(answer.contains("serves the user who runs it"), "{answer}");
    }
    assert_eq!(refused.counts(), [("other-user", 5), ("unknown-user", 0)]);
    assert!(dialer.dialed.lock().unwrap().is_empty());
    shutdown.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn a_listed_user_and_everyone_are_served_when_configured() {
    let origin = echo().await;
    let script = format!(r"printf 'CONNECT {origin} HTTP/1.1\r\n\r\n' >&3; head -c 12 <&3");
    for local_users in [LocalUsers::Listed(vec!["nobody".to_owned()]), LocalUsers::All] {
        let proxy = Proxy::with(Config { local_users, ..config() }, Duration::ZERO).await;
        let Some(answer) = as_nobody(proxy.addr.port(), &script).await else { return };
        assert_eq!(answer, "HTTP/1.1 200");
    }
}

#[tokio::test]
async fn an_unknown_local_user_in_the_list_is_named_at_the_start() {
    if !cfg!(target_os = "linux") {
        println!("skipped: only Linux tells local users apart");
        return;
    }
    let local_users = LocalUsers::Listed(vec!["no-such-user".to_owned()]);
    let config = Config { local_users, ..config() };
    let error = Entry::bind(config, std::sync::Arc::new(DirectDialer::default())).await;
    assert!(error.unwrap_err().to_string().contains("no-such-user"));
}
