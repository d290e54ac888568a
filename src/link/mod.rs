//! Links: one QUIC connection per neighbour, for requests, notices and probes.
//!
//! A link runs on the direct path only: when it is down, the direct path is down. Both sides may
//! dial; of two connections between the same two processes the one that the node with the smaller
//! name dialled stays.

mod connection;
mod table;

pub use connection::{Link, LinkError, LinkService};
pub use table::{Links, Verdict};
