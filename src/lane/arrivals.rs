//! Which datagrams of a flow have arrived: joins their parts, and counts the lost ones. Pure.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::{flow::Target, wire::datagram::Piece};

/// Parts of a flow that wait for their other part. The two travel one after the other, so the other one
/// is lost when parts of eight later datagrams wait.
const MAX_PARTS: usize = 8;

/// One direction of a flow.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// The number after the greatest one that arrived, not modulo 65,536.
    end: u64,
    /// Whole datagrams that arrived.
    arrived: u64,
    parts: VecDeque<Part>,
}

#[derive(Debug)]
struct Part {
    number: u64,
    /// `None`: the second part.
    peer: Option<Target>,
    /// A copy: what arrived is a piece of the batch that its packet came in, up to 64 KiB, and would pin
    /// all of it.
    payload: Box<[u8]>,
}

/// What a frame completes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    /// This datagram.
    Whole(Target, Bytes),
    /// Nothing yet.
    Waits,
    /// Nothing, and the part of another datagram gave up its place.
    Displaces,
}

impl Arrivals {
    /// A frame with this number has arrived.
    pub(super) fn take(&mut self, number: u16, piece: Piece, payload: Bytes) -> Arrived {
        let number = self.unwrapped(number);
        self.end = self.end.max(number + 1);
        let peer = match piece {
            Piece::Whole(peer) => {
                self.arrived += 1;
                return Arrived::Whole(peer, payload);
            }
            Piece::First(peer) => Some(peer),
            Piece::Second => None,
        };
        let part = Part { number, peer, payload: payload[..].into() };
        let fits =
            |other: &Part| other.number == number && other.peer.is_some() != part.peer.is_some();
        if let Some(at) = self.parts.iter().position(fits)
            && let Some(other) = self.parts.remove(at)
        {
            self.arrived += 1;
            return joined(part, other);
        }
        let displaces = self.parts.len() >= MAX_PARTS;
        if displaces {
            self.parts.pop_front();
        }
        self.parts.push_back(part);
        if displaces { Arrived::Displaces } else { Arrived::Waits }
    }

    /// How many datagrams before the last one did not arrive. A late one is not lost.
    pub(super) fn lost(&self) -> u64 {
        self.end.saturating_sub(self.arrived)
    }

    /// The number that is nearest to the expected one.
    fn unwrapped(&self, number: u16) -> u64 {
        const HALF: u64 = 1 << 15;
        let expected = self.end;
        let ahead = u64::from(number).wrapping_sub(expected) & 0xffff;
        if ahead < HALF || expected + ahead < 1 << 16 {
            return expected + ahead;
        }
        expected + ahead - (1 << 16)
    }
}

fn joined(one: Part, other: Part) -> Arrived {
    let (first, second) = if one.peer.is_some() { (one, other) } else { (other, one) };
    match first.peer {
        Some(peer) => {
            let payload = [&first.payload[..], &second.payload[..]].concat();
            Arrived::Whole(peer, payload.into())
        }
        None => Arrived::Waits,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peer() -> Target {
        "192.0.2.1:53".parse().unwrap()
    }

    fn whole(arrivals: &mut Arrivals, number: u16) {
        let arrived = arrivals.take(number, Piece::Whole(peer()), Bytes::new());
        assert!(matches!(arrived, Arrived::Whole(..)));
    }

    #[test]
    fn lost_datagrams_are_those_that_are_missing_and_not_late() {
        let mut arrivals = Arrivals::default();
        for (number, lost) in [(0, 0), (1, 0), (4, 2), (3, 1), (5, 1), (2, 0), (9, 3)] {
            whole(&mut arrivals, number);
            assert_eq!(arrivals.lost(), lost, "after {number}");
        }
    }

    #[test]
    fn numbers_go_on_after_the_largest_one() {
        let mut arrivals = Arrivals::default();
        for number in (0..=u16::MAX).chain(0..100) {
            whole(&mut arrivals, number);
        }
        assert_eq!((arrivals.end, arrivals.lost()), (65_636, 0));
        // The first ones may be lost.
        let mut arrivals = Arrivals::default();
        whole(&mut arrivals, 7);
        assert_eq!(arrivals.lost(), 7);
    }

    #[test]
    fn the_parts_of_a_datagram_are_joined_in_either_order() {
        for swapped in [false, true] {
            let mut arrivals = Arrivals::default();
            let mut parts = [(Piece::First(peer()), "ab"), (Piece::Second, "c")];
            if swapped {
                parts.reverse();
            }
            let [one, other] = [0, 1].map(|at| {
                let (piece, text) = parts[at].clone();
                arrivals.take(0, piece, Bytes::from(text))
            });
            assert_eq!(one, Arrived::Waits);
            assert_eq!(other, Arrived::Whole(peer(), Bytes::from("abc")));
            assert_eq!((arrivals.lost(), arrivals.parts.len()), (0, 0));
        }
    }

    #[test]
    fn parts_without_the_other_one_are_bounded_and_lost() {
        let mut arrivals = Arrivals::default();
        for number in 0..1_000 {
            let arrived = arrivals.take(number, Piece::Second, Bytes::from("x"));
            assert_eq!(arrived == Arrived::Displaces, usize::from(number) >= MAX_PARTS);
        }
        assert_eq!((arrivals.parts.len(), arrivals.lost()), (MAX_PARTS, 1_000));
        // The same part twice is not a datagram.
        assert_eq!(arrivals.take(999, Piece::Second, Bytes::new()), Arrived::Displaces);
    }

    #[test]
    fn a_part_that_waits_pins_nothing_of_the_batch_it_came_in() {
        let (mut arrivals, batch) = (Arrivals::default(), Bytes::from(vec![7; 65_536]));
        for number in 0..4 {
            let waits = arrivals.take(number, Piece::First(peer()), batch.slice(100..300));
            assert_eq!(waits, Arrived::Waits);
        }
        assert!(batch.is_unique(), "a part holds the batch");
    }

    proptest! {
        #[test]
        fn no_numbers_make_it_panic(numbers in prop::collection::vec((any::<u16>(), 0_u8..3), 0..300)) {
            let mut arrivals = Arrivals::default();
            for (number, piece) in numbers {
                let piece = match piece {
                    0 => Piece::Whole(peer()),
                    1 => Piece::First(peer()),
                    _ => Piece::Second,
                };
                arrivals.take(number, piece, Bytes::new());
                prop_assert!(arrivals.parts.len() <= MAX_PARTS);
                prop_assert!(arrivals.lost() <= arrivals.end);
            }
        }
    }
}
