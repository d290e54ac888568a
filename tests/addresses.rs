//! Nodes in networks of one family, and nodes that are known by name: real processes in network namespaces.
//!
//! ```text
//! laptop (IPv4 only) ── hub (both) ── site (IPv6 only)
//! ```
//!
//! Where the system forbids namespaces, the tests say so and pass.

#![cfg(target_os = "linux")]
#![expect(unreachable_pub, clippy::unwrap_used, reason = "test helpers")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a skipped test says so")]

#[path = "cli/overlay.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod overlay;

#[path = "addresses/networks.rs"]
mod networks;

#[path = "addresses/exec.rs"]
mod exec;
#[path = "addresses/families.rs"]
mod families;
#[path = "addresses/names.rs"]
mod names;
#[path = "addresses/router.rs"]
mod router;
#[path = "addresses/streams.rs"]
mod streams;
