//! Tests of the invitations given out.

use super::*;
use crate::identity::test_support::{NOW, after};

fn granted(name: &str, seconds: u64) -> Granted {
    Granted {
        attributes: Attributes::entry(name.parse().unwrap()),
        expires: NOW.as_secs() + seconds,
        by_dashboard: false,
    }
}

fn pending() -> (tempfile::TempDir, PendingInvitations) {
    let folder = tempfile::tempdir().unwrap();
    let dir = NodeDir::at(folder.path());
    dir.folder(NodeFile::AuthorityFolder).unwrap();
    (folder, PendingInvitations::new(&dir))
}

fn token(number: u16) -> Token {
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&number.to_be_bytes());
    Token::from_random(bytes)
}

#[test]
fn a_token_is_good_once_also_after_a_restart() {
    let (_folder, mut pending) = pending();
    pending.add(&token(1), &granted("utah", 60), NOW).unwrap();
    let mut restarted = PendingInvitations::new(&pending.dir);
    assert_eq!(restarted.redeem(&token(1), NOW).unwrap().name.as_str(), "utah");
    assert!(matches!(pending.redeem(&token(1), NOW), Err(RedeemError::Used)));
}

#[test]
fn unknown_and_expired_tokens_grant_nothing() {
    let (_folder, mut pending) = pending();
    pending.add(&token(1), &granted("utah", 60), NOW).unwrap();
    assert!(matches!(pending.redeem(&token(2), NOW), Err(RedeemError::Unknown)));
    assert!(matches!(pending.redeem(&token(1), after(60)), Err(RedeemError::Expired)));
}

#[test]
fn eight_who_come_at_once_get_one_certificate() {
    let (_folder, pending) = pending();
    pending.add(&token(1), &granted("utah", 60), NOW).unwrap();
    let redeem = || pending.clone().redeem(&token(1), NOW).is_ok();
    let won = std::thread::scope(|scope| {
        let all: Vec<_> = (0..8).map(|_| scope.spawn(redeem)).collect();
        all.into_iter().map(|thread| thread.join().unwrap()).filter(|won| *won).count()
    });
    assert_eq!(won, 1);
}

#[test]
fn all_invitations_of_a_name_and_no_other_are_cancelled_together() {
    let (_folder, mut pending) = pending();
    let id = pending.add(&token(1), &granted("utah", 60), NOW).unwrap();
    pending.add(&token(2), &granted("mit", 60), NOW).unwrap();
    pending.add(&token(3), &granted("mit", 60), NOW).unwrap();
    // A name may look like an identifier.
    assert!(pending.cancel_all_of(&id.parse().unwrap(), NOW).unwrap().is_empty());
    assert_eq!(pending.cancel_all_of(&"mit".parse().unwrap(), NOW).unwrap().len(), 2);
    assert!(pending.redeem(&token(1), NOW).is_ok());
    assert!(matches!(pending.redeem(&token(2), NOW), Err(RedeemError::Cancelled)));
}

#[test]
fn no_token_is_on_disk() {
    let (folder, pending) = pending();
    pending.add(&token(1), &granted("utah", 60), NOW).unwrap();
    let hash = hex(&token(1).hash());
    assert!(folder.path().join("authority/invitations").join(format!("{hash}.json")).exists());
}

#[test]
fn a_cancelled_invitation_grants_nothing_and_says_so() {
    let (_folder, mut pending) = pending();
    let id = pending.add(&token(1), &granted("utah", 60), NOW).unwrap();
    pending.add(&token(2), &granted("mit", 60), NOW).unwrap();
    pending.add(&token(3), &granted("mit", 60), NOW).unwrap();
    for nobody in ["mi", "cornell", "", &id[..MIN_ID_LEN - 1]] {
        assert!(matches!(pending.cancel(nobody, NOW), Err(PendingError::NotFound(_))));
    }
    assert_eq!(pending.cancel(&id, NOW).unwrap().len(), 1);
    assert_eq!(pending.cancel("mit", NOW).unwrap().len(), 2);
    for number in 1..=3 {
        let refused = pending.redeem(&token(number), NOW);
        assert!(matches!(refused, Err(RedeemError::Cancelled)), "{refused:?}");
    }
}

#[test]
fn expired_invitations_are_marked_for_a_day_and_then_swept() {
    let (_folder, pending) = pending();
    pending.add(&token(1), &granted("utah", 60), NOW).unwrap();
    let states = |now| {
        let list = pending.list(now).unwrap().invited;
        list.iter().map(|invited| invited.state).collect::<Vec<_>>()
    };
    assert_eq!(states(NOW), [InvitationState::Open]);
    assert_eq!(states(after(60)), [InvitationState::Expired]);
    assert_eq!(pending.open_tokens(after(59)).unwrap(), [token(1).hash()]);
    assert!(pending.open_tokens(after(60)).unwrap().is_empty());
    assert_eq!(states(after(60 + REMEMBERED)), []);
}

#[test]
fn a_damaged_invitation_is_named_and_hides_no_other() {
    let (_folder, pending) = pending();
    pending.add(&token(1), &granted("utah", 60), NOW).unwrap();
    fs::write(pending.dir.path(NodeFile::Invitations).join("x.json"), "{").unwrap();
    let list = pending.list(NOW).unwrap();
    assert_eq!(list.invited.len(), 1);
    assert!(list.damaged[0].to_string().contains("x.json"), "{:?}", list.damaged);
}

#[test]
fn the_cap_counts_until_invitations_expire() {
    let (_folder, pending) = pending();
    let folder = pending.dir.folder(NodeFile::Invitations).unwrap();
    let text = serde_json::to_vec(&granted("utah", 60)).unwrap();
    for number in 0..MAX_PENDING {
        fs::write(folder.join(format!("{number}.json")), &text).unwrap();
    }
    let add = |now| pending.add(&token(1), &granted("mit", 900), now);
    assert!(matches!(add(NOW), Err(PendingError::Full)));
    add(after(60)).unwrap();
    assert_eq!(fs::read_dir(folder).unwrap().count(), 1);
}
