//! `ronproxy exec`: programs that know of no proxy, in a network of their own, before two real nodes. Everything leaves at
//! the exit, and nothing when a node is gone.
//!
//! Where the system has no TUN device or forbids namespaces, the tests say so and pass.

#![cfg(target_os = "linux")]
#![expect(unreachable_pub, clippy::unwrap_used, reason = "test helpers")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a skipped test says so")]

#[path = "clients/bytes.rs"]
mod bytes;
#[path = "cli/datagrams.rs"]
mod datagrams;
#[path = "cli/overlay.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod overlay;
#[path = "clients/server.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod server;
#[path = "clients/sshd.rs"]
mod sshd;
#[path = "clients/tools.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod tools;

#[path = "addresses/networks.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod networks;
#[path = "exec/stage.rs"]
mod stage;

#[path = "exec/bounds.rs"]
mod bounds;
#[path = "exec/closed.rs"]
mod closed;
#[path = "exec/endings.rs"]
mod endings;
#[path = "exec/leaks.rs"]
mod leaks;
#[path = "exec/machine.rs"]
mod machine;
#[path = "exec/programs.rs"]
mod programs;
#[path = "exec/throughput.rs"]
mod throughput;
