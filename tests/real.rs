//! Flows survive between real processes: entry, relay and exit are processes of the program, on
//! real sockets, in real time. Between them is an Internet on loopback with delays, rates, queues,
//! loss and cuts; see `real/internet.rs`. Needs no privileges.
//!
//! The same variables as for `survival` apply: `RON_SCENARIO_RUNS`, `RON_SEED`, `RON_MEASURE`,
//! `RON_CHAOS_MINUTES`, and `RON_TEST_LOG` for the nodes' logs, which a failure shows.

#![cfg(target_os = "linux")]
#![expect(unreachable_pub, clippy::unwrap_used, reason = "test helpers")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the figures are the product")]

mod support;

#[path = "clients/bytes.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod bytes;
#[path = "survival/figures.rs"]
mod figures;
#[path = "cli/overlay.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod overlay;
#[path = "clients/sockets.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod sockets;
#[path = "exec/stage.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod stage;
#[path = "survival/storm.rs"]
mod storm;
#[path = "clients/tools.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod tools;
#[path = "survival/transfers.rs"]
mod transfers;
#[path = "survival/trouble.rs"]
mod trouble;
#[path = "survival/work.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod work;

#[path = "real/internet.rs"]
mod internet;
#[path = "real/processes.rs"]
mod processes;
#[path = "real/services.rs"]
mod services;

#[path = "real/chaos.rs"]
mod chaos;
#[path = "real/exec.rs"]
mod exec;
#[path = "real/lossy.rs"]
mod lossy;
#[path = "real/scenarios.rs"]
mod scenarios;
#[path = "real/streams.rs"]
mod streams;
#[path = "real/tcp.rs"]
mod tcp;
#[path = "real/trust.rs"]
mod trust;
