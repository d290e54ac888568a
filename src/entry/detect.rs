//! Which protocol a client speaks, by its first byte. PURE.

/// What a first byte announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// SOCKS version 5: the byte is its version.
    Socks5,
    /// SOCKS version 4 or 4a: the byte is its version.
    Socks4,
    /// HTTP/1: a method starts with a letter; an empty line before it is allowed (RFC 9112, §2.2).
    Http,
    /// A TLS ClientHello: the client was told to speak TLS *to* the proxy.
    Tls,
    /// Nothing that is served here.
    Unknown,
}

impl Protocol {
    /// The protocol that `first`, the first byte of a connection, announces.
    pub(super) fn of(first: u8) -> Self {
        match first {
            5 => Self::Socks5,
            4 => Self::Socks4,
            0x16 => Self::Tls,
            b'\r' | b'\n' => Self::Http,
            _ if first.is_ascii_alphabetic() => Self::Http,
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_first_byte_announces_one_protocol() {
        for first in 0..=u8::MAX {
            let expected = match first {
                0x05 => Protocol::Socks5,
                0x04 => Protocol::Socks4,
                0x16 => Protocol::Tls,
                b'\r' | b'\n' | b'A'..=b'Z' | b'a'..=b'z' => Protocol::Http,
                _ => Protocol::Unknown,
            };
            assert_eq!(Protocol::of(first), expected, "{first:#04x}");
        }
    }
}
