//! Counters of packets: delivered, in flight, or dropped for a named reason.

use std::fmt;

/// Why a packet did not arrive. The name is also the metric label and what a person is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DropReason {
    /// The path was cut when the packet was sent.
    Cut,
    /// The path was cut while the packet was on its way.
    CutInFlight,
    /// The packet is larger than the path's MTU. As on much of the real Internet, the sender gets
    /// no message.
    TooBig,
    /// The queue in front of the bottleneck was full.
    QueueFull,
    /// Lost by chance, as the link's [`Loss`](super::Loss) says.
    Chance,
    /// No socket is bound to the destination.
    NoReceiver,
    /// The receiving socket's buffer was full: its owner reads too slowly.
    ReceiverFull,
    /// The destination is behind a NAT that has no mapping for this sender.
    NatNoMapping,
    /// The sender asked for a source address that its host does not have (any more).
    StaleSource,
}

impl DropReason {
    /// Every reason, in the order of declaration.
    pub const ALL: [Self; 9] = [
        Self::Cut,
        Self::CutInFlight,
        Self::TooBig,
        Self::QueueFull,
        Self::Chance,
        Self::NoReceiver,
        Self::ReceiverFull,
        Self::NatNoMapping,
        Self::StaleSource,
    ];

    /// The reason's stable name: lower case, with underscores.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::CutInFlight => "cut_in_flight",
            Self::TooBig => "too_big",
            Self::QueueFull => "queue_full",
            Self::Chance => "chance",
            Self::NoReceiver => "no_receiver",
            Self::ReceiverFull => "receiver_full",
            Self::NatNoMapping => "nat_no_mapping",
            Self::StaleSource => "stale_source",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The packets of one directed link since it was first used.
///
/// `sent` = `delivered` + [`dropped_in_all`](Self::dropped_in_all) + [`in_flight`](Self::in_flight).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Packets handed to the link.
    pub sent: u64,
    /// Bytes of UDP payload handed to the link.
    pub sent_bytes: u64,
    /// Packets that reached the receiving socket's buffer.
    pub delivered: u64,
    /// Bytes of UDP payload that reached the receiving socket's buffer.
    pub delivered_bytes: u64,
    dropped: [u64; DropReason::ALL.len()],
}

impl Counters {
    /// Packets dropped for this reason.
    #[must_use]
    pub const fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    /// Packets dropped for any reason.
    #[must_use]
    pub fn dropped_in_all(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// Packets on their way.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.sent.saturating_sub(self.delivered + self.dropped_in_all())
    }

    pub(super) const fn note_sent(&mut self, len: usize) {
        self.sent += 1;
        self.sent_bytes += len as u64;
    }

    pub(super) const fn note_delivered(&mut self, len: usize) {
        self.delivered += 1;
        self.delivered_bytes += len as u64;
    }

    pub(super) const fn note_dropped(&mut self, reason: DropReason) {
        self.dropped[reason as usize] += 1;
    }
}
