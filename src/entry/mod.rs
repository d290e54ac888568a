//! The entry: one local port that speaks SOCKS5, SOCKS4/4a and HTTP to applications.
//!
//! An accepted connection goes through these steps, each in its own file:
//!
//! 1. `listener` accepts it under the connection cap; on Linux `local_users` asks `socket_owner`
//!    whose it is, and `turned_away` answers a client that is not served;
//! 2. `detect` tells the protocol by the first byte, which is peeked, never consumed;
//! 3. `socks5`, `socks4` or `http` read who asks (`auth`) for what (`options`);
//! 4. `session` dials through the node's [`FlowDialer`](crate::flow::FlowDialer), the only way out,
//!    and carries the bytes.
//!
//! A SOCKS5 client may ask for an `association` as well: a UDP socket for datagrams (`socks_datagram`).
//!
//! The entry answers a client after the exit has answered. Success means that the destination has
//! accepted the connection. A refusal names its reason in the client's own protocol. The entry
//! never resolves names.

mod association;
mod auth;
mod backoff;
mod config;
mod detect;
mod http;
mod listener;
mod local_users;
mod options;
mod pac;
mod places;
mod session;
#[cfg(target_os = "linux")]
mod socket_owner;
mod socks4;
mod socks5;
mod socks_datagram;
mod turned_away;

pub use config::{Config, ConfigError, HANDSHAKE_TIMEOUT, User};
pub use listener::{Entry, EntryError};
pub(crate) use local_users::LocalGate;
pub use local_users::{LocalRefusal, LocalUsers, LocalUsersError, RefusedClients};
