//! Joins the pieces of packets. PURE.

use std::collections::VecDeque;

use noq::udp::EcnCodepoint;

use crate::wire::piece::Part;

/// Most pieces that wait for others in one lane: two jumbo packets, eight pieces each, or eight
/// ordinary packets whose pieces overtake each other.
const MAX_PIECES: usize = 16;

/// The pieces of one direction of a lane that wait for the others of their packet.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    /// In the order in which they came.
    waiting: VecDeque<Piece>,
}

#[derive(Debug)]
pub(super) struct Piece {
    pub(super) number: u16,
    pub(super) part: Part,
    pub(super) ecn: Option<EcnCodepoint>,
    pub(super) bytes: Vec<u8>,
}

impl Pieces {
    /// Takes a piece; returns the packet if it was the last one that was missing, with the mark of
    /// congestion if a piece has it. The oldest piece makes room.
    pub(super) fn take(&mut self, piece: Piece) -> Option<(Option<EcnCodepoint>, Vec<u8>)> {
        let (first, packets) = {
            let number = piece.number;
            self.waiting.retain(|other| other.number != number);
            if self.waiting.len() >= MAX_PIECES {
                self.waiting.pop_front();
            }
            self.waiting.push_back(piece);
            self.span(number)?
        };
        let mut packet = Vec::new();
        let mut ecn = None;
        for number in (0..packets).map(|n| first.wrapping_add(n)) {
            let at = self.waiting.iter().position(|piece| piece.number == number)?;
            let piece = self.waiting.remove(at)?;
            packet.extend_from_slice(&piece.bytes);
            ecn = if ecn == Some(EcnCodepoint::Ce) { ecn } else { piece.ecn };
        }
        Some((ecn, packet))
    }

    /// The number of the first piece of the packet around `number`, and how many pieces it has, if
    /// none is missing.
    fn span(&self, number: u16) -> Option<(u16, u16)> {
        let part = |number| self.waiting.iter().find(|p| p.number == number).map(|p| p.part);
        let mut first = number;
        while part(first)? != Part::First {
            first = first.wrapping_sub(1);
            if part(first)? == Part::Last {
                return None;
            }
        }
        let mut last = number;
        while part(last)? != Part::Last {
            last = last.wrapping_add(1);
            if part(last)? == Part::First {
                return None;
            }
        }
        Some((first, last.wrapping_sub(first).wrapping_add(1)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn piece(number: u16, part: Part) -> Piece {
        Piece { number, part, ecn: None, bytes: vec![number.to_be_bytes()[1]] }
    }

    fn joined(pieces: &mut Pieces, number: u16, part: Part) -> Option<Vec<u8>> {
        pieces.take(piece(number, part)).map(|(_, bytes)| bytes)
    }

    #[test]
    fn the_pieces_of_a_packet_are_joined_in_any_order() {
        for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0], [2, 1, 0]] {
            let mut pieces = Pieces::default();
            let parts = [Part::First, Part::Middle, Part::Last];
            // The numbers wrap.
            let came = order
                .map(|n| joined(&mut pieces, 65_535u16.wrapping_add(n), parts[usize::from(n)]));
            assert_eq!(came, [None, None, Some(vec![255, 0, 1])]);
            assert!(pieces.waiting.is_empty());
        }
    }

    #[test]
    fn pieces_of_two_packets_are_not_joined() {
        let mut pieces = Pieces::default();
        assert_eq!(joined(&mut pieces, 1, Part::First), None);
        // 2, the last one of this packet, and 3, the first one of the next, are lost.
        assert_eq!(joined(&mut pieces, 4, Part::Last), None);
        assert_eq!(joined(&mut pieces, 5, Part::First), None);
        assert_eq!(joined(&mut pieces, 7, Part::Last), None);
        assert_eq!(joined(&mut pieces, 8, Part::Last), None, "two last ones");
        assert_eq!(joined(&mut pieces, 2, Part::Last), Some(vec![1, 2]));
    }

    #[test]
    fn a_piece_that_comes_twice_counts_once() {
        let mut pieces = Pieces::default();
        assert_eq!(joined(&mut pieces, 1, Part::First), None);
        assert_eq!(joined(&mut pieces, 1, Part::First), None);
        assert_eq!(joined(&mut pieces, 2, Part::Last), Some(vec![1, 2]));
        assert_eq!(joined(&mut pieces, 2, Part::Last), None);
        assert_eq!(pieces.waiting.len(), 1);
    }

    #[test]
    fn a_mark_of_congestion_on_one_piece_marks_the_packet() {
        let mut pieces = Pieces::default();
        let marked = |number, part, ecn| Piece { ecn: Some(ecn), ..piece(number, part) };
        pieces.take(marked(1, Part::First, EcnCodepoint::Ce));
        let packet = pieces.take(marked(2, Part::Last, EcnCodepoint::Ect0));
        assert_eq!(packet.unwrap().0, Some(EcnCodepoint::Ce));
    }

    #[test]
    fn pieces_without_end_fill_no_more_than_the_cap() {
        let mut pieces = Pieces::default();
        for number in 0..1_000 {
            assert_eq!(joined(&mut pieces, number, Part::Middle), None);
            assert!(pieces.waiting.len() <= MAX_PIECES);
        }
        assert_eq!(joined(&mut pieces, 1_000, Part::First), None);
        assert_eq!(joined(&mut pieces, 1_001, Part::Last).unwrap().len(), 2);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_joined_at_most_once(numbers in prop::collection::vec((0..24u16, 0..3u8), 0..200)) {
            let mut pieces = Pieces::default();
            let (mut came, mut went) = (0, 0);
            for (number, part) in numbers {
                let part = [Part::Middle, Part::First, Part::Last][usize::from(part)];
                came += 1;
                went += joined(&mut pieces, number, part).map_or(0, |packet| packet.len());
                prop_assert!(went + pieces.waiting.len() <= came);
            }
        }
    }
}
