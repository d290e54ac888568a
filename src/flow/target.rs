//! Where a flow is to go: a host and a port.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// The destination of a flow.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Target {
    /// The host: an address, or a name that the exit resolves.
    pub host: Host,
    /// The TCP port.
    pub port: u16,
}

/// A destination host.
///
/// A name that came over the wire is checked like one that a client wrote.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "WrittenHost")]
pub enum Host {
    /// A literal IPv4 or IPv6 address.
    Ip(IpAddr),
    /// A DNS name: ASCII, lower case, no trailing dot, 1 to 253 bytes.
    Name(String),
}

/// A [`Host`] as the wire has it.
#[derive(Deserialize)]
enum WrittenHost {
    Ip(IpAddr),
    Name(String),
}

impl TryFrom<WrittenHost> for Host {
    type Error = ParseTargetError;

    fn try_from(written: WrittenHost) -> Result<Self, Self::Error> {
        match written {
            WrittenHost::Ip(ip) => Ok(Self::Ip(ip)),
            WrittenHost::Name(name) => Self::written(name),
        }
    }
}

impl Host {
    /// The name that a peer wrote.
    ///
    /// # Errors
    /// When it is no name, or is not written as an entry writes it.
    pub(crate) fn written(name: String) -> Result<Self, ParseTargetError> {
        match name.parse()? {
            Self::Name(checked) if checked == name => Ok(Self::Name(checked)),
            // Capitals, a final dot, or an address: an entry writes a host in one way only.
            _ => Err(ParseTargetError::Host(name.chars().take(64).collect())),
        }
    }
}

/// The text or the parts are no destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseTargetError {
    /// No `:PORT` at the end, or not a number from 1 to 65535.
    #[error("the destination needs a port from 1 to 65535, as in example.org:443")]
    Port,
    /// The host is empty, too long, or has characters no host name has.
    #[error("{0:?} is neither an IP address nor a host name")]
    Host(String),
}

impl Target {
    /// A target from a host in text (an address, with or without brackets, or a name) and a port.
    ///
    /// # Errors
    /// When the host is not valid or the port is 0.
    pub fn new(host: &str, port: u16) -> Result<Self, ParseTargetError> {
        if port == 0 {
            return Err(ParseTargetError::Port);
        }
        Ok(Self { host: host.parse()?, port })
    }

    /// The address; `None` of a name.
    #[must_use]
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match self.host {
            Host::Ip(ip) => Some(SocketAddr::new(ip, self.port)),
            Host::Name(_) => None,
        }
    }
}

impl TryFrom<&str> for Target {
    type Error = ParseTargetError;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl TryFrom<String> for Target {
    type Error = ParseTargetError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SocketAddr> for Target {
    fn from(addr: SocketAddr) -> Self {
        Self { host: Host::Ip(addr.ip()), port: addr.port() }
    }
}

impl FromStr for Host {
    type Err = ParseTargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Ok(Self::Ip(ip));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let valid = (1..=253).contains(&name.len())
            && name.split('.').all(|label| {
                (1..=63).contains(&label.len())
                    && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
            });
        if valid {
            Ok(Self::Name(name))
        } else {
            Err(ParseTargetError::Host(text.chars().take(64).collect()))
        }
    }
}

impl FromStr for Target {
    type Err = ParseTargetError;

    /// Reads `host:port`, with an IPv6 address in brackets.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(ParseTargetError::Host(String::new()));
        }
        let (host, port) = text.rsplit_once(':').ok_or(ParseTargetError::Port)?;
        if host.contains(':') && !host.starts_with('[') {
            return Err(ParseTargetError::Host(text.chars().take(64).collect()));
        }
        let port = port.parse().map_err(|_| ParseTargetError::Port)?;
        Self::new(host, port)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            ref host => write!(f, "{host}:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_reads_back_what_it_prints() {
        for text in ["example.org:443", "192.0.2.7:80", "[2001:db8::1]:8080", "_dmarc.a-b.test:1"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_host_from_the_wire_is_checked_and_has_one_spelling() {
        let wire = |host: &Host| postcard::to_stdvec(host).unwrap();
        let read = |bytes: &[u8]| postcard::from_bytes::<Host>(bytes);
        for host in ["192.0.2.7", "2001:db8::1", "a-b.test"] {
            let host: Host = host.parse().unwrap();
            assert_eq!(read(&wire(&host)).unwrap(), host);
        }
        for name in ["a\u{1b}[2J", "a\nb", "", "A.test", "a.test.", "192.0.2.7", "a b"] {
            assert!(read(&wire(&Host::Name(name.to_owned()))).is_err(), "{name:?}");
        }
    }

    #[test]
    fn names_are_lowered_and_lose_their_trailing_dot() {
        assert_eq!(
            "WWW.Example.ORG.:80".parse::<Target>().unwrap().to_string(),
            "www.example.org:80"
        );
    }

    #[test]
    fn a_text_without_a_destination_is_refused() {
        let long = format!("{}:80", "a".repeat(64));
        for text in [
            "",
            "example.org",
            "example.org:0",
            "example.org:65536",
            ":80",
            "a b:80",
            "2001:db8::1:80",
            "exa\0mple:80",
            "a..b:80",
            "[::1:80",
            &long,
        ] {
            assert!(text.parse::<Target>().is_err(), "{text:?} was accepted");
        }
        assert_eq!(
            "".parse::<Target>(),
            Err(ParseTargetError::Host(String::new())),
            "not the port"
        );
    }
}
