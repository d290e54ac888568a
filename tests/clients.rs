//! Real clients, and real trouble, in front of two real nodes: processes of the program on real
//! sockets, between which everything travels over UDP on loopback.
//!
//! `RON_HEAVY=1` makes the transfers as large as a release needs them; without it the same tests
//! run smaller. A test whose client is not on this machine says so and passes.

#![cfg(target_os = "linux")]
#![expect(unreachable_pub, clippy::unwrap_used, reason = "test helpers")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a skipped test says so")]

#[path = "clients/bytes.rs"]
mod bytes;
#[path = "clients/cdp.rs"]
mod cdp;
#[path = "cli/overlay.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod overlay;
#[path = "clients/server.rs"]
mod server;
#[path = "clients/sockets.rs"]
mod sockets;
#[path = "clients/sshd.rs"]
mod sshd;
#[path = "clients/tools.rs"]
mod tools;
#[path = "cli/web.rs"]
mod web;

#[path = "clients/browser.rs"]
mod browser;
#[path = "clients/clash.rs"]
mod clash;
#[path = "clients/curl.rs"]
mod curl;
#[path = "clients/dashboard.rs"]
mod dashboard;
#[path = "clients/exhaustion.rs"]
mod exhaustion;
#[path = "clients/git.rs"]
mod git;
#[path = "clients/manners.rs"]
mod manners;
#[path = "clients/nonsense.rs"]
mod nonsense;
#[path = "clients/pac.rs"]
mod pac;
#[path = "clients/page.rs"]
mod page;
#[path = "clients/ports.rs"]
mod ports;
#[path = "clients/prometheus.rs"]
mod prometheus;
#[path = "clients/ssh.rs"]
mod ssh;
#[path = "clients/stalled.rs"]
mod stalled;
#[path = "clients/trouble.rs"]
mod trouble;
#[path = "clients/unread.rs"]
mod unread;
