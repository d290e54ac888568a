//! Puts the packets of one direction of a lane back in order before QUIC sees them. PURE: time is an
//! argument.
//!
//! QUIC declares a packet lost when three later ones have arrived (RFC 9002, section 6.1.1). On a
//! path whose packets overtake each other, it would then retransmit packets that were not lost and
//! slow down, and the lane would leave the route "for loss". So packets that come after a gap wait
//! here for as long as packets lately came late (see [`Hold`]), as in the radio link of LTE and 5G
//! (t-Reordering, 3GPP TS 38.323, section 5.2.2.2). This module drops nothing, and keeps no packet
//! longer than [`LONGEST`](super::hold::LONGEST).
//!
//! Numbers do not wrap here. The wire carries their low 16 bits.

use std::{collections::VecDeque, time::Instant};

use super::hold::{Hold, LONGEST};

/// The first packet of each direction has the number 0 on the wire. Here it has this number, so
/// that smaller numbers exist.
const FIRST: u64 = 1 << 32;

/// A number further away than this says nothing about the order: it is forged, or all packets
/// between were lost. 4,096 packets are 100 ms, the longest hold, at 470 Mbit/s.
const FAR: u64 = 4096;

/// After so many far numbers, each shortly after the one before, the receiver continues from them.
const NEW_PLACE: u8 = 8;

/// How far apart two of them may be.
const NEAR: u16 = 64;

/// Most gaps remembered. Uniform delays of ±20 ms at 200 Mbit/s cause 240.
const MAX_GAPS: usize = 512;

/// Most bytes kept: what 200 Mbit/s carry in 40 ms.
const MAX_BYTES: usize = 1 << 20;

/// About the memory that a waiting packet takes besides its bytes.
const OVERHEAD: usize = 128;

/// Packets with consecutive numbers that came together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) first: u16,
    pub(super) packets: usize,
    /// Whether a relay forwarded them. At a reroute, packets of the two routes overtake each other.
    /// That says nothing about either path.
    pub(super) relayed: bool,
    /// Whether they are pieces of packets.
    pub(super) in_pieces: bool,
}

/// What to do with the first packets of a run.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// How many packets this applies to.
    pub(super) packets: usize,
    pub(super) place: Place,
    /// Whether a packet with a later number has already gone to QUIC.
    pub(super) late: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// They go to QUIC now.
    Up,
    /// They have to wait. The first one has this number.
    Kept(u64),
}

/// The order of one direction of a lane, and the packets that wait.
#[derive(Debug)]
pub(super) struct Order<P> {
    /// One past the greatest number seen.
    high: u64,
    /// Numbers that have not come, in order; the times rise with them.
    gaps: VecDeque<Gap>,
    /// Packets do not wait for gaps that begin before this number.
    given_up: u64,
    /// In the order of their numbers. Each is behind a gap.
    kept: VecDeque<(u64, usize, P)>,
    bytes: usize,
    hold: Hold,
    /// The number that follows the last far one, and how many far ones came in a row.
    far: (u16, u8),
}

#[derive(Debug, Clone, Copy)]
struct Gap {
    from: u64,
    to: u64,
    /// When the first later packet came.
    since: Instant,
    relayed: bool,
}

impl<P> Default for Order<P> {
    fn default() -> Self {
        Self {
            high: FIRST,
            gaps: VecDeque::new(),
            given_up: FIRST,
            kept: VecDeque::new(),
            bytes: 0,
            hold: Hold::default(),
            far: (0, 0),
        }
    }
}

impl<P> Order<P> {
    /// Records packets that came in; says what to do with the first ones. Afterwards packets that
    /// waited may be [ready](Self::pop).
    pub(super) fn take(&mut self, now: Instant, run: Run) -> Taken {
        self.hold.roll(now);
        while self.gaps.front().is_some_and(|gap| gap.since + LONGEST < now) {
            self.gaps.pop_front();
        }
        let number = self.nearest(run.first);
        if number.abs_diff(self.high) > FAR {
            self.take_far(run.first);
            return Taken { packets: 1, place: Place::Up, late: false };
        }
        self.far = (0, 0);
        if number < self.high {
            let late = self.fill(now, number, run.relayed);
            return Taken { packets: 1, place: self.place(number), late };
        }
        if number > self.high {
            self.open(Gap { from: self.high, to: number, since: now, relayed: run.relayed });
        }
        self.high = number + run.packets as u64;
        Taken { packets: run.packets, place: self.place(number), late: false }
    }

    /// Keeps a packet that has to wait.
    pub(super) fn keep(&mut self, number: u64, len: usize, packet: P) {
        let at = self.kept.partition_point(|(other, ..)| *other <= number);
        let size = len + OVERHEAD;
        self.kept.insert(at, (number, size, packet));
        self.bytes += size;
    }

    /// The next packet that has waited long enough, or that has no room to wait.
    pub(super) fn pop(&mut self) -> Option<P> {
        while self.place(self.kept.front()?.0) != Place::Up {
            if self.bytes <= MAX_BYTES {
                return None;
            }
            self.give_up_first();
        }
        let (_, size, packet) = self.kept.pop_front()?;
        self.bytes -= size;
        Some(packet)
    }

    /// Releases packets that have waited long enough.
    pub(super) fn expire(&mut self, now: Instant) {
        self.hold.roll(now);
        while self.waits_for().is_some_and(|gap| gap.since + self.hold.time() <= now) {
            self.give_up_first();
        }
    }

    /// Releases all packets, because the memory for them is used up.
    pub(super) fn give_up(&mut self) {
        self.given_up = self.high;
    }

    /// When the next packet has waited long enough, if nothing comes in before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.kept.front()?;
        self.waits_for().map(|gap| gap.since + self.hold.time())
    }

    /// The memory of waiting packets, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number with these low bits that is nearest to the expected one.
    fn nearest(&self, low: u16) -> u64 {
        self.high.saturating_add_signed(self.ahead(low).cast_signed().into())
    }

    /// How far these low bits are ahead of those expected, modulo 65,536.
    fn ahead(&self, low: u16) -> u16 {
        let [.., high, least] = self.high.to_be_bytes();
        low.wrapping_sub(u16::from_be_bytes([high, least]))
    }

    /// The first gap for which a packet may wait.
    fn waits_for(&self) -> Option<&Gap> {
        self.gaps.get(self.gaps.partition_point(|gap| gap.from < self.given_up))
    }

    fn place(&self, number: u64) -> Place {
        match self.waits_for() {
            Some(gap) if gap.from <= number => Place::Kept(number),
            _ => Place::Up,
        }
    }

    fn give_up_first(&mut self) {
        if let Some(gap) = self.waits_for() {
            self.given_up = gap.to;
        }
    }

    fn open(&mut self, gap: Gap) {
        if self.gaps.len() >= MAX_GAPS {
            self.gaps.pop_front();
        }
        if self.hold.time().is_zero() {
            self.given_up = gap.to;
        }
        self.gaps.push_back(gap);
    }

    /// Removes a number from its gap, and adapts the hold; says whether it came too late. A number
    /// that is in no gap came twice, or its gap was already forgotten.
    fn fill(&mut self, now: Instant, number: u64, relayed: bool) -> bool {
        let index = self.gaps.partition_point(|gap| gap.to <= number);
        let Some(gap) = self.gaps.get(index).copied().filter(|gap| gap.from <= number) else {
            return false;
        };
        self.gaps.remove(index);
        for (from, to) in [(number + 1, gap.to), (gap.from, number)] {
            if from < to {
                self.gaps.insert(index, Gap { from, to, ..gap });
            }
        }
        let late = number < self.given_up;
        let waited = now.saturating_duration_since(gap.since);
        if gap.relayed == relayed {
            if late {
                self.hold.came_late(now, waited)
            } else {
                self.hold.came_in_time(now, waited)
            }
        }
        late
    }

    /// Continues from far numbers when several of them come in a row.
    fn take_far(&mut self, number: u16) {
        let (expected, count) = self.far;
        let continues = number.wrapping_sub(expected) < NEAR;
        self.far = (number.wrapping_add(1), if continues { count + 1 } else { 1 });
        if self.far.1 >= NEW_PLACE {
            self.high += u64::from(self.ahead(self.far.0));
            self.given_up = self.high;
            self.gaps.clear();
            self.far = (0, 0);
        }
    }
}

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;
