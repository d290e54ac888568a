//! Tests of the node's folder.

use super::*;

#[cfg(unix)]
#[test]
fn a_group_readable_key_is_refused_with_the_command_that_mends_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let dir = NodeDir::at(folder.path());
    dir.write(NodeFile::Key, b"secret").unwrap();
    assert_eq!(dir.read(NodeFile::Key).unwrap(), b"secret");
    for mode in [0o640, 0o604, 0o620] {
        let path = dir.path(NodeFile::Key);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let message = dir.read(NodeFile::Key).unwrap_err().to_string();
        assert!(message.contains(&format!("chmod 600 {}", path.display())), "{message}");
    }
}

#[test]
fn a_node_is_never_begun_over_another() {
    let folder = tempfile::tempdir().unwrap();
    let dir = NodeDir::at(folder.path().join("n"));
    dir.begin().unwrap();
    dir.begin().unwrap();
    dir.write(NodeFile::Key, b"k").unwrap();
    assert!(
        matches!(dir.begin(), Err(StoreError::Exists(path)) if path == dir.path(NodeFile::Key))
    );
}

#[test]
fn a_configuration_that_people_wrote_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let dir = NodeDir::at(folder.path());
    dir.write_default_config("a").unwrap();
    dir.write_default_config("b").unwrap();
    assert_eq!(dir.read(NodeFile::Config).unwrap(), b"a");
}

#[test]
fn an_old_folder_is_brought_up_to_date_also_after_an_interruption() {
    let folder = tempfile::tempdir().unwrap();
    let dir = NodeDir::at(folder.path());
    assert!(!dir.bring_up_to_date().unwrap());
    for name in ["ca.key", "ca.crt", "revoked.crl", "node.crt"] {
        files::write(&folder.path().join(name), name.as_bytes()).unwrap();
    }
    fs::create_dir(folder.path().join("issued")).unwrap();
    files::write(&folder.path().join("issued/1.json"), b"{}").unwrap();
    // An earlier attempt ended after the first file.
    fs::create_dir(folder.path().join("authority")).unwrap();
    fs::rename(folder.path().join("ca.crt"), dir.path(NodeFile::AuthorityCertificate)).unwrap();
    assert!(dir.has_node() && !dir.has_authority());
    assert!(dir.bring_up_to_date().unwrap());
    assert!(dir.has_authority() && !dir.bring_up_to_date().unwrap());
    let text = |file| String::from_utf8(dir.read(file).unwrap()).unwrap();
    assert_eq!(text(NodeFile::AuthorityKey), "ca.key");
    assert_eq!(text(NodeFile::AuthorityCertificate), "ca.crt");
    assert_eq!(text(NodeFile::AuthorityRevoked), "revoked.crl");
    assert_eq!(text(NodeFile::Revoked), "revoked.crl");
    assert_eq!(text(NodeFile::Chain), "node.crt");
    assert!(dir.path(NodeFile::Issued).join("1.json").exists());
    let left: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(
        left.len() == 2 && left.contains(&"authority".into()) && left.contains(&"state".into())
    );
}

#[test]
fn a_missing_file_says_how_a_node_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let message = NodeDir::at(folder.path()).read(NodeFile::Chain).unwrap_err().to_string();
    assert!(message.contains("ronproxy init"), "{message}");
}
