//! Configures the namespace's interfaces by rtnetlink(7).

use std::{io, net::IpAddr};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Request,
    address::{AddressAttribute, AddressFlags, AddressMessage},
    link::{LinkAttribute, LinkFlags, LinkMessage},
    route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType},
};
use rustix::net::{self, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

/// The loopback interface is the first one of each namespace.
pub(super) const LOOPBACK: u32 = 1;

/// Starts an interface.
///
/// # Errors
/// What the kernel says.
pub(super) fn start(index: u32, mtu: Option<u32>) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    link.attributes.extend(mtu.map(LinkAttribute::Mtu));
    ask(Request::NewLink(link), 0)
}

/// Gives an interface an address of its own, without neighbours.
///
/// # Errors
/// What the kernel says.
pub(super) fn add_address(index: u32, address: IpAddr) -> io::Result<()> {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = if address.is_ipv4() { 32 } else { 128 };
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
        // Nobody else can have it.
        AddressAttribute::Flags(AddressFlags::Nodad),
    ];
    ask(Request::NewAddress(message), NLM_F_CREATE)
}

/// Sends all that has no other route to an interface, in the family of `address`.
///
/// # Errors
/// What the kernel says.
pub(super) fn route_all(index: u32, address: IpAddr) -> io::Result<()> {
    let mut route = RouteMessage::default();
    route.header.address_family = family(address);
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Static;
    route.header.kind = RouteType::Unicast;
    route.attributes.push(RouteAttribute::Oif(index));
    ask(Request::NewRoute(route), NLM_F_CREATE)
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn ask(request: Request, flags: u16) -> io::Result<()> {
    let mut message = NetlinkMessage::from(request);
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    // Protocol 0 is NETLINK_ROUTE.
    let (family, kind) = (net::AddressFamily::NETLINK, SocketType::RAW);
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    send(&socket, &bytes, SendFlags::empty())?;
    let mut answer = [0; 512];
    let (length, _) = recv(&socket, &mut answer, RecvFlags::empty())?;
    outcome(answer.get(..length).unwrap_or_default())
}

/// What the kernel's acknowledgement says: nothing, or an error number.
fn outcome(answer: &[u8]) -> io::Result<()> {
    match NetlinkMessage::<Request>::deserialize(answer).map(|message| message.payload) {
        Ok(NetlinkPayload::Error(said)) => match said.code {
            None => Ok(()),
            Some(_) => Err(said.to_io()),
        },
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is garbled")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_answer_is_an_error_number_or_garbled() {
        let answer = |code: i32| {
            let mut bytes = [36_u32.to_ne_bytes(), [2, 0, 0, 0]].concat();
            bytes.resize(16, 0);
            bytes.extend(code.to_ne_bytes());
            bytes.resize(36, 0);
            outcome(&bytes)
        };
        assert!(answer(0).is_ok());
        assert_eq!(answer(-1).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(outcome(b"short").unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn the_kernel_understands_a_request() {
        // The kernel has no interface of this number, so the request changes nothing.
        let error = start(u32::MAX >> 1, Some(1_500)).unwrap_err();
        assert!(matches!(error.raw_os_error(), Some(1 | 19)), "{error}");
    }
}
