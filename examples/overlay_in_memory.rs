//! An overlay of three sites in one process: a path is cut in the middle of a download, and the
//! flow goes on through the relay.
//!
//! ```text
//!   entry ═══════ 60 ms ═══════ exit ── source.test
//!      ╲                         ╱
//!       ╲── 40 ms ── relay ── 40 ms
//! ```
//!
//! The nodes are whole: certificates, links, probes, lanes. Only the packets between them and the
//! service behind the exit stay inside the process. Run it with
//! `cargo run --example overlay_in_memory`; add `RON_LOG=ronproxy=info` to see the reroutes logged.

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use std::{
    error::Error,
    time::{Duration, Instant},
};

use ronproxy::{EmulatedStream, Emulation, Stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// What the service sends: at 100 Mbit/s it takes some two seconds.
const OBJECT: usize = 24 << 20;

/// How much of it has arrived when the path is cut.
const CUT_AT: usize = 8 << 20;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    if let Ok(filter) = std::env::var("RON_LOG") {
        tracing_subscriber::fmt().with_env_filter(filter).init();
    }

    // Three sites, 100 Mbit/s each way: 60 ms direct, 80 ms through the relay.
    let overlay = Emulation::triangle().host("source.test", source).start().await?;
    overlay.settled().await;
    println!("three nodes, a link between each two");

    // A stream takes the same way as a connection of the local proxy: the name is resolved at the exit.
    let mut stream = overlay.node("entry")?.connect("source.test:80").await?;

    let start = Instant::now();
    let before = read(&mut stream, CUT_AT).await?;
    println!("{:>5.2} s  {before}, route {}", seconds(start), route(&stream));

    overlay.cut("entry", "exit")?;
    println!("{:>5.2} s  the direct path is cut, both ways", seconds(start));

    let after = read(&mut stream, OBJECT - CUT_AT).await?;
    println!("{:>5.2} s  {after}, route {}", seconds(start), route(&stream));
    if after.bytes != OBJECT - CUT_AT {
        return Err("the download ended early".into());
    }
    println!("the application saw one connection, and a stall of {} ms", after.stall.as_millis());

    drop(stream);
    overlay.stop().await;
    Ok(())
}

/// A service that sends [`OBJECT`] bytes to everyone who connects.
async fn source(mut stream: EmulatedStream) {
    // An error means that the reader has gone: nothing is left to do.
    if stream.write_all(&vec![0x52; OBJECT]).await.is_ok() {
        let _ = stream.shutdown().await;
    }
}

/// What arrived, and the longest pause between two arrivals.
struct Arrived {
    bytes: usize,
    stall: Duration,
}

impl std::fmt::Display for Arrived {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} MiB, longest pause {} ms", self.bytes >> 20, self.stall.as_millis())
    }
}

async fn read(io: &mut Stream, bytes: usize) -> std::io::Result<Arrived> {
    let mut arrived = Arrived { bytes: 0, stall: Duration::ZERO };
    let (mut buffer, mut last) = (vec![0; 64 * 1024], Instant::now());
    while arrived.bytes < bytes {
        let room = buffer.len().min(bytes - arrived.bytes);
        match io.read(&mut buffer[..room]).await? {
            0 => break,
            got => arrived.bytes += got,
        }
        arrived.stall = arrived.stall.max(last.elapsed());
        last = Instant::now();
    }
    Ok(arrived)
}

fn route(stream: &Stream) -> String {
    stream.route().map_or_else(|| "unknown".to_owned(), |route| route.to_string())
}

fn seconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64()
}
