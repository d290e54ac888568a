//! Advertisements are believed from their origin only: each is signed with its origin's key, and
//! whoever passes one on sends the origin's certificate along.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustls::pki_types::CertificateDer;

use crate::{
    identity::{AttestError, Credentials, NodeName, Peer, StatementKey, TlsError, UnixTime},
    overlay::linkstate::{Advertisement, Flood, MAX_NODES, Roles},
    wire::{self, link::Notice},
};

/// Signs this node's advertisements and checks those of others.
pub(super) struct Attestations {
    us: NodeName,
    credentials: Credentials,
    /// The members' certificates that a link showed or an advertisement brought; at most 256.
    known: Mutex<BTreeMap<NodeName, Arc<Certified>>>,
}

/// A certificate that was found good, with what is read from it once instead of at each look.
struct Certified {
    certificate: CertificateDer<'static>,
    key: StatementKey,
    peer: Peer,
}

impl Certified {
    fn new(certificate: CertificateDer<'static>, peer: Peer) -> Result<Self, AttestError> {
        Ok(Self { key: StatementKey::of(&certificate)?, certificate, peer })
    }

    /// Whether the holder made the advertisement, and claims no more in it than is certified.
    fn signed(&self, statement: &[u8], flood: &Flood) -> Result<(), AttestError> {
        self.key.check(statement, &flood.signature)?;
        within_certificate(&flood.advert, &self.peer)
    }
}

impl Attestations {
    pub(super) fn new(credentials: &Credentials) -> Self {
        let identity = credentials.identity();
        let this = Self {
            us: identity.name().clone(),
            credentials: credentials.clone(),
            known: Mutex::default(),
        };
        this.meet(identity.peer(), &identity.chain()[0]);
        this
    }

    /// The newest certificate known for the name and key of `peer`: the one it showed, unless it
    /// has been renewed since.
    pub(super) fn newest_of(&self, peer: &Peer) -> Peer {
        let known = self.known().get(&peer.name).cloned();
        let renewed =
            known.filter(|known| known.peer.key == peer.key && known.peer.expires > peer.expires);
        renewed.map_or_else(|| peer.clone(), |known| known.peer.clone())
    }

    /// Forgets the certificates that the revocation list names; returns whose they are.
    pub(super) fn forget_revoked(&self) -> BTreeSet<NodeName> {
        let mut known = self.known();
        let revoked = known.iter().filter(|(name, certified)| {
            **name != self.us && self.credentials.is_revoked(&certified.peer)
        });
        let revoked: BTreeSet<NodeName> = revoked.map(|(name, _)| name.clone()).collect();
        known.retain(|name, _| !revoked.contains(name));
        revoked
    }

    /// Takes note of the certificate that a neighbour showed in its handshake.
    pub(super) fn meet(&self, peer: &Peer, certificate: &CertificateDer<'static>) {
        match Certified::new(certificate.clone(), peer.clone()) {
            Ok(certified) => self.remember(Arc::new(certified)),
            // The handshake has read it, so this does not happen.
            Err(error) => tracing::warn!(neighbour = %peer.name, %error, "not remembered"),
        }
    }

    fn remember(&self, certified: Arc<Certified>) {
        let (mut known, name) = (self.known(), certified.peer.name.clone());
        if known.len() >= MAX_NODES && !known.contains_key(&name) {
            let other = known.keys().find(|name| **name != self.us).cloned();
            other.and_then(|name| known.remove(&name));
        }
        known.insert(name, certified);
    }

    /// This node's advertisement, signed.
    pub(super) fn sign(&self, advert: Advertisement) -> Result<Flood, TlsError> {
        let signature = self.credentials.sign(&wire::encode(&advert))?;
        Ok(Flood::new(advert, signature))
    }

    /// The notice that carries `flood`, with its origin's certificate if that is another node.
    pub(super) fn notice(&self, flood: &Flood) -> Notice {
        let origin = &flood.advert.origin;
        let certified = self.known().get(origin).cloned().filter(|_| *origin != self.us);
        let certificate = certified.map(|certified| certified.certificate.to_vec());
        Notice::Advertisement { flood: wire::encode(flood), certificate }
    }

    /// Checks that its origin made the advertisement, by the certificate at hand or by the one
    /// that came along; and that it claims no more than that certificate says.
    pub(super) fn check(
        &self,
        flood: &Flood,
        certificate: Option<Vec<u8>>,
        now: UnixTime,
    ) -> Result<(), AttestError> {
        let statement = wire::encode(&flood.advert);
        let origin = &flood.advert.origin;
        let at_hand = self.known().get(origin).cloned();
        let in_time = at_hand.as_ref().filter(|by| by.peer.expires > now);
        let refused = match in_time.map(|by| by.signed(&statement, flood)) {
            Some(Ok(())) => None,
            Some(Err(error)) => Some(error),
            None => Some(AttestError::NoCertificate),
        };
        let same =
            |der: &Vec<u8>| in_time.is_some_and(|by| by.certificate.as_ref() == der.as_slice());
        let certificate = match (refused, certificate.filter(|der| !same(der))) {
            // Nothing to learn.
            (None, None) => return Ok(()),
            (Some(refused), None) => return Err(refused),
            // Its origin has another certificate: renewed, or of a new holder of the name.
            (_, Some(der)) => CertificateDer::from(der),
        };
        let peer = match (self.credentials.member(&certificate, now), refused) {
            (Ok(peer), _) => peer,
            // An old certificate came along; the one at hand does.
            (Err(_), None) => return Ok(()),
            (Err(error), Some(_)) => return Err(error),
        };
        if peer.name != *origin {
            return Err(AttestError::Certificate);
        }
        let certified = Arc::new(Certified::new(certificate, peer)?);
        certified.signed(&statement, flood)?;
        // An older certificate must not displace that of the present holder of the name.
        if at_hand.is_none_or(|at_hand| at_hand.peer.starts <= certified.peer.starts) {
            self.remember(certified);
        }
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<NodeName, Arc<Certified>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn within_certificate(advert: &Advertisement, peer: &Peer) -> Result<(), AttestError> {
    let exits = !advert.roles.contains(Roles::EXIT) || peer.roles.exit;
    let relays = !advert.roles.contains(Roles::RELAY) || peer.roles.relay;
    // An exit that is certified without limits says so; one with limits repeats them.
    let serves = advert.serves == peer.serves;
    (exits && relays && serves).then_some(()).ok_or(AttestError::Overclaimed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        identity::{
            Attributes, NodeIdentity, Roles as CertifiedRoles,
            test_support::{NOW, Overlay, after, live},
        },
        overlay::linkstate::Version,
    };

    fn advert(origin: &str, roles: Roles) -> Advertisement {
        Advertisement {
            origin: origin.parse().unwrap(),
            version: Version { incarnation: 1, sequence: 1 },
            lifetime_s: 60,
            roles,
            serves: Vec::new(),
            links: Vec::new(),
        }
    }

    fn relay(overlay: &Overlay, name: &str) -> NodeIdentity {
        let entry = Attributes::entry(name.parse().unwrap());
        let roles = CertifiedRoles { relay: true, exit: false };
        overlay.node_with(&Attributes { roles, ..entry }, NOW)
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
        let flood = there.sign(advert("utah", Roles::RELAY)).unwrap();
        assert_eq!(here.check(&flood, None, NOW), Err(AttestError::NoCertificate));
        assert_eq!(here.check(&flood, certificate(&us), NOW), Err(AttestError::Certificate));
        assert_eq!(here.check(&flood, certificate(&utah), NOW), Ok(()));
        assert_eq!(here.check(&flood, None, NOW), Ok(()), "the certificate is remembered");
        let Notice::Advertisement { certificate: passed_on, .. } = here.notice(&flood) else {
            panic!("not an advertisement")
        };
        assert_eq!(passed_on, certificate(&utah));
    }

    #[test]
    fn what_another_member_says_in_a_nodes_name_is_refused() {
        let overlay = Overlay::new();
        let (us, utah, liar) =
            (relay(&overlay, "us"), relay(&overlay, "utah"), relay(&overlay, "liar"));
        let here = Attestations::new(&live(&us));
        here.meet(utah.peer(), &utah.chain()[0]);
        let forged = Attestations::new(&live(&liar)).sign(advert("utah", Roles::RELAY)).unwrap();
        assert_eq!(here.check(&forged, None, NOW), Err(AttestError::Signature));
        assert_eq!(here.check(&forged, certificate(&liar), NOW), Err(AttestError::Certificate));
        assert_eq!(here.check(&forged, certificate(&utah), NOW), Err(AttestError::Signature));
        let in_our_name = Flood::new(advert("us", Roles::RELAY), forged.signature);
        assert_eq!(here.check(&in_our_name, None, NOW), Err(AttestError::Signature));
    }

    #[test]
    fn a_node_cannot_claim_what_its_certificate_does_not_say() {
        let overlay = Overlay::new();
        let (us, utah) = (relay(&overlay, "us"), relay(&overlay, "utah"));
        let here = Attestations::new(&live(&us));
        here.meet(utah.peer(), &utah.chain()[0]);
        let there = Attestations::new(&live(&utah));
        let exit = there.sign(advert("utah", Roles::EXIT)).unwrap();
        assert_eq!(here.check(&exit, None, NOW), Err(AttestError::Overclaimed));
        let served = vec!["mit.edu".to_owned()];
        let served = Advertisement { serves: served, ..advert("utah", Roles::RELAY) };
        let served = there.sign(served).unwrap();
        assert_eq!(here.check(&served, None, NOW), Err(AttestError::Overclaimed));
    }

    #[test]
    fn a_node_that_came_back_with_a_new_key_is_believed_and_its_old_key_does_not_displace_it() {
        let overlay = Overlay::new();
        let (us, old) = (relay(&overlay, "us"), relay(&overlay, "utah"));
        overlay.authority.revoke(old.name(), NOW).unwrap();
        let new = {
            let entry = Attributes::entry("utah".parse().unwrap());
            let roles = CertifiedRoles { relay: true, exit: false };
            overlay.node_with(&Attributes { roles, ..entry }, after(60))
        };
        let here = Attestations::new(&live(&us));
        here.meet(old.peer(), &old.chain()[0]);
        let flood = Attestations::new(&live(&new)).sign(advert("utah", Roles::RELAY)).unwrap();
        assert_eq!(here.check(&flood, certificate(&new), after(60)), Ok(()));
        let replayed = Attestations::new(&live(&old)).sign(advert("utah", Roles::NONE)).unwrap();
        assert_eq!(here.check(&replayed, certificate(&old), after(60)), Ok(()));
        assert_eq!(here.check(&flood, None, after(60)), Ok(()), "the new key is still at hand");
    }

    #[test]
    fn certificates_without_end_fill_no_more_than_the_cap() {
        let overlay = Overlay::new();
        let us = relay(&overlay, "us");
        let here = Attestations::new(&live(&us));
        for i in 0..2 * MAX_NODES {
            let peer = Peer { name: format!("n{i}").parse().unwrap(), ..us.peer().clone() };
            here.meet(&peer, &us.chain()[0]);
        }
        assert_eq!(here.known().len(), MAX_NODES);
        assert!(here.known().contains_key(us.name()), "our own is never dropped");
    }
}
