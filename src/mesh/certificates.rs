//! The members' certificates and keys that a node has seen.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use rustls::pki_types::CertificateDer;

use super::record::MemberRecord;
use crate::{
    identity::{AttestError, Credentials, NodeName, Peer, StatementKey, UnixTime},
    overlay::linkstate::{Advertisement, Flood, MAX_NODES, Roles},
    transport::{Claim, KnockKey, sender},
    wire,
};

/// A verified certificate, with its parsed content.
pub(super) struct Certified {
    certificate: CertificateDer<'static>,
    key: StatementKey,
    peer: Arc<Peer>,
}

/// What is known of at most 256 members, by name. The one that was not used for longest makes room.
pub(super) struct Certificates {
    us: NodeName,
    held: BTreeMap<NodeName, Held>,
    /// Counts the uses.
    uses: u64,
}

/// What is known of a member.
struct Held {
    /// Its certificate, which a link showed or an advertisement brought; `None`: it has ended, or only the key was
    /// told.
    certified: Option<Arc<Certified>>,
    key: StatementKey,
    /// What this node shares with the member, once it was needed; `None` in it: nothing, the key is unusable.
    shared: OnceLock<Option<KnockKey>>,
    used: u64,
}

impl Certified {
    pub(super) fn new(
        certificate: CertificateDer<'static>,
        peer: Arc<Peer>,
    ) -> Result<Self, AttestError> {
        Ok(Self { key: StatementKey::of(&certificate)?, certificate, peer })
    }

    /// The holder, as the certificate describes it.
    pub(super) fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// The certificate itself.
    pub(super) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Checks that the holder signed the advertisement, and that its claims are certified.
    pub(super) fn signed(&self, statement: &[u8], flood: &Flood) -> Result<(), AttestError> {
        self.key.check(statement, &flood.signature)?;
        within_certificate(&flood.advert, &self.peer)
    }

    /// The advertisement as it is stored.
    pub(super) fn record(&self, flood: &Flood) -> MemberRecord {
        MemberRecord {
            name: self.peer.name.clone(),
            certificate: self.certificate.to_vec(),
            record: wire::encode(flood),
        }
    }
}

impl Held {
    fn shared(&self, credentials: &Credentials) -> Option<&KnockKey> {
        let secret = || credentials.shared_with(&self.key);
        let shared = self.shared.get_or_init(|| secret().as_ref().map(KnockKey::of_members));
        shared.as_ref()
    }
}

impl Certificates {
    /// Nothing yet; what is known of `us` never makes room.
    pub(super) fn of(us: NodeName) -> Self {
        Self { us, held: BTreeMap::new(), uses: 0 }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// The newest certificate of the name, if one is in force.
    pub(super) fn get(&mut self, name: &NodeName) -> Option<Arc<Certified>> {
        let held = self.held.get_mut(name)?;
        self.uses += 1;
        held.used = self.uses;
        held.certified.clone()
    }

    pub(super) fn insert(&mut self, certified: Arc<Certified>) {
        let (name, key) = (certified.peer.name.clone(), certified.key);
        let starts = |certified: &Certified| certified.peer.starts.as_secs();
        let held = self.held.get(&name).and_then(|held| held.certified.as_deref()).map(starts);
        // An older certificate must not displace that of the present holder of the name.
        if held.is_none_or(|held| held <= starts(&certified)) {
            self.put(name, key, Some(certified));
        }
    }

    /// Takes the key of a member of which nothing is known.
    pub(super) fn told(&mut self, name: &NodeName, key: StatementKey) {
        if !self.held.contains_key(name) {
            self.put(name.clone(), key, None);
        }
    }

    pub(super) fn key_of(&self, name: &NodeName) -> Option<StatementKey> {
        self.held.get(name).map(|held| held.key)
    }

    /// The key that this node shares with the member.
    pub(super) fn shared_with(
        &self,
        name: &NodeName,
        credentials: &Credentials,
    ) -> Option<KnockKey> {
        self.held.get(name)?.shared(credentials).cloned()
    }

    /// The member whose claim this is. One in 256 of them is asked for.
    pub(super) fn claimant(
        &self,
        claim: &Claim<'_>,
        credentials: &Credentials,
    ) -> Option<NodeName> {
        let mut may_be = self.held.iter().filter(|(_, held)| sender(&held.key) == claim.sender);
        let by = |held: &Held| held.shared(credentials).is_some_and(|shared| claim.is_by(shared));
        may_be.find(|(_, held)| by(held)).map(|(name, _)| name.clone())
    }

    /// Deletes certificates and keys of those of which `is_gone` says so, but our own.
    pub(super) fn forget(&mut self, mut is_gone: impl FnMut(&Certified) -> bool) {
        let us = &self.us;
        self.held.retain(|name, held| {
            name == us || !held.certified.as_deref().is_some_and(&mut is_gone)
        });
    }

    /// Deletes certificates that have ended, but our own; the keys stay.
    pub(super) fn forget_ended(&mut self, now: UnixTime) {
        for (_, held) in self.held.iter_mut().filter(|(name, _)| **name != self.us) {
            held.certified.take_if(|certified| certified.peer.expires <= now);
        }
    }

    fn put(&mut self, name: NodeName, key: StatementKey, certified: Option<Arc<Certified>>) {
        let before = self.held.remove(&name);
        if self.held.len() >= MAX_NODES {
            let others = self.held.iter().filter(|(name, _)| **name != self.us);
            let last = others.min_by_key(|(_, held)| held.used).map(|(name, _)| name.clone());
            last.and_then(|name| self.held.remove(&name));
        }
        self.uses += 1;
        let shared = before.filter(|held| held.key == key).map(|held| held.shared);
        let held = Held { certified, key, shared: shared.unwrap_or_default(), used: self.uses };
        self.held.insert(name, held);
    }
}

fn within_certificate(advert: &Advertisement, peer: &Peer) -> Result<(), AttestError> {
    // A signature is valid under each certificate of a key. The certificate under which it was made
    // orders versions.
    if advert.version.issued != peer.starts.as_secs() {
        return Err(AttestError::Certificate);
    }
    let exits = !advert.roles.contains(Roles::EXIT) || peer.roles.exit;
    let relays = !advert.roles.contains(Roles::RELAY) || peer.roles.relay;
    // An exit that is certified without limits says so; one with limits repeats them.
    let serves = advert.serves == peer.serves;
    (exits && relays && serves).then_some(()).ok_or(AttestError::Overclaimed)
}
