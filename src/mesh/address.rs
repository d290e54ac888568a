//! Which addresses of a member are dialled. PURE.
//!
//! A member's record says where it can be reached. It must not cause others to send packets to
//! themselves, to broadcast addresses, or into their own networks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::underlay::is_virtual;

/// Why an address is not dialled; also the metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AddressRefusal {
    /// Port 0 is no port.
    PortZero,
    /// `0.0.0.0` or `::`.
    Unspecified,
    /// A group of hosts.
    Multicast,
    /// All hosts of a network.
    Broadcast,
    /// Stands for a lane slot or a stream inside a process.
    Virtual,
    /// This machine itself, while this node has no loopback address.
    Loopback,
    /// Link-local, while this node has no such address.
    LinkLocal,
    /// Of a private network, while this node has no private address.
    Private,
}

/// The scope of an address. The first one is the whole Internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Public,
    Private,
    LinkLocal,
    Loopback,
}

/// The kinds of addresses that this node has itself, and so may dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct OwnKinds {
    private: bool,
    link_local: bool,
    loopback: bool,
}

impl OwnKinds {
    /// The kinds of `own`, with the kinds this already has.
    #[must_use]
    pub(super) fn with(mut self, own: IpAddr) -> Self {
        match kind(own.to_canonical()) {
            Kind::Public => {}
            Kind::Private => self.private = true,
            Kind::LinkLocal => self.link_local = true,
            Kind::Loopback => self.loopback = true,
        }
        self
    }

    /// Checks an address that a member's record names.
    ///
    /// # Errors
    /// Why it is not to be dialled.
    pub(super) fn check(self, address: SocketAddr) -> Result<(), AddressRefusal> {
        check_form(address)?;
        let (has, refusal) = match kind(address.ip().to_canonical()) {
            Kind::Public => return Ok(()),
            Kind::Private => (self.private, AddressRefusal::Private),
            Kind::LinkLocal => (self.link_local, AddressRefusal::LinkLocal),
            Kind::Loopback => (self.loopback, AddressRefusal::Loopback),
        };
        has.then_some(()).ok_or(refusal)
    }
}

/// Checks the rules that hold for every address, from any source.
///
/// # Errors
/// Why it is never to be dialled.
pub(super) fn check_form(address: SocketAddr) -> Result<(), AddressRefusal> {
    if address.port() == 0 {
        return Err(AddressRefusal::PortZero);
    }
    if is_virtual(address) {
        return Err(AddressRefusal::Virtual);
    }
    match address.ip().to_canonical() {
        ip if ip.is_unspecified() => Err(AddressRefusal::Unspecified),
        // 0.0.0.0/8 means this network (RFC 1122, §3.2.1.3).
        IpAddr::V4(ip) if ip.octets()[0] == 0 => Err(AddressRefusal::Unspecified),
        ip if ip.is_multicast() => Err(AddressRefusal::Multicast),
        // 240.0.0.0/4 is reserved. Its last address is the limited broadcast address.
        IpAddr::V4(ip) if ip.octets()[0] >= 240 => Err(AddressRefusal::Broadcast),
        _ => Ok(()),
    }
}

/// Whether an address is one that others can reach on the Internet.
#[must_use]
pub(crate) fn is_of_internet(address: SocketAddr) -> bool {
    check_form(address).is_ok() && is_public(address.ip())
}

/// Whether an address is of the whole Internet.
#[must_use]
pub(crate) fn is_public(ip: IpAddr) -> bool {
    kind(ip.to_canonical()) == Kind::Public
}

fn kind(ip: IpAddr) -> Kind {
    match ip {
        _ if ip.is_loopback() => Kind::Loopback,
        IpAddr::V4(ip) if ip.is_link_local() => Kind::LinkLocal,
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Kind::LinkLocal,
        IpAddr::V4(ip) if ip.is_private() || is_shared(ip) => Kind::Private,
        IpAddr::V6(ip) if is_local_v6(ip) => Kind::Private,
        _ => Kind::Public,
    }
}

/// 100.64.0.0/10, between customers and a provider's NAT (RFC 6598).
fn is_shared(ip: Ipv4Addr) -> bool {
    ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64
}

/// fc00::/7 (RFC 4193) and the former site-local fec0::/10.
fn is_local_v6(ip: Ipv6Addr) -> bool {
    ip.is_unique_local() || ip.segments()[0] & 0xffc0 == 0xfec0
}

impl AddressRefusal {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 8] = [
        Self::PortZero,
        Self::Unspecified,
        Self::Multicast,
        Self::Broadcast,
        Self::Virtual,
        Self::Loopback,
        Self::LinkLocal,
        Self::Private,
    ];

    /// The stable name, as in metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PortZero => "address-port-zero",
            Self::Unspecified => "address-unspecified",
            Self::Multicast => "address-multicast",
            Self::Broadcast => "address-broadcast",
            Self::Virtual => "address-virtual",
            Self::Loopback => "address-loopback",
            Self::LinkLocal => "address-link-local",
            Self::Private => "address-private",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::underlay::SlotId;

    fn check(own: &[&str], address: &str) -> Result<(), AddressRefusal> {
        let own = own.iter().map(|ip| ip.parse().unwrap());
        own.fold(OwnKinds::default(), OwnKinds::with).check(address.parse().unwrap())
    }

    #[test]
    fn addresses_that_lead_to_oneself_or_to_many_are_refused() {
        use AddressRefusal as R;
        for (address, refusal) in [
            ("192.0.2.1:0", R::PortZero),
            ("0.0.0.0:1", R::Unspecified),
            ("0.1.2.3:1", R::Unspecified),
            ("[::]:1", R::Unspecified),
            ("224.0.0.251:1", R::Multicast),
            ("[ff02::1]:1", R::Multicast),
            ("255.255.255.255:1", R::Broadcast),
            ("250.0.0.1:1", R::Broadcast),
            ("[fd72:6f6e::1]:1", R::Virtual),
            ("[fd72:6f6e::1:0:7]:1", R::Virtual),
            ("127.0.0.1:1", R::Loopback),
            ("[::1]:1", R::Loopback),
            ("[::ffff:127.0.0.1]:1", R::Loopback),
            ("169.254.169.254:80", R::LinkLocal),
            ("[fe80::1]:1", R::LinkLocal),
            ("10.0.0.1:1", R::Private),
            ("100.64.0.1:1", R::Private),
            ("[fd00::1]:1", R::Private),
            ("[::ffff:192.168.0.1]:1", R::Private),
        ] {
            assert_eq!(check(&["192.0.2.9"], address), Err(refusal), "{address}");
        }
        for public in ["192.0.2.1:4600", "[2001:db8::1]:4600", "100.128.0.1:1"] {
            assert_eq!(check(&[], public), Ok(()), "{public}");
        }
    }

    #[test]
    fn a_kind_that_the_node_has_itself_is_accepted() {
        assert_eq!(check(&["127.0.0.1"], "127.0.0.1:1"), Ok(()));
        assert_eq!(check(&["10.1.2.3"], "192.168.0.1:1"), Ok(()));
        assert_eq!(check(&["fe80::1"], "169.254.0.1:1"), Ok(()));
        assert_eq!(check(&["10.1.2.3"], "127.0.0.1:1"), Err(AddressRefusal::Loopback));
        assert_eq!(check(&["127.0.0.1"], "127.0.0.1:0"), Err(AddressRefusal::PortZero));
    }

    proptest! {
        #[test]
        fn whatever_the_node_has_itself_some_addresses_are_never_dialled(
            own in any::<[u8; 4]>(), port in any::<u16>(), low in any::<u32>()
        ) {
            let own = OwnKinds::default().with(IpAddr::from(own));
            let [a, b, c, d] = low.to_be_bytes();
            prop_assert!(own.check(([224 | a & 15, b, c, d], port).into()).is_err());
            prop_assert!(own.check(SlotId(low).virtual_address()).is_err());
        }
    }
}
