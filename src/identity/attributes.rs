//! The attributes of a node in its certificate.

use serde::{Deserialize, Serialize};

use super::NodeName;
use crate::flow::Host;

/// The object identifier of the extension that carries [`Attributes`].
///
/// It is under 32473, the enterprise number for examples (RFC 5612), because the project has none
/// of its own and only this program reads these certificates. It is not critical, because `webpki`
/// refuses critical extensions that it does not know.
pub(super) const EXTENSION: &[u64] = &[1, 3, 6, 1, 4, 1, 32473, 4600, 1];

/// Most groups per node. Policies name a few; 16 is far above that and keeps certificates small.
const MAX_GROUPS: usize = 16;
/// Characters of a group's name: it is a label in rules and listings.
const MAX_GROUP_LEN: usize = 32;
/// Domains and CIDRs that a node serves: with the longest names still under 17 KB of certificate.
const MAX_SERVES: usize = 64;
/// The first byte of the extension: the number of its format.
const VERSION: u8 = 1;

/// What the authority says about a node. Every node may be an entry; other roles are granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// The node's name, unique in the overlay.
    pub name: NodeName,
    /// What the node may do for others.
    pub roles: Roles,
    /// Groups for policy: at most 16, each 1 to 32 characters of `a-z`, `0-9`, `-`, `_`.
    pub groups: Vec<String>,
    /// Domain suffixes and CIDRs that the node may serve as an exit: at most 64. Empty means
    /// whatever its own exit policy allows.
    pub serves: Vec<String>,
}

/// What a node may do for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roles {
    /// May forward labelled packets between other nodes.
    pub relay: bool,
    /// May open real connections for other nodes.
    pub exit: bool,
}

/// The attributes are not acceptable in a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttributesError {
    /// More groups than a certificate carries.
    #[error("{0} groups are too many; name at most {MAX_GROUPS}")]
    TooManyGroups(usize),
    /// Not a group name.
    #[error("{0:?} is no group name; use 1 to {MAX_GROUP_LEN} characters of a-z, 0-9, '-' and '_'")]
    Group(String),
    /// More served destinations than a certificate carries.
    #[error("{0} served destinations are too many; name at most {MAX_SERVES}")]
    TooManyServes(usize),
    /// Neither a domain nor a CIDR.
    #[error("{0:?} cannot be served; write a domain as example.org or a CIDR as 192.0.2.0/24")]
    Serves(String),
    /// The bytes are not attributes of this version.
    #[error(
        "the certificate's attributes are unreadable; both nodes need the same ronproxy version"
    )]
    Unreadable,
}

impl Attributes {
    /// Attributes of an entry: no role, no group, nothing served.
    #[must_use]
    pub fn entry(name: NodeName) -> Self {
        Self { name, roles: Roles::default(), groups: Vec::new(), serves: Vec::new() }
    }

    /// Checks every bound, so that every node can read the certificate.
    ///
    /// # Errors
    /// Names the first value out of bounds.
    pub fn check(&self) -> Result<(), AttributesError> {
        if self.groups.len() > MAX_GROUPS {
            return Err(AttributesError::TooManyGroups(self.groups.len()));
        }
        if let Some(group) = self.groups.iter().find(|group| !is_group(group)) {
            return Err(AttributesError::Group(clip(group)));
        }
        if self.serves.len() > MAX_SERVES {
            return Err(AttributesError::TooManyServes(self.serves.len()));
        }
        match self.serves.iter().find(|served| !is_served(served)) {
            Some(served) => Err(AttributesError::Serves(clip(served))),
            None => Ok(()),
        }
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, AttributesError> {
        self.check()?;
        postcard::to_extend(self, vec![VERSION]).map_err(|_| AttributesError::Unreadable)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, AttributesError> {
        let (&VERSION, rest) = bytes.split_first().ok_or(AttributesError::Unreadable)? else {
            return Err(AttributesError::Unreadable);
        };
        let (attributes, rest) =
            postcard::take_from_bytes::<Self>(rest).map_err(|_| AttributesError::Unreadable)?;
        if !rest.is_empty() {
            return Err(AttributesError::Unreadable);
        }
        attributes.check()?;
        Ok(attributes)
    }
}

fn is_group(text: &str) -> bool {
    (1..=MAX_GROUP_LEN).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
}

fn is_served(text: &str) -> bool {
    text.parse::<ipnet::IpNet>().is_ok()
        || matches!(text.parse(), Ok(Host::Name(name)) if name == text)
}

fn clip(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn full() -> Attributes {
        Attributes {
            name: "mit".parse().unwrap(),
            roles: Roles { relay: true, exit: false },
            groups: vec!["research".into(); MAX_GROUPS],
            serves: vec!["192.0.2.0/24".into(), "mit.edu".into()],
        }
    }

    #[test]
    fn attributes_read_back_what_was_written() {
        for attributes in [full(), Attributes::entry("a".parse().unwrap())] {
            assert_eq!(Attributes::decode(&attributes.encode().unwrap()).unwrap(), attributes);
        }
    }

    #[test]
    fn attributes_have_these_bytes() {
        let bytes = [
            1, // version
            3, b'm', b'i', b't', // name
            1, 0, // relay, exit
            0, // groups
            1, 2, b'a', b'b', // serves
        ];
        let attributes = Attributes { groups: vec![], serves: vec!["ab".into()], ..full() };
        assert_eq!(attributes.encode().unwrap(), bytes);
    }

    #[test]
    fn attributes_out_of_bounds_are_neither_written_nor_read() {
        let cases = [
            Attributes { groups: vec!["g".into(); MAX_GROUPS + 1], ..full() },
            Attributes { groups: vec![String::new()], ..full() },
            Attributes { groups: vec!["g".repeat(MAX_GROUP_LEN + 1)], ..full() },
            Attributes { groups: vec!["Research".into()], ..full() },
            Attributes { serves: vec!["a.org".into(); MAX_SERVES + 1], ..full() },
            Attributes { serves: vec!["EXAMPLE.org".into()], ..full() },
            Attributes { serves: vec!["192.0.2.0/33".into()], ..full() },
            Attributes { serves: vec!["192.0.2.1".into()], ..full() },
        ];
        for attributes in cases {
            assert!(attributes.encode().is_err(), "{attributes:?} was written");
            let bytes = postcard::to_extend(&attributes, vec![VERSION]).unwrap();
            assert!(Attributes::decode(&bytes).is_err(), "{attributes:?} was read");
        }
        let mut longer = full().encode().unwrap();
        longer.push(0);
        assert_eq!(Attributes::decode(&longer), Err(AttributesError::Unreadable));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = Attributes::decode(&bytes);
        }
    }
}
