//! The members as last heard, in `members.json`.

use super::CliError;
use crate::identity::{MAX_MEMBERS, MemberInfo, NodeDir, NodeFile, StoreError};

/// Reads the members. A missing or damaged file is no error: the members are heard of again.
pub(super) fn load(dir: &NodeDir) -> Vec<MemberInfo> {
    let read = dir.read(NodeFile::Members);
    let parsed = read.map(|bytes| serde_json::from_slice::<Vec<MemberInfo>>(&bytes));
    match parsed {
        Ok(Ok(mut members)) => {
            members.truncate(MAX_MEMBERS);
            members
        }
        Err(StoreError::Missing(_)) => Vec::new(),
        Ok(Err(error)) => {
            tracing::warn!(%error, "members.json is damaged and will be replaced");
            Vec::new()
        }
        Err(error) => {
            tracing::warn!(%error, "the members of the last run are not known");
            Vec::new()
        }
    }
}

/// Replaces the members in one step.
pub(super) fn save(dir: &NodeDir, members: &[MemberInfo]) -> Result<(), CliError> {
    let text =
        serde_json::to_vec_pretty(members).map_err(|error| CliError::Output(error.into()))?;
    Ok(dir.write(NodeFile::Members, &text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_read_back_and_a_damaged_file_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let dir = NodeDir::at(folder.path());
        assert!(load(&dir).is_empty());
        let member = MemberInfo {
            name: "utah".parse().unwrap(),
            addresses: vec![([192, 0, 2, 1], 4600).into()],
            roles: crate::identity::Roles { relay: true, exit: false },
        };
        save(&dir, std::slice::from_ref(&member)).unwrap();
        assert_eq!(load(&dir), [member]);
        dir.write(NodeFile::Members, b"[{").unwrap();
        assert!(load(&dir).is_empty());
    }
}
