//! The header of a datagram between a SOCKS5 client and the proxy (RFC 1928 §7). PURE.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::flow::{DatagramDrop, Host, MAX_DATAGRAM, Target};

/// RFC 1928 §5: the kinds of addresses.
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// The longest datagram of a client, with the longest header: a name of 255 bytes.
pub(super) const MAX_FRAMED: usize = 4 + 1 + 255 + 2 + MAX_DATAGRAM;

/// Reads a client's datagram: where it goes, and its content.
pub(super) fn parse(bytes: &[u8]) -> Result<(Target, &[u8]), DatagramDrop> {
    let malformed = DatagramDrop::Malformed;
    let ([0, 0, fragment, kind], rest) = bytes.split_first_chunk().ok_or(malformed)? else {
        return Err(malformed);
    };
    if *fragment != 0 {
        return Err(DatagramDrop::Fragment);
    }
    let (host, rest) = match *kind {
        IPV4 => {
            let (octets, rest) = rest.split_first_chunk::<4>().ok_or(malformed)?;
            (Host::Ip(Ipv4Addr::from(*octets).into()), rest)
        }
        IPV6 => {
            let (octets, rest) = rest.split_first_chunk::<16>().ok_or(malformed)?;
            (Host::Ip(Ipv6Addr::from(*octets).into()), rest)
        }
        NAME => {
            let (length, rest) = rest.split_first().ok_or(malformed)?;
            let (name, rest) = rest.split_at_checked((*length).into()).ok_or(malformed)?;
            let name = str::from_utf8(name).map_err(|_| DatagramDrop::BadDestination)?;
            (name.parse().map_err(|_| DatagramDrop::BadDestination)?, rest)
        }
        _ => return Err(DatagramDrop::AddressType),
    };
    let (port, payload) = rest.split_first_chunk().ok_or(malformed)?;
    let port = u16::from_be_bytes(*port);
    if port == 0 {
        return Err(DatagramDrop::BadDestination);
    }
    if payload.len() > MAX_DATAGRAM {
        return Err(DatagramDrop::TooLarge);
    }
    Ok((Target { host, port }, payload))
}

/// A datagram for a client; `None` if it comes from a name.
pub(super) fn framed(from: &Target, payload: &[u8]) -> Option<Vec<u8>> {
    let Host::Ip(ip) = from.host else { return None };
    let mut bytes = Vec::with_capacity(22 + payload.len());
    match ip {
        IpAddr::V4(ip) => {
            bytes.extend_from_slice(&[0, 0, 0, IPV4]);
            bytes.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes.extend_from_slice(&[0, 0, 0, IPV6]);
            bytes.extend_from_slice(&ip.octets());
        }
    }
    bytes.extend_from_slice(&from.port.to_be_bytes());
    bytes.extend_from_slice(payload);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fuzz::Fuzz;

    #[test]
    fn each_kind_of_address_is_read() {
        let v6 = [&[0, 0, 0, 4, 0x20, 1, 0xd, 0xb8][..], &[0; 11], &[1, 0, 53], b"hi"].concat();
        for (bytes, target) in [
            (&b"\0\0\0\x01\x09\x09\x09\x09\x00\x35hi"[..], "9.9.9.9:53"),
            (b"\0\0\0\x03\x06A.test\x01\xbbhi", "a.test:443"),
            (b"\0\0\0\x03\x079.9.9.9\x01\xbbhi", "9.9.9.9:443"),
            (&v6, "[2001:db8::1]:53"),
        ] {
            let (read, payload) = parse(bytes).unwrap();
            assert_eq!((read.to_string().as_str(), payload), (target, &b"hi"[..]));
        }
        // An empty datagram is one.
        assert_eq!(parse(b"\0\0\0\x01\x09\x09\x09\x09\x00\x35").unwrap().1, b"");
    }

    #[test]
    fn each_dropped_datagram_has_its_reason() {
        use DatagramDrop::{AddressType, BadDestination, Fragment, Malformed, TooLarge};
        let long = [&b"\0\0\0\x01\x09\x09\x09\x09\x00\x35"[..], &[0; MAX_DATAGRAM + 1]].concat();
        for (bytes, reason) in [
            (&b""[..], Malformed),
            (b"\0\0\0", Malformed),
            (b"GET / HTTP/1.1\r\n\r\n", Malformed),
            (b"\0\x01\0\x01\x09\x09\x09\x09\x00\x35hi", Malformed),
            (b"\0\0\x01\x01\x09\x09\x09\x09\x00\x35hi", Fragment),
            (b"\0\0\x80\x01\x09\x09\x09\x09\x00\x35hi", Fragment),
            (b"\0\0\0\x02\x09\x09\x09\x09\x00\x35hi", AddressType),
            (b"\0\0\0\0\x09\x09\x09\x09\x00\x35hi", AddressType),
            (b"\0\0\0\x01\x09\x09\x09\x09\x00\x00hi", BadDestination),
            (b"\0\0\0\x01\x09\x09\x09\x09\x00", Malformed),
            (b"\0\0\0\x04\x09\x09\x09\x09\x00\x35hi", Malformed),
            (b"\0\0\0\x03\x00\x00\x35", BadDestination),
            (b"\0\0\0\x03\x03a b\x00\x35", BadDestination),
            (b"\0\0\0\x03\x02\xff\xfe\x00\x35", BadDestination),
            (b"\0\0\0\x03\xffshort", Malformed),
            (&long, TooLarge),
        ] {
            assert_eq!(parse(bytes), Err(reason), "{bytes:?}");
        }
    }

    #[test]
    fn mutated_datagrams_of_clients_are_read_or_refused() {
        let seeds: [&[u8]; 3] = [
            b"\0\0\0\x01\x09\x09\x09\x09\x00\x35hello",
            b"\0\0\0\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x01\xbb",
            b"\0\0\0\x03\x06a.test\x01\xbbhello",
        ];
        Fuzz::new("socks-datagram", seeds.map(<[u8]>::to_vec)).run(|bytes| {
            let Ok((target, payload)) = parse(bytes) else { return };
            let host = target.host.to_string();
            assert!(!host.contains(char::is_control), "{host:?} reaches the log");
            assert!(target.port != 0 && payload.len() <= MAX_DATAGRAM && bytes.ends_with(payload));
            if let Some(framed) = framed(&target, payload) {
                assert_eq!(parse(&framed), Ok((target, payload)));
            }
        });
    }

    proptest! {
        #[test]
        fn a_datagram_to_a_client_reads_back(ip: IpAddr, port in 1_u16.., payload in prop::collection::vec(any::<u8>(), 0..64)) {
            let from = Target { host: Host::Ip(ip), port };
            let bytes = framed(&from, &payload).unwrap();
            prop_assert_eq!(parse(&bytes), Ok((from, &payload[..])));
        }
    }
}
