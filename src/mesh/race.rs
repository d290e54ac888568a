//! Which addresses are dialled first. PURE.
//!
//! The families of addresses race, as in RFC 8305: the second one begins a little later, or as soon as all addresses of
//! the first have failed. The first that answers wins. So a family whose packets get lost costs 250 ms and not a
//! time-out, and one that works costs no packets of the other.

use std::{net::SocketAddr, time::Duration};

/// The head start of the first family (RFC 8305, section 5: 250 ms). Most handshakes are done then.
pub(crate) const HEAD_START: Duration = Duration::from_millis(250);

/// Splits `addresses` into those that are dialled at once and those that are dialled later. The family of `first` goes
/// first, if there is such an address; by default IPv6 does (RFC 6724, section 2.1).
pub(crate) fn families(
    addresses: &[SocketAddr],
    first: Option<SocketAddr>,
) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
    let is_ipv4 = |address: &SocketAddr| address.ip().to_canonical().is_ipv4();
    let ipv4_first = first.as_ref().is_some_and(is_ipv4);
    let (now, later): (Vec<_>, Vec<_>) =
        addresses.iter().partition(|address| is_ipv4(address) == ipv4_first);
    if now.is_empty() { (later, now) } else { (now, later) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(addresses: &[&str]) -> Vec<SocketAddr> {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn ipv6_goes_first_unless_ipv4_answered_last() {
        let all = list(&["192.0.2.1:1", "[2001:db8::1]:1", "[::ffff:192.0.2.2]:1"]);
        let (v6, v4) = (vec![all[1]], vec![all[0], all[2]]);
        assert_eq!(families(&all, None), (v6.clone(), v4.clone()));
        assert_eq!(families(&all, Some(all[1])), (v6.clone(), v4.clone()));
        assert_eq!(families(&all, Some(all[2])), (v4, v6));
    }

    #[test]
    fn one_family_alone_waits_for_nothing() {
        let (v4, v6) = (list(&["192.0.2.1:1", "192.0.2.2:1"]), list(&["[2001:db8::1]:1"]));
        assert_eq!(families(&v4, None), (v4.clone(), vec![]));
        assert_eq!(families(&v6, Some(v4[0])), (v6.clone(), vec![]));
        assert_eq!(families(&[], None), (vec![], vec![]));
    }
}
