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
//!
//! Without the feature `proxy` only the entry's section of the configuration is left.

#[cfg(feature = "proxy")]
mod association;
#[cfg(feature = "proxy")]
mod auth;
#[cfg(feature = "proxy")]
mod backoff;
mod config;
#[cfg(feature = "proxy")]
mod detect;
#[cfg(feature = "proxy")]
mod http;
#[cfg(feature = "proxy")]
mod listener;
#[cfg(feature = "proxy")]
mod local_users;
#[cfg(feature = "proxy")]
mod options;
#[cfg(feature = "proxy")]
mod pac;
#[cfg(feature = "proxy")]
mod places;
mod refused;
#[cfg(feature = "proxy")]
mod session;
#[cfg(all(feature = "proxy", target_os = "linux"))]
mod socket_owner;
#[cfg(feature = "proxy")]
mod socks4;
#[cfg(feature = "proxy")]
mod socks5;
#[cfg(feature = "proxy")]
mod socks_datagram;
#[cfg(feature = "proxy")]
mod turned_away;

pub use config::{Config, ConfigError, HANDSHAKE_TIMEOUT, LocalUsers, User};
#[cfg(feature = "proxy")]
pub use listener::{Entry, EntryError};
#[cfg(feature = "demo")]
pub(crate) use local_users::LocalGate;
#[cfg(feature = "proxy")]
pub use local_users::LocalUsersError;
pub use refused::{LocalRefusal, RefusedClients};
