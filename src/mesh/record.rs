//! A member's stored record: its newest signed advertisement, and its certificate.

use serde::{Deserialize, Serialize};

use crate::identity::NodeName;

/// A signed advertisement and the certificate of its origin. Both are checked again when it is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// The member, for people who read the file. The certificate says who it is.
    pub name: NodeName,
    /// The certificate in DER.
    #[serde(with = "base64_text")]
    pub certificate: Vec<u8>,
    /// [`Flood`](crate::overlay::linkstate::Flood), encoded.
    #[serde(with = "base64_text")]
    pub record: Vec<u8>,
}

impl MemberRecord {
    /// Its size in bytes.
    pub(super) fn size(&self) -> usize {
        self.certificate.len() + self.record.len()
    }
}

mod base64_text {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64_STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        BASE64_STANDARD.decode(text).map_err(D::Error::custom)
    }
}
