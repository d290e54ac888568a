//! The members as the authority's record has them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Attributes, Issued, NodeName, Records, Serial};

/// A member by its newest certificate on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certified {
    /// What the certificate says.
    pub attributes: Attributes,
    /// Its serial number.
    pub serial: String,
    /// When it was issued, in seconds since 1970; 0: a record of an older version does not say.
    pub issued: u64,
    /// When it ends, in seconds since 1970.
    pub expires: u64,
    /// When it was revoked, in seconds since 1970, as the record says.
    pub revoked: Option<u64>,
    /// Whether a revocation list has it. After the restore of a backup that may know more than the record.
    pub listed: bool,
}

impl Records {
    /// Each name with the certificate that ends last; one that is not revoked goes before one that is.
    #[must_use]
    pub fn newest(&self, is_listed: impl Fn(Serial) -> bool) -> Vec<Certified> {
        let mut newest: BTreeMap<&NodeName, (Serial, &Issued)> = BTreeMap::new();
        let rank = |issued: &Issued| (issued.revoked.is_none(), issued.not_after);
        for (serial, issued) in &self.issued {
            match newest.get(issued.name()) {
                Some((_, known)) if rank(known) >= rank(issued) => {}
                _ => drop(newest.insert(issued.name(), (*serial, issued))),
            }
        }
        let certified = newest.into_values().map(|(serial, issued)| Certified {
            attributes: issued.attributes.clone(),
            serial: serial.to_string(),
            issued: issued.issued,
            expires: issued.not_after,
            revoked: issued.revoked,
            listed: is_listed(serial),
        });
        certified.collect()
    }
}
