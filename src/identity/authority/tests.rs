//! Tests of the authority.

use super::{sign::MAX_LISTED, *};
use crate::identity::ledger::{MAX_ISSUED, RENEWABLE};
use crate::identity::test_support::{NOW, Overlay, after};

#[test]
fn a_loaded_authority_is_the_one_that_was_made() {
    let overlay = Overlay::new();
    let loaded = Authority::load(&overlay.dir).unwrap();
    assert_eq!(loaded.fingerprint(), overlay.authority.fingerprint());
    let node = overlay.node("utah", NOW);
    assert!(loaded.is_taken(node.name(), NOW).unwrap());
    assert!(loaded.revoke(node.name(), Actor::Node, NOW).unwrap().contains(node.peer()));
}

#[test]
fn an_authority_is_never_made_over_another() {
    let overlay = Overlay::new();
    let again = Authority::create(&overlay.dir, NOW);
    assert!(matches!(again, Err(AuthorityError::Store(StoreError::Exists(_)))));
}

#[test]
fn a_name_is_reserved_for_400_days_and_freed_by_revocation() {
    let overlay = Overlay::new();
    let node = overlay.node("utah", NOW);
    let end = LIFETIME.as_secs();
    let taken = |at| overlay.authority.is_taken(node.name(), after(at)).unwrap();
    assert!(taken(end - 1) && taken(end) && taken(end + RENEWABLE.as_secs() - 1));
    assert!(!taken(end + RENEWABLE.as_secs()));
    overlay.revoke(node.name(), after(end + 1)).unwrap();
    assert!(!taken(end + 1));
}

#[test]
fn a_revoked_node_cannot_renew_and_every_certificate_it_had_is_listed() {
    let overlay = Overlay::new();
    let node = overlay.node("utah", NOW);
    let request = node.signing_request().unwrap();
    let later = after(LIFETIME.as_secs() / 3);
    let renewed = node.renewed(overlay.renew(&request, later).unwrap()).unwrap();
    assert_eq!(renewed.peer().attributes(), node.peer().attributes());
    assert_ne!(renewed.peer().serial, node.peer().serial);
    assert_eq!(renewed.peer().key, node.peer().key);
    let list = overlay.revoke(node.name(), later).unwrap();
    assert!(list.contains(node.peer()) && list.contains(renewed.peer()));
    let refused = overlay.renew(&request, later);
    assert!(matches!(refused, Err(AuthorityError::Revoked(_))));
    let twice = overlay.revoke(node.name(), later);
    assert!(matches!(twice, Err(AuthorityError::NoSuchNode(_))));
    // The next holder of the name does not bring the last one back.
    overlay.node("utah", later);
    let refused = overlay.renew(&request, later);
    assert!(matches!(refused, Err(AuthorityError::Revoked(_))));
}

#[test]
fn a_certificate_that_ended_is_renewed_for_its_key_alone() {
    let overlay = Overlay::new();
    let node = overlay.node("utah", NOW);
    let quarter = after(90 * 24 * 3600);
    let chain = overlay.renew(&node.signing_request().unwrap(), quarter).unwrap();
    let renewed = node.renewed(chain).unwrap();
    assert_eq!(renewed.peer().expires.as_secs(), quarter.as_secs() + LIFETIME.as_secs());
    let other = crate::identity::NodeKey::generate().unwrap().signing_request().unwrap();
    let refused = overlay.renew(&other, quarter);
    assert!(matches!(refused, Err(AuthorityError::UnknownKey)));
    let too_late = after(LIFETIME.as_secs() * 20 + RENEWABLE.as_secs());
    let refused = overlay.renew(&node.signing_request().unwrap(), too_late);
    assert!(matches!(refused, Err(AuthorityError::UnknownKey)));
}

#[test]
fn questions_about_a_large_record_cost_little_and_see_every_change() {
    let overlay = Overlay::new();
    let (node, other) = (overlay.node("utah", NOW), overlay.node("mit", NOW));
    let folder = overlay.dir.folder(NodeFile::Issued).unwrap();
    let record = folder.join(format!("{}.json", other.peer().serial));
    for number in 0..2000 {
        std::fs::copy(&record, folder.join(format!("40{number:030x}.json"))).unwrap();
    }
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(60);
    File::open(&folder).unwrap().set_modified(long_ago).unwrap();
    let unknown = crate::identity::NodeKey::generate().unwrap().signing_request().unwrap();
    let start = std::time::Instant::now();
    for _ in 0..500 {
        assert!(matches!(overlay.renew(&unknown, NOW), Err(AuthorityError::UnknownKey)));
    }
    let took = start.elapsed();
    println!("500 questions about a record of 2,000 certificates: {took:?}");
    // Reading them all for each question takes more than 10 s.
    assert!(took < Duration::from_secs(4), "{took:?}");
    // A command, which is another process, revokes.
    let command = Authority::load(&overlay.dir).unwrap();
    command.revoke(node.name(), Actor::Node, NOW).unwrap();
    let refused = overlay.renew(&node.signing_request().unwrap(), NOW);
    assert!(matches!(refused, Err(AuthorityError::Revoked(_))));
}

#[test]
fn a_renewal_asked_for_again_and_again_gets_the_same_certificate() {
    let overlay = Overlay::new();
    let node = overlay.node("utah", NOW);
    let request = node.signing_request().unwrap();
    let records = || overlay.authority.ledger.all().unwrap().issued.len();
    for second in 0..20 {
        let chain = overlay.renew(&request, after(second)).unwrap();
        assert_eq!(chain, node.chain());
    }
    assert_eq!(records(), 1);
    // Years of renewals leave what is still in time, and no more.
    let step = LIFETIME.as_secs() / 3;
    for renewal in 1..60 {
        overlay.renew(&request, after(renewal * step)).unwrap();
    }
    assert!(records() <= 5, "{}", records());
}

#[test]
fn each_revocation_list_has_a_higher_number_and_all_that_is_revoked() {
    let overlay = Overlay::new();
    let (a, b) = (overlay.node("a", NOW), overlay.node("b", NOW));
    let first = overlay.revoke(a.name(), NOW).unwrap();
    let second = overlay.revoke(b.name(), NOW).unwrap();
    assert!(second.number() > first.number());
    assert!(second.contains(a.peer()) && second.contains(b.peer()));
}

#[test]
fn a_record_older_than_the_list_takes_nobody_off_it() {
    let overlay = Overlay::new();
    let (a, b) = (overlay.node("a", NOW), overlay.node("b", NOW));
    let path = overlay.dir.path(NodeFile::Issued).join(format!("{}.json", a.peer().serial));
    let before = std::fs::read(&path).unwrap();
    overlay.revoke(a.name(), NOW).unwrap();
    // As after the restore of a backup: the list comes back from the members.
    std::fs::write(&path, before).unwrap();
    std::fs::remove_file(overlay.dir.path(NodeFile::AuthorityRevoked)).unwrap();
    let next = overlay.revoke(b.name(), NOW).unwrap();
    assert!(next.contains(a.peer()) && next.contains(b.peer()));
    let refused = overlay.renew(&a.signing_request().unwrap(), NOW);
    assert!(matches!(refused, Err(AuthorityError::Revoked(_))), "{refused:?}");
}

#[test]
fn nothing_is_issued_renewed_or_revoked_unlogged() {
    let overlay = Overlay::new();
    let node = overlay.node("utah", NOW);
    let list = overlay.authority.revocations().unwrap().number();
    let log = overlay.dir.path(NodeFile::Audit);
    std::fs::remove_file(&log).unwrap();
    std::fs::create_dir(&log).unwrap();
    let request = node.signing_request().unwrap();
    let attributes = Attributes::entry("mit".parse().unwrap());
    let later = after(LIFETIME.as_secs() / 3);
    let by = (Deed::Join, Actor::Node);
    for failed in [
        overlay.authority.issue(&request, &attributes, by, later).map(|_| ()),
        overlay.renew(&request, later).map(|_| ()),
        overlay.revoke(node.name(), later).map(|_| ()),
    ] {
        let said = failed.unwrap_err().to_string();
        assert!(said.contains("audit.jsonl") && said.contains("free space"), "{said}");
    }
    assert_eq!(overlay.authority.ledger.all().unwrap().issued.len(), 1);
    assert_eq!(overlay.authority.revocations().unwrap().number(), list);
    std::fs::remove_dir(&log).unwrap();
    overlay.renew(&request, later).unwrap();
    let lines = AuditLog::new(&overlay.dir).read(9).unwrap();
    assert_eq!(lines.entries.len(), 1);
    assert_eq!((lines.entries[0].event, lines.entries[0].by.as_str()), (Deed::Renew, "this node"));
}

#[test]
fn the_next_certificate_of_a_name_starts_later_even_within_a_second() {
    let overlay = Overlay::new();
    let mut last = overlay.node("utah", NOW);
    for _ in 0..3 {
        overlay.revoke(last.name(), NOW).unwrap();
        let next = overlay.node("utah", NOW);
        assert_eq!(next.peer().starts.as_secs(), last.peer().starts.as_secs() + 1);
        last = next;
    }
}

#[test]
fn a_full_record_issues_nothing_until_old_entries_leave_it() {
    let overlay = Overlay::new();
    let folder = overlay.dir.folder(NodeFile::Issued).unwrap();
    let key = Fingerprint::of(b"old");
    let old = Attributes::entry("old".parse().unwrap());
    let issued = Issued::new(old, key, NOW, Duration::from_secs(60));
    let text = serde_json::to_vec(&issued).unwrap();
    for number in 0..MAX_ISSUED {
        std::fs::write(folder.join(format!("40{number:030x}.json")), &text).unwrap();
    }
    let request = crate::identity::NodeKey::generate().unwrap().signing_request().unwrap();
    let issue = |now| {
        overlay.authority.issue(
            &request,
            &Attributes::entry("utah".parse().unwrap()),
            (Deed::Join, Actor::Node),
            now,
        )
    };
    assert!(matches!(issue(NOW), Err(AuthorityError::Full)));
    issue(after(60 + RENEWABLE.as_secs())).unwrap();
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1);
}

#[test]
fn the_longest_revocation_list_fits_a_message_on_a_link() {
    let overlay = Overlay::new();
    let folder = overlay.dir.folder(NodeFile::Issued).unwrap();
    let bad = Attributes::entry("bad".parse().unwrap());
    let mut issued = Issued::new(bad, Fingerprint::of(b"bad"), NOW, LIFETIME);
    issued.revoked = Some(NOW.as_secs());
    let text = serde_json::to_vec(&issued).unwrap();
    for number in 1..MAX_LISTED {
        std::fs::write(folder.join(format!("40{number:030x}.json")), &text).unwrap();
    }
    overlay.node("a", NOW);
    let list = overlay.revoke(&"a".parse().unwrap(), NOW).unwrap();
    assert_eq!(list.len(), MAX_LISTED);
    assert!(list.der().len() + 16 < crate::wire::MAX_MESSAGE, "{} bytes", list.der().len());
    overlay.node("b", NOW);
    let full = overlay.revoke(&"b".parse().unwrap(), NOW);
    assert!(matches!(full, Err(AuthorityError::ListFull)));
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
