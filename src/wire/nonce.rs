//! A nonce that is sent to a neighbour's new address, to see whether the neighbour is there.
//!
//! ```text
//!  0                 1 .. 8                       9 .. 16
//! +----------------+----------------------------+---------------------------+
//! | kind = 0x03    | asker, big endian          | nonce, big endian         |
//! +----------------+----------------------------+---------------------------+
//! ```
//!
//! It has a datagram of its own, because QUIC chooses the destination of its packets by itself. The
//! neighbour returns the nonce over its link to the asker
//! ([`LinkDatagram::Nonce`](super::link::LinkDatagram)).

/// First byte of such a datagram.
pub const KIND_NONCE: u8 = 0x03;

/// Its length.
pub const NONCE_LEN: usize = 17;

/// A nonce and on which link it is to come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressNonce {
    /// Tells which link to answer on. Both ends derive it from that link's keys, one number for each end, so
    /// nobody else can ask in a neighbour's name.
    pub asker: u64,
    /// 64 random bits.
    pub nonce: u64,
}

impl AddressNonce {
    /// The datagram.
    #[must_use]
    pub fn encode(self) -> [u8; NONCE_LEN] {
        let mut datagram = [KIND_NONCE; NONCE_LEN];
        datagram[1..9].copy_from_slice(&self.asker.to_be_bytes());
        datagram[9..].copy_from_slice(&self.nonce.to_be_bytes());
        datagram
    }

    /// Reads a datagram; `None` if it is another.
    #[must_use]
    pub fn decode(datagram: &[u8]) -> Option<Self> {
        let [KIND_NONCE, rest @ ..] = datagram else { return None };
        let (asker, nonce) = rest.split_first_chunk::<8>()?;
        let nonce: [u8; 8] = nonce.try_into().ok()?;
        Some(Self { asker: u64::from_be_bytes(*asker), nonce: u64::from_be_bytes(nonce) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_nonce_has_these_bytes() {
        let nonce = AddressNonce { asker: 0x0102_0304_0506_0708, nonce: 0x1112_1314_1516_1718 };
        let bytes = [3, 1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18];
        assert_eq!(nonce.encode(), bytes);
        assert_eq!(AddressNonce::decode(&bytes), Some(nonce));
        for other in [&bytes[..16], &[&bytes[..], &[0]].concat(), &[1; 17], &[]] {
            assert_eq!(AddressNonce::decode(other), None);
        }
    }

    proptest! {
        #[test]
        fn any_datagram_is_a_nonce_that_reads_back_or_none(
            bytes in prop::collection::vec(any::<u8>(), 0..24),
        ) {
            if let Some(nonce) = AddressNonce::decode(&bytes) {
                prop_assert_eq!(&nonce.encode()[..], &bytes[..]);
            }
        }
    }
}
