//! What the benchmarks of whole processes have in common.

use std::{env, net::SocketAddr, process::Command};

/// A number that the environment says.
pub(crate) fn setting(name: &str, default: usize) -> usize {
    env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Runs this program again in a namespace of its own; false where that is not possible.
pub(crate) fn in_own_namespace(arguments: &[String]) -> bool {
    const INSIDE: &str = "RON_BENCH_INSIDE";
    if env::var_os(INSIDE).is_some() {
        return false;
    }
    let script = "ip link set lo up
        for to in 127.0.0.0/8 127.0.0.1; do
            ip route replace local $to dev lo proto kernel scope host src 127.0.0.1 \\
                table local congctl cubic || exit 9
        done
        exec \"$0\" \"$@\"";
    let inside = Command::new("unshare")
        .args(["-n", "sh", "-c", script])
        .arg(env::current_exe().unwrap())
        .args(arguments)
        .env(INSIDE, "1")
        .status();
    let done = inside.is_ok_and(|status| status.success());
    if !done {
        println!(
            "no network namespace (needs root, unshare and ip): using this machine's loopback as it is"
        );
    }
    done
}

pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A free port on loopback.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    listener.local_addr().unwrap().port()
}
