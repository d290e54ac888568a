//! Datagrams of flows inside a lane's DATAGRAM frames. PURE.
//!
//! ```text
//!  80 00  flow  number  piece [peer]  payload …
//! ```
//!
//! A frame that begins otherwise is a [`LaneNotice`](super::lane::LaneNotice). No notice begins with
//! these bytes: it begins with a varint, and no varint is written with a superfluous zero.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::DecodeError;
use crate::flow::Target;

/// The kind of the frame.
pub const KIND: [u8; 2] = [0x80, 0x00];

/// What stands before the payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The index of the flow's stream (RFC 9000 §2.1, without the two lowest bits).
    pub flow: u64,
    /// Counts the datagrams of the flow in this direction, from 0 on, modulo 65,536.
    pub number: u16,
    /// Which part of the datagram follows.
    pub piece: Piece,
}

/// A datagram, or one of the two parts of one that does not fit a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Piece {
    /// A whole datagram to or from this peer.
    Whole(Target),
    /// The first part.
    First(Target),
    /// The second part of the datagram with this number.
    Second,
}

/// Whether a DATAGRAM frame of a lane carries a flow's datagram.
#[must_use]
pub fn is_datagram(frame: &[u8]) -> bool {
    frame.starts_with(&KIND)
}

/// One frame.
#[must_use]
pub fn frame(header: &Header, payload: &[u8]) -> Bytes {
    let header = super::encode(header);
    let mut bytes = Vec::with_capacity(KIND.len() + header.len() + payload.len());
    bytes.extend_from_slice(&KIND);
    bytes.extend_from_slice(&header);
    bytes.extend_from_slice(payload);
    bytes.into()
}

/// Reads a frame of this kind.
///
/// # Errors
/// When the header is truncated or malformed, or the frame is of another kind.
pub fn parse(frame: &[u8]) -> Result<(Header, &[u8]), DecodeError> {
    let malformed = |error: String| DecodeError::Malformed(error);
    let rest = frame.strip_prefix(&KIND).ok_or_else(|| malformed("another kind".into()))?;
    postcard::take_from_bytes(rest).map_err(|error| malformed(error.to_string()))
}

/// The frames that carry a datagram where a frame has at most `room` bytes: one, or two equal parts;
/// `None` if it does not fit.
#[must_use]
pub fn frames(
    flow: u64,
    number: u16,
    peer: &Target,
    payload: &[u8],
    room: usize,
) -> Option<Vec<Bytes>> {
    let header = |piece| Header { flow, number, piece };
    let whole = frame(&header(Piece::Whole(peer.clone())), payload);
    if whole.len() <= room {
        return Some(vec![whole]);
    }
    let overhead = whole.len() - payload.len();
    let first = room.checked_sub(overhead)?.min(payload.len().div_ceil(2));
    let (first, second) = payload.split_at(first);
    let first = frame(&header(Piece::First(peer.clone())), first);
    let second = frame(&header(Piece::Second), second);
    (second.len() <= room).then(|| vec![first, second])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        flow::{MAX_DATAGRAM, PACKET_FITS, Route},
        wire::{encode, lane::LaneNotice},
    };

    fn peer() -> Target {
        "192.0.2.80:53".parse().unwrap()
    }

    #[test]
    fn a_datagram_has_these_bytes() {
        let header = Header { flow: 5, number: 300, piece: Piece::Whole(peer()) };
        let bytes = frame(&header, b"hi");
        assert_eq!(
            bytes[..],
            [
                0x80, 0, // kind
                5, 0xac, 2, // flow on stream 20, number 300
                0, 0, 0, 192, 0, 2, 80, 53, // whole, IPv4 address, port
                b'h', b'i',
            ]
        );
        assert_eq!(parse(&bytes).unwrap(), (header, &b"hi"[..]));
    }

    #[test]
    fn the_second_part_has_no_address() {
        let header = Header { flow: 5, number: 3, piece: Piece::Second };
        assert_eq!(frame(&header, b"!")[..], [0x80, 0, 5, 3, 2, b'!']);
    }

    #[test]
    fn a_datagram_that_fits_no_packet_makes_two_equal_parts() {
        let payload = vec![7; 1_200];
        assert_eq!(frames(1, 2, &peer(), &payload, 1_300).unwrap().len(), 1);
        let parts = frames(1, 2, &peer(), &payload, 1_162).unwrap();
        assert_eq!(parts.len(), 2);
        assert!(parts.iter().all(|part| part.len() < 620), "{parts:?}");
        assert_eq!(frames(1, 2, &peer(), &payload, 600), None);
        assert_eq!(frames(1, 2, &peer(), &payload, 3), None);
    }

    #[test]
    fn the_longest_datagram_fits_two_packets_of_the_least_size() {
        // What a QUIC packet of 1,200 bytes leaves for a frame: 29 bytes of header and tag, 9 of frame.
        let room = 1_200 - 29 - 9;
        let name = [["a".repeat(63).as_str(); 3].join("."), "a".repeat(61)].join(".");
        let longest = Target::new(&name, u16::MAX).unwrap();
        let payload = vec![0; MAX_DATAGRAM];
        assert!(frames(1 << 40, u16::MAX, &longest, &payload, room).is_some());
        assert!(frames(1 << 40, u16::MAX, &peer(), &payload, room).is_some());
    }

    #[test]
    fn a_packet_of_the_least_size_fits_one_frame_of_every_path() {
        let room = 1_200 - 29 - 9;
        let kind = Target { host: "v".repeat(32).parse().unwrap(), port: 0 };
        let fits = |len| frames(1 << 60, u16::MAX, &kind, &vec![0; len], room).unwrap().len() == 1;
        assert!(fits(PACKET_FITS) && !fits(PACKET_FITS + 14));
    }

    proptest! {
        #[test]
        fn no_notice_begins_like_a_datagram(epoch: u64, seen: u64) {
            let notice = LaneNotice {
                epoch, seen, route: Route::Direct, moved: None, limited: false, mine: false, ping: false,
            };
            prop_assert!(!is_datagram(&encode(&notice)));
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse(&bytes);
            let _ = parse(&[&KIND[..], &bytes].concat());
        }

        #[test]
        fn the_parts_make_the_datagram(payload in prop::collection::vec(any::<u8>(), 0..2_000), room in 40_usize..1_500) {
            let Some(parts) = frames(7, 9, &peer(), &payload, room) else { return Ok(()) };
            prop_assert!(parts.iter().all(|part| part.len() <= room));
            let joined: Vec<u8> = parts.iter().flat_map(|part| parse(part).unwrap().1.to_vec()).collect();
            prop_assert_eq!(joined, payload);
        }
    }
}
