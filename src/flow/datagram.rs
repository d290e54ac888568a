//! Datagrams of applications: who takes them, why they are dropped, and what is counted of them.
//!
//! An *association* (RFC 1928 §7) is what a client of the proxy begins with UDP ASSOCIATE. Its datagrams
//! travel on flows like the bytes of connections: one flow for each exit that the rules choose.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use serde::{Deserialize, Serialize};

use super::{BoxFuture, FlowLabel, Hint, Refusal, Target};
use crate::identity::NodeName;

/// The longest datagram that is carried, in bytes of its content.
///
/// It is more than an Ethernet frame holds (1,472), so only datagrams that IP would fragment are longer.
/// Two packets of the least size that QUIC allows (1,200 bytes) hold it with the longest name in front.
pub const MAX_DATAGRAM: usize = 2_000;

/// A packet of a conduit that is no longer fits one packet of every path, in bytes of its content: what a QUIC
/// packet of 1,200 bytes leaves beside 38 bytes of QUIC and at most 50 before the content.
pub const PACKET_FITS: usize = 1_100;

/// Takes datagrams of one association in one direction.
pub trait DatagramSink: Send + Sync + 'static {
    /// Takes a datagram to or from `peer`. Never waits: it drops what it cannot take, and counts that.
    fn deliver(&self, peer: &Target, payload: &[u8]);

    /// Takes note that datagrams to `peer` are dropped for this reason.
    fn refused(&self, peer: &Target, refusal: Refusal);

    /// Takes note that a datagram to `peer`, which waited for its flow, was dropped after all. It is counted.
    fn dropped(&self, _peer: &Target, _reason: DatagramDrop) {}
}

/// One flow of an association, seen from its entry. Dropping it ends the flow.
pub trait DatagramFlow: Send + Sync + 'static {
    /// The flow's label.
    fn label(&self) -> FlowLabel;

    /// Whether it has not ended yet.
    fn is_open(&self) -> bool;

    /// When its lane last heard of the exit, while the lane waits for an answer; `None`: it does not wait.
    fn waits_since(&self) -> Option<Instant>;

    /// The longest datagram to `peer` that travels in one packet at present, in bytes of its content.
    fn room(&self, peer: &Target) -> usize;

    /// Sends a datagram to `peer` at once.
    ///
    /// # Errors
    /// Why it was dropped. The caller counts that.
    fn send(&self, peer: &Target, payload: &[u8]) -> Result<(), DatagramDrop>;
}

/// An association, seen from the proxy. Dropping it ends its flows.
pub trait Association: DatagramSink {
    /// Waits until an exit refuses it while no other one carries it.
    fn refusal(&self) -> BoxFuture<'_, Refusal>;
}

/// What a client of the proxy wants of an association.
#[derive(Debug, Clone)]
pub struct AssociationRequest {
    /// The routing hint that the client named; `None`: rules choose.
    pub hint: Option<Hint>,
    /// The exit that the client named; `None`: rules choose for each destination.
    pub exit: Option<NodeName>,
    /// The user name that the client authenticated with, without options.
    pub user: Option<String>,
    /// The address of the client's TCP connection.
    pub client: SocketAddr,
}

/// Declares the reasons with their stable names.
macro_rules! reasons {
    ($($(#[$doc:meta])+ $reason:ident = $name:literal,)+) => {
        /// Why a datagram was dropped; its [`name`](Self::name) is the metric label.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum DatagramDrop { $($(#[$doc])+ $reason,)+ }

        impl DatagramDrop {
            /// Every reason.
            pub const ALL: [Self; [$(Self::$reason),+].len()] = [$(Self::$reason),+];

            /// The stable name, as in metrics and JSON.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$reason => $name,)+ }
            }
        }
    };
}

reasons! {
    /// Not what RFC 1928 or our protocol says.
    Malformed = "malformed",
    /// A fragment (FRAG is not 0). RFC 1928 lets a proxy drop them.
    Fragment = "fragment",
    /// The kind of address is neither IPv4, IPv6 nor a name.
    AddressType = "address-type",
    /// Port 0, or a name that is none.
    BadDestination = "bad-destination",
    /// Longer than [`MAX_DATAGRAM`], or, in a conduit, than one packet of the path.
    TooLarge = "too-large",
    /// Not from the address of the association's client.
    WrongSource = "wrong-source",
    /// From a socket of a local user that is not served, or whose user the system does not tell.
    OtherUser = "other-user",
    /// Too many wait for the flow to open, or for the name to be resolved.
    QueueFull = "queue-full",
    /// A rule of the entry rejects the destination, or no exit carries it.
    Refused = "refused",
    /// Too many new destinations at once.
    TooManyDestinations = "too-many-destinations",
    /// More waits for the lane than it may hold: its route carries less than is sent.
    LaneFull = "lane-full",
    /// The flow or its lane has ended.
    FlowEnded = "flow-ended",
    /// More came by the lane than this node has taken off it: 512 KiB wait.
    Unread = "unread",
    /// It belongs to no flow of its lane.
    UnknownFlow = "unknown-flow",
    /// One of its two parts was lost.
    Incomplete = "incomplete",
    /// The exit's policy denies the destination.
    Denied = "denied",
    /// The destination's name does not resolve at the exit.
    Unresolved = "unresolved",
    /// From an address that the association has not sent to.
    Unsolicited = "unsolicited",
    /// The socket towards the destination or the client takes no more at present.
    SocketFull = "socket-full",
    /// The system has no route to the destination.
    Unreachable = "unreachable",
    /// No program of the receiving node takes packets of this type.
    UnknownType = "unknown-type",
    /// The program that receives packets of this type does not take them as fast as they come.
    InboxFull = "inbox-full",
    /// The program's callback panicked over it.
    CallbackPanicked = "callback-panicked",
}

/// How many datagrams a node dropped, by reason.
#[derive(Debug, Default)]
pub struct DatagramDrops([AtomicU64; DatagramDrop::ALL.len()]);

impl std::fmt::Display for DatagramDrop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl DatagramDrops {
    /// Counts one.
    pub fn count(&self, reason: DatagramDrop) {
        self.add(reason, 1);
    }

    /// Counts so many.
    pub fn add(&self, reason: DatagramDrop, datagrams: u64) {
        self.0[reason as usize].fetch_add(datagrams, Ordering::Relaxed);
    }

    /// Those with a reason that occurred, by name.
    #[must_use]
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        let named = DatagramDrop::ALL.iter().map(|reason| reason.name()).zip(counts);
        named.filter(|(_, count)| *count > 0).collect()
    }

    /// How many were dropped for this reason.
    #[must_use]
    pub fn of(&self, reason: DatagramDrop) -> u64 {
        self.0[reason as usize].load(Ordering::Relaxed)
    }
}

/// The datagrams of one flow, as its entry counts them.
#[derive(Debug, Default)]
pub struct DatagramCounts {
    /// Given to the lane.
    pub sent: AtomicU64,
    /// Received from the lane.
    pub received: AtomicU64,
    /// Those sent that did not reach the exit, as the exit says.
    pub lost_sent: AtomicU64,
    /// Those of the exit that did not arrive.
    pub lost_received: AtomicU64,
}

/// What listings show of a flow's datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DatagramFacts {
    /// Datagrams given to the lane.
    pub sent: u64,
    /// Datagrams received from the lane.
    pub received: u64,
    /// Those sent that the lane lost.
    pub lost_sent: u64,
    /// Those of the exit that the lane lost.
    pub lost_received: u64,
}

impl DatagramCounts {
    /// The counts now.
    #[must_use]
    pub fn facts(&self) -> DatagramFacts {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        DatagramFacts {
            sent: of(&self.sent),
            received: of(&self.received),
            lost_sent: of(&self.lost_sent),
            lost_received: of(&self.lost_received),
        }
    }
}

/// An association's sockets at its exit. Dropping it closes them.
pub struct OutwardDatagrams {
    /// Takes datagrams for destinations.
    pub sink: Arc<dyn DatagramSink>,
    /// The local address of its socket.
    pub local: SocketAddr,
    /// What it carries; it is to end when this says so.
    pub carried: Arc<super::Carried>,
    /// Kept until it ends; dropping it gives back what the association counted against.
    pub permit: Box<dyn Send + Sync>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_name_and_a_count_of_its_own() {
        let drops = DatagramDrops::default();
        for (at, reason) in DatagramDrop::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at);
            drops.count(reason);
        }
        drops.count(DatagramDrop::Denied);
        let mut names: Vec<_> = drops.counts().into_iter().map(|(name, _)| name).collect();
        assert_eq!(drops.of(DatagramDrop::Denied), 2);
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DatagramDrop::ALL.len());
    }
}
