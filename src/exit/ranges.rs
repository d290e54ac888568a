//! The addresses to which an exit connects only if it is configured to, with the reason.
//!
//! The IANA special-purpose registries (RFC 6890 and its updates) are the source. For IPv6
//! everything outside 2000::/3 is denied, so a range that is reserved later needs no entry here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::policy::DenialReason;

/// An address in all forms that must be checked.
///
/// Several IPv6 ranges contain an IPv4 address, and a packet to such an address goes to, or passes,
/// that IPv4 host. A check of the outer form alone would allow `::ffff:127.0.0.1`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Faces {
    outer: IpAddr,
    /// The same host written as IPv4: from `::ffff:0:0/96` (mapped) and `64:ff9b::/96` (NAT64).
    same: Option<Ipv4Addr>,
    /// Hosts that a packet may reach on its way: the 6to4 router; Teredo's client and server.
    passes: [Option<Ipv4Addr>; 2],
}

impl Faces {
    pub(super) fn of(ip: IpAddr) -> Self {
        let plain = Self { outer: ip, same: None, passes: [None; 2] };
        let IpAddr::V6(v6) = ip else { return plain };
        let octets = v6.octets();
        let v4_at =
            |at: usize| Ipv4Addr::new(octets[at], octets[at + 1], octets[at + 2], octets[at + 3]);
        match v6.segments() {
            // IPv4-mapped (RFC 4291 §2.5.5.2) and the well-known NAT64 prefix (RFC 6052 §2.1).
            [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => {
                Self { same: Some(v4_at(12)), ..plain }
            }
            // 6to4 (RFC 3056 §2).
            [0x2002, ..] => Self { passes: [Some(v4_at(2)), None], ..plain },
            // Teredo (RFC 4380 §4): the server, and the client with every bit inverted.
            [0x2001, 0, ..] => {
                let client = Ipv4Addr::from_bits(!v4_at(12).to_bits());
                Self { passes: [Some(v4_at(4)), Some(client)], ..plain }
            }
            _ => plain,
        }
    }

    /// Whether the address lies in `net`, as it is written or as the IPv4 host it stands for.
    pub(super) fn is_in(&self, net: &IpNet) -> bool {
        net.contains(&self.outer) || self.same.is_some_and(|v4| net.contains(&IpAddr::V4(v4)))
    }

    /// Whether a packet to the address may reach `net`.
    pub(super) fn may_reach(&self, net: &IpNet) -> bool {
        let mut passes = self.passes.iter().flatten();
        self.is_in(net) || passes.any(|&v4| net.contains(&IpAddr::V4(v4)))
    }

    /// Why the address is denied without a rule; `None` when it is a public unicast address.
    pub(super) fn denial(&self) -> Option<DenialReason> {
        let listed = RANGES.iter().find(|(net, _)| self.may_reach(net));
        match (listed, self.outer) {
            (Some(&(_, reason)), _) => Some(reason),
            (None, IpAddr::V6(v6)) if self.same.is_none() && !is_global_unicast(v6) => {
                Some(DenialReason::Reserved)
            }
            _ => None,
        }
    }
}

/// 2000::/3, the only part of IPv6 assigned for unicast (RFC 4291 §2.4, RFC 3587).
fn is_global_unicast(ip: Ipv6Addr) -> bool {
    ip.segments()[0] >> 13 == 1
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix)
}

const fn v6(head: [u16; 4], tail: u16, prefix: u8) -> IpNet {
    let [a, b, c, d] = head;
    IpNet::new_assert(IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, tail)), prefix)
}

/// The denied ranges. The first that matches gives the reason, so single hosts come first.
///
/// The documentation ranges are on the list because they have no public hosts, and laboratories use
/// them as private networks.
const RANGES: &[(IpNet, DenialReason)] = &[
    // Cloud metadata: EC2, GCP and Azure; ECS tasks; EKS pods; Alibaba; Oracle; Azure's host,
    // which is a public address; EC2, EKS and GCP over IPv6.
    (v4(169, 254, 169, 254, 32), DenialReason::Metadata),
    (v4(169, 254, 170, 2, 32), DenialReason::Metadata),
    (v4(169, 254, 170, 23, 32), DenialReason::Metadata),
    (v4(100, 100, 100, 200, 32), DenialReason::Metadata),
    (v4(192, 0, 0, 192, 32), DenialReason::Metadata),
    (v4(168, 63, 129, 16, 32), DenialReason::Metadata),
    (v6([0xfd00, 0xec2, 0, 0], 0x254, 128), DenialReason::Metadata),
    (v6([0xfd00, 0xec2, 0, 0], 0x23, 128), DenialReason::Metadata),
    (v6([0xfd20, 0xce, 0, 0], 0x254, 128), DenialReason::Metadata),
    // Linux connects 0.0.0.0 and :: to itself.
    (v4(0, 0, 0, 0, 8), DenialReason::Unspecified),
    (v4(127, 0, 0, 0, 8), DenialReason::Loopback),
    (v4(10, 0, 0, 0, 8), DenialReason::Private),
    (v4(172, 16, 0, 0, 12), DenialReason::Private),
    (v4(192, 168, 0, 0, 16), DenialReason::Private),
    (v4(100, 64, 0, 0, 10), DenialReason::SharedNat),
    (v4(169, 254, 0, 0, 16), DenialReason::LinkLocal),
    (v4(192, 0, 0, 0, 24), DenialReason::Reserved),
    (v4(192, 0, 2, 0, 24), DenialReason::Documentation),
    (v4(198, 51, 100, 0, 24), DenialReason::Documentation),
    (v4(203, 0, 113, 0, 24), DenialReason::Documentation),
    (v4(198, 18, 0, 0, 15), DenialReason::Benchmarking),
    (v4(224, 0, 0, 0, 4), DenialReason::Multicast),
    (v4(255, 255, 255, 255, 32), DenialReason::Broadcast),
    (v4(240, 0, 0, 0, 4), DenialReason::Reserved),
    (v6([0, 0, 0, 0], 0, 128), DenialReason::Unspecified),
    (v6([0, 0, 0, 0], 1, 128), DenialReason::Loopback),
    (v6([0xfc00, 0, 0, 0], 0, 7), DenialReason::Private),
    (v6([0xfec0, 0, 0, 0], 0, 10), DenialReason::Private),
    (v6([0xfe80, 0, 0, 0], 0, 10), DenialReason::LinkLocal),
    (v6([0xff00, 0, 0, 0], 0, 8), DenialReason::Multicast),
    (v6([0x2001, 2, 0, 0], 0, 48), DenialReason::Benchmarking),
    (v6([0x2001, 0xdb8, 0, 0], 0, 32), DenialReason::Documentation),
    (v6([0x3fff, 0, 0, 0], 0, 20), DenialReason::Documentation),
    // ORCHID identifiers (RFC 4843, RFC 7343) name hosts but are not routed.
    (v6([0x2001, 0x10, 0, 0], 0, 28), DenialReason::Reserved),
    (v6([0x2001, 0x20, 0, 0], 0, 28), DenialReason::Reserved),
];

/// The denied ranges, for tests that draw addresses from them.
#[cfg(test)]
pub(super) fn denied_ranges() -> impl Iterator<Item = IpNet> {
    RANGES.iter().map(|&(net, _)| net)
}
