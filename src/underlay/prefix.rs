//! Address prefixes that limits count as one party, because one person can easily have all their addresses. PURE.

use std::net::IpAddr;

/// The IPv4 /24 or IPv6 /48 of an address: strangers are counted by it.
#[must_use]
pub fn prefix(ip: IpAddr) -> [u8; 7] {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            [4, a, b, c, 0, 0, 0]
        }
        IpAddr::V6(ip) => {
            let [a, b, c, d, e, f, ..] = ip.octets();
            [6, a, b, c, d, e, f]
        }
    }
}
