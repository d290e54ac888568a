//! Checks the signatures of advertisements. Each is signed with its origin's key, and a node that
//! passes one on sends the origin's certificate with it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustls::pki_types::CertificateDer;

use super::{
    certificates::{Certificates, Certified},
    record::MemberRecord,
};
use crate::{
    identity::{
        AttestError, Credentials, Fingerprint, NodeName, Peer, StatementKey, TlsError, UnixTime,
    },
    overlay::linkstate::{Advertisement, Flood},
    transport::{Claim, Knock, KnockKey},
    wire::{self, link::Notice},
};

/// Signs this node's advertisements and checks those of others.
pub(super) struct Attestations {
    us: NodeName,
    credentials: Credentials,
    overlay: KnockKey,
    known: Mutex<Certificates>,
}

/// The result of a check, and its cost.
pub(super) struct Checked {
    /// Who made the advertisement.
    pub(super) origin: Result<Arc<Certified>, AttestError>,
    /// Whether a certificate was checked, too.
    pub(super) of_certificate: bool,
}

impl Attestations {
    pub(super) fn new(credentials: &Credentials) -> Self {
        let identity = credentials.identity();
        let us = identity.name().clone();
        let known = Mutex::new(Certificates::of(us.clone()));
        let overlay = KnockKey::of_overlay(&Fingerprint::of(identity.authority()));
        let this = Self { us, credentials: credentials.clone(), overlay, known };
        this.meet(&Arc::new(identity.peer().clone()), &identity.chain()[0]);
        this
    }

    /// The newest certificate known for the name and key of `peer`: the one it showed, unless it
    /// has been renewed since.
    pub(super) fn newest_of(&self, peer: &Peer) -> Peer {
        let known = self.known().get(&peer.name);
        let renewed = known
            .filter(|known| known.peer().key == peer.key && known.peer().expires > peer.expires);
        renewed.map_or_else(|| peer.clone(), |known| (**known.peer()).clone())
    }

    /// The newest certificate known for the name and key of `peer`.
    pub(super) fn certificate(&self, peer: &Peer) -> Option<CertificateDer<'static>> {
        let known = self.known().get(&peer.name);
        known.filter(|known| known.peer().key == peer.key).map(|known| known.certificate().clone())
    }

    /// Deletes the certificates that the revocation list names; returns their keys and nodes.
    pub(super) fn forget_revoked(&self) -> BTreeMap<Fingerprint, NodeName> {
        let mut revoked = BTreeMap::new();
        self.known().forget(|certified| {
            let peer = certified.peer();
            let is_revoked = self.credentials.is_revoked(peer);
            if is_revoked {
                revoked.insert(peer.key, peer.name.clone());
            }
            is_revoked
        });
        revoked
    }

    /// Stores the certificate that a neighbour showed in its handshake.
    pub(super) fn meet(&self, peer: &Arc<Peer>, certificate: &CertificateDer<'static>) {
        match Certified::new(certificate.clone(), peer.clone()) {
            Ok(certified) => self.known().insert(Arc::new(certified)),
            // The handshake has read it, so this does not happen.
            Err(error) => {
                tracing::warn!(neighbour = %peer.name, %error, "the neighbour's certificate was not stored")
            }
        }
    }

    /// Deletes certificates that have ended. The keys stay: their holders may renew them.
    pub(super) fn forget_ended(&self, now: UnixTime) {
        self.known().forget_ended(now);
    }

    /// The public key of a member, if it is known.
    pub(super) fn key_of(&self, name: &NodeName) -> Option<StatementKey> {
        self.known().key_of(name)
    }

    /// Takes what the authority said of a member's key, until there is a certificate.
    pub(super) fn told(&self, name: &NodeName, key: StatementKey) {
        self.known().told(name, key);
    }

    /// What this node shows when it dials the member `name`.
    pub(super) fn knock(&self, name: &NodeName) -> Knock {
        let (own, shared) = {
            let known = self.known();
            (known.key_of(&self.us), known.shared_with(name, &self.credentials))
        };
        let knock = Knock::new(self.overlay.clone());
        match own.zip(shared) {
            Some((own, shared)) => knock.member(&own, shared),
            None => knock,
        }
    }

    /// Whose claim at the door this is.
    pub(super) fn claimant(&self, claim: &Claim<'_>) -> Option<NodeName> {
        self.known().claimant(claim, &self.credentials)
    }

    /// This node's advertisement, signed.
    pub(super) fn sign(&self, advert: Advertisement) -> Result<Flood, TlsError> {
        let signature = self.credentials.sign(&wire::encode(&advert))?;
        Ok(Flood::new(advert, signature))
    }

    /// The notice that carries `flood`, with its origin's certificate.
    pub(super) fn notice(&self, flood: &Flood) -> Notice {
        let certified = self.known().get(&flood.advert.origin);
        let certificate = certified.map(|certified| certified.certificate().to_vec());
        Notice::Advertisement { flood: wire::encode(flood), certificate }
    }

    /// The notice that carries an advertisement of this node to neighbours that know its certificate.
    pub(super) fn own_notice(flood: &Flood) -> Notice {
        Notice::Advertisement { flood: wire::encode(flood), certificate: None }
    }

    /// Checks that its origin signed the advertisement, by the known certificate or by the one that
    /// came with it, and that its claims are certified.
    pub(super) fn check(
        &self,
        flood: &Flood,
        certificate: Option<Vec<u8>>,
        now: UnixTime,
    ) -> Checked {
        let statement = wire::encode(&flood.advert);
        let in_force = |held: &Arc<Certified>| held.peer().expires.as_secs() > now.as_secs();
        let at_hand = self.known().get(&flood.advert.origin).filter(in_force);
        let refused = match at_hand.as_ref().map(|by| by.signed(&statement, flood)) {
            Some(Ok(())) => {
                return Checked {
                    origin: at_hand.ok_or(AttestError::NoCertificate),
                    of_certificate: false,
                };
            }
            Some(Err(error)) => error,
            None => AttestError::NoCertificate,
        };
        // Unknown, or its origin has another certificate. The one that came with it decides then.
        let is_other =
            |came: &Vec<u8>| at_hand.as_ref().is_none_or(|held| **held.certificate() != **came);
        match certificate.filter(is_other) {
            None => Checked { origin: Err(refused), of_certificate: false },
            Some(came) => {
                let origin = self.judge(CertificateDer::from(came), &statement, flood, now);
                Checked { origin, of_certificate: true }
            }
        }
    }

    /// Checks a certificate that came with an advertisement, and the advertisement by it.
    fn judge(
        &self,
        certificate: CertificateDer<'static>,
        statement: &[u8],
        flood: &Flood,
        now: UnixTime,
    ) -> Result<Arc<Certified>, AttestError> {
        let peer = self.credentials.member(&certificate, now)?;
        if peer.name != flood.advert.origin {
            return Err(AttestError::Certificate);
        }
        let certified = Arc::new(Certified::new(certificate, Arc::new(peer))?);
        certified.signed(statement, flood)?;
        self.known().insert(certified.clone());
        Ok(certified)
    }

    /// Checks a stored record. Its certificate may have expired meanwhile. It still says where the
    /// member was, and the member may have a newer one.
    pub(super) fn check_record(
        &self,
        record: &MemberRecord,
        now: UnixTime,
    ) -> Result<(Arc<Peer>, Flood), AttestError> {
        let flood: Flood = wire::decode(&record.record).map_err(|_| AttestError::Signature)?;
        flood.check().map_err(|_| AttestError::Signature)?;
        let certificate = CertificateDer::from(record.certificate.clone());
        let said = Peer::from_certificate(&certificate).map_err(|_| AttestError::Certificate)?;
        let last_second = said.expires.as_secs().saturating_sub(1);
        let then = std::time::Duration::from_secs(now.as_secs().min(last_second));
        let statement = wire::encode(&flood.advert);
        let then = UnixTime::since_unix_epoch(then);
        let certified = self.judge(certificate, &statement, &flood, then)?;
        Ok((certified.peer().clone(), flood))
    }

    fn known(&self) -> MutexGuard<'_, Certificates> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "attest_tests.rs"]
mod tests;
