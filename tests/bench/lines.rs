//! One line: ronproxy beside the kernel's TCP, by Cubic and by BBR, on lines that reorder, lose, or queue for long.
//!
//! `cargo bench --bench lines` prints, for each line, a download by each of the three in turn, with keys typed beside
//! it: the rate, and the median and 95th percentile of the keys' time above the line's round trip. Then one transfer of
//! each beside one of Cubic on the same line. ronproxy runs with its default settings, over UDP, and its clients come
//! by SOCKS. TCP has the kernel's default buffers. The two hosts are network namespaces (`cable`).
//!
//! Each line is new: other hosts, nodes and queues. So is the entry in each round. The last column names what misses
//! the aims: 95 % of the better rate of TCP (90 % where packets are lost); keys within 10 ms of the median and of the
//! 95th percentile of each TCP (where Cubic is slow, its keys meet no queue); beside Cubic, neither has over twice what
//! the other has.
//!
//! `RON_BENCH_LINES` (all) chooses the lines whose name has one of these words: `clean jitter loss bursts deep long
//! varying shared`, also `±10` and `uploads`. `RON_BENCH_SECONDS` (8) is how long a rate is measured, after half that time; slow
//! lines take a multiple. `RON_BENCH_RUNS` (3) sets the rounds, of which the median rate is printed with the least and
//! the most (of two, the larger is the median). "Busy" is the time of all processors in use while ronproxy ran: near
//! 100 % other work takes part, or the machine is the limit and not the line. Linux only; needs user namespaces,
//! `unshare`, `ip`, `/dev/net/tun`, and a kernel with BBR.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark stops at any surprise")]

#[cfg(target_os = "linux")]
#[expect(dead_code, reason = "another benchmark uses the rest")]
mod cable;
#[cfg(target_os = "linux")]
#[path = "lines/measure.rs"]
mod measure;
#[cfg(target_os = "linux")]
mod nodes;
#[cfg(target_os = "linux")]
#[path = "lines/rows.rs"]
mod rows;
#[cfg(target_os = "linux")]
#[expect(dead_code, reason = "other benchmarks use the rest")]
mod run;
#[cfg(target_os = "linux")]
#[path = "lines/share.rs"]
mod share;
#[cfg(target_os = "linux")]
mod transfer;
#[cfg(target_os = "linux")]
#[expect(dead_code, reason = "another benchmark uses the rest")]
mod usage;
#[cfg(target_os = "linux")]
#[path = "lines/way.rs"]
mod way;

fn main() {
    // `cargo test --benches` and listings run every bench with other arguments: nothing to do then.
    #[cfg(target_os = "linux")]
    if std::env::args().any(|argument| argument == "--bench") {
        measure::all();
    }
}
