//! Decides how packets of a slot leave when they may be too long for the route: whole or in pieces.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, Ordering};

/// How QUIC packets leave that are longer than [`SURE_PACKET`](crate::wire::piece::SURE_PACKET).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Leave {
    /// As they are.
    #[default]
    Whole,
    /// In pieces that surely pass.
    InPieces,
    /// As they are, and in pieces: the first packets of a lane, of which each that is lost costs a
    /// second.
    Both,
}

impl Leave {
    const ALL: [Self; 3] = [Self::Whole, Self::InPieces, Self::Both];
}

/// The decisions of a lane's sender about packet sizes, and the observations of its receiver.
#[derive(Debug, Default)]
pub struct Sizing {
    leave: AtomicU8,
    /// QUIC's present packet size. A longer packet is a probe of QUIC for a larger size, which leaves
    /// as it is.
    present: AtomicU16,
    /// The next long packet leaves as it is, although the others leave in pieces.
    try_whole: AtomicBool,
    /// How many of the next long packets leave in pieces, although the others leave as they are.
    in_pieces: AtomicU32,
    whole_came: AtomicBool,
}

impl Sizing {
    /// Sets how packets of up to `present` bytes leave, and how one of the next ones does, if otherwise.
    pub fn set(&self, leave: Leave, present: u16, next: Option<Leave>) {
        self.present.store(present, Ordering::Relaxed);
        self.leave.store(leave as u8, Ordering::Relaxed);
        match next {
            Some(Leave::Whole) => self.try_whole.store(true, Ordering::Relaxed),
            Some(Leave::InPieces) => {
                self.in_pieces.fetch_add(1, Ordering::Relaxed);
            }
            Some(Leave::Both) | None => {}
        }
    }

    /// Whether a packet came in whole that would have had to come in pieces.
    #[must_use]
    pub fn whole_came(&self) -> bool {
        self.whole_came.load(Ordering::Relaxed)
    }

    /// Records that one did.
    pub(super) fn note_whole(&self) {
        self.whole_came.store(true, Ordering::Relaxed);
    }

    /// How long packets leave.
    pub(super) fn leave(&self) -> Leave {
        let leave = usize::from(self.leave.load(Ordering::Relaxed));
        Leave::ALL.get(leave).copied().unwrap_or_default()
    }

    /// Whether all packets leave as they are.
    pub(super) fn all_whole(&self) -> bool {
        self.leave() == Leave::Whole && self.in_pieces.load(Ordering::Relaxed) == 0
    }

    /// How the next packet leaves, which has `len` bytes and is long.
    pub(super) fn leave_next(&self, len: usize) -> Leave {
        let one_less = |left: u32| left.checked_sub(1);
        match self.leave() {
            _ if len > usize::from(self.present.load(Ordering::Relaxed)) => Leave::Whole,
            Leave::InPieces if self.try_whole.swap(false, Ordering::Relaxed) => Leave::Whole,
            Leave::Whole
                if self
                    .in_pieces
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
                    .is_ok() =>
            {
                Leave::InPieces
            }
            leave => leave,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_for_a_larger_size_and_one_packet_of_a_try_leave_whole() {
        let sizing = Sizing::default();
        assert_eq!(sizing.leave_next(1_200), Leave::Whole);
        sizing.set(Leave::InPieces, 1_400, Some(Leave::Whole));
        let leave = [1_401, 1_400, 1_400, 1_401].map(|len| sizing.leave_next(len));
        assert_eq!(leave, [Leave::Whole, Leave::Whole, Leave::InPieces, Leave::Whole]);
        sizing.set(Leave::Both, 1_200, None);
        assert_eq!([1_200, 1_201].map(|len| sizing.leave_next(len)), [Leave::Both, Leave::Whole]);
    }

    #[test]
    fn the_packets_with_a_ping_leave_in_pieces_and_the_next_ones_whole() {
        let sizing = Sizing::default();
        (0..2).for_each(|_| sizing.set(Leave::Whole, 1_400, Some(Leave::InPieces)));
        assert!(!sizing.all_whole());
        let leave = [1_401, 1_400, 1_400, 1_400].map(|len| sizing.leave_next(len));
        assert_eq!(leave, [Leave::Whole, Leave::InPieces, Leave::InPieces, Leave::Whole]);
        assert!(sizing.all_whole());
    }
}
