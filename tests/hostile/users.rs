//! Another user of the entry's machine, at the proxy of a real process.

use std::{
    net::SocketAddr,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    overlay::Site,
    processes::{customers, serve_paced, usage},
};

/// Connections that the other user makes, one after another and several at once.
const CONNECTIONS: u32 = 2_000;
const AT_ONCE: u32 = 8;

/// Starts the connections of the user `nobody`; `None` where the test cannot become it.
fn bother(proxy: SocketAddr) -> Option<std::process::Child> {
    let connect = format!("exec 3<>/dev/tcp/127.0.0.1/{}", proxy.port());
    let script = format!(
        "for i in $(seq {AT_ONCE}); do (for j in $(seq {}); do {connect}; printf '\\5\\1\\0' >&3; exec 3>&-; done) & done; wait",
        CONNECTIONS / AT_ONCE
    );
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "bash", "-c"]);
    let may = command.get_program().to_owned();
    let probe = Command::new(may).args(["--reuid=65534", "true"]).stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        println!("skipped: this test needs root and setpriv to become another user");
        return None;
    }
    Some(command.arg(script).current_dir("/").stderr(Stdio::null()).spawn().unwrap())
}

#[test]
fn another_users_connections_cost_the_entry_little_and_delay_nobody() {
    let site = Site::new();
    let (_hub, leaf) = site.pair(&[]);
    let (source, proxy) = (serve_paced(), leaf.proxy());
    let calm = customers(proxy, source, Duration::from_secs(3));
    let log = site.dir("leaf").join("log");
    let lines = || std::fs::read_to_string(&log).unwrap().lines().count();
    let (before, said) = (usage(leaf.pid()), lines());
    let began = Instant::now();
    let Some(mut others) = bother(proxy) else { return };
    let attacked = customers(proxy, source, Duration::from_secs(5));
    assert!(others.wait().unwrap().success());
    let (took, after) = (began.elapsed(), usage(leaf.pid()));
    let (grown, cpu) = (after.peak.saturating_sub(before.resident), after.cpu - before.cpu);
    println!(
        "{CONNECTIONS} connections of another user in {took:?}: +{} KiB, {cpu:?} of CPU, {} log lines; own: {attacked:?}",
        grown / 1024,
        lines() - said
    );
    assert!(grown < 16 << 20, "{grown}");
    assert!(lines() - said < 20);
    attacked.assert_served(&calm);
}
