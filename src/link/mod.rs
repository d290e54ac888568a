//! Links: one QUIC connection per neighbour, for requests, notices and probes.
//!
//! A link uses the direct path only, over UDP or a stream. When the link is down, the direct path is down. Both
//! sides may dial. Of two connections between the same two processes one stays (`table`).

mod address;
mod buckets;
mod budget;
mod conduct;
mod connection;
mod introduction;
mod outbox;
mod reach;
mod table;

pub use buckets::Buckets;
pub use budget::{Bucket, Kind, Offence, PeerBudget};
pub use conduct::{CloseLink, Conduct, LinkDrop, LinkDrops, LogLimit};
pub use connection::{Link, LinkError, LinkService};
pub use introduction::Introduction;
pub use outbox::Topic;
pub use table::{Links, Verdict};
