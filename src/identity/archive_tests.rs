//! Tests of the archive.

use super::*;
use crate::identity::{
    Granted, PendingInvitations, Token,
    test_support::{NOW, Overlay},
};

/// An overlay whose own node, `hub`, is in the authority's folder.
fn overlay() -> Overlay {
    let overlay = Overlay::new();
    let hub = overlay.node("hub", NOW);
    hub.save(&overlay.dir).unwrap();
    overlay.dir.write_default_config("[node]\n").unwrap();
    let attributes = crate::identity::Attributes::entry("utah".parse().unwrap());
    let granted = Granted { attributes, expires: NOW.as_secs() + 9, by_dashboard: false };
    let invitations = PendingInvitations::new(&overlay.dir);
    invitations.add(&Token::from_random([1; 32]), &granted, NOW).unwrap();
    overlay
}

/// An archive with these entries behind a good one's.
fn with(extra: &[(&str, tar::EntryType)]) -> Vec<u8> {
    let (_, bytes) = pack(&overlay().dir, NOW).unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    let mut good = tar::Archive::new(&bytes[..]);
    for entry in good.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut header = entry.header().clone();
        let path = entry.path().unwrap().into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        builder.append_data(&mut header, path, &content[..]).unwrap();
    }
    for (name, kind) in extra {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(0);
        header.set_cksum();
        builder.append(&header, &[][..]).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn a_packed_authority_and_node_are_unpacked_unchanged() {
    let overlay = overlay();
    let (manifest, bytes) = pack(&overlay.dir, NOW).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let dir = NodeDir::at(folder.path().join("new"));
    let archive = unpack(&bytes).unwrap();
    assert_eq!(archive.manifest, manifest);
    archive.write(&dir).unwrap();
    assert_eq!(Authority::load(&dir).unwrap().fingerprint(), overlay.authority.fingerprint());
    for file in FILES.into_iter().filter(|file| !OPTIONAL.contains(file)) {
        let (old, new) = (overlay.dir.read(file).unwrap(), dir.read(file).unwrap());
        assert_eq!(old, new, "{file:?}");
    }
    assert_eq!(Authority::records(&dir).unwrap().issued.len(), 1);
    assert_eq!(PendingInvitations::new(&dir).open_tokens(NOW).unwrap().len(), 1);
    assert!(!files::is_exposed(&dir.path(NodeFile::AuthorityKey)).unwrap());
}

#[test]
fn an_archive_with_anything_else_in_it_is_refused() {
    use tar::EntryType;
    let cases = [
        ("../evil", EntryType::Regular),
        ("/etc/passwd", EntryType::Regular),
        ("authority/issued/../../x.json", EntryType::Regular),
        ("authority/issued/0123.json", EntryType::Regular),
        ("config.toml", EntryType::Regular),
        ("members.json", EntryType::Symlink),
        ("authority/", EntryType::Directory),
    ];
    assert!(unpack(&with(&[])).is_ok());
    for case in cases {
        let refused = unpack(&with(&[case]));
        assert!(matches!(refused, Err(ArchiveError::Unexpected(_))), "{case:?}: {refused:?}");
    }
}

#[test]
fn an_archive_that_lacks_a_part_or_mixes_two_is_refused() {
    let (one, two) = (overlay(), overlay());
    let read = |overlay: &Overlay| unpack(&pack(&overlay.dir, NOW).unwrap().1).unwrap();
    let (mut mixed, other) = (read(&one), read(&two));
    let folder = tempfile::tempdir().unwrap();
    mixed.entries.insert("node.key".into(), other.entries["node.key"].clone());
    assert!(mixed.write(&NodeDir::at(folder.path().join("a"))).is_err());
    let mut foreign = read(&one);
    foreign.manifest.authority = two.authority.fingerprint();
    let refused = foreign.write(&NodeDir::at(folder.path().join("b")));
    assert!(matches!(refused, Err(ArchiveError::Mixed)), "{refused:?}");
    let empty = tar::Builder::new(Vec::new()).into_inner().unwrap();
    assert!(matches!(unpack(&empty), Err(ArchiveError::Missing(MANIFEST))));
}
