//! The largest QUIC packet towards an address, by the interface that it leaves by.

use std::net::SocketAddr;

use super::{MAX_QUIC_PACKET, is_virtual};
use crate::wire::label::HEADER_LEN;

/// Bytes of an Ethernet frame's payload, which the Internet carries almost everywhere.
const ETHERNET: u32 = 1500;

/// The IPv6 and the UDP header. IPv4 needs less; which of both a relay uses for the next hop is not known.
const IP_AND_UDP: usize = 40 + 8;

/// The shortest limit that QUIC allows (RFC 9000, section 14).
const LEAST: u16 = 1200;

/// The source of the largest size of an IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathMtu {
    /// So many bytes to wherever.
    Fixed(u32),
    /// The kernel, by the interface through which it would send, and by what routers told it
    /// (Path MTU Discovery, RFC 1191 and RFC 8201). On other systems than Linux as on Ethernet.
    Kernel,
}

impl Default for PathMtu {
    fn default() -> Self {
        Self::Fixed(ETHERNET)
    }
}

impl PathMtu {
    /// The longest QUIC packet that fits, with our header, into an IP packet to a neighbour, if its address is
    /// known. Further along the route it may be less.
    pub(super) fn quic_packet(self, neighbour: Option<SocketAddr>) -> u16 {
        let mtu = match self {
            Self::Fixed(mtu) => mtu,
            // A stream has no packets of its own.
            Self::Kernel => {
                let real = neighbour.filter(|address| !is_virtual(*address));
                real.and_then(by_kernel).unwrap_or(ETHERNET)
            }
        };
        let room =
            usize::try_from(mtu).unwrap_or(usize::MAX).saturating_sub(IP_AND_UDP + HEADER_LEN);
        u16::try_from(room).unwrap_or(u16::MAX).clamp(LEAST, MAX_QUIC_PACKET)
    }
}

/// What the kernel knows: the MTU of a socket that is connected to `to`.
#[cfg(target_os = "linux")]
fn by_kernel(to: SocketAddr) -> Option<u32> {
    use rustix::net::sockopt;

    use super::{routed, unspecified};

    let to = to.ip().to_canonical();
    let socket = routed(unspecified(to), to)?;
    if to.is_ipv4() { sockopt::ip_mtu(&socket) } else { sockopt::ipv6_mtu(&socket) }.ok()
}

#[cfg(not(target_os = "linux"))]
fn by_kernel(_to: SocketAddr) -> Option<u32> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_fits_into_the_frame_with_all_headers() {
        for (mtu, packet) in [(1500, 1441), (9000, 8941), (65_536, 8941), (1420, 1361), (576, 1200)]
        {
            assert_eq!(PathMtu::Fixed(mtu).quic_packet(None), packet, "{mtu}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernel_knows_that_loopback_takes_long_packets() {
        for to in ["127.0.0.1:4600", "[::ffff:127.0.0.1]:4600", "[::1]:4600"] {
            let to: SocketAddr = to.parse().unwrap();
            if to.ip().to_canonical().is_ipv6() && std::net::UdpSocket::bind("[::1]:0").is_err() {
                println!("skipped: this machine has no IPv6");
                continue;
            }
            assert_eq!(PathMtu::Kernel.quic_packet(Some(to)), MAX_QUIC_PACKET, "{to}");
        }
    }

    #[test]
    fn a_stream_is_taken_for_ethernet() {
        let stream = crate::underlay::SlotId(7).virtual_address();
        assert_eq!(PathMtu::Kernel.quic_packet(Some(stream)), 1441);
    }
}
