//! IP packets of programs: reading their headers, writing other addresses into them, and making answers. PURE.

use std::net::{IpAddr, SocketAddr};

/// Protocol numbers (IANA), which stand in the IP header.
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// The lengths of headers without options.
const IPV4: usize = 20;
const IPV6: usize = 40;
const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;

/// The flags of TCP, at byte 13 of its header.
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// The hop limit of packets that are made here. They cross one interface.
const HOPS: u8 = 64;

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp,
    Udp,
}

/// A packet's headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Headers {
    pub(super) protocol: Protocol,
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    /// Where the header of TCP or UDP begins.
    at: usize,
    /// Where the packet ends.
    end: usize,
}

/// Why a destination cannot be reached, for the program that asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreachable {
    Network,
    Host,
    /// A policy forbids it.
    Forbidden,
}

impl Headers {
    /// Reads a packet; `None` if it is a fragment, of another protocol, or garbage.
    pub(super) fn read(packet: &[u8]) -> Option<Self> {
        let (protocol, [from, to], at, end) = match packet.first()? >> 4 {
            4 => ipv4(packet)?,
            6 => ipv6(packet)?,
            _ => return None,
        };
        let transport = packet.get(at..end)?;
        let protocol = match protocol {
            TCP if transport.len() >= TCP_HEADER => Protocol::Tcp,
            UDP if usize::from(word(transport, 4)?) == transport.len() => Protocol::Udp,
            _ => return None,
        };
        let from = SocketAddr::new(from, word(transport, 0)?);
        let to = SocketAddr::new(to, word(transport, 2)?);
        Some(Self { protocol, from, to, at, end })
    }

    /// The content of a datagram.
    pub(super) fn payload<'a>(&self, packet: &'a [u8]) -> &'a [u8] {
        packet.get(self.at + UDP_HEADER..self.end).unwrap_or_default()
    }

    fn flags(&self, packet: &[u8]) -> u8 {
        packet.get(self.at + 13).copied().unwrap_or_default()
    }

    /// Whether it opens a connection.
    pub(super) fn opens(&self, packet: &[u8]) -> bool {
        self.flags(packet) & (SYN | ACK | RST) == SYN
    }

    /// Gives the TCP packet other addresses of the same family, and checksums to match (RFC 1624).
    pub(super) fn readdress(&self, packet: &mut [u8], from: SocketAddr, to: SocketAddr) {
        let addresses = [octets(from.ip()), octets(to.ip())].concat();
        let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
        let is_v4 = self.from.is_ipv4();
        let changed = [(if is_v4 { 12 } else { 8 }, addresses), (self.at, ports)];
        for (at, new) in changed {
            let old = packet[at..at + new.len()].to_vec();
            update(packet, self.at + 16, &old, &new);
            if is_v4 && at < self.at {
                update(packet, 10, &old, &new);
            }
            packet[at..at + new.len()].copy_from_slice(&new);
        }
    }

    /// The refusal of a TCP packet; `None` if it is one itself.
    pub(super) fn reset(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let flags = self.flags(packet);
        if flags & RST != 0 {
            return None;
        }
        let tcp = &packet[self.at..self.end];
        let data = tcp.len().checked_sub(usize::from(tcp[12] >> 4) * 4)?;
        let sequence = u32::from_be_bytes(*tcp[4..].first_chunk()?);
        // RFC 9293, section 3.10.7.1: what answers nothing acknowledges all that came.
        let (seq, ack, flags) = if flags & ACK == 0 {
            let length = u32::try_from(data).ok()? + u32::from(flags & SYN != 0);
            (0, sequence.wrapping_add(length), RST | ACK)
        } else {
            (u32::from_be_bytes(*tcp[8..].first_chunk()?), 0, RST)
        };
        let mut header = [0; TCP_HEADER];
        header[..2].copy_from_slice(&self.to.port().to_be_bytes());
        header[2..4].copy_from_slice(&self.from.port().to_be_bytes());
        header[4..8].copy_from_slice(&seq.to_be_bytes());
        header[8..12].copy_from_slice(&ack.to_be_bytes());
        header[12] = 5 << 4;
        header[13] = flags;
        wrapped((self.to.ip(), self.from.ip()), TCP, &header, &[], 16)
    }

    /// An ICMP message about the packet (RFC 792, RFC 4443).
    pub(super) fn unreachable(&self, packet: &[u8], why: Unreachable) -> Option<Vec<u8>> {
        let (protocol, kind, code) = match (self.from.is_ipv4(), why) {
            (true, Unreachable::Network) => (ICMP, 3, 0),
            (true, Unreachable::Host) => (ICMP, 3, 1),
            (true, Unreachable::Forbidden) => (ICMP, 3, 13),
            (false, Unreachable::Network) => (ICMPV6, 1, 0),
            (false, Unreachable::Host) => (ICMPV6, 1, 3),
            (false, Unreachable::Forbidden) => (ICMPV6, 1, 1),
        };
        // The header and the first eight bytes after it say which socket it is about.
        let about = &packet[..(self.at + 8).min(self.end)];
        wrapped((self.to.ip(), self.from.ip()), protocol, &[kind, code, 0, 0, 0, 0, 0, 0], about, 2)
    }
}

/// A datagram; `None` if it is longer than IP carries, or the addresses are of two families.
pub(super) fn datagram(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(UDP_HEADER + payload.len()).ok()?;
    let mut header = [0; UDP_HEADER];
    header[..2].copy_from_slice(&from.port().to_be_bytes());
    header[2..4].copy_from_slice(&to.port().to_be_bytes());
    header[4..6].copy_from_slice(&length.to_be_bytes());
    wrapped((from.ip(), to.ip()), UDP, &header, payload, 6)
}

type Parsed = (u8, [IpAddr; 2], usize, usize);

fn ipv4(packet: &[u8]) -> Option<Parsed> {
    let at = usize::from(packet.first()? & 15) * 4;
    let end = usize::from(word(packet, 2)?);
    // Fragments: the interface carries the longest packet whole, so no ordinary program makes any.
    if at < IPV4 || end > packet.len() || word(packet, 6)? & 0x3fff != 0 {
        return None;
    }
    let address = |at: usize| Some(IpAddr::from(*packet.get(at..)?.first_chunk::<4>()?));
    Some((*packet.get(9)?, [address(12)?, address(16)?], at, end))
}

fn ipv6(packet: &[u8]) -> Option<Parsed> {
    let end = IPV6 + usize::from(word(packet, 4)?);
    if end > packet.len() {
        return None;
    }
    let address = |at: usize| Some(IpAddr::from(*packet.get(at..)?.first_chunk::<16>()?));
    // Extension headers stand where the protocol would, and are not read.
    Some((*packet.get(6)?, [address(8)?, address(24)?], IPV6, end))
}

/// A whole packet of `header` and `payload`, whose checksum belongs at `check` of the header.
fn wrapped(
    (from, to): (IpAddr, IpAddr),
    protocol: u8,
    header: &[u8],
    payload: &[u8],
    check: usize,
) -> Option<Vec<u8>> {
    let length = u16::try_from(header.len() + payload.len()).ok()?;
    let mut packet = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let [high, low] = length.checked_add(20)?.to_be_bytes();
            let mut ip = vec![0x45, 0, high, low, 0, 0, 0x40, 0, HOPS, protocol, 0, 0];
            ip.extend([from.octets(), to.octets()].concat());
            let sum = checksum(&[&ip]);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            ip
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let [high, low] = length.to_be_bytes();
            let mut ip = vec![0x60, 0, 0, 0, high, low, protocol, HOPS];
            ip.extend([from.octets(), to.octets()].concat());
            ip
        }
        _ => return None,
    };
    let at = packet.len();
    packet.extend_from_slice(header);
    packet.extend_from_slice(payload);
    // ICMP for IPv4 alone has no pseudo-header.
    let pseudo = match protocol {
        ICMP => vec![],
        _ => [octets(from), octets(to), vec![0, protocol], length.to_be_bytes().to_vec()].concat(),
    };
    // In UDP 0 means that there is no checksum.
    let sum = match checksum(&[&pseudo, &packet[at..]]) {
        0 if protocol == UDP => 0xffff,
        sum => sum,
    };
    packet[at + check..at + check + 2].copy_from_slice(&sum.to_be_bytes());
    Some(packet)
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The sum of 16-bit words in one's complement; a last single byte counts as the high one.
fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [high] => u32::from(*high) << 8,
        _ => 0,
    });
    words.sum()
}

fn folded(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or_default()
}

/// The Internet checksum (RFC 1071) of parts, each but the last of even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    !folded(parts.iter().map(|part| sum(part)).sum())
}

/// Corrects the checksum at `at` for bytes that change from `old` to `new` (RFC 1624, equation 3).
fn update(packet: &mut [u8], at: usize, old: &[u8], new: &[u8]) {
    let Some(before) = word(packet, at) else { return };
    let inverted: Vec<u8> = old.iter().map(|byte| !byte).collect();
    let after = !folded(u32::from(!before) + sum(&inverted) + sum(new));
    packet[at..at + 2].copy_from_slice(&after.to_be_bytes());
}

/// A TCP packet without content, which opens a connection or belongs to one.
#[cfg(test)]
pub(super) fn opening_packet(from: SocketAddr, to: SocketAddr, opens: bool) -> Vec<u8> {
    tests::tcp(from, to, if opens { SYN } else { ACK }, b"")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    const PAIRS: [(&str, &str, &str, &str); 2] = [
        ("198.18.0.1:40000", "192.0.2.7:80", "198.18.0.2:5", "198.18.0.1:6000"),
        ("[fd00::1]:40000", "[2001:db8::7]:80", "[fd00::2]:5", "[fd00::1]:6000"),
    ];

    /// A TCP packet with this much content.
    pub(super) fn tcp(from: SocketAddr, to: SocketAddr, flags: u8, data: &[u8]) -> Vec<u8> {
        let mut header = [0; TCP_HEADER];
        header[..2].copy_from_slice(&from.port().to_be_bytes());
        header[2..4].copy_from_slice(&to.port().to_be_bytes());
        header[4..8].copy_from_slice(&7_u32.to_be_bytes());
        header[8..12].copy_from_slice(&9_u32.to_be_bytes());
        (header[12], header[13]) = (5 << 4, flags);
        wrapped((from.ip(), to.ip()), TCP, &header, data, 16).unwrap()
    }

    #[test]
    fn a_readdressed_packet_is_as_if_made_for_its_new_addresses() {
        for (from, to, new_from, new_to) in PAIRS {
            let [from, to, new_from, new_to] = [from, to, new_from, new_to].map(addr);
            for data in [&b""[..], b"odd", &[0xff; 1000]] {
                let mut packet = tcp(from, to, ACK, data);
                let headers = Headers::read(&packet).unwrap();
                assert_eq!((headers.from, headers.to), (from, to));
                headers.readdress(&mut packet, new_from, new_to);
                assert_eq!(packet, tcp(new_from, new_to, ACK, data));
            }
        }
    }

    #[test]
    fn a_packet_that_opens_a_connection_is_refused_to_its_sender() {
        for (from, to, ..) in PAIRS {
            let [from, to] = [from, to].map(addr);
            let opening = tcp(from, to, SYN, b"");
            let headers = Headers::read(&opening).unwrap();
            assert!(headers.opens(&opening));
            let reset = headers.reset(&opening).unwrap();
            let read = Headers::read(&reset).unwrap();
            assert_eq!((read.from, read.to, read.flags(&reset)), (to, from, RST | ACK));
            // It acknowledges the SYN, which counts as one.
            assert_eq!(reset[read.at + 8..read.at + 12], 8_u32.to_be_bytes());
            assert_eq!(read.reset(&reset), None, "a reset answers no reset");
            let middle = tcp(from, to, ACK, b"x");
            let reset = headers.reset(&middle).unwrap();
            assert_eq!(reset[read.at + 4..read.at + 8], 9_u32.to_be_bytes());
        }
    }

    #[test]
    fn a_datagram_is_read_as_it_was_made() {
        for (from, to, ..) in PAIRS {
            let [from, to] = [from, to].map(addr);
            let packet = datagram(from, to, b"hello").unwrap();
            let headers = Headers::read(&packet).unwrap();
            assert_eq!((headers.protocol, headers.from, headers.to), (Protocol::Udp, from, to));
            assert_eq!(headers.payload(&packet), b"hello");
            assert_eq!(datagram(from, to, &[0; 65_536]), None);
            let why = headers.unreachable(&packet, Unreachable::Host).unwrap();
            assert!(why.ends_with(&packet[..headers.at + 8]) && Headers::read(&why).is_none());
        }
    }

    #[test]
    fn fragments_and_false_lengths_are_no_packets() {
        let good = datagram(addr("198.18.0.1:5"), addr("192.0.2.7:53"), b"hello").unwrap();
        let spoilt = |at: usize, byte: u8| {
            let mut bad = good.clone();
            bad[at] = byte;
            Headers::read(&bad)
        };
        assert!(Headers::read(&good).is_some());
        for (at, byte) in [(0, 0x55), (0, 0x42), (3, 200), (6, 0x20), (7, 1), (9, 99), (25, 3)] {
            assert_eq!(spoilt(at, byte), None, "{at} {byte}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_read_without_harm(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), v6: bool) {
            if let Some(first) = bytes.first_mut() {
                *first = if v6 { 0x60 } else { 0x45 };
            }
            if let Some(headers) = Headers::read(&bytes) {
                let _ = (headers.reset(&bytes), headers.payload(&bytes), headers.opens(&bytes));
                let _ = headers.unreachable(&bytes, Unreachable::Network);
                headers.readdress(&mut bytes, headers.to, headers.from);
            }
        }
    }
}
