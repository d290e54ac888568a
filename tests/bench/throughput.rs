//! Large downloads by all ways in turn: plain TCP, the bare QUIC state machine, ronproxy directly and through a relay,
//! `ssh -D`, and shadowsocks where it is installed.
//!
//! `cargo bench --bench throughput` prints a table for each ground: loopback; three network namespaces with a cable of
//! MTU 1500 between each two; the same without segmentation offload. `-- loopback`, `cables`, `single` and `flows` print
//! one of them. TCP uses Cubic everywhere. The bare ways have the parameters and the certificates of a lane, and one
//! loop in each process (`throughput/bare.rs`): "bare" moves bytes from a buffer of the exit's process, "bare proxy"
//! carries TCP, as ronproxy does. `flows` has many downloads at once over loopback.
//!
//! `RON_BENCH_MIB` (512) is the size of a download and `RON_BENCH_RUNS` (3) the number of rounds.
//! `RON_BENCH_WAYS` has names of rows with semicolons between them, if not all are wanted. Linux only; as root. It runs in
//! network namespaces of its own, which end with it.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark stops at any surprise")]

#[cfg(target_os = "linux")]
#[path = "throughput/bare.rs"]
mod bare;
#[cfg(target_os = "linux")]
#[path = "throughput/flows.rs"]
mod flows;
#[cfg(target_os = "linux")]
mod hosts;
#[cfg(target_os = "linux")]
#[path = "throughput/measure.rs"]
mod measure;
#[cfg(target_os = "linux")]
#[expect(dead_code, reason = "another benchmark uses the rest")]
mod overlay;
#[cfg(target_os = "linux")]
mod rivals;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
#[expect(dead_code, reason = "another benchmark uses the rest")]
mod server;
#[cfg(target_os = "linux")]
#[path = "throughput/session.rs"]
mod session;
#[cfg(target_os = "linux")]
#[expect(dead_code, reason = "another benchmark uses the rest")]
mod usage;
#[cfg(target_os = "linux")]
#[path = "throughput/way.rs"]
mod way;

fn main() {
    #[cfg(target_os = "linux")]
    measure::main();
}
