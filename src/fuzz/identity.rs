//! What strangers, joiners and members hand in: invitations, join messages, certificates, lists.

use rustls::pki_types::CertificateDer;

use super::Fuzz;
use crate::identity::{
    DeskRequest, Fingerprint, Invitation, JoinRefusal, JoinReply, JoinRequest, MemberInfo,
    NodeIdentity, Peer, RevocationList, SigningRequest, Token, Welcome,
    test_support::{NOW, Overlay},
};

fn address() -> std::net::SocketAddr {
    "[2001:db8::1]:4600".parse().unwrap()
}

#[test]
fn mutated_invitations_are_read_or_refused() {
    let invitation = Invitation {
        addresses: vec![address(), "192.0.2.1:4600".parse().unwrap()],
        names: vec!["mit.example.org:4600".parse().unwrap()],
        authority: "mit".parse().unwrap(),
        fingerprint: Fingerprint::of(b"authority"),
        token: Token::from_random([7; 32]),
        name: "utah".parse().unwrap(),
        expires: NOW.as_secs() + 3_600,
    };
    let line = invitation.to_line().unwrap();
    let words: &[&[u8]] = &[b"ron1:", b"ron2:", b"ron3:", b"AAAA", b"=", b" ", b"\xc2\xa0"];
    Fuzz::new("invitation", [line.clone().into_bytes()]).with_words(words).run(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Ok(read) = Invitation::parse(&text, NOW) {
            assert_eq!(read, invitation, "an altered invitation was accepted");
        }
    });
}

#[test]
fn mutated_join_messages_are_read_or_refused() {
    let node = Overlay::new().node("utah", NOW);
    let request = DeskRequest::Join(JoinRequest {
        token: Token::from_random([7; 32]),
        signing_request: node.signing_request().unwrap(),
        listen: vec![address(); 8],
    });
    let renew = DeskRequest::Renew(node.signing_request().unwrap());
    let requests = [request, renew, DeskRequest::Time].map(|request| request.encode().unwrap());
    Fuzz::new("join-request", requests).run(|bytes| {
        if let Ok(request) = DeskRequest::decode(bytes) {
            assert_eq!(DeskRequest::decode(&request.encode().unwrap()).unwrap(), request);
        }
    });
    let welcome = JoinReply::Welcome(Welcome {
        chain: node.chain().iter().map(|certificate| certificate.to_vec()).collect(),
        revocations: node.revoked().der().to_vec(),
        members: vec![MemberInfo {
            name: "mit".parse().unwrap(),
            addresses: vec![address()],
            key: None,
        }],
        time: 1_900_000_000,
    });
    let refused = JoinReply::Refused(JoinRefusal::NameTaken("taken".into()));
    let seeds = [welcome, refused].map(|reply| reply.encode().unwrap());
    Fuzz::new("join-reply", seeds).run(|bytes| {
        if let Ok(JoinReply::Refused(refusal)) = JoinReply::decode(bytes) {
            assert!(!refusal.to_string().contains(char::is_control), "it reaches a terminal");
        }
    });
}

#[test]
fn mutated_signing_requests_are_of_the_key_that_signed_them() {
    let overlay = Overlay::new();
    let nodes = ["utah", "mit"].map(|name| overlay.node(name, NOW));
    let requests = nodes.each_ref().map(|node| node.signing_request().unwrap());
    Fuzz::new("signing-request", requests).run(|bytes| {
        if let Ok(request) = SigningRequest::parse(bytes.to_vec()) {
            let signed = nodes.iter().any(|node| node.peer().key == request.key());
            assert!(signed, "a request for another key was accepted");
        }
    });
}

#[test]
fn mutated_revocation_lists_are_refused() {
    let overlay = Overlay::new();
    overlay.node("utah", NOW);
    let list = overlay.revoke(&"utah".parse().unwrap(), NOW).unwrap();
    Fuzz::new("revocation-list", [list.der().to_vec()]).run(|bytes| {
        if let Ok(read) = RevocationList::parse(bytes, overlay.authority.certificate()) {
            assert_eq!(read, list, "an altered list was accepted");
        }
    });
}

#[test]
fn mutated_certificates_are_read_or_refused() {
    let node: NodeIdentity = Overlay::new().node("utah", NOW);
    Fuzz::new("certificate", [node.chain()[0].to_vec(), node.chain()[1].to_vec()]).run(|bytes| {
        if let Ok(peer) = Peer::from_certificate(&CertificateDer::from(bytes)) {
            peer.attributes().check().expect("no attributes out of bounds");
        }
    });
}
