//! What a link over TLS on TCP carries, beside one over UDP and beside TCP without ronproxy, on a cable with delay, a
//! rate, a queue and loss.
//!
//! `cargo bench --bench streams` prints: downloads on a clean path and with loss; keys beside a download; the first flow
//! of a node whose UDP is blocked; the pause of a download when UDP is blocked in the middle. The two hosts are network
//! namespaces (`cable`).
//!
//! `RON_BENCH_RUNS` (3) sets the rounds, of which the median is printed with the least and the most (of two, the larger is
//! the median). `RON_BENCH_CONGESTION` (cubic) is the congestion control of TCP without ronproxy only: streams ask the
//! kernel for BBR. Linux only; needs user namespaces, `unshare`, `ip` and `/dev/net/tun`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark stops at any surprise")]

#[cfg(target_os = "linux")]
#[expect(dead_code, reason = "another benchmark uses the rest")]
mod cable;
#[cfg(target_os = "linux")]
#[path = "streams/measure.rs"]
mod measure;
#[cfg(target_os = "linux")]
#[expect(dead_code, reason = "another benchmark uses the rest")]
mod nodes;
#[cfg(target_os = "linux")]
#[expect(dead_code, reason = "other benchmarks use the rest")]
mod run;
#[cfg(target_os = "linux")]
#[expect(dead_code, reason = "another benchmark uses the rest")]
mod transfer;
#[cfg(target_os = "linux")]
#[expect(dead_code, reason = "another benchmark uses the rest")]
mod usage;

fn main() {
    // `cargo test --benches` and listings run every bench with other arguments: nothing to do then.
    #[cfg(target_os = "linux")]
    if std::env::args().any(|argument| argument == "--bench") {
        measure::all();
    }
}
