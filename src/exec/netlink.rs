//! Configures the namespace's interfaces by rtnetlink(7).

use std::{io, net::IpAddr};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

/// The loopback interface is the first one of each namespace.
pub(super) const LOOPBACK: u32 = 1;

// From linux/netlink.h, linux/rtnetlink.h, linux/if_link.h and linux/if_addr.h.
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const IFF_UP: u32 = 1;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 2;
const RTA_OIF: u16 = 4;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RTN_UNICAST: u8 = 1;

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;

/// Starts an interface.
///
/// # Errors
/// What the kernel says.
pub(super) fn start(index: u32, mtu: Option<u32>) -> io::Result<()> {
    let body = [[0; 4], index.to_ne_bytes(), IFF_UP.to_ne_bytes(), IFF_UP.to_ne_bytes()].concat();
    let mtu = mtu.map(|mtu| attribute(IFLA_MTU, &mtu.to_ne_bytes())).unwrap_or_default();
    request(RTM_NEWLINK, 0, &[body, mtu].concat())
}

/// Gives an interface an address of its own, without neighbours.
///
/// # Errors
/// What the kernel says.
pub(super) fn add_address(index: u32, address: IpAddr) -> io::Result<()> {
    let (family, octets) = parts(address);
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let body = [vec![family, bits, 0, RT_SCOPE_UNIVERSE], index.to_ne_bytes().to_vec()].concat();
    let attributes = [
        attribute(IFA_LOCAL, &octets),
        attribute(IFA_ADDRESS, &octets),
        // Nobody else can have it.
        attribute(IFA_FLAGS, &IFA_F_NODAD.to_ne_bytes()),
    ];
    request(RTM_NEWADDR, NLM_F_CREATE, &[body, attributes.concat()].concat())
}

/// Sends all that has no other route to an interface, in the family of `address`.
///
/// # Errors
/// What the kernel says.
pub(super) fn route_all(index: u32, address: IpAddr) -> io::Result<()> {
    let (family, _) = parts(address);
    let (table, protocol, scope) = (RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE);
    let body = [family, 0, 0, 0, table, protocol, scope, RTN_UNICAST, 0, 0, 0, 0];
    let to = attribute(RTA_OIF, &index.to_ne_bytes());
    request(RTM_NEWROUTE, NLM_F_CREATE, &[&body[..], &to].concat())
}

fn parts(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(ip) => (AF_INET, ip.octets().to_vec()),
        IpAddr::V6(ip) => (AF_INET6, ip.octets().to_vec()),
    }
}

/// An attribute: length, kind, value, and zeros up to a multiple of four.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    let head = [length.to_ne_bytes().to_vec(), [kind.to_ne_bytes(), flags.to_ne_bytes()].concat()];
    [head.concat(), vec![0; 8], body.to_vec()].concat()
}

fn request(kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
    // Protocol 0 is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    send(&socket, &message(kind, flags, body), SendFlags::empty())?;
    let mut answer = [0; 512];
    let (length, _) = recv(&socket, &mut answer, RecvFlags::empty())?;
    outcome(answer.get(..length).unwrap_or_default())
}

/// What the kernel's acknowledgement says: 0, or a negative error number.
fn outcome(answer: &[u8]) -> io::Result<()> {
    let kind = answer.get(4..6).and_then(|kind| kind.try_into().ok()).map(u16::from_ne_bytes);
    let code = answer.get(HEADER..HEADER + 4).and_then(|code| code.try_into().ok());
    match (kind, code.map(i32::from_ne_bytes)) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(code)) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is garbled")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_its_length_and_wants_an_answer() {
        let bytes = message(RTM_NEWADDR, NLM_F_CREATE, &attribute(IFA_LOCAL, &[1, 2, 3]));
        assert_eq!(bytes.len(), 24);
        assert_eq!(bytes[..4], 24_u32.to_ne_bytes());
        assert_eq!(bytes[6..8], 0x405_u16.to_ne_bytes());
        assert_eq!(bytes[16..18], 7_u16.to_ne_bytes());
        assert_eq!(bytes[20..], [1, 2, 3, 0]);
    }

    #[test]
    fn the_kernels_answer_is_an_error_number_or_garbled() {
        let answer = |code: i32| {
            let mut bytes = message(NLMSG_ERROR, 0, &code.to_ne_bytes());
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
