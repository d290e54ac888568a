//! Pieces of a lane's packet that may be too long for the path.
//!
//! ```text
//!  0 .. 10                         11      12 ..
//! +-------------------------------+-------+-----------------------------+
//! | header of a labelled packet   | part  | part of the QUIC packet     |
//! +-------------------------------+-------+-----------------------------+
//! ```
//!
//! The pieces of one packet have consecutive numbers. A QUIC packet begins with a byte of 0x40 or
//! more, so the part distinguishes a piece from a whole packet. A relay does not see a difference.

use super::label::{HEADER_LEN, Label, push_header};

/// Every path that carries QUIC carries UDP payloads of so many bytes (RFC 9000, section 14). A link
/// needs them, too. Pieces have no more.
pub const SURE_PAYLOAD: usize = 1200;

/// The longest QUIC packet that is sure to pass whole.
pub const SURE_PACKET: usize = SURE_PAYLOAD - HEADER_LEN;

/// The bytes of the QUIC packet in a full piece.
pub const PIECE: usize = SURE_PACKET - 1;

/// Which piece of its packet it is. A packet has two pieces or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Neither the first nor the last one.
    Middle = 0,
    /// The first one.
    First = 1,
    /// The last one.
    Last = 2,
}

/// Splits what follows the header of a labelled packet into the part and its bytes; `None` if it is
/// no piece.
#[must_use]
pub fn parse(payload: &[u8]) -> Option<(Part, &[u8])> {
    let (part, bytes) = payload.split_first()?;
    let part = match part {
        0 => Part::Middle,
        1 => Part::First,
        2 => Part::Last,
        _ => return None,
    };
    (!bytes.is_empty() && bytes.len() <= PIECE).then_some((part, bytes))
}

/// Appends the pieces of `packet`, which is longer than one piece, to `out`; returns how many. All
/// but the last have [`SURE_PAYLOAD`] bytes.
pub fn push_pieces(out: &mut Vec<u8>, label: Label, number: u16, packet: &[u8]) -> u16 {
    let mut next = number;
    let mut left = packet.len();
    for bytes in packet.chunks(PIECE) {
        let part = if left == packet.len() {
            Part::First
        } else if left == bytes.len() {
            Part::Last
        } else {
            Part::Middle
        };
        left -= bytes.len();
        push_header(out, label, next);
        out.push(part as u8);
        out.extend_from_slice(bytes);
        next = next.wrapping_add(1);
    }
    next.wrapping_sub(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::label::{Class, classify, number};

    #[test]
    fn pieces_have_these_bytes() {
        let packet: Vec<u8> = std::iter::repeat_n(b'Q', PIECE).chain(*b"!?").collect();
        let mut out = Vec::new();
        assert_eq!(push_pieces(&mut out, Label(0x0102_0304_0506_0708), 0xffff, &packet), 2);
        let (first, last) = out.split_at(SURE_PAYLOAD);
        assert_eq!(
            first[..13],
            [
                0x01, // kind
                0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, // label
                0xff, 0xff, // number
                0x01, // the first piece
                b'Q',
            ]
        );
        assert_eq!(last, [1, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 2, b'!', b'?']);
        assert_eq!(classify(last), Class::Labelled(Label(0x0102_0304_0506_0708)));
        assert_eq!(number(last), 0);
    }

    #[test]
    fn a_long_packet_has_middle_pieces() {
        let packet = vec![b'Q'; 2 * PIECE + 1];
        let mut out = Vec::new();
        assert_eq!(push_pieces(&mut out, Label(1), 0, &packet), 3);
        let pieces = out.chunks(SURE_PAYLOAD).map(|piece| parse(&piece[HEADER_LEN..]).unwrap());
        let (parts, bytes): (Vec<_>, Vec<_>) = pieces.unzip();
        assert_eq!(parts, [Part::First, Part::Middle, Part::Last]);
        assert_eq!(bytes.concat(), packet);
    }

    #[test]
    fn whole_packets_and_rubbish_are_no_pieces() {
        assert_eq!(parse(&[1, b'Q']), Some((Part::First, &b"Q"[..])));
        let long = [1; PIECE + 2];
        for payload in [&[][..], &[1], &[3, 1], &[0x40, 1], &[0xc0, 1], &long] {
            assert_eq!(parse(payload), None, "{payload:?}");
        }
    }
}
