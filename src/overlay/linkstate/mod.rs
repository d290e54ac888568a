//! Link state: the advertisements that nodes flood, and the database of them.
//!
//! An advertisement is also the **member record**: it is the only source of a node's addresses and
//! roles.
//!
//! An [`Advertisement`] does not change after its origin has signed it. Its age and signature
//! travel beside it, in [`Flood`]. All of this is soft state: it expires in monotonic time, and
//! does not depend on clocks of other nodes.
//!
//! # Flooding
//!
//! The origin sends to every neighbour that it can reach. With simple flooding, each node would
//! receive each advertisement from all others. Instead a receiver forwards only to the nodes that
//! the advertisement reports as *not* up, and of all nodes that could forward, two do
//! ([`LinkStateDb::forward_to`]). In a healthy overlay of N nodes an advertisement costs N − 1
//! messages. A broken link costs two more.

mod advert;
mod db;
mod originate;

pub use advert::{Advertisement, Flood, LinkReport, ReportedState, Roles, Version};
pub use db::{Install, LinkStateDb, RefuseReason};
pub use originate::{Originator, Trigger};

/// The most nodes that are kept: five times the few dozen an overlay is meant for.
pub const MAX_NODES: usize = 256;
/// The most addresses in one advertisement.
pub const MAX_ADDRESSES: usize = 8;
/// The most links in one advertisement: one to each other node.
pub const MAX_LINKS: usize = 256;
/// The most patterns of what an exit serves in one advertisement: as in a certificate.
pub const MAX_SERVES: usize = 64;
/// The longest such pattern, in bytes: a domain name's 253.
pub const MAX_PATTERN: usize = 253;
/// The longest signature, in bytes. An Ed25519 one has 64.
pub const MAX_SIGNATURE: usize = 80;
/// The largest incarnation or sequence number accepted: no arithmetic on either can overflow, and
/// at one advertisement a second it is never reached.
pub const MAX_VERSION: u64 = 1 << 62;
