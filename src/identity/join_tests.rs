//! Tests of joining, without the network.

use proptest::prelude::*;

use super::*;
use crate::identity::{
    Attributes, Granted,
    test_support::{NOW, Overlay, after},
};

/// An overlay, an invitation of `utah` for an hour, and the key that `utah` made.
struct Joining {
    overlay: Overlay,
    invitations: PendingInvitations,
    invitation: Invitation,
    key: NodeKey,
}

impl Joining {
    fn new() -> Self {
        let overlay = Overlay::new();
        let invitations = PendingInvitations::new(&overlay.dir);
        let attributes = Attributes::entry("utah".parse().unwrap());
        let expires = NOW.as_secs() + 3600;
        let invitation = Invitation {
            addresses: vec!["192.0.2.1:4600".parse().unwrap()],
            names: Vec::new(),
            authority: "mit".parse().unwrap(),
            fingerprint: overlay.authority.fingerprint(),
            token: Token::from_random([9; 32]),
            name: attributes.name.clone(),
            expires,
        };
        invitations
            .add(&invitation.token, &Granted { attributes, expires, by_dashboard: false }, NOW)
            .unwrap();
        Self { overlay, invitations, invitation, key: NodeKey::generate().unwrap() }
    }

    fn request(&self) -> JoinRequest {
        JoinRequest {
            token: self.invitation.token.clone(),
            signing_request: self.key.signing_request().unwrap(),
            listen: vec!["[2001:db8::2]:4600".parse().unwrap()],
        }
    }

    /// The answer, after a trip through its encoding.
    fn ask(&mut self, request: &JoinRequest, now: UnixTime) -> JoinReply {
        let asked = DeskRequest::Join(request.clone());
        let DeskRequest::Join(request) = DeskRequest::decode(&asked.encode().unwrap()).unwrap()
        else {
            panic!("another request")
        };
        let reply = match redeem(
            &self.overlay.authority,
            &mut self.invitations,
            &request,
            Actor::Node,
            now,
        ) {
            Ok(welcome) => JoinReply::Welcome(Welcome { members: vec![member("mit")], ..welcome }),
            Err(refusal) => JoinReply::Refused(refusal),
        };
        JoinReply::decode(&reply.encode().unwrap()).unwrap()
    }
}

#[test]
fn an_invited_node_becomes_a_member() {
    let mut joining = Joining::new();
    let JoinReply::Welcome(welcome) = joining.ask(&joining.request(), NOW) else {
        panic!("refused");
    };
    assert_eq!(welcome.members, [member("mit")]);
    let identity = welcome.accept(&joining.invitation, &joining.key).unwrap();
    assert_eq!(identity.name().as_str(), "utah");
    assert_eq!(identity.authority(), joining.overlay.authority.certificate());
}

#[test]
fn an_invitation_is_good_once() {
    let mut joining = Joining::new();
    let request = joining.request();
    assert!(matches!(joining.ask(&request, NOW), JoinReply::Welcome(_)));
    let reply = joining.ask(&request, NOW);
    assert!(
        matches!(&reply, JoinReply::Refused(JoinRefusal::Invitation(why)) if why.contains("used")),
        "{reply:?}"
    );
}

#[test]
fn a_request_that_is_refused_says_why_and_keeps_the_invitation() {
    let mut joining = Joining::new();
    let good = joining.request();
    let mut forged = good.signing_request.clone();
    *forged.last_mut().unwrap() ^= 1;
    let cases = [
        (
            JoinRequest { token: Token::from_random([0; 32]), ..good.clone() },
            NOW,
            "no such invitation",
        ),
        (good.clone(), after(3600), "expired"),
        (JoinRequest { signing_request: forged, ..good.clone() }, NOW, "not acceptable"),
        (
            JoinRequest { signing_request: vec![0; 2049], ..good.clone() },
            NOW,
            "more than 2048 bytes",
        ),
        (
            JoinRequest { signing_request: other_kind_of_key(), ..good.clone() },
            NOW,
            "not acceptable",
        ),
    ];
    for (request, now, why) in cases {
        let reply = joining.ask(&request, now);
        assert!(
            matches!(&reply, JoinReply::Refused(r) if r.to_string().contains(why)),
            "{why}: {reply:?}"
        );
    }
    assert!(matches!(joining.ask(&good, NOW), JoinReply::Welcome(_)));
}

#[test]
fn an_invitation_is_open_again_when_no_certificate_could_be_made() {
    let mut joining = Joining::new();
    let request = joining.request();
    let log = joining.overlay.dir.path(crate::identity::NodeFile::Audit);
    std::fs::create_dir(&log).unwrap();
    assert_eq!(joining.ask(&request, NOW), JoinReply::Refused(JoinRefusal::Internal));
    std::fs::remove_dir(&log).unwrap();
    assert!(matches!(joining.ask(&request, NOW), JoinReply::Welcome(_)));
    assert!(matches!(joining.ask(&request, NOW), JoinReply::Refused(JoinRefusal::Invitation(_))));
}

#[test]
fn a_name_belongs_to_one_node_until_it_is_revoked() {
    let mut joining = Joining::new();
    joining.overlay.node("utah", NOW);
    let request = joining.request();
    let reply = joining.ask(&request, NOW);
    assert!(matches!(&reply, JoinReply::Refused(JoinRefusal::NameTaken(_))), "{reply:?}");
    joining.overlay.authority.revoke(&joining.invitation.name, Actor::Node, NOW).unwrap();
    assert!(matches!(joining.ask(&request, NOW), JoinReply::Welcome(_)));
}

#[test]
fn a_welcome_for_another_key_name_or_overlay_is_not_accepted() {
    let mut joining = Joining::new();
    let JoinReply::Welcome(welcome) = joining.ask(&joining.request(), NOW) else {
        panic!("refused");
    };
    let good = &joining.invitation;
    let other_name = Invitation { name: "mit".parse().unwrap(), ..good.clone() };
    let other_overlay = Invitation { fingerprint: Fingerprint::of(b"other"), ..good.clone() };
    assert!(welcome.accept(&other_name, &joining.key).is_err());
    assert!(welcome.accept(&other_overlay, &joining.key).is_err());
    assert!(welcome.accept(good, &NodeKey::generate().unwrap()).is_err());
}

#[test]
fn messages_beyond_their_caps_are_not_read() {
    let joining = Joining::new();
    let many = vec!["192.0.2.1:1".parse().unwrap(); MAX_ADDRESSES + 1];
    let request = JoinRequest { listen: many.clone(), ..joining.request() };
    let request = DeskRequest::Join(request);
    assert!(DeskRequest::decode(&request.encode().unwrap()).is_err());
    let welcome = |members| {
        JoinReply::Welcome(Welcome { chain: vec![], revocations: vec![], members, time: 0 })
            .encode()
            .unwrap()
    };
    assert!(JoinReply::decode(&welcome(vec![member("a"); MAX_MEMBERS])).is_ok());
    assert!(JoinReply::decode(&welcome(vec![member("a"); MAX_MEMBERS + 1])).is_err());
    assert!(
        JoinReply::decode(&welcome(vec![MemberInfo { addresses: many, ..member("a") }])).is_err()
    );
    let escape = JoinReply::Refused(JoinRefusal::Request("\u{1b}[2J".into()));
    assert!(JoinReply::decode(&escape.encode().unwrap()).is_err());
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = DeskRequest::decode(&bytes);
        let _ = JoinReply::decode(&bytes);
        let _ = SigningRequest::parse(bytes.clone());
    }
}

fn member(name: &str) -> MemberInfo {
    let addresses = vec!["192.0.2.1:4600".parse().unwrap()];
    MemberInfo { name: name.parse().unwrap(), addresses, key: None }
}

/// A valid request of a kind of key that the authority does not certify.
fn other_kind_of_key() -> Vec<u8> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    rcgen::CertificateParams::default().serialize_request(&key).unwrap().der().to_vec()
}
