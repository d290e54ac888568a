//! The addresses of this machine that a node tells others.
//!
//! They are the source addresses of packets towards the Internet. For IPv6 the stable addresses of that interface
//! replace temporary ones (RFC 8981), which end after a day, and deprecated ones.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{routed, unspecified};

/// IPv6 addresses told: an interface has two while its network is renumbered.
const MOST_IPV6: usize = 2;

/// Of `/proc/net/if_inet6`: temporary, deprecated, tentative, a duplicate (rtnetlink(7), `IFA_F_*`).
const UNFIT: u32 = 0x01 | 0x20 | 0x40 | 0x08;

/// Destinations on the Internet of those set aside for documentation (RFC 5737, RFC 3849). Nothing is sent there.
const OUTSIDE: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(192, 0, 2, 1), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// The addresses at which a socket at the wildcard address `bound` is found on the Internet's side of this machine.
/// They may be private ones, behind a NAT. None without a route.
#[must_use]
pub(crate) fn own_addresses(bound: IpAddr) -> Vec<IpAddr> {
    let mut own = Vec::new();
    if bound.is_ipv6() {
        let towards = address_towards(Ipv6Addr::UNSPECIFIED.into(), OUTSIDE.1.into());
        if let Some(IpAddr::V6(leaving)) = towards {
            own.extend(stable(&interfaces(), leaving).into_iter().map(IpAddr::from));
        }
    }
    own.extend(address_towards(Ipv4Addr::UNSPECIFIED.into(), OUTSIDE.0.into()));
    own.retain(|ip| !ip.is_loopback());
    own
}

/// This machine's address towards the Internet, IPv4 first.
#[must_use]
pub(crate) fn present_address() -> Option<IpAddr> {
    let towards = |to: IpAddr| address_towards(unspecified(to), to);
    towards(OUTSIDE.0.into()).or_else(|| towards(OUTSIDE.1.into()))
}

/// The address of this machine from which packets of a socket at `from` leave to `to`.
#[must_use]
pub(crate) fn address_towards(from: IpAddr, to: IpAddr) -> Option<IpAddr> {
    let socket = routed(from, to)?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified())
}

/// What the kernel lists of its IPv6 addresses; nothing on other systems than Linux.
fn interfaces() -> String {
    std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default()
}

/// Of the interface that has the address `leaving`, the addresses of its kind that stay. That address itself if the
/// list says nothing better.
fn stable(list: &str, leaving: Ipv6Addr) -> Vec<Ipv6Addr> {
    let all: Vec<_> = list.lines().filter_map(entry).collect();
    let interface = all.iter().find(|entry| entry.address == leaving).map(|entry| entry.interface);
    let fits = |entry: &&Entry<'_>| {
        let ip = entry.address;
        Some(entry.interface) == interface
            && entry.flags & UNFIT == 0
            && !ip.is_unicast_link_local()
            && ip.is_unique_local() == leaving.is_unique_local()
    };
    let mut stable: Vec<_> = all.iter().filter(fits).map(|entry| entry.address).collect();
    // If it is among them, it goes first.
    stable.sort_by_key(|ip| (*ip != leaving, *ip));
    stable.truncate(MOST_IPV6);
    if stable.is_empty() { vec![leaving] } else { stable }
}

struct Entry<'a> {
    address: Ipv6Addr,
    flags: u32,
    interface: &'a str,
}

/// A line: address, index, prefix, scope and flags in hexadecimal digits, and the interface's name.
fn entry(line: &str) -> Option<Entry<'_>> {
    let mut words = line.split_ascii_whitespace();
    let address = u128::from_str_radix(words.next()?, 16).ok()?.into();
    let flags = u32::from_str_radix(words.nth(3)?, 16).ok()?;
    Some(Entry { address, flags, interface: words.next()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
fe80000000000000020000fffe000001 02 40 20 80    eth0
20010db8000100000000000000000007 02 40 00 00    eth0
20010db80001000011112222aaaabbbb 02 40 00 01    eth0
20010db80001000011112222ccccdddd 02 40 00 21    eth0
20010db8000200000000000000000007 02 40 00 20    eth0
fd000000000000000000000000000007 02 40 00 80    eth0
fd000000000000000000000000000009 03 40 00 80    tun0
20010db80001000033332222aaaabbbb 04 40 00 01     wl0
00000000000000000000000000000001 01 80 10 80      lo
nonsense
";

    fn told(leaving: &str) -> Vec<String> {
        stable(LIST, leaving.parse().unwrap()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn stable_addresses_go_before_temporary_and_deprecated_ones() {
        assert_eq!(told("2001:db8:1::7"), ["2001:db8:1::7"]);
        assert_eq!(told("2001:db8:1:0:1111:2222:aaaa:bbbb"), ["2001:db8:1::7"]);
        assert_eq!(told("2001:db8:1:0:3333:2222:aaaa:bbbb"), ["2001:db8:1:0:3333:2222:aaaa:bbbb"]);
    }

    #[test]
    fn local_addresses_are_told_where_they_lead_outside_only() {
        assert_eq!(told("fd00::7"), ["fd00::7"]);
        assert_eq!(told("fd00::9"), ["fd00::9"]);
        assert_eq!(told("fd00::8"), ["fd00::8"], "not in the list");
    }

    #[test]
    fn a_machine_tells_neither_loopback_nor_wildcards() {
        for bound in ["0.0.0.0", "::"] {
            for ip in own_addresses(bound.parse().unwrap()) {
                assert!(!ip.is_loopback() && !ip.is_unspecified(), "{ip}");
                assert!(bound == "::" || ip.is_ipv4(), "{ip}");
            }
        }
    }
}
