//! Link state: what each node floods about itself, and what is kept of it.
//!
//! It is the **member record**, too: a node's addresses and roles are believed from it alone.
//!
//! An [`Advertisement`] is immutable once its origin has made and signed it; its age and signature
//! travel beside it, in [`Flood`]. Everything is soft state: it expires in monotonic time, and no
//! clock of any node is ever compared with another's.
//!
//! # Flooding
//!
//! The origin sends to every neighbour it can reach. Flooding naively would make each node receive
//! each advertisement from all others; instead a receiver forwards only to the nodes that the
//! advertisement itself reports as *not* up, and of all nodes that could, two do
//! ([`LinkStateDb::forward_to`]). In a healthy overlay of N nodes each advertisement so costs N − 1
//! messages; around a broken link it costs two more.

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
/// The longest signature, in bytes: an ECDSA P-256 one in DER has at most 72.
pub const MAX_SIGNATURE: usize = 80;
/// The largest incarnation or sequence number accepted: no arithmetic on either can overflow, and
/// at one advertisement a second it is never reached.
pub const MAX_VERSION: u64 = 1 << 62;
