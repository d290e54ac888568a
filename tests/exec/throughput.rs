//! What `ronproxy exec` carries, beside SOCKS5 on the same nodes.

use crate::{
    server::Server,
    stage::{Stage, WEB},
    tools::{curl, have, text},
};

/// The size of a download, in bytes.
const SIZE: usize = 500_000_000;

const ROUNDS: usize = 7;

/// Prints its rate in bytes a second.
const RATE: [&str; 4] = ["-o", "/dev/null", "-w", "%{speed_download}"];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "its figures need a release build and a quiet machine"]
async fn exec_carries_half_of_what_socks_does() {
    let Some(stage) = Stage::set() else { return };
    if !have("curl") {
        return;
    }
    let server = Server::start().await;
    let url = format!("http://{WEB}:{}/bytes/{SIZE}", server.address.port());
    let (mut socks, mut exec) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut by_socks = curl(&format!("socks5h://{}", stage.leaf.proxy()));
        by_socks.args(RATE).arg(&url);
        socks.push(mbyte(&text(by_socks).await));
        let program = [&["curl", "-qsSf"][..], &RATE, &[&url]].concat();
        exec.push(mbyte(&text(stage.exec(&[], &program)).await));
    }
    let pairs = socks.iter().zip(&exec).map(|(socks, exec)| exec / socks * 100.0).collect();
    let of_socks = median("SOCKS5, MB/s", socks);
    let of_exec = median("exec, MB/s", exec);
    median("exec in each pair, % of SOCKS5", pairs);
    assert!(of_exec >= of_socks / 2.0, "exec {of_exec:.0} MB/s, SOCKS5 {of_socks:.0} MB/s");
}

fn mbyte(said: &str) -> f64 {
    said.trim().parse::<f64>().unwrap() / 1e6
}

/// The median, which is printed with the least and the most.
fn median(what: &str, mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (least, most) = (values[0], values[values.len() - 1]);
    println!("{what}: median {:.0}, {least:.0} to {most:.0}", values[values.len() / 2]);
    values[values.len() / 2]
}
