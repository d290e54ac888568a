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

/// The router to which IPv4 packets go that no better route is for; nothing on other systems than Linux.
pub(crate) fn default_router() -> Option<Ipv4Addr> {
    default_of(&std::fs::read_to_string("/proc/net/route").unwrap_or_default())
}

/// Of the default routes of `/proc/net/route` with a router, that of the least metric.
fn default_of(table: &str) -> Option<Ipv4Addr> {
    table.lines().filter_map(default_route).min().map(|(_, router)| router)
}

/// The metric and the router of a default route: the columns are interface, destination, router, flags, two counts, metric
/// and mask. Addresses and flags are hexadecimal digits, addresses in this machine's byte order.
fn default_route(line: &str) -> Option<(u32, Ipv4Addr)> {
    /// The route is in use, and by a router (route(8)).
    const BY_ROUTER: u32 = 0x1 | 0x2;
    let columns: Vec<_> = line.split_whitespace().collect();
    let &[_, to, router, flags, _, _, metric, mask, ..] = &*columns else { return None };
    let hex = |text| u32::from_str_radix(text, 16).ok();
    let is_default = hex(to)? == 0 && hex(mask)? == 0 && hex(flags)? & BY_ROUTER == BY_ROUTER;
    is_default.then_some((metric.parse().ok()?, Ipv4Addr::from(hex(router)?.to_ne_bytes())))
}

/// All addresses of this machine of the family of `like`.
pub(crate) fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_router_is_that_of_the_least_metric() {
        let number = |ip: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(ip));
        let line = |to, router, flags, metric, mask| {
            let (to, router, mask) = (number(to), number(router), number(mask));
            format!("eth0\t{to}\t{router}\t{flags}\t0\t0\t{metric}\t{mask}\t0\t0\t0\n")
        };
        let all = [0; 4];
        let table = [
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
                .to_owned(),
            line(all, [192, 168, 2, 1], "0003", "600", all),
            line(all, [192, 168, 1, 1], "0003", "100", all),
            // Without a router, not in use, half of the Internet, and no line at all.
            line(all, all, "0001", "50", all),
            line(all, [10, 0, 0, 1], "0002", "10", all),
            line(all, [10, 0, 0, 2], "0003", "10", [128, 0, 0, 0]),
            "nonsense\n\n".to_owned(),
        ];
        assert_eq!(default_of(&table.concat()), Some([192, 168, 1, 1].into()));
        assert_eq!(default_of(&table[0]), None);
        assert_eq!(default_of(""), None);
    }
}
