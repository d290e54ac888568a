//! What the scenario tests share.

#![allow(dead_code, unreachable_pub, reason = "each test crate uses a part")]
#![allow(clippy::unwrap_used, reason = "clippy takes helpers of tests for product code")]

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use ronproxy::internals::{
    app::Node,
    flow::{Flow, FlowIo, FlowRequest, Ingress, Refusal},
    lab::{Lab, LabNode, Service, Services},
    transport::Congestion,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

/// Every object a test serves repeats this many bytes; a prime, so that no buffer size divides it.
const PERIOD: usize = 1_048_573;

/// Two periods of the pattern in a row, made once: a comparison with a slice is much faster than
/// computing each byte.
static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let byte = |at: usize| ((at % PERIOD) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..2 * PERIOD).map(|at| byte(at).to_be_bytes()[0]).collect()
});

/// The `len` bytes from `at` on of every object a test serves: position-dependent, so that a lost,
/// doubled or swapped piece shows. `len` is at most a MiB.
pub fn pattern(at: usize, len: usize) -> &'static [u8] {
    &PATTERN[at % PERIOD..][..len]
}

/// A service that reads one line `GET n` and sends n bytes of the pattern.
pub fn source() -> Service {
    Arc::new(|io| {
        tokio::spawn(async move {
            let mut io = BufReader::new(io);
            let mut line = String::new();
            if io.read_line(&mut line).await.is_err() {
                return;
            }
            let n: usize =
                line.trim().strip_prefix("GET ").and_then(|n| n.parse().ok()).unwrap_or(0);
            let mut at = 0;
            while at < n {
                let chunk = pattern(at, (n - at).min(32 * 1024));
                if io.write_all(chunk).await.is_err() {
                    return;
                }
                at += chunk.len();
            }
            let _ = io.shutdown().await;
        });
    })
}

/// A service that sends back what it gets.
pub fn echo() -> Service {
    Arc::new(|io| {
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(io);
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        });
    })
}

/// A service that counts what it gets, checks it against the pattern, and answers with the count,
/// or with `corrupt`.
pub fn sink() -> Service {
    Arc::new(|mut io| {
        tokio::spawn(async move {
            let (mut at, mut buf) = (0usize, vec![0; 64 * 1024]);
            loop {
                match io.read(&mut buf).await {
                    Ok(0) => break,
                    Ok(n) => {
                        if buf[..n] != *pattern(at, n) {
                            let _ = io.write_all(b"corrupt\n").await;
                            return;
                        }
                        at += n;
                    }
                    Err(_) => return,
                }
            }
            let _ = io.write_all(format!("{at}\n").as_bytes()).await;
            let _ = io.shutdown().await;
        });
    })
}

pub fn services() -> Services {
    Services::default()
        .with("source.test", source())
        .with("echo.test", echo())
        .with("sink.test", sink())
}

/// `entry`, `exit` and `relay` on the usual triangle, meshed.
pub async fn triangle(
    topology: ronproxy::internals::emulator::Topology,
    seed: u64,
    congestion: Congestion,
) -> Lab {
    let lab = start_triangle(topology, seed, congestion, "").await;
    wait_for("the mesh", Duration::from_secs(10), || lab.is_meshed()).await;
    lab
}

/// The same with routing rules at the entry.
pub async fn triangle_with_rules(
    topology: ronproxy::internals::emulator::Topology,
    seed: u64,
    rules: &str,
) -> Lab {
    let lab = start_triangle(topology, seed, Congestion::Adaptive, rules).await;
    wait_for("the mesh", Duration::from_secs(10), || lab.is_meshed()).await;
    // The relay's advertisements need not be here yet, as the mesh has just formed.
    tokio::time::sleep(Duration::from_secs(3)).await;
    lab
}

/// The same, not waiting for any link.
pub async fn start_triangle(
    topology: ronproxy::internals::emulator::Topology,
    seed: u64,
    congestion: Congestion,
    rules: &str,
) -> Lab {
    let mut nodes = vec![
        LabNode::new("entry", false, false),
        LabNode::new("exit", false, true),
        LabNode::new("relay", true, false),
    ];
    nodes[0].rules = ronproxy::internals::config::Config::parse(rules).unwrap().rules;
    Lab::start(topology, seed, nodes, services(), congestion).await.unwrap()
}

/// Waits until `condition` holds, in virtual time.
///
/// # Panics
/// When it does not hold within `limit`.
pub async fn wait_for(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let start = tokio::time::Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "{what} did not happen within {limit:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What an application on this machine asks for when it connects to `target`.
pub fn flow_request(target: &str) -> FlowRequest {
    FlowRequest::new(target.parse().unwrap(), ([127, 0, 0, 1], 1).into(), Ingress::Socks5)
}

/// The same in the traffic class of this number: each has a lane of its own.
pub fn flow_request_in(target: &str, class: u32) -> FlowRequest {
    FlowRequest { class: Some(format!("c{class}")), ..flow_request(target) }
}

/// Opens a flow through `node`'s dialer.
pub async fn dial(node: &Node, target: &str) -> Result<Box<dyn Flow>, Refusal> {
    let request = flow_request(target);
    node.dialer().dial(request).await
}

/// Opens a flow that leaves at `exit`, as a byte stream.
pub async fn open_at(node: &Node, target: &str, exit: &str) -> Box<dyn FlowIo> {
    let request = FlowRequest { exit: Some(exit.parse().unwrap()), ..flow_request(target) };
    node.dialer().dial(request).await.unwrap().into_io()
}

/// Sends a byte to an echo service and waits until it is back.
///
/// # Errors
/// When the flow has ended.
pub async fn type_a_key(io: &mut dyn FlowIo) -> std::io::Result<()> {
    io.write_all(b"k").await?;
    io.read_exact(&mut [0]).await.map(drop)
}

/// Opens a flow as a byte stream.
pub async fn open(node: &Node, target: &str) -> Box<dyn FlowIo> {
    dial(node, target).await.unwrap().into_io()
}

/// Fetches `n` bytes from the source and checks each.
pub async fn fetch(node: &Node, n: usize) {
    let mut io = open(node, "source.test:80").await;
    io.write_all(format!("GET {n}\n").as_bytes()).await.unwrap();
    let (mut at, mut buf) = (0, vec![0; 64 * 1024]);
    loop {
        match io.read(&mut buf).await.unwrap() {
            0 => break,
            got => {
                assert!(buf[..got] == *pattern(at, got), "corrupted near {at}");
                at += got;
            }
        }
    }
    assert_eq!(at, n, "the download ended early");
}

/// Reads from `io` until `until` bytes in all have arrived, checking the pattern; returns the
/// longest pause between two arrivals, and the number of bytes.
pub async fn read_with_stalls(io: &mut dyn FlowIo, at: &mut usize, until: usize) -> Duration {
    let mut buf = vec![0; 64 * 1024];
    let (mut longest, mut last) = (Duration::ZERO, tokio::time::Instant::now());
    while *at < until {
        match io.read(&mut buf).await.unwrap() {
            0 => break,
            got => {
                assert!(buf[..got] == *pattern(*at, got), "corrupted near {at}");
                *at += got;
                longest = longest.max(last.elapsed());
                last = tokio::time::Instant::now();
            }
        }
    }
    longest
}

/// Asks the source for `n` bytes.
pub async fn request(io: &mut dyn FlowIo, n: usize) {
    io.write_all(format!("GET {n}\n").as_bytes()).await.unwrap();
}

/// Logs to the test's output, when `RON_TEST_LOG` asks for it.
pub fn log() {
    if let Ok(filter) = std::env::var("RON_TEST_LOG") {
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    }
}
