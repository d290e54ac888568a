//! What small things cost in a whole overlay on this machine's loopback interface.
//!
//! `cargo bench --bench figures` prints the cost of a new connection on a warm lane, and resident memory. The benchmark
//! `throughput` has large downloads. As root it runs in a network namespace of its own whose TCP uses Cubic.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark stops at any surprise")]

#[expect(dead_code, reason = "another benchmark uses the rest")]
mod hosts;
#[expect(dead_code, reason = "another benchmark uses the rest")]
mod overlay;
#[expect(dead_code, reason = "another benchmark uses the rest")]
mod run;
#[expect(dead_code, reason = "another benchmark uses the rest")]
mod server;
#[expect(dead_code, reason = "another benchmark uses the rest")]
mod usage;

use std::{
    env,
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use hosts::Ground;
use overlay::Overlay;
use run::{in_own_namespace, median};
use server::Server;

/// Rounds of the small measurements.
const CONNECTIONS: usize = 200;
/// Idle flows for the memory figure.
const IDLE_FLOWS: usize = 1000;

fn main() {
    // `cargo test --benches` and listings run every bench with other arguments: nothing to do then.
    if !env::args().any(|argument| argument == "--bench") {
        return;
    }
    if in_own_namespace(&["--bench".to_owned()]) {
        return;
    }
    let ground = Ground::loopback();
    let server = Server::start(&ground.exit, 0, &[]);
    let overlay = Overlay::start(&ground, "");
    memory(&overlay);
    connections(&overlay, &server);
}

/// What a new connection costs on a warm lane, beyond the same through no proxy at all: loopback
/// has next to no round-trip time, so this is the overhead itself.
fn connections(overlay: &Overlay, server: &Server) {
    let direct = each(CONNECTIONS, || {
        first_byte(TcpStream::connect(server.address()).unwrap());
    });
    let proxied = each(CONNECTIONS, || first_byte(overlay.connect(server.address())));
    println!(
        "\na new connection and its first byte, median of {CONNECTIONS}: direct {:.2} ms, by a warm lane {:.2} ms",
        direct * 1e3,
        proxied * 1e3
    );
}

fn each(times: usize, mut act: impl FnMut()) -> f64 {
    act();
    let mut seconds: Vec<f64> = (0..times)
        .map(|_| {
            let start = Instant::now();
            act();
            start.elapsed().as_secs_f64()
        })
        .collect();
    median(&mut seconds)
}

fn first_byte(mut stream: TcpStream) {
    stream.write_all(b"GET /small HTTP/1.0\r\nHost: bench\r\n\r\n").unwrap();
    stream.read_exact(&mut [0]).unwrap();
}

fn memory(overlay: &Overlay) {
    let sink = server::silent();
    let idle = overlay.resident_mib();
    let flows: Vec<TcpStream> = (0..IDLE_FLOWS).map(|_| overlay.connect(sink)).collect();
    std::thread::sleep(Duration::from_secs(1));
    let busy = overlay.resident_mib();
    drop(flows);
    println!("\nresident memory in MiB           entry    exit");
    println!("  idle, warm                    {:>6.1}  {:>6.1}", idle.0, idle.1);
    println!(
        "  with {IDLE_FLOWS} idle flows, more     {:>6.1}  {:>6.1}",
        busy.0 - idle.0,
        busy.1 - idle.1
    );
}
