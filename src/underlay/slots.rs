//! Lane slots, and their virtual addresses in QUIC.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{
    Arrivals,
    sizing::Sizing,
    virtual_address::{self, Kind},
};

/// One end of a lane in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub u32);

impl SlotId {
    /// The address by which QUIC knows the far end of this slot's lane.
    #[must_use]
    pub fn virtual_address(self) -> SocketAddr {
        virtual_address::of(Kind::Slot, self.0)
    }

    /// The slot of a virtual address; `None` for a real address.
    #[must_use]
    pub fn from_address(address: SocketAddr) -> Option<Self> {
        virtual_address::number(Kind::Slot, address).map(Self)
    }
}

/// Counts and times of a slot's packets. Updated per batch, and read by the lane's silence
/// detector.
#[derive(Debug, Default)]
pub struct SlotActivity {
    sent: AtomicU64,
    received: AtomicU64,
    /// Whether a task waits for the next outgoing packet.
    awaited: AtomicBool,
    sent_again: Notify,
    departed: Latest,
    arrivals: Arrivals,
    acknowledged: Latest,
    sizing: Sizing,
}

impl SlotActivity {
    /// How packets leave that may be too long for the route.
    #[must_use]
    pub fn sizing(&self) -> &Sizing {
        &self.sizing
    }

    /// Packets sent and received so far.
    #[must_use]
    pub fn packets(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed))
    }

    /// When the last packet went out.
    #[must_use]
    pub fn departed(&self) -> Option<Instant> {
        self.departed.get()
    }

    /// When packets came in.
    #[must_use]
    pub fn arrivals(&self) -> &Arrivals {
        &self.arrivals
    }

    /// Records that a packet sent at that time has arrived at the far end.
    pub fn acknowledged(&self, sent: Instant) {
        self.acknowledged.raise(sent);
    }

    /// When the last packet that is known to have arrived was sent.
    #[must_use]
    pub fn arrived(&self) -> Option<Instant> {
        self.acknowledged.get()
    }

    /// Waits until a packet goes out.
    pub async fn sent_again(&self) {
        let before = self.packets().0;
        let notified = self.sent_again.notified();
        self.awaited.store(true, Ordering::SeqCst);
        if self.packets().0 == before {
            notified.await;
        }
    }

    pub(super) fn add_sent(&self, now: Instant, packets: usize) {
        self.departed.raise(now);
        self.sent.fetch_add(packets as u64, Ordering::SeqCst);
        if self.awaited.load(Ordering::SeqCst) && self.awaited.swap(false, Ordering::SeqCst) {
            self.sent_again.notify_one();
        }
    }

    pub(crate) fn add_received(&self, packets: usize) {
        self.received.fetch_add(packets as u64, Ordering::Relaxed);
        self.arrivals.note();
    }
}

/// The latest of several moments, without a lock.
#[derive(Debug)]
struct Latest {
    epoch: Instant,
    /// Microseconds since the epoch; zero is never.
    micros: AtomicU64,
}

impl Default for Latest {
    fn default() -> Self {
        Self { epoch: tokio::time::Instant::now().into_std(), micros: AtomicU64::new(0) }
    }
}

impl Latest {
    fn raise(&self, moment: Instant) {
        let since = moment.saturating_duration_since(self.epoch).as_micros();
        self.micros.fetch_max(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn get(&self) -> Option<Instant> {
        let micros = self.micros.load(Ordering::Relaxed);
        (micros > 0).then(|| self.epoch + Duration::from_micros(micros))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtual_address_leads_back_to_its_slot() {
        for id in [0, 1, 0xffff, 0x1_0000, u32::MAX] {
            assert_eq!(SlotId::from_address(SlotId(id).virtual_address()), Some(SlotId(id)));
        }
    }

    #[test]
    fn real_addresses_are_no_slots() {
        for address in
            ["127.0.0.1:1", "[::ffff:127.0.0.1]:1", "[fd72:6f6f::1]:1", "[fd72:6f6e:0:0:0:1::]:1"]
        {
            assert_eq!(SlotId::from_address(address.parse().unwrap()), None);
        }
    }
}
