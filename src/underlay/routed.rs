//! Questions to the kernel's routing table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// A port, which a connected socket needs and routes do not look at (RFC 863, discard).
const ANY_PORT: u16 = 9;

/// A UDP socket at `from` that is connected to `to`, of which the kernel tells what it knows about the route; `None`
/// without a route. To connect it sends nothing.
pub(crate) fn routed(from: IpAddr, to: IpAddr) -> Option<UdpSocket> {
    let socket = UdpSocket::bind((from, 0)).ok()?;
    socket.connect((to, ANY_PORT)).ok()?;
    Some(socket)
}

/// All addresses of this machine of the family of `like`.
pub(crate) fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}
