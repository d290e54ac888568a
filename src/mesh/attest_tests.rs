use super::*;
use crate::{
    fuzz::Fuzz,
    identity::{
        Attributes, NodeIdentity, Roles as CertifiedRoles,
        test_support::{NOW, Overlay, after, live},
    },
    overlay::linkstate::{MAX_NODES, Roles, Version},
};

fn advert(of: &NodeIdentity, roles: Roles) -> Advertisement {
    let issued = of.peer().starts.as_secs();
    Advertisement {
        origin: of.name().clone(),
        version: Version { issued, incarnation: 1, sequence: 1 },
        lifetime_s: 60,
        roles,
        addresses: Vec::new(),
        serves: Vec::new(),
        links: Vec::new(),
    }
}

fn relay(overlay: &Overlay, name: &str) -> NodeIdentity {
    let entry = Attributes::entry(name.parse().unwrap());
    let roles = CertifiedRoles { relay: true, exit: false };
    overlay.node_with(&Attributes { roles, ..entry }, NOW)
}

/// What `here` finds.
fn check(
    here: &Attestations,
    flood: &Flood,
    certificate: Option<Vec<u8>>,
    now: UnixTime,
) -> Result<(), AttestError> {
    here.check(flood, certificate, now).origin.map(|_| ())
}

fn certificate(of: &NodeIdentity) -> Option<Vec<u8>> {
    Some(of.chain()[0].to_vec())
}

#[test]
fn an_advertisement_is_believed_from_its_origin_whoever_brings_it() {
    let overlay = Overlay::new();
    let (us, utah) = (relay(&overlay, "us"), relay(&overlay, "utah"));
    let here = Attestations::new(&live(&us));
    let there = Attestations::new(&live(&utah));
    let flood = there.sign(advert(&utah, Roles::RELAY)).unwrap();
    assert_eq!(check(&here, &flood, None, NOW), Err(AttestError::NoCertificate));
    assert_eq!(check(&here, &flood, certificate(&us), NOW), Err(AttestError::Certificate));
    assert_eq!(check(&here, &flood, certificate(&utah), NOW), Ok(()));
    assert_eq!(check(&here, &flood, None, NOW), Ok(()), "the certificate is remembered");
    let Notice::Advertisement { certificate: passed_on, .. } = here.notice(&flood) else {
        panic!("not an advertisement")
    };
    assert_eq!(passed_on, certificate(&utah));
}

#[test]
fn statements_in_another_nodes_name_are_refused() {
    let overlay = Overlay::new();
    let (us, utah, liar) =
        (relay(&overlay, "us"), relay(&overlay, "utah"), relay(&overlay, "liar"));
    let here = Attestations::new(&live(&us));
    here.meet(&Arc::new(utah.peer().clone()), &utah.chain()[0]);
    let forged = Attestations::new(&live(&liar)).sign(advert(&utah, Roles::RELAY)).unwrap();
    assert_eq!(check(&here, &forged, None, NOW), Err(AttestError::Signature));
    assert_eq!(check(&here, &forged, certificate(&liar), NOW), Err(AttestError::Certificate));
    assert_eq!(check(&here, &forged, certificate(&utah), NOW), Err(AttestError::Signature));
    let in_our_name = Flood::new(advert(&us, Roles::RELAY), forged.signature);
    assert_eq!(check(&here, &in_our_name, None, NOW), Err(AttestError::Signature));
}

#[test]
fn a_node_cannot_claim_what_its_certificate_does_not_say() {
    let overlay = Overlay::new();
    let (us, utah) = (relay(&overlay, "us"), relay(&overlay, "utah"));
    let here = Attestations::new(&live(&us));
    here.meet(&Arc::new(utah.peer().clone()), &utah.chain()[0]);
    let there = Attestations::new(&live(&utah));
    let exit = there.sign(advert(&utah, Roles::EXIT)).unwrap();
    assert_eq!(check(&here, &exit, None, NOW), Err(AttestError::Overclaimed));
    let served = vec!["mit.edu".to_owned()];
    let served = Advertisement { serves: served, ..advert(&utah, Roles::RELAY) };
    let served = there.sign(served).unwrap();
    assert_eq!(check(&here, &served, None, NOW), Err(AttestError::Overclaimed));
}

#[test]
fn a_new_key_replaces_the_old_one_of_a_node_and_not_the_reverse() {
    let overlay = Overlay::new();
    let (us, old) = (relay(&overlay, "us"), relay(&overlay, "utah"));
    overlay.revoke(old.name(), NOW).unwrap();
    let new = {
        let entry = Attributes::entry("utah".parse().unwrap());
        let roles = CertifiedRoles { relay: true, exit: false };
        overlay.node_with(&Attributes { roles, ..entry }, after(60))
    };
    let here = Attestations::new(&live(&us));
    here.meet(&Arc::new(old.peer().clone()), &old.chain()[0]);
    let flood = Attestations::new(&live(&new)).sign(advert(&new, Roles::RELAY)).unwrap();
    assert_eq!(check(&here, &flood, certificate(&new), after(60)), Ok(()));
    let replayed = Attestations::new(&live(&old)).sign(advert(&old, Roles::NONE)).unwrap();
    assert_eq!(check(&here, &replayed, certificate(&old), after(60)), Ok(()));
    assert_eq!(check(&here, &flood, None, after(60)), Ok(()), "the new key is still at hand");
}

#[test]
fn certificates_without_end_fill_no_more_than_the_cap() {
    let overlay = Overlay::new();
    let us = relay(&overlay, "us");
    let here = Attestations::new(&live(&us));
    for i in 0..2 * MAX_NODES {
        let peer = Peer { name: format!("n{i}").parse().unwrap(), ..us.peer().clone() };
        here.meet(&Arc::new(peer), &us.chain()[0]);
    }
    assert_eq!(here.known().len(), MAX_NODES);
    assert!(here.known().get(us.name()).is_some(), "our own is never dropped");
}

#[test]
fn a_statement_under_a_certificate_must_name_when_that_was_issued() {
    let overlay = Overlay::new();
    let (us, utah) = (relay(&overlay, "us"), relay(&overlay, "utah"));
    let here = Attestations::new(&live(&us));
    let there = Attestations::new(&live(&utah));
    // The next certificate of the same key.
    let (request, later) = (utah.signing_request().unwrap(), after(5 * 24 * 3600));
    let next = utah.renewed(overlay.renew(&request, later).unwrap()).unwrap();
    let newer = there.sign(advert(&next, Roles::RELAY)).unwrap();
    assert_eq!(check(&here, &newer, certificate(&utah), later), Err(AttestError::Certificate));
    let older = there.sign(advert(&utah, Roles::RELAY)).unwrap();
    assert_eq!(check(&here, &older, certificate(&utah), later), Ok(()));
    assert_eq!(check(&here, &newer, None, later), Err(AttestError::Certificate));
    assert_eq!(check(&here, &newer, certificate(&next), later), Ok(()));
    assert_eq!(check(&here, &newer, None, later), Ok(()));
}

#[test]
fn a_written_record_is_checked_again_and_outlives_its_certificate() {
    let (overlay, foreign) = (Overlay::new(), Overlay::new());
    let (us, utah) = (relay(&overlay, "us"), relay(&overlay, "utah"));
    let there = Attestations::new(&live(&utah));
    let address = ([192, 0, 2, 1], 4600).into();
    let flood = Advertisement { addresses: vec![address], ..advert(&utah, Roles::RELAY) };
    let flood = there.sign(flood).unwrap();
    let certified = there.known().get(utah.name()).unwrap();
    let record = certified.record(&flood);
    let here = Attestations::new(&live(&us));
    for now in [NOW, after(10 * 365 * 24 * 3600)] {
        let (peer, read) = here.check_record(&record, now).unwrap();
        assert_eq!((&*peer, read.advert.addresses), (utah.peer(), vec![address]));
    }
    let stranger = Attestations::new(&live(&relay(&foreign, "us")));
    assert_eq!(stranger.check_record(&record, NOW).unwrap_err(), AttestError::Certificate);
    for at in 0..record.record.len() {
        let mut damaged = record.clone();
        // The age is not signed.
        damaged.record[at] ^= 1;
        assert!(at == 0 || here.check_record(&damaged, NOW).is_err(), "byte {at}");
    }
}

#[test]
fn mutated_records_are_their_owners_or_refused() {
    let overlay = Overlay::new();
    let (us, utah, liar) =
        (relay(&overlay, "us"), relay(&overlay, "utah"), relay(&overlay, "liar"));
    let sign = |by: &NodeIdentity| {
        let there = Attestations::new(&live(by));
        let flood = there.sign(advert(by, Roles::RELAY)).unwrap();
        let known = there.known().get(by.name()).unwrap();
        known.record(&flood)
    };
    let records = [sign(&utah), sign(&liar)];
    // The age is not signed.
    let signed = |record: &MemberRecord| wire::decode::<Flood>(&record.record).unwrap().advert;
    let adverts = records.each_ref().map(signed);
    let texts = records.each_ref().map(|record| serde_json::to_vec(record).unwrap());
    let check = |record: &MemberRecord| {
        let here = Attestations::new(&live(&us));
        if let Ok((_, flood)) = here.check_record(record, NOW) {
            assert!(adverts.contains(&flood.advert), "an altered record was accepted");
        }
    };
    Fuzz::new("member-record-text", texts).run(|bytes| {
        if let Ok(record) = serde_json::from_slice(bytes) {
            check(&record);
        }
    });
    // In the text nearly all changes are of the base64.
    let parts = records.iter().flat_map(|one| [one.record.clone(), one.certificate.clone()]);
    Fuzz::new("member-record", parts).run(|bytes| {
        check(&MemberRecord { record: bytes.to_vec(), ..records[0].clone() });
        check(&MemberRecord { certificate: bytes.to_vec(), ..records[0].clone() });
    });
}
