//! Packets between programs of two nodes: unreliable and unordered datagrams.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
    thread,
};

use tokio_util::sync::CancellationToken;

use super::Error;
use crate::{
    app::{ConduitError, Outlets, Packet, Receives, TypeCounts, Wish},
    flow::{DatagramDrop, FlowLabel, Hint, Target},
    identity::NodeName,
};

/// Packets of one type, received and sent (the conduit of "The Case for Resilient Overlay Networks", HotOS 2001,
/// section 3.3); see [`Node::conduit`](crate::Node::conduit). Dropping it ends the
/// receiving, and what its queue holds is lost.
///
/// A packet arrives once or not at all, and others may overtake it. At most 8,192 packets with 2 MiB wait to
/// be received, four times that of all types of the node, and half of either of one sender. A type has room for 512
/// packets with 128 KiB whatever others let wait. What does not fit is dropped as `inbox-full`.
#[derive(Debug)]
pub struct Conduit {
    receives: Receives,
    sender: PacketSender,
}

/// Sends packets of one type. Cheap to clone.
///
/// [`label`](Self::label) and [`hint`](Self::hint) make a sender whose packets are to take the same route, or
/// one of a certain quality. Without them packets to one node share a flow with the hint that the rules say.
#[derive(Clone)]
pub struct PacketSender {
    kind: Arc<Target>,
    wish: Wish,
    counts: Arc<TypeCounts>,
    outlets: Arc<Outlets>,
    stopped: CancellationToken,
}

/// What a node counts of one packet type since the program began to receive it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PacketCounts {
    /// Packets given to a lane, or to the queue of one that opens. What the overlay loses of them is in the
    /// listing of their flow: [`DatagramFacts`](crate::DatagramFacts).
    pub sent: u64,
    /// Packets put into the queue of the program.
    pub received: u64,
    /// Packets that were dropped here, by the name of the reason ([`DatagramDrop`]).
    pub dropped: Vec<(&'static str, u64)>,
}

impl Conduit {
    pub(super) fn new(
        receives: Receives,
        outlets: Arc<Outlets>,
        stopped: CancellationToken,
    ) -> Self {
        let kind = Arc::new(receives.kind().clone());
        let (wish, counts) = (Wish::default(), receives.counts());
        Self { receives, sender: PacketSender { kind, wish, counts, outlets, stopped } }
    }

    /// Sends by this label from now on; see [`PacketSender::label`].
    #[must_use]
    pub fn label(self, label: FlowLabel) -> Self {
        Self { sender: self.sender.label(label), ..self }
    }

    /// Sends by this hint from now on; see [`PacketSender::hint`].
    #[must_use]
    pub fn hint(self, hint: Hint) -> Self {
        Self { sender: self.sender.hint(hint), ..self }
    }

    /// Waits for the next packet. Dropping the future loses none.
    ///
    /// # Errors
    /// [`Error::Stopped`] when the node has stopped and no packet is left.
    pub async fn recv(&mut self) -> Result<Packet, Error> {
        self.receives.next().await.ok_or(Error::Stopped)
    }

    /// The next packet if there is one.
    ///
    /// # Errors
    /// As for [`recv`](Self::recv).
    pub fn try_recv(&mut self) -> Result<Option<Packet>, Error> {
        self.receives.try_next().ok_or(Error::Stopped)
    }

    /// Waits until [`try_recv`](Self::try_recv) has a packet, as `select` does.
    ///
    /// # Errors
    /// As for [`recv`](Self::recv).
    pub async fn readable(&mut self) -> Result<(), Error> {
        self.receives.readable().await.then_some(()).ok_or(Error::Stopped)
    }

    /// Sends a packet; see [`PacketSender::send`].
    ///
    /// # Errors
    /// As there.
    pub fn send<T>(&self, to: T, bytes: &[u8]) -> Result<(), Error>
    where
        T: TryInto<NodeName>,
        T::Error: Into<Error>,
    {
        self.sender.send(to, bytes)
    }

    /// A sender of this type, for another task or with a label or hint.
    #[must_use]
    pub fn sender(&self) -> PacketSender {
        self.sender.clone()
    }

    /// What is counted of this type.
    #[must_use]
    pub fn counts(&self) -> PacketCounts {
        self.sender.counts()
    }

    /// Gives the packets to `callback`, in a thread of its own.
    pub(super) fn call(
        self,
        mut callback: impl FnMut(Packet) + Send + 'static,
    ) -> Result<PacketSender, Error> {
        let Self { mut receives, sender } = self;
        let (kind, counts) = (sender.kind.clone(), sender.counts.clone());
        let run = move || {
            while let Some(packet) = receives.next_blocking() {
                // The callback is called again: the packet is lost, and no other.
                if catch_unwind(AssertUnwindSafe(|| callback(packet))).is_err() {
                    counts.drops.count(DatagramDrop::CallbackPanicked);
                    tracing::warn!(kind = %kind.host, "the callback for packets panicked");
                }
            }
        };
        let named = thread::Builder::new().name(format!("packets {}", sender.kind.host));
        named.spawn(run).map_err(|error| ConduitError::Thread(error.to_string()))?;
        Ok(sender)
    }
}

impl PacketSender {
    /// A sender whose packets to one node share a flow with all others that have this label, also of other
    /// types: they take the same route. The program chooses the number. Listings of this node and the logs of
    /// both name the flow by it, unless another flow has it.
    #[must_use]
    pub fn label(mut self, label: FlowLabel) -> Self {
        self.wish.label = Some(label);
        self
    }

    /// A sender whose packets take the route that is best by `hint`. With a label, the first packet of the
    /// label decides.
    #[must_use]
    pub fn hint(mut self, hint: Hint) -> Self {
        self.wish.hint = Some(hint);
        self
    }

    /// Sends a packet to the node `to`, at once or not at all. While its flow opens, 32 packets with 64 KiB
    /// wait. That it is sent does not mean that it arrives.
    ///
    /// # Errors
    /// - [`Error::Refused`] when the rules of this node, the overlay or the other node take no such packets:
    ///   the node is unknown, is no exit, or has no program that receives this type. As the answer takes a
    ///   round trip, this concerns packets before. After a second the next one is tried again.
    /// - [`Error::Dropped`] with `too-large` for more bytes than [`max_len`](Self::max_len); with `lane-full`
    ///   when the route carries less than is sent; with `queue-full` while the flow opens.
    /// - [`Error::Name`]; [`Error::Stopped`].
    pub fn send<T>(&self, to: T, bytes: &[u8]) -> Result<(), Error>
    where
        T: TryInto<NodeName>,
        T::Error: Into<Error>,
    {
        if self.stopped.is_cancelled() {
            return Err(Error::Stopped);
        }
        let to = to.try_into().map_err(Into::into)?;
        Ok(self.outlets.send((&self.kind, &self.counts), (&to, &self.wish), bytes)?)
    }

    /// The longest packet, in bytes, that the path to `to` carries now: 1,100 before a flow is open, and at
    /// least that afterwards.
    ///
    /// # Errors
    /// [`Error::Name`].
    pub fn max_len<T>(&self, to: T) -> Result<usize, Error>
    where
        T: TryInto<NodeName>,
        T::Error: Into<Error>,
    {
        let to = to.try_into().map_err(Into::into)?;
        Ok(self.outlets.room(&self.kind, &to, &self.wish))
    }

    /// What is counted of this type, by all its senders and the receiver.
    #[must_use]
    pub fn counts(&self) -> PacketCounts {
        let TypeCounts { sent, received, drops, .. } = &*self.counts;
        PacketCounts {
            sent: sent.load(Ordering::Relaxed),
            received: received.load(Ordering::Relaxed),
            dropped: drops.counts(),
        }
    }
}

impl PacketCounts {
    /// How many were dropped for this reason.
    #[must_use]
    pub fn dropped(&self, reason: DatagramDrop) -> u64 {
        let of = self.dropped.iter().find(|(name, _)| *name == reason.name());
        of.map_or(0, |(_, count)| *count)
    }
}

impl fmt::Debug for PacketSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("PacketSender");
        shown.field("kind", &self.kind.host).field("wish", &self.wish).finish()
    }
}
