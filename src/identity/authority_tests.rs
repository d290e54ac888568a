//! Tests of the authority.

use super::*;
use crate::identity::test_support::{NOW, Overlay, after};

#[test]
fn a_loaded_authority_is_the_one_that_was_made() {
    let overlay = Overlay::new();
    let loaded = Authority::load(&overlay.dir).unwrap();
    assert_eq!(loaded.fingerprint(), overlay.authority.fingerprint());
    let node = overlay.node("utah", NOW);
    assert!(loaded.is_taken(node.name(), NOW).unwrap());
    assert!(loaded.revoke(node.name(), NOW).unwrap().contains(node.peer()));
}

#[test]
fn an_authority_is_never_made_over_another() {
    let overlay = Overlay::new();
    let again = Authority::create(&overlay.dir, NOW);
    assert!(matches!(again, Err(AuthorityError::Store(StoreError::Exists(_)))));
}

#[test]
fn a_name_is_free_again_when_its_certificate_has_expired() {
    let overlay = Overlay::new();
    let node = overlay.node("utah", NOW);
    let end = LIFETIME.as_secs();
    assert!(overlay.authority.is_taken(node.name(), after(end - 1)).unwrap());
    assert!(!overlay.authority.is_taken(node.name(), after(end)).unwrap());
}

#[test]
fn a_revoked_node_cannot_renew_and_every_certificate_it_had_is_listed() {
    let overlay = Overlay::new();
    let node = overlay.node("utah", NOW);
    let request = node.signing_request().unwrap();
    let renewed =
        node.renewed(overlay.authority.renew(node.peer(), &request, after(1)).unwrap()).unwrap();
    let list = overlay.authority.revoke(node.name(), after(2)).unwrap();
    for peer in [node.peer(), renewed.peer()] {
        assert!(list.contains(peer));
        let refused = overlay.authority.renew(peer, &request, after(3));
        assert!(matches!(refused, Err(AuthorityError::NotRenewable(_))));
    }
    let twice = overlay.authority.revoke(node.name(), after(4));
    assert!(matches!(twice, Err(AuthorityError::NoSuchNode(_))));
}

#[test]
fn each_revocation_list_has_a_higher_number_and_all_that_is_revoked() {
    let overlay = Overlay::new();
    let (a, b) = (overlay.node("a", NOW), overlay.node("b", NOW));
    let first = overlay.authority.revoke(a.name(), NOW).unwrap();
    let second = overlay.authority.revoke(b.name(), NOW).unwrap();
    assert!(second.number() > first.number());
    assert!(second.contains(a.peer()) && second.contains(b.peer()));
}

#[test]
fn what_has_expired_leaves_the_record_and_a_full_record_issues_nothing() {
    let overlay = Overlay::new();
    let folder = overlay.dir.folder(NodeFile::Issued).unwrap();
    let issued =
        Issued { name: "old".parse().unwrap(), not_after: after(60).as_secs(), revoked: None };
    let text = serde_json::to_vec(&issued).unwrap();
    for number in 0..MAX_ISSUED {
        std::fs::write(folder.join(format!("40{number:030x}.json")), &text).unwrap();
    }
    let request = crate::identity::NodeKey::generate().unwrap().signing_request().unwrap();
    let issue = |now| {
        overlay.authority.issue(
            &request,
            &Attributes::entry("utah".parse().unwrap()),
            LIFETIME,
            now,
        )
    };
    assert!(matches!(issue(NOW), Err(AuthorityError::Full)));
    issue(after(60)).unwrap();
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1);
}

#[cfg(unix)]
#[test]
fn an_authority_whose_key_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let overlay = Overlay::new();
    let path = overlay.dir.path(NodeFile::AuthorityKey);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = Authority::load(&overlay.dir).unwrap_err();
    assert!(error.to_string().contains("chmod 600"), "{error}");
}

#[test]
fn no_key_shows_in_debug_output() {
    let overlay = Overlay::new();
    let expected = format!("Authority({})", overlay.authority.fingerprint());
    assert_eq!(format!("{:?}", overlay.authority), expected);
}
