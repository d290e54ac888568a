//! The header of a labelled packet.
//!
//! ```text
//!  0        1 .. 8                       9 .. 10                       11 ..
//! +--------+----------------------------+-----------------------------+----------------------+
//! | kind   | label, 64 bits, big endian | number, 16 bits, big endian | QUIC packet (opaque) |
//! +--------+----------------------------+-----------------------------+----------------------+
//! ```
//!
//! The lane's end sends the kind 0x01. A relay that forwards the packet writes 0x02. A relay does
//! not forward a packet of kind 0x02, so no packet crosses more than one relay.
//!
//! The number counts the packets that a lane's end has sent, from 0 and modulo 65,536. The other
//! end uses it to put them back in order. A packet that is sent again gets a new number. Relays
//! ignore it.
//!
//! Every QUIC packet of ours has the fixed bit 0x40 set in its first byte (RFC 9000, §17; greasing
//! by RFC 9287 is off), so a first byte below 0x40 distinguishes a labelled packet from a link's
//! packet.

use std::fmt;

use super::nonce::AddressNonce;

/// Bytes in front of the QUIC packet.
pub const HEADER_LEN: usize = 11;

/// Bytes in front of the number.
const LABEL_END: usize = 9;

/// First byte of a labelled packet as the lane's end sends it.
pub const KIND_LABELLED: u8 = 0x01;

/// First byte of a labelled packet that a relay has forwarded.
pub const KIND_RELAYED: u8 = 0x02;

/// First bytes from here on belong to plain QUIC packets (the fixed bit, RFC 9000 §17.2, §17.3).
const FIRST_QUIC_BYTE: u8 = 0x40;

/// 64 random bits that have a meaning at the node that chose them: "this packet belongs to lane
/// slot S", or "replace this label by L and send the packet to neighbour N".
///
/// A label is a capability: a sender that knows it may use it. It comes from a secure random
/// generator, is granted over an authenticated link, and is never logged in full.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct Label(pub u64);

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The first 16 bits distinguish labels in a log, and do not reveal the capability.
        write!(f, "{:04x}…", self.0 >> 48)
    }
}

/// The class of a datagram, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A QUIC packet of a link.
    Quic,
    /// A labelled packet, straight from a lane's end.
    Labelled(Label),
    /// A labelled packet that a relay has forwarded: for a lane slot only.
    Relayed(Label),
    /// A nonce with which a neighbour checks whether we have an address.
    Nonce(AddressNonce),
    /// Neither: too short, or an unknown kind.
    Unknown,
}

/// The bit of QUIC's long headers, which begin with it and the version (RFC 8999, section 5.1).
const LONG_HEADER: u8 = 0x80;

/// QUIC's version that all nodes speak (RFC 9000, section 15).
const QUIC_VERSION: [u8; 4] = 1_u32.to_be_bytes();

/// Classifies one datagram.
#[must_use]
pub fn classify(datagram: &[u8]) -> Class {
    match datagram {
        // Of another version: QUIC would answer it, of whatever length, to whatever address it names
        // (RFC 9000, section 6).
        [first, version @ ..] if *first >= LONG_HEADER => match version.first_chunk() {
            Some(version) if *version == QUIC_VERSION => Class::Quic,
            _ => Class::Unknown,
        },
        [first, ..] if *first >= FIRST_QUIC_BYTE => Class::Quic,
        [kind @ (KIND_LABELLED | KIND_RELAYED), l0, l1, l2, l3, l4, l5, l6, l7, _, _, _, ..] => {
            let label = Label(u64::from_be_bytes([*l0, *l1, *l2, *l3, *l4, *l5, *l6, *l7]));
            if *kind == KIND_LABELLED { Class::Labelled(label) } else { Class::Relayed(label) }
        }
        _ => AddressNonce::decode(datagram).map_or(Class::Unknown, Class::Nonce),
    }
}

/// Replaces the label of a labelled packet in place, and marks the packet as forwarded. A relay
/// changes nothing else.
///
/// `packet` must be one that [`classify`] called labelled; a shorter one is left alone.
pub fn relay(packet: &mut [u8], label: Label) {
    if let Some([kind, field @ ..]) = packet.get_mut(..LABEL_END) {
        *kind = KIND_RELAYED;
        field.copy_from_slice(&label.0.to_be_bytes());
    }
}

/// The number of a labelled packet; zero for one that is too short to have one.
#[must_use]
pub fn number(packet: &[u8]) -> u16 {
    let field = packet.get(LABEL_END..).and_then(|rest| rest.first_chunk());
    field.map_or(0, |field| u16::from_be_bytes(*field))
}

/// Appends `packet` with its header to `out`.
pub fn push_labelled(out: &mut Vec<u8>, label: Label, number: u16, packet: &[u8]) {
    push_header(out, label, number);
    out.extend_from_slice(packet);
}

/// Appends the header of a packet to `out`.
pub(super) fn push_header(out: &mut Vec<u8>, label: Label, number: u16) {
    out.push(KIND_LABELLED);
    out.extend_from_slice(&label.0.to_be_bytes());
    out.extend_from_slice(&number.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_labelled_packet_has_these_bytes() {
        let mut out = Vec::new();
        push_labelled(&mut out, Label(0x0102_0304_0506_0708), 0x090a, b"Q!");
        assert_eq!(
            out,
            [
                0x01, // kind
                0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, // label
                0x09, 0x0a, // number
                b'Q', b'!', // the QUIC packet, untouched
            ]
        );
    }

    #[test]
    fn a_relay_changes_the_kind_and_the_label_and_nothing_else() {
        let mut packet = Vec::new();
        push_labelled(&mut packet, Label(1), 0x0a0b, b"Q!");
        relay(&mut packet, Label(0x0807_0605_0403_0201));
        assert_eq!(packet, [2, 8, 7, 6, 5, 4, 3, 2, 1, 10, 11, b'Q', b'!']);
        assert_eq!(classify(&packet), Class::Relayed(Label(0x0807_0605_0403_0201)));
        let mut short = [1; LABEL_END - 1];
        relay(&mut short, Label(9));
        assert_eq!(short, [1; LABEL_END - 1]);
    }

    #[test]
    fn empty_short_and_foreign_datagrams_are_unknown() {
        for datagram in [&[][..], &[0x01], &[0x01; 11], &[0x02; 11], &[0x00; 20], &[0x3f; 20]] {
            assert_eq!(classify(datagram), Class::Unknown, "{datagram:?}");
        }
        assert_eq!(classify(&[0x01; 12]), Class::Labelled(Label(0x0101_0101_0101_0101)));
        assert_eq!(classify(&[0x02; 12]), Class::Relayed(Label(0x0202_0202_0202_0202)));
        let nonce = AddressNonce { asker: 1, nonce: 2 };
        assert_eq!(classify(&nonce.encode()), Class::Nonce(nonce));
        assert_eq!(classify(&[0x40]), Class::Quic);
    }

    #[test]
    fn a_label_is_not_printed_in_full() {
        assert_eq!(format!("{:?}", Label(0xabcd_ef01_2345_6789)), "abcd…");
    }

    proptest! {
        #[test]
        fn a_pushed_label_is_read_back(label: u64, number: u16, packet in prop::collection::vec(any::<u8>(), 1..64)) {
            let mut out = Vec::new();
            push_labelled(&mut out, Label(label), number, &packet);
            prop_assert_eq!(super::number(&out), number);
            prop_assert_eq!(classify(&out), Class::Labelled(Label(label)));
            prop_assert_eq!(&out[HEADER_LEN..], &packet[..]);
            relay(&mut out, Label(!label));
            prop_assert_eq!(classify(&out), Class::Relayed(Label(!label)));
            prop_assert_eq!(&out[HEADER_LEN..], &packet[..]);
        }
    }
}
