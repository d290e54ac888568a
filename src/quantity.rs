//! Quantities and addresses as people write them: `60s`, `2h30m`, `32kbit`, `localhost:1080`. PURE.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    str::FromStr,
    time::Duration,
};

use ipnet::IpNet;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, Visitor},
};

/// A data rate in bits per second, written `500bit`, `32kbit`, `10Mbit` or `1Gbit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bitrate(u64);

/// An amount of memory in bytes, written `32MB` or `1GB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MemorySize(u64);

/// The text is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseUnitError {
    /// Not a duration.
    #[error(
        "{0:?} is no duration; write numbers and ms, s, min, h or d, as in \"60s\" or \"2h30m\""
    )]
    Duration(String),
    /// Not a data rate.
    #[error(
        "{0:?} is no data rate; write a whole number and bit, kbit, Mbit or Gbit, as in \"32kbit\""
    )]
    Bitrate(String),
    /// Not an amount of memory.
    #[error("{0:?} is no amount of memory; write a whole number and MB or GB, as in \"32MB\"")]
    Memory(String),
}

impl Bitrate {
    /// A rate of so many bits per second.
    #[must_use]
    pub const fn from_bits_per_second(bits: u64) -> Self {
        Self(bits)
    }

    /// The rate in bits per second.
    #[must_use]
    pub const fn bits_per_second(self) -> u64 {
        self.0
    }
}

impl FromStr for Bitrate {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let units = [("bit", 1), ("kbit", 1_000), ("Mbit", 1_000_000), ("Gbit", 1_000_000_000)];
        quantity(text, &units).map(Self).ok_or_else(|| ParseUnitError::Bitrate(clip(text)))
    }
}

impl fmt::Display for Bitrate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1_000_000_000, "Gbit"), (1_000_000, "Mbit"), (1_000, "kbit")];
        let whole = units.into_iter().find(|(size, _)| self.0 > 0 && self.0.is_multiple_of(*size));
        let (size, unit) = whole.unwrap_or((1, "bit"));
        write!(f, "{}{unit}", self.0 / size)
    }
}

impl TryFrom<String> for Bitrate {
    type Error = ParseUnitError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Bitrate> for String {
    fn from(rate: Bitrate) -> Self {
        rate.to_string()
    }
}

impl MemorySize {
    /// So many millions of bytes.
    #[must_use]
    pub const fn megabytes(count: u64) -> Self {
        Self(count * 1_000_000)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for MemorySize {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let units = [("MB", 1_000_000), ("GB", 1_000_000_000)];
        quantity(text, &units).map(Self).ok_or_else(|| ParseUnitError::Memory(clip(text)))
    }
}

impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}MB", self.0 / 1_000_000)
    }
}

impl TryFrom<String> for MemorySize {
    type Error = ParseUnitError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<MemorySize> for String {
    fn from(size: MemorySize) -> Self {
        size.to_string()
    }
}

/// Reads a duration: numbers, each with `ms`, `s`, `min` (or `m`), `h` or `d`, as in `2h30m`.
///
/// # Errors
/// When the text is something else.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, ParseUnitError> {
    humantime::parse_duration(text).map_err(|_| ParseUnitError::Duration(clip(text)))
}

/// A duration as [`parse_duration`] reads it.
pub(crate) fn format_duration(duration: Duration) -> impl fmt::Display {
    humantime::format_duration(duration)
}

/// Reads a duration within bounds, for serde.
///
/// # Errors
/// When it is none, or out of bounds.
pub(crate) fn duration_within<'de, D: Deserializer<'de>>(
    deserializer: D,
    bounds: &RangeInclusive<Duration>,
) -> Result<Duration, D::Error> {
    let text = deserializer.deserialize_str(DurationText)?;
    let duration = parse_duration(&text).map_err(D::Error::custom)?;
    if bounds.contains(&duration) {
        return Ok(duration);
    }
    let (low, high) = (format_duration(*bounds.start()), format_duration(*bounds.end()));
    Err(D::Error::custom(format!(
        "{text:?} is out of bounds; write a duration from {low} to {high}"
    )))
}

/// The error for a number without a unit.
struct DurationText;

impl Visitor<'_> for DurationText {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration with its unit, such as \"250ms\", \"60s\", \"5min\" or \"1h\"")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }
}

fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let (_, size) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    digits.parse::<u64>().ok()?.checked_mul(*size)
}

/// An address to listen on, for serde: `127.0.0.1:1080` or `localhost:1080`.
///
/// # Errors
/// Shows the right form.
pub(crate) fn listen_address<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<SocketAddr, D::Error> {
    deserializer.deserialize_any(ListenText)
}

struct ListenText;

impl Visitor<'_> for ListenText {
    type Value = SocketAddr;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an address and a port in quotes, such as \"127.0.0.1:1080\"")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<SocketAddr, E> {
        parse_listen(text).map_err(E::custom)
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<SocketAddr, E> {
        self.visit_str(&number.to_string())
    }
}

/// Reads an address to listen on: `127.0.0.1:1080` or `localhost:1080`.
///
/// # Errors
/// Shows the right form.
pub(crate) fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    if let Some(port) = text.strip_prefix("localhost:").and_then(|port| port.parse().ok()) {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    text.parse().map_err(|_| {
        let advice = match (text.parse::<u16>(), text.parse::<IpAddr>()) {
            (Ok(port), _) => {
                format!("write \"127.0.0.1:{port}\", or \"0.0.0.0:{port}\" for all")
            }
            (_, Ok(ip)) => {
                format!("write \"{}\" with the port of your choice", SocketAddr::new(ip, 1080))
            }
            _ => "write an IP address and a port, such as \"127.0.0.1:1080\"".to_owned(),
        };
        format!("{:?} is no address to listen on; {advice}", clip(text))
    })
}

/// A network, for serde: `10.0.0.0/8`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Network(pub IpNet);

/// Reads a list of networks, for serde.
///
/// # Errors
/// Shows the right form.
pub(crate) fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    Vec::<Network>::deserialize(deserializer).map(Network::all)
}

impl Network {
    /// The networks that were read.
    #[must_use]
    pub(crate) fn all(read: Vec<Self>) -> Vec<IpNet> {
        read.into_iter().map(|Self(net)| net).collect()
    }
}

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let net = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        net.map(Self).map_err(|_| {
            format!("{:?} is no network; write \"10.0.0.0/8\", or one address", clip(&text))
        })
    }
}

fn clip(text: &str) -> String {
    text.chars().take(40).collect()
}

/// A time span, in its two largest units.
pub(crate) fn span(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    match seconds {
        0..60 => format!("{rest}s"),
        60..3600 => format!("{minutes}m{rest:02}s"),
        3600..86_400 => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, millis) in [
            ("250ms", 250),
            ("60s", 60_000),
            ("2min", 120_000),
            ("5m", 300_000),
            ("5 s", 5000),
            ("2h30m", 9_000_000),
            ("1d", 86_400_000),
        ] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse_duration(text), Ok(duration), "{text}");
            assert_eq!(parse_duration(&format_duration(duration).to_string()), Ok(duration));
        }
    }

    #[test]
    fn rates_read_back_what_they_print() {
        for (text, bits) in [
            ("0bit", 0),
            ("500bit", 500),
            ("32kbit", 32_000),
            ("10Mbit", 10_000_000),
            ("1Gbit", 1_000_000_000),
        ] {
            let rate = Bitrate::from_bits_per_second(bits);
            assert_eq!(text.parse(), Ok(rate));
            assert_eq!(rate.to_string(), text);
        }
    }

    #[test]
    fn amounts_of_memory_read_back_what_they_print() {
        for (text, bytes) in [("32MB", 32_000_000), ("1 GB", 1_000_000_000)] {
            let size: MemorySize = text.parse().unwrap();
            assert_eq!(size.bytes(), bytes);
            assert_eq!(size.to_string().parse(), Ok(size));
        }
    }

    #[test]
    fn a_text_without_a_quantity_is_refused_with_an_example() {
        for text in ["", "60", "s", "-1s", "60S", "99999999999999999999s", "18446744073709551615h"]
        {
            assert!(parse_duration(text).unwrap_err().to_string().contains("\"60s\""), "{text}");
        }
        for text in ["32", "32kb", "32KBIT", "kbit"] {
            assert!(
                text.parse::<Bitrate>().unwrap_err().to_string().contains("\"32kbit\""),
                "{text}"
            );
        }
        for text in ["32", "32Mb", "512 megabytes", "1.5GB", "MB"] {
            assert!(
                text.parse::<MemorySize>().unwrap_err().to_string().contains("\"32MB\""),
                "{text}"
            );
        }
    }

    #[derive(Debug, Deserialize)]
    struct Listens {
        #[serde(deserialize_with = "listen_address")]
        listen: SocketAddr,
    }

    #[test]
    fn an_address_to_listen_on_is_read_or_its_right_form_shown() {
        let read = |value: &str| toml::from_str::<Listens>(&format!("listen = {value}"));
        for (value, address) in [
            ("'localhost:1080'", "127.0.0.1:1080"),
            ("'0.0.0.0:4600'", "0.0.0.0:4600"),
            ("'[::1]:7'", "[::1]:7"),
        ] {
            assert_eq!(read(value).unwrap().listen.to_string(), address);
        }
        for (value, advice) in [
            ("4600", "\"127.0.0.1:4600\""),
            ("'1080'", "\"0.0.0.0:1080\""),
            ("'192.0.2.1'", "\"192.0.2.1:1080\""),
            ("'::1'", "\"[::1]:1080\""),
            ("'localhost'", "\"127.0.0.1:1080\""),
            ("true", "in quotes"),
        ] {
            let error = read(value).unwrap_err().to_string();
            assert!(error.contains(advice), "{value}: {error}");
        }
    }

    #[test]
    fn one_address_is_a_network_too() {
        let network = |text: &str| Network::try_from(text.to_owned());
        assert_eq!(network("192.0.2.1").unwrap().0.to_string(), "192.0.2.1/32");
        assert_eq!(network("fd00::1").unwrap().0.to_string(), "fd00::1/128");
        assert_eq!(network("10.0.0.0/8").unwrap().0.to_string(), "10.0.0.0/8");
        assert!(network("home").unwrap_err().contains("\"10.0.0.0/8\""));
    }
}
