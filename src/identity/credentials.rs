//! The identity of a running node: its certificate, and the revocation list. Both are replaced
//! here, while the node runs.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustls::{
    client::danger::ServerCertVerifier,
    pki_types::CertificateDer,
    server::danger::ClientCertVerifier,
    sign::{CertifiedKey, Signer},
};
use tokio::sync::watch;

use super::{
    AttestError, AuthorityContact, Clock, IdentityError, NodeDir, NodeFile, NodeIdentity, NodeName,
    Peer, RevocationError, StatementKey, TlsError, UnixTime,
    attest::{CONTEXT, signer},
    clock::skew,
    tls::{member_as_client, member_as_server},
};

/// A node's identity in use. Cheap to clone; all clones see the same.
///
/// TLS configurations, signatures and checks read it at each use. So a renewed certificate and a
/// newer revocation list count from the next handshake, without a restart.
#[derive(Clone)]
pub struct Credentials(Arc<Shared>);

struct Shared {
    clock: Clock,
    /// Where changes are written down; `None`: nowhere, as in a lab.
    dir: Option<NodeDir>,
    current: watch::Sender<Arc<Current>>,
    /// Held while the next state is computed from the present one.
    changing: Mutex<()>,
    signer: Box<dyn Signer>,
    contact: Mutex<Option<AuthorityContact>>,
    ignored: [AtomicU64; ListIgnored::ALL.len()],
    out_of_date: AtomicU64,
    refused_as_revoked: AtomicU64,
    skew: Mutex<Option<i64>>,
}

/// The identity in force, and the values derived from it.
pub(super) struct Current {
    pub(super) identity: Arc<NodeIdentity>,
    pub(super) certified: Arc<CertifiedKey>,
    /// Verifies nodes to which we connect.
    pub(super) servers: Arc<dyn ServerCertVerifier>,
    /// Verifies nodes that connect to us.
    pub(super) clients: Arc<dyn ClientCertVerifier>,
}

/// Why a revocation list that a neighbour sent is not taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListIgnored {
    /// The list in force is the same or newer.
    Stale,
    /// It is not signed by the authority.
    Forged,
    /// It is no list.
    Unreadable,
}

impl ListIgnored {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 3] = [Self::Stale, Self::Forged, Self::Unreadable];

    /// The stable name, as in metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Forged => "forged",
            Self::Unreadable => "unreadable",
        }
    }
}

/// Wakes tasks that depend on the certificate or the revocation list.
#[derive(Debug)]
pub struct Changes(watch::Receiver<Arc<Current>>);

impl Changes {
    /// Returns after the next change. Several changes since the last call count as one.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            // The node has ended, so there are no more changes.
            std::future::pending::<()>().await;
        }
    }
}

impl Current {
    fn new(identity: NodeIdentity) -> Result<Self, TlsError> {
        Ok(Self {
            certified: Arc::new(identity.certified()?),
            servers: member_as_server(&identity)?,
            clients: member_as_client(&identity)?,
            identity: Arc::new(identity),
        })
    }
}

impl Credentials {
    /// The credentials of a node that starts as `identity` and checks dates against `clock`.
    ///
    /// # Errors
    /// When `rustls` refuses the identity.
    pub fn new(identity: NodeIdentity, clock: Clock) -> Result<Self, TlsError> {
        let current = Current::new(identity)?;
        let signer = signer(&current.certified)?;
        let current = watch::Sender::new(Arc::new(current));
        let counters = || std::array::from_fn(|_| AtomicU64::new(0));
        Ok(Self(Arc::new(Shared {
            clock,
            dir: None,
            current,
            changing: Mutex::default(),
            signer,
            contact: Mutex::default(),
            ignored: counters(),
            out_of_date: AtomicU64::new(0),
            refused_as_revoked: AtomicU64::new(0),
            skew: Mutex::default(),
        })))
    }

    /// The credentials of the node in `dir`. Changes are written there.
    ///
    /// # Errors
    /// When the identity in the folder is incomplete or damaged.
    pub fn load(dir: &NodeDir, clock: Clock) -> Result<Self, IdentityError> {
        let contact = AuthorityContact::load(dir).unwrap_or_else(|error| {
            tracing::warn!(%error, "the authority's address is not known until a link shows it");
            None
        });
        let this = Self::new(NodeIdentity::load(dir)?, clock)?.with_contact(contact);
        let mut shared = Arc::into_inner(this.0).ok_or(IdentityError::Chain)?;
        shared.dir = Some(dir.clone());
        Ok(Self(Arc::new(shared)))
    }

    /// The same, knowing where the authority is.
    #[must_use]
    pub fn with_contact(self, contact: Option<AuthorityContact>) -> Self {
        *self.contact_lock() = contact;
        self
    }

    /// The identity in force.
    #[must_use]
    pub fn identity(&self) -> Arc<NodeIdentity> {
        self.current().identity.clone()
    }

    /// What the node's certificate says now.
    #[must_use]
    pub fn peer(&self) -> Peer {
        self.current().identity.peer().clone()
    }

    /// The node's own certificate in force.
    #[must_use]
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.current().identity.chain()[0].clone()
    }

    /// The clock against which dates of certificates are checked.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// What that clock shows.
    #[must_use]
    pub fn now(&self) -> UnixTime {
        self.0.clock.now()
    }

    /// To be told of changes.
    #[must_use]
    pub fn changes(&self) -> Changes {
        Changes(self.0.current.subscribe())
    }

    /// Takes over the node's next certificate and shows it from the next handshake on. False if it
    /// ends no later than the one in force.
    ///
    /// # Errors When it is not the authority's for this node's key and name, or cannot be written.
    /// In the second case it is in force nevertheless.
    pub fn renew(&self, chain: Vec<CertificateDer<'static>>) -> Result<bool, IdentityError> {
        let _one_at_a_time = self.0.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let next = self.next(chain)?;
        if !self.ends_later(&next) {
            return Ok(false);
        }
        self.swap(next)?;
        self.forget_refusals();
        if let Some(dir) = &self.0.dir {
            self.identity().save_chain(dir)?;
        }
        Ok(true)
    }

    /// Whether [`Self::renew`] would take over this certificate: it changes nothing.
    ///
    /// # Errors When it is not the authority's for this node's key and name.
    pub fn would_renew(&self, chain: Vec<CertificateDer<'static>>) -> Result<bool, IdentityError> {
        Ok(self.ends_later(&self.next(chain)?))
    }

    /// This node with another certificate, if that is the authority's for its key and name.
    fn next(&self, chain: Vec<CertificateDer<'static>>) -> Result<NodeIdentity, IdentityError> {
        let next = self.identity().renewed(chain)?;
        // If its dates do not fit this machine's clock, the clock is wrong, not the certificate.
        let starts = next.peer().starts;
        member_as_client(&next)?
            .verify_client_cert(&next.chain()[0], &[], starts)
            .map_err(|_| IdentityError::NotIssued)?;
        Ok(next)
    }

    fn ends_later(&self, next: &NodeIdentity) -> bool {
        next.peer().expires > self.current().identity.peer().expires
    }

    /// Takes over a revocation list if it is newer than the one in force and signed by the
    /// overlay's authority. Tasks with connections then check their peers ([`Self::changes`]).
    ///
    /// # Errors The reason why it is ignored. The reason is counted.
    pub fn learn_revocations(&self, der: &[u8]) -> Result<u64, ListIgnored> {
        let taken = self.take_revocations(der);
        taken.inspect_err(|reason| {
            self.0.ignored[*reason as usize].fetch_add(1, Ordering::Relaxed);
        })
    }

    fn take_revocations(&self, der: &[u8]) -> Result<u64, ListIgnored> {
        let _one_at_a_time = self.0.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = (*self.identity()).clone();
        let newer = next.learn_revocations(der).map_err(|error| match error {
            RevocationError::Forged => ListIgnored::Forged,
            _ => ListIgnored::Unreadable,
        })?;
        if !newer {
            return Err(ListIgnored::Stale);
        }
        let number = next.revoked().number();
        self.swap(next).map_err(|_| ListIgnored::Unreadable)?;
        if let Some(dir) = &self.0.dir
            && let Err(error) = self.identity().save_revocations(dir)
        {
            // It is in force. After a restart a neighbour sends it again.
            tracing::warn!(%error, "the revocation list could not be written down");
        }
        Ok(number)
    }

    /// Takes over the list in the node's folder, where the authority's commands write it. `None`
    /// when it is not newer than the one in force.
    ///
    /// # Errors
    /// When the file cannot be read, or is no list of this overlay.
    pub fn reload_revocations(&self) -> Result<Option<u64>, IdentityError> {
        let Some(dir) = &self.0.dir else { return Ok(None) };
        match self.take_revocations(&dir.read(NodeFile::Revoked)?) {
            Ok(number) => Ok(Some(number)),
            Err(ListIgnored::Stale) => Ok(None),
            Err(ListIgnored::Forged) => Err(RevocationError::Forged.into()),
            Err(ListIgnored::Unreadable) => Err(RevocationError::Unreadable.into()),
        }
    }

    /// Revocation lists that were ignored so far, by reason.
    #[must_use]
    pub fn lists_ignored(&self) -> Vec<(ListIgnored, u64)> {
        let counts = self.0.ignored.iter().map(|count| count.load(Ordering::Relaxed));
        ListIgnored::ALL.into_iter().zip(counts).collect()
    }

    /// Whether the certificate that `peer` showed is revoked.
    #[must_use]
    pub fn is_revoked(&self, peer: &Peer) -> bool {
        self.current().identity.revoked().contains(peer)
    }

    /// Reads a certificate that came from a third node, if it is a member's at `now`.
    ///
    /// # Errors
    /// [`AttestError::Certificate`].
    pub fn member(
        &self,
        certificate: &CertificateDer<'_>,
        now: UnixTime,
    ) -> Result<Peer, AttestError> {
        let verified = self.current().clients.verify_client_cert(certificate, &[], now);
        verified.map_err(|_| AttestError::Certificate)?;
        Peer::from_certificate(certificate).map_err(|_| AttestError::Certificate)
    }

    /// The node's signature of `statement`: Ed25519, 64 bytes.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn sign(&self, statement: &[u8]) -> Result<Vec<u8>, TlsError> {
        Ok(self.0.signer.sign(&[CONTEXT, statement].concat())?)
    }

    /// The secret that this node shares with the member of this key alone. `None`: no such key exists.
    #[must_use]
    pub fn shared_with(&self, member: &StatementKey) -> Option<[u8; 32]> {
        self.current().identity.shared_with(member)
    }

    /// Where the authority's node is, as far as this node knows; `None` at the authority itself.
    #[must_use]
    pub fn authority(&self) -> Option<AuthorityContact> {
        self.contact_lock().clone()
    }

    /// Records where the node `name` was seen, if it is the authority's node.
    pub fn seen_at(&self, name: &NodeName, addresses: &[SocketAddr]) {
        let mut contact = self.contact_lock();
        let Some(known) = contact.as_mut().filter(|contact| contact.name == *name) else { return };
        if known.seen_at(addresses)
            && let Some(dir) = &self.0.dir
            && let Err(error) = known.save(dir)
        {
            tracing::warn!(%error, "the authority's address could not be written down");
        }
    }

    /// How many certificates were refused so far because their dates do not fit this machine's
    /// clock: many such certificates, or the authority's, mean that the clock is wrong.
    #[must_use]
    pub fn refused_by_date(&self) -> u64 {
        self.0.out_of_date.load(Ordering::Relaxed)
    }

    /// Counts a certificate, a peer's or our own, that was refused because of its dates.
    pub fn count_refused_by_date(&self) {
        self.0.out_of_date.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a handshake in which a member refused our certificate as revoked; returns how many
    /// there were, with this one. That is the member's word, and no list of the authority.
    pub fn count_refused_as_revoked(&self) -> u64 {
        1 + self.0.refused_as_revoked.fetch_add(1, Ordering::Relaxed)
    }

    /// Forgets what members said of this node's certificate: another one accepts it, or the authority has
    /// renewed it.
    pub fn forget_refusals(&self) {
        self.0.refused_as_revoked.store(0, Ordering::Relaxed);
    }

    /// How often members refused this node's certificate as revoked since one last accepted it.
    #[must_use]
    pub fn refused_as_revoked(&self) -> u64 {
        self.0.refused_as_revoked.load(Ordering::Relaxed)
    }

    /// Records the authority's clock, in seconds since 1970; returns by how many seconds this
    /// machine's clock is ahead of it.
    pub fn compare_clock(&self, authority: u64) -> i64 {
        let ahead = skew(self.now(), authority);
        *self.0.skew.lock().unwrap_or_else(PoisonError::into_inner) = Some(ahead);
        ahead
    }

    /// By how many seconds this machine's clock is ahead of the authority's, as last compared.
    #[must_use]
    pub fn clock_ahead(&self) -> Option<i64> {
        *self.0.skew.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn current(&self) -> Arc<Current> {
        self.0.current.borrow().clone()
    }

    fn swap(&self, next: NodeIdentity) -> Result<(), TlsError> {
        self.0.current.send_replace(Arc::new(Current::new(next)?));
        Ok(())
    }

    fn contact_lock(&self) -> MutexGuard<'_, Option<AuthorityContact>> {
        self.0.contact.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.identity, f)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({:?})", self.identity())
    }
}

#[cfg(test)]
#[path = "credentials_tests.rs"]
mod tests;
