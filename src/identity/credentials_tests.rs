//! Tests of the live identity.

use super::*;
use crate::identity::{
    LIFETIME, RevocationList,
    test_support::{NOW, Overlay, after},
};

/// A node whose credentials are kept in a folder, and the overlay that certified it.
struct Kept {
    overlay: Overlay,
    credentials: Credentials,
    dir: NodeDir,
    _folder: tempfile::TempDir,
}

impl Kept {
    fn new() -> Self {
        let (overlay, folder) = (Overlay::new(), tempfile::tempdir().unwrap());
        let dir = NodeDir::at(folder.path());
        overlay.node("utah", NOW).save(&dir).unwrap();
        let credentials = Credentials::load(&dir, Clock::in_lab(NOW, 1)).unwrap();
        Self { overlay, credentials, dir, _folder: folder }
    }

    fn next(&self, at: UnixTime) -> Vec<CertificateDer<'static>> {
        let request = self.credentials.identity().signing_request().unwrap();
        self.overlay.renew(&request, at).unwrap()
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_in_force_at_once_kept_and_told() {
    let kept = Kept::new();
    let (mut changes, before) = (kept.credentials.changes(), kept.credentials.peer());
    let later = after(LIFETIME.as_secs() / 3);
    assert!(kept.credentials.renew(kept.next(later)).unwrap());
    changes.next().await;
    let now = kept.credentials.peer();
    assert_eq!((now.key, now.attributes()), (before.key, before.attributes()));
    assert!(now.expires > before.expires);
    assert_eq!(NodeIdentity::load(&kept.dir).unwrap().peer(), &now);
    // The same once more, or an older one, changes nothing.
    assert!(!kept.credentials.renew(kept.next(later)).unwrap());
    assert_eq!(kept.credentials.peer(), now);
}

#[test]
fn a_certificate_of_another_key_name_or_authority_is_not_taken_over() {
    let kept = Kept::new();
    let before = kept.credentials.peer();
    let other = kept.overlay.node("mit", NOW);
    assert!(kept.credentials.renew(other.chain().to_vec()).is_err());
    let foreign = Overlay::new();
    assert!(kept.credentials.renew(foreign.node("utah", after(60)).chain().to_vec()).is_err());
    // A certificate that somebody altered, before the right authority's.
    let mut chain = kept.next(after(LIFETIME.as_secs() / 3));
    let mut own = chain[0].to_vec();
    *own.last_mut().unwrap() ^= 1;
    chain[0] = own.into();
    assert!(kept.credentials.renew(chain).is_err());
    assert!(kept.credentials.renew(Vec::new()).is_err());
    assert_eq!(kept.credentials.peer(), before);
}

#[test]
fn a_newer_list_counts_at_once_and_ignored_ones_are_counted() {
    let kept = Kept::new();
    let mit = kept.overlay.node("mit", NOW);
    let old = kept.credentials.identity().revoked().der().to_vec();
    assert!(kept.credentials.member(&mit.chain()[0], NOW).is_ok());
    let list = kept.overlay.revoke(mit.name(), NOW).unwrap();
    assert_eq!(kept.credentials.learn_revocations(list.der()), Ok(list.number()));
    assert!(kept.credentials.is_revoked(mit.peer()));
    assert!(kept.credentials.member(&mit.chain()[0], NOW).is_err());
    assert_eq!(NodeIdentity::load(&kept.dir).unwrap().revoked(), &list);
    let foreign = Overlay::new();
    for name in ["a", "b"] {
        foreign.node(name, NOW);
        foreign.revoke(&name.parse().unwrap(), NOW).unwrap();
    }
    let forged = foreign.authority.revocations().unwrap();
    for (der, reason) in [
        (list.der(), ListIgnored::Stale),
        (&old, ListIgnored::Stale),
        (forged.der(), ListIgnored::Forged),
        (b"no list", ListIgnored::Unreadable),
    ] {
        assert_eq!(kept.credentials.learn_revocations(der), Err(reason));
    }
    let counts: Vec<u64> = kept.credentials.lists_ignored().iter().map(|(_, n)| *n).collect();
    assert_eq!(counts, [2, 1, 1]);
}

#[test]
fn a_renewal_does_not_overwrite_a_list_that_a_command_wrote() {
    let kept = Kept::new();
    kept.overlay.node("mit", NOW);
    assert_eq!(kept.credentials.reload_revocations().unwrap(), None);
    let list = kept.overlay.revoke(&"mit".parse().unwrap(), NOW).unwrap();
    kept.dir.write(NodeFile::Revoked, list.der()).unwrap();
    kept.credentials.renew(kept.next(after(LIFETIME.as_secs() / 3))).unwrap();
    let in_folder = || {
        let der = kept.dir.read(NodeFile::Revoked).unwrap();
        RevocationList::parse(&der, kept.overlay.authority.certificate()).unwrap()
    };
    assert_eq!(in_folder(), list);
    assert_eq!(kept.credentials.reload_revocations().unwrap(), Some(list.number()));
    kept.dir.write(NodeFile::Revoked, b"damaged").unwrap();
    assert!(kept.credentials.reload_revocations().is_err());
    assert_eq!(kept.credentials.identity().revoked(), &list);
}

#[test]
fn clones_share_one_identity_and_show_no_key() {
    let kept = Kept::new();
    let clone = kept.credentials.clone();
    kept.credentials.renew(kept.next(after(LIFETIME.as_secs() / 3))).unwrap();
    assert_eq!(clone.peer(), kept.credentials.peer());
    let shown = format!("{clone:?}");
    assert_eq!(shown, "Credentials(NodeIdentity(utah, RevocationList(#1577836800, 0 revoked)))");
}
