//! Revocation: the content of the list.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{Authority, AuthorityError, sign, turn};
use crate::identity::{
    Actor, Deed, NodeFile, NodeName, RevocationList, Serial, StoreError, UnixTime,
    remembered::Remembered,
};

/// How long a certificate that is not on record stays on the list after its revocation: the longest
/// lifetime in any version. The certificate has then ended.
const LISTED: Duration = Duration::from_secs(90 * 24 * 3600);

impl Authority {
    /// Revokes every certificate of `name`, and the right to renew it, and returns the new
    /// revocation list, which is kept in the folder too.
    ///
    /// # Errors
    /// [`AuthorityError::NoSuchNode`] when there is none, [`AuthorityError::ListFull`], or when the
    /// folder cannot be written. It can then be asked again.
    pub fn revoke(
        &self,
        name: &NodeName,
        by: Actor,
        now: UnixTime,
    ) -> Result<RevocationList, AuthorityError> {
        let _turn = turn(&self.dir)?;
        let records = self.ledger.all()?;
        let held = records.issued.iter();
        let held = held.filter(|(_, issued)| issued.name() == name && issued.holds_name(now));
        let mut held: Vec<_> = held.cloned().collect();
        if held.is_empty() {
            return Err(AuthorityError::NoSuchNode(name.clone()));
        }
        for (_, issued) in &mut held {
            issued.revoked = Some(now.as_secs());
        }
        let listed = held.iter().filter(|(_, issued)| !issued.has_long_ended(now));
        let listed = listed.map(|(serial, _)| (*serial, now.as_secs())).collect();
        let number = self.next_list_number(now);
        let list = self.list(number, listed, now)?;
        self.audit.record(Deed::Revoke, name, Some(number.to_string()), by, now)?;
        // The list is written first. After a crash before the records are written, the certificates
        // are revoked, and the name can be revoked again.
        self.publish(&list)?;
        for (serial, issued) in held {
            self.ledger.put(serial, &issued)?;
        }
        Ok(list)
    }

    /// The current revocation list.
    ///
    /// # Errors
    /// When it is missing or damaged.
    pub fn revocations(&self) -> Result<Arc<RevocationList>, AuthorityError> {
        self.list_in(NodeFile::AuthorityRevoked, &self.signed)
    }

    /// The number of the next revocation list: the time, or one more than the last. So it also
    /// exceeds the numbers of lists signed after the backup from which the authority was restored.
    pub(super) fn next_list_number(&self, now: UnixTime) -> u64 {
        let last = self.lists().iter().map(|list| list.number()).max();
        now.as_secs().max(last.map_or(0, |last| last.saturating_add(1)))
    }

    /// The list of all revoked certificates: `added`, those on record, those on the last list, and
    /// those on a newer list of ours that the node got from others. The last two matter when
    /// records are damaged or older than the list, as after the restore of a backup. A certificate
    /// leaves the list a day after its end.
    pub(super) fn list(
        &self,
        number: u64,
        added: BTreeMap<Serial, u64>,
        now: UnixTime,
    ) -> Result<RevocationList, AuthorityError> {
        let mut revoked = BTreeMap::new();
        for list in self.lists() {
            let kept = list.entries().filter(|(_, at)| at + LISTED.as_secs() > now.as_secs());
            revoked.extend(kept);
        }
        for (serial, issued) in &self.ledger.all()?.issued {
            if issued.has_long_ended(now) {
                revoked.remove(serial);
            } else if let Some(at) = issued.revoked {
                revoked.insert(*serial, at);
            }
        }
        revoked.extend(added);
        let list = sign::revocation_list(&self.issuer, number, revoked, now)?;
        Ok(RevocationList::parse(&list, &self.certificate)?)
    }

    /// Stores a list, from which the next one starts, and which the running node reads.
    pub(super) fn publish(&self, list: &RevocationList) -> Result<(), StoreError> {
        self.dir.write(NodeFile::AuthorityRevoked, list.der())?;
        self.dir.write(NodeFile::Revoked, list.der())
    }

    /// The last list that was signed here, and the one that the node has, which it may have got
    /// from other nodes.
    pub(super) fn lists(&self) -> Vec<Arc<RevocationList>> {
        let node = self.list_in(NodeFile::Revoked, &self.held_by_node);
        [self.revocations(), node].into_iter().flatten().collect()
    }

    fn list_in(
        &self,
        file: NodeFile,
        read: &Remembered<RevocationList>,
    ) -> Result<Arc<RevocationList>, AuthorityError> {
        read.get(&self.dir.path(file), || {
            Ok(RevocationList::parse(&self.dir.read(file)?, &self.certificate)?)
        })
    }
}
