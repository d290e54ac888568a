//! Where a member can be reached: its UDP addresses, and the TCP port of its streams.
//!
//! Both are in one list of addresses, in records, invitations and files. The port is that of the address
//! fd72:6f6e::, which stands for "TCP, at the IP addresses of this list". No node ever sends to this
//! address; nodes that do not know streams refuse it as they refuse all of fd72:6f6e::/96.

use std::net::{Ipv6Addr, SocketAddr};

/// Stands for the IP addresses of the list that it is in.
const MARK: Ipv6Addr = Ipv6Addr::new(0xfd72, 0x6f6e, 0, 0, 0, 0, 0, 0);

/// The item of a list that tells the TCP port.
#[must_use]
pub fn stream_mark(port: u16) -> SocketAddr {
    (MARK, port).into()
}

/// Whether an item of a list tells a TCP port.
#[must_use]
pub fn is_stream_mark(address: SocketAddr) -> bool {
    address.ip() == MARK && address.port() != 0
}

/// The UDP addresses of a list.
pub fn udp_of(addresses: &[SocketAddr]) -> impl Iterator<Item = SocketAddr> + '_ {
    addresses.iter().copied().filter(|address| !is_stream_mark(*address))
}

/// The TCP addresses of a list: each IP address once.
#[must_use]
pub fn streams_of(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let Some(mark) = addresses.iter().find(|address| is_stream_mark(**address)) else {
        return Vec::new();
    };
    let mut streams = Vec::new();
    for address in udp_of(addresses) {
        let stream = SocketAddr::new(address.ip().to_canonical(), mark.port());
        if !streams.contains(&stream) {
            streams.push(stream);
        }
    }
    streams
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    fn list(addresses: &[&str]) -> Vec<SocketAddr> {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn the_port_is_that_of_one_item_and_holds_for_all_ip_addresses() {
        let told =
            list(&["192.0.2.1:4600", "[2001:db8::1]:4600", "192.0.2.1:7", "[fd72:6f6e::]:443"]);
        assert_eq!(streams_of(&told), list(&["192.0.2.1:443", "[2001:db8::1]:443"]));
        assert_eq!(udp_of(&told).collect::<Vec<_>>(), told[..3]);
        assert!(streams_of(&told[..3]).is_empty());
        // Neither the address of a slot nor port 0 tells a port.
        assert!(
            streams_of(&list(&["192.0.2.1:1", "[fd72:6f6e::1]:443", "[fd72:6f6e::]:0"])).is_empty()
        );
    }

    #[test]
    fn the_item_has_these_bytes() {
        let bytes = [1, 0xfd, 0x72, 0x6f, 0x6e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xbb, 3];
        assert_eq!(wire::encode(&stream_mark(443)), bytes);
    }
}
