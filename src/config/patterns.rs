//! The patterns of routing rules: lists, domains and ports.

use std::{fmt, marker::PhantomData, str::FromStr};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IntoDeserializer as _, SeqAccess, Visitor, value::SeqAccessDeserializer},
};

use crate::flow::Host;

/// A domain: `mit.edu` is that name and every name below it; `*.mit.edu` those below it only.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Domain {
    suffix: String,
    below_only: bool,
}

/// A TCP port, or all from one to another, written `443` or `"8000-8100"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    first: u16,
    last: u16,
}

impl Domain {
    pub(super) fn matches(&self, host: &Host) -> bool {
        let Host::Name(name) = host else { return false };
        match name.strip_suffix(self.suffix.as_str()) {
            Some("") => !self.below_only,
            Some(rest) => rest.ends_with('.'),
            None => false,
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let below = if self.below_only { "*." } else { "" };
        write!(f, "{below}{}", self.suffix)
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return write!(f, "{}", self.first);
        }
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl TryFrom<String> for Domain {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let below = text.strip_prefix("*.");
        match below.unwrap_or(&text).parse() {
            Ok(Host::Name(suffix)) => Ok(Self { suffix, below_only: below.is_some() }),
            _ => Err(format!(
                "{text:?} is no domain; write \"mit.edu\" or \"*.mit.edu\", and addresses under `cidr`"
            )),
        }
    }
}

impl Ports {
    pub(super) fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.trim().parse(), last.trim().parse()) {
            (Ok(first), Ok(last)) if 0 < first && first <= last => Ok(Self { first, last }),
            _ => Err(format!("{text:?} is no port; write 443 or \"8000-8100\", from 1 to 65535")),
        }
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Port;
        impl Visitor<'_> for Port {
            type Value = Ports;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port as 443 or \"8000-8100\"")
            }

            fn visit_i64<E: serde::de::Error>(self, port: i64) -> Result<Ports, E> {
                port.to_string().parse().map_err(E::custom)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Ports, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Port)
    }
}

/// Reads one item or a list of them. An empty list is refused: it could mean nothing as well as
/// anything.
pub(super) fn one_or_many<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let items = deserializer.deserialize_any(OneOrMany(PhantomData))?;
    if items.is_empty() {
        return Err(D::Error::custom("the list is empty; leave the key out to match anything"));
    }
    Ok(items)
}

struct OneOrMany<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrMany<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("one value or a list")
    }

    fn visit_i64<E: serde::de::Error>(self, item: i64) -> Result<Self::Value, E> {
        T::deserialize(item.into_deserializer()).map(|item| vec![item])
    }

    fn visit_str<E: serde::de::Error>(self, item: &str) -> Result<Self::Value, E> {
        T::deserialize(item.into_deserializer()).map(|item| vec![item])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(items))
    }
}
