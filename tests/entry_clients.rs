//! The entry, used by real clients and by raw bytes, in front of a dialer that connects directly.

#![expect(clippy::unwrap_used, reason = "the helpers of a test may fail it too")]
#![expect(clippy::print_stdout, reason = "a skipped test says so")]

#[path = "entry_clients/support.rs"]
mod support;

#[path = "entry_clients/bounds.rs"]
mod bounds;
#[path = "entry_clients/curl.rs"]
mod curl;
#[path = "entry_clients/http.rs"]
mod http;
#[path = "entry_clients/local_users.rs"]
mod local_users;
#[path = "entry_clients/messages.rs"]
mod messages;
#[path = "entry_clients/smuggling.rs"]
mod smuggling;
#[path = "entry_clients/socks.rs"]
mod socks;
#[path = "entry_clients/udp.rs"]
mod udp;
