//! Packets on a stream: the datagrams of the UDP socket, each with its length in front.
//!
//! ```text
//!  0 .. 1                  2 ..
//! +-----------------------+-------------------------------------+
//! | length, big endian    | what would be one datagram          |
//! +-----------------------+-------------------------------------+
//! ```

use super::label::HEADER_LEN;

/// Bytes in front of a packet.
pub const LENGTH_LEN: usize = 2;

/// The longest packet: the largest one of QUIC that a node sends, with a label in front.
pub const MAX_PACKET: usize = 8941 + HEADER_LEN;

/// A length that no packet of ours has: the other end speaks another protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {0} bytes")]
pub struct BadLength(pub u16);

/// Appends the frame of `packet`; false, and appends nothing, if the packet is empty or longer than
/// [`MAX_PACKET`].
pub fn push_frame(out: &mut Vec<u8>, packet: &[u8]) -> bool {
    let length = u16::try_from(packet.len()).unwrap_or(u16::MAX);
    let fits = (1..=MAX_PACKET).contains(&usize::from(length));
    if fits {
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(packet);
    }
    fits
}

/// A packet and the bytes behind it.
pub type Split<'a> = (&'a [u8], &'a [u8]);

/// The first packet in `bytes` and the bytes behind it; `None` until all of it is there.
///
/// # Errors
/// When the bytes are no frame.
pub fn first(bytes: &[u8]) -> Result<Option<Split<'_>>, BadLength> {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_LEN>() else { return Ok(None) };
    let length = u16::from_be_bytes(*length);
    if !(1..=MAX_PACKET).contains(&usize::from(length)) {
        return Err(BadLength(length));
    }
    Ok(rest.split_at_checked(length.into()))
}

/// How many bytes the whole frames at the beginning of `bytes` have.
///
/// # Errors
/// When the bytes are no frames.
pub fn whole(bytes: &[u8]) -> Result<usize, BadLength> {
    let mut left = bytes;
    while let Some((_, rest)) = first(left)? {
        left = rest;
    }
    Ok(bytes.len() - left.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_frame_has_these_bytes() {
        let mut out = Vec::new();
        assert!(push_frame(&mut out, b"Q!"));
        assert!(!push_frame(&mut out, &[]) && !push_frame(&mut out, &vec![7; MAX_PACKET + 1]));
        assert_eq!(out, [0, 2, b'Q', b'!']);
        assert_eq!(first(&out), Ok(Some((&b"Q!"[..], &[][..]))));
        for part in [&out[..0], &out[..1], &out[..2], &out[..3]] {
            assert_eq!((first(part), whole(part)), (Ok(None), Ok(0)));
        }
    }

    #[test]
    fn other_protocols_are_no_frames() {
        // What servers of HTTP/1.1 and HTTP/2 say first, and an empty frame.
        for bytes in [&b"HTTP/1.1 400 Bad Request"[..], &[0, 0, 18, 4, 0, 0, 0, 0, 0], &[0, 0]] {
            assert!(first(bytes).is_err() && whole(bytes).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn frames_read_back_however_they_are_cut(
            packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 0..8),
            cut in 0usize..1700,
        ) {
            let mut out = Vec::new();
            packets.iter().for_each(|packet| assert!(push_frame(&mut out, packet)));
            prop_assert_eq!(whole(&out), Ok(out.len()));
            let part = &out[..cut.min(out.len())];
            let complete = whole(part).unwrap();
            let (mut left, mut read) = (&out[..], Vec::new());
            while let Some((packet, rest)) = first(left).unwrap() {
                read.push(packet.to_vec());
                left = rest;
            }
            prop_assert_eq!(read, packets);
            prop_assert!(part.len() - complete < LENGTH_LEN + 200);
        }

        #[test]
        fn any_bytes_are_frames_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(complete) = whole(&bytes) {
                prop_assert!(complete <= bytes.len());
            }
        }
    }
}
