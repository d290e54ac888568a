//! Where the overlay's authority is, for a node that has no link to it.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{MAX_ADDRESSES, NodeDir, NodeFile, NodeName, StoreError};
use crate::flow::Target;

/// The authority's node: its name, from the invitation, and its addresses, from the invitation
/// and later from the link to it.
///
/// These addresses need no trust: the authority's certificate verifies its answers, and the
/// question, a signing request, is no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorityContact {
    /// The name of the authority's node.
    pub name: NodeName,
    /// Where it was last seen; at most 8.
    pub addresses: Vec<SocketAddr>,
    /// Names from the invitation under which it is found; at most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "texts")]
    pub names: Vec<Target>,
}

impl AuthorityContact {
    /// Reads what is kept in `dir`; `None` when nothing is.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn load(dir: &NodeDir) -> Result<Option<Self>, StoreError> {
        let bytes = match dir.read(NodeFile::Authority) {
            Err(StoreError::Missing(_)) => return Ok(None),
            bytes => bytes?,
        };
        let mut contact: Self = serde_json::from_slice(&bytes)
            .map_err(|error| dir.damaged(NodeFile::Authority, error))?;
        contact.addresses.truncate(MAX_ADDRESSES);
        contact.names.truncate(MAX_ADDRESSES);
        Ok(Some(contact))
    }

    /// Keeps it in `dir`.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn save(&self, dir: &NodeDir) -> Result<(), StoreError> {
        dir.write_json(NodeFile::Authority, self)
    }

    /// Puts the addresses at which the authority's node is before the known ones. True if one of them is
    /// new, or another was the first.
    pub(super) fn seen_at(&mut self, addresses: &[SocketAddr]) -> bool {
        let mut all: Vec<SocketAddr> = Vec::new();
        for address in addresses.iter().chain(&self.addresses) {
            if !all.contains(address) && all.len() < MAX_ADDRESSES {
                all.push(*address);
            }
        }
        let news = addresses.iter().any(|address| !self.addresses.contains(address))
            || all.first() != self.addresses.first();
        if news {
            self.addresses = all;
        }
        news
    }
}

/// Names as people write them.
mod texts {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use crate::flow::Target;

    pub(super) fn serialize<S: Serializer>(names: &[Target], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(names.iter().map(Target::to_string))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Target>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authoritys_address_is_kept_and_the_newest_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        let dir = NodeDir::at(folder.path());
        assert_eq!(AuthorityContact::load(&dir).unwrap(), None);
        let at = |port: u16| SocketAddr::from(([192, 0, 2, 1], port));
        let mut contact = AuthorityContact {
            name: "mit".parse().unwrap(),
            addresses: vec![at(1)],
            names: vec!["mit.example.org:4600".parse().unwrap()],
        };
        assert!(!contact.seen_at(&[at(1)]));
        for port in 2..20 {
            assert!(contact.seen_at(&[at(port)]));
        }
        assert_eq!((contact.addresses.len(), contact.addresses[0]), (MAX_ADDRESSES, at(19)));
        assert!(contact.seen_at(&[at(18)]) && contact.addresses[..2] == [at(18), at(19)]);
        contact.save(&dir).unwrap();
        assert_eq!(AuthorityContact::load(&dir).unwrap(), Some(contact));
    }
}
