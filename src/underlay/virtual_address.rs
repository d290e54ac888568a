//! Addresses inside a process: those by which QUIC knows the far ends of lane slots and streams.
//!
//! They have a unique local prefix (RFC 4193) that spells "ron", a kind, and a number. No packet with such an
//! address ever leaves the process.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

/// The first 80 bits.
const PREFIX: [u16; 5] = [0xfd72, 0x6f6e, 0, 0, 0];

/// The port; any value would do, zero is refused by QUIC.
const PORT: u16 = 1;

/// What an address stands for: its next 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Kind {
    Slot = 0,
    Stream = 1,
}

/// The address of this number.
pub(super) fn of(kind: Kind, number: u32) -> SocketAddr {
    let [a, b, c, d, e] = PREFIX;
    let [h0, h1, l0, l1] = number.to_be_bytes();
    let (high, low) = (u16::from_be_bytes([h0, h1]), u16::from_be_bytes([l0, l1]));
    let ip = Ipv6Addr::new(a, b, c, d, e, kind as u16, high, low);
    SocketAddrV6::new(ip, PORT, 0, 0).into()
}

/// The number of an address of this kind; `None` for any other address.
pub(super) fn number(kind: Kind, address: SocketAddr) -> Option<u32> {
    let SocketAddr::V6(address) = address else { return None };
    let [prefix @ .., of, high, low] = address.ip().segments();
    let is_ours = prefix == PREFIX && of == kind as u16;
    is_ours.then_some(u32::from(high) << 16 | u32::from(low))
}

/// Whether an address stands for a lane slot or a stream.
#[must_use]
pub fn is_virtual(address: SocketAddr) -> bool {
    [Kind::Slot, Kind::Stream].into_iter().any(|kind| number(kind, address).is_some())
}
