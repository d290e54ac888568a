//! One rule of an exit's allow or deny list, and the patterns it is made of.

use std::{fmt, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use super::ranges::Faces;
use crate::{flow::Host, quantity::Network};

/// One rule: every key that is present must match, and a key matches when one of its items does.
///
/// A rule without keys matches every flow. The program refuses an empty list, because it could mean
/// "nothing" or "anything". Leave the key out instead.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// Names the application asked for. Never matches a flow that asks for a literal address.
    #[serde(deserialize_with = "non_empty", skip_serializing_if = "Vec::is_empty")]
    pub domain: Vec<DomainPattern>,
    /// Networks that hold the address which is connected to (after resolution).
    #[serde(deserialize_with = "networks", skip_serializing_if = "Vec::is_empty")]
    pub cidr: Vec<IpNet>,
    /// TCP ports.
    #[serde(deserialize_with = "non_empty", skip_serializing_if = "Vec::is_empty")]
    pub port: Vec<PortRange>,
    /// Groups of the entry, as its certificate names them. One of them suffices.
    #[serde(deserialize_with = "non_empty", skip_serializing_if = "Vec::is_empty")]
    pub group: Vec<String>,
}

impl Rule {
    /// Whether the keys that need no address (`domain`, `port`, `group`) match.
    pub(super) fn matches_request(&self, groups: &[String], host: &Host, port: u16) -> bool {
        let domain = match host {
            Host::Name(name) => any(&self.domain, |pattern| pattern.matches(name)),
            Host::Ip(_) => self.domain.is_empty(),
        };
        domain
            && any(&self.port, |range| range.contains(port))
            && any(&self.group, |group| groups.contains(group))
    }

    /// Whether `cidr` matches an address that reaches, or may reach, one of its networks.
    pub(super) fn may_cover(&self, faces: &Faces) -> bool {
        any(&self.cidr, |net| faces.may_reach(net))
    }

    /// Whether `cidr` matches an address that certainly lies in one of its networks.
    pub(super) fn covers(&self, faces: &Faces) -> bool {
        any(&self.cidr, |net| faces.is_in(net))
    }
}

/// An absent key (an empty list) matches everything.
fn any<T>(items: &[T], matches: impl FnMut(&T) -> bool) -> bool {
    items.is_empty() || items.iter().any(matches)
}

fn non_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let items = Vec::<T>::deserialize(deserializer)?;
    if items.is_empty() {
        return Err(D::Error::custom("the list is empty; leave the key out to match anything"));
    }
    Ok(items)
}

fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    non_empty(deserializer).map(Network::all)
}

/// A set of DNS names.
///
/// - `mit.edu` is that name **and every name below it** (`www.mit.edu`), never `notmit.edu`;
/// - `*.mit.edu` is every name below it, and not `mit.edu` itself.
///
/// Upper and lower case are the same. A name outside ASCII is written in its `xn--` form.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DomainPattern {
    suffix: String,
    below_only: bool,
}

/// The text is not a domain pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no domain; write mit.edu or *.mit.edu, and addresses under `cidr`")]
pub struct ParseDomainError(String);

impl DomainPattern {
    /// Whether `name` (lower case, no trailing dot, as [`Host::Name`] holds it) is in the set.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match name.strip_suffix(self.suffix.as_str()) {
            Some("") => !self.below_only,
            Some(rest) => rest.ends_with('.'),
            None => false,
        }
    }
}

impl FromStr for DomainPattern {
    type Err = ParseDomainError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (suffix, below_only) = match text.strip_prefix("*.") {
            Some(suffix) => (suffix, true),
            None => (text, false),
        };
        match suffix.parse() {
            Ok(Host::Name(suffix)) => Ok(Self { suffix, below_only }),
            _ => Err(ParseDomainError(text.chars().take(64).collect())),
        }
    }
}

impl TryFrom<String> for DomainPattern {
    type Error = ParseDomainError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<DomainPattern> for String {
    fn from(pattern: DomainPattern) -> Self {
        pattern.to_string()
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.below_only { "*." } else { "" }, self.suffix)
    }
}

/// A range of TCP ports, both ends included: `80` or `"8000-8100"` in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "PortText", into = "PortText")]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// The value is not a port range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no port; write 80 or \"8000-8100\", with ports from 1 to 65535")]
pub struct ParsePortError(String);

/// A port range as the file has it.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "a port such as 80, or a range such as \"8000-8100\"")]
enum PortText {
    Number(i64),
    Text(String),
}

impl PortRange {
    /// The range from `first` to `last`; `None` when it is empty or holds port 0.
    #[must_use]
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (1..=last).contains(&first).then_some(Self { first, last })
    }

    /// Whether `port` is in the range.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl From<u16> for PortRange {
    fn from(port: u16) -> Self {
        Self { first: port, last: port }
    }
}

impl FromStr for PortRange {
    type Err = ParsePortError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let parse = |part: &str| part.trim().parse().ok();
        parse(first)
            .zip(parse(last))
            .and_then(|(first, last)| Self::new(first, last))
            .ok_or_else(|| ParsePortError(text.chars().take(64).collect()))
    }
}

impl TryFrom<PortText> for PortRange {
    type Error = ParsePortError;

    fn try_from(text: PortText) -> Result<Self, Self::Error> {
        match text {
            PortText::Number(port) => port.to_string().parse(),
            PortText::Text(text) => text.parse(),
        }
    }
}

impl From<PortRange> for PortText {
    fn from(range: PortRange) -> Self {
        if range.first == range.last {
            Self::Number(range.first.into())
        } else {
            Self::Text(format!("{}-{}", range.first, range.last))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_covers_itself_and_what_is_below_but_no_look_alike() {
        for (pattern, name, expected) in [
            ("mit.edu", "mit.edu", true),
            ("mit.edu", "www.csail.mit.edu", true),
            ("mit.edu", "notmit.edu", false),
            ("mit.edu", "mit.edu.evil.test", false),
            ("mit.edu", "edu", false),
            ("*.mit.edu", "mit.edu", false),
            ("*.mit.edu", "www.mit.edu", true),
            ("*.mit.edu", "notmit.edu", false),
            ("MIT.edu.", "www.mit.edu", true),
        ] {
            let pattern: DomainPattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(name), expected, "{pattern} and {name}");
        }
    }

    #[test]
    fn an_address_or_a_lone_wildcard_is_no_domain() {
        for text in ["", "*", "*.", "*.*.edu", "10.0.0.1", "[::1]", "mit.edu:80", "münchen.de"] {
            assert!(text.parse::<DomainPattern>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn a_port_range_holds_both_ends() {
        let range: PortRange = "8000-8100".parse().unwrap();
        assert!(range.contains(8000) && range.contains(8100));
        assert!(!range.contains(7999) && !range.contains(8101));
        for text in ["", "0", "0-5", "9-8", "65536", "-5", "80-", "a", "1-2-3"] {
            assert!(text.parse::<PortRange>().is_err(), "{text:?} was accepted");
        }
    }
}
