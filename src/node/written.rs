//! The members that a node stores in `members.json`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{
    identity::{MAX_MEMBERS, MemberInfo, NodeDir, NodeFile, StoreError},
    mesh::MemberRecord,
};

/// The content of `members.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Written {
    /// The addresses of members that may be dialled: those of their records that were not refused, and the
    /// authority's answer when this node joined, for members without a record.
    pub(crate) bootstrap: Vec<MemberInfo>,
    /// The members' signed records, with their certificates.
    pub(crate) records: Vec<MemberRecord>,
    /// The networks where UDP was found blocked, by this machine's addresses in them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) blocked: Vec<IpAddr>,
}

impl Written {
    /// Reads the members. A missing or damaged file is not an error, because the node learns the
    /// members again.
    pub(crate) fn load(dir: &NodeDir) -> Self {
        let read = dir.read(NodeFile::Members);
        match read.map(|bytes| serde_json::from_slice::<Self>(&bytes)) {
            Ok(Ok(mut members)) => {
                members.bootstrap.truncate(MAX_MEMBERS);
                members.records.truncate(MAX_MEMBERS);
                members
            }
            Err(StoreError::Missing(_)) => Self::default(),
            Ok(Err(error)) => {
                tracing::warn!(%error, "members.json is damaged and will be replaced");
                Self::default()
            }
            Err(error) => {
                tracing::warn!(%error, "the members of the last run cannot be read");
                Self::default()
            }
        }
    }

    /// Replaces the file in one step.
    pub(crate) fn save(&self, dir: &NodeDir) -> Result<(), StoreError> {
        dir.write_json(NodeFile::Members, self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{
        StatementKey,
        test_support::{NOW, Overlay},
    };

    #[test]
    fn members_read_back_and_a_damaged_file_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let dir = NodeDir::at(folder.path());
        assert_eq!(Written::load(&dir), Written::default());
        let name = |text: &str| text.parse().unwrap();
        let members = Written {
            bootstrap: vec![MemberInfo {
                name: name("utah"),
                addresses: vec![([192, 0, 2, 1], 4600).into()],
                key: Some(StatementKey::of(&Overlay::new().node("utah", NOW).chain()[0]).unwrap()),
            }],
            records: vec![MemberRecord {
                name: name("mit"),
                certificate: vec![0x30, 1, 2],
                record: vec![0xff; 300],
            }],
            blocked: vec![[192, 0, 2, 9].into(), [198, 51, 100, 9].into()],
        };
        members.save(&dir).unwrap();
        assert_eq!(Written::load(&dir), members);
        for damaged in [&b"[{"[..], b"[]", br#"{"bootstrap":[],"records":[{"name":"a"}]}"#] {
            dir.write(NodeFile::Members, damaged).unwrap();
            assert_eq!(Written::load(&dir), Written::default());
        }
    }
}
