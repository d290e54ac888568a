//! Who is a member, while it is running: revocations and renewals spread over links, and what
//! belongs to a node that is no member any more ends.
//!
//! A connection is bound to the key that its peer proved in the handshake. It lasts as long as the
//! newest certificate known for that name and key: a renewed node shows its new certificate over
//! its standing links, and advertisements carry it to everyone else, so neither links nor lanes
//! are made anew for a renewal.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use noq::Connection;
use rustls::pki_types::CertificateDer;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::Mesh;
use crate::{
    events::Event,
    identity::{AttestError, ListIgnored, Peer, skew, skew_in_words},
    link::{Link, LinkDrop, LinkError, Offence},
    transport::{FrameError, code, expect_message, read_message, write_message},
    wire::link::{Hello, LinkRefusal, Notice},
};

/// How often links are looked through for certificates that have ended. Revocations act at once;
/// an end that is found a second late makes no difference.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long the neighbour with the newer revocation list may take to send it: as for a request.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a node is no member any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// The authority has revoked it.
    #[error("certificate revoked")]
    Revoked,
    /// Its certificate has ended, and it has shown no newer one.
    #[error("certificate ended")]
    Expired,
}

impl Mesh {
    /// Ends what belongs to nodes that are no members any more, and spreads what is newer than
    /// what the neighbours have, until `shutdown`.
    pub async fn watch_members(self: Arc<Self>, shutdown: CancellationToken) {
        let mut changes = self.credentials.changes();
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut shown = self.credentials.peer().serial;
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = changes.next() => {
                    self.expel_revoked();
                    self.spread_revocations();
                    let own = self.credentials.peer();
                    if own.serial != shown {
                        shown = own.serial;
                        self.show_certificate();
                    }
                }
                _ = look.tick() => {}
            }
            self.close_ended_links();
            self.record_members();
        }
    }

    /// Whether the node that showed the certificate `peer` is still a member.
    ///
    /// # Errors
    /// Why it is none.
    pub fn standing(&self, peer: &Peer) -> Result<(), Ended> {
        let newest = self.attestations.newest_of(peer);
        if self.credentials.is_revoked(peer) || self.credentials.is_revoked(&newest) {
            return Err(Ended::Revoked);
        }
        if newest.expires <= self.credentials.now() {
            return Err(Ended::Expired);
        }
        Ok(())
    }

    /// Forgets every node whose certificate is on the revocation list: certificates, members,
    /// advertisements, labels, lanes that end here. Lanes that lead to it end by themselves: each
    /// looks at its peer's standing.
    fn expel_revoked(&self) {
        let _one_at_a_time = self.expelling.lock().unwrap_or_else(PoisonError::into_inner);
        let mut revoked = self.attestations.forget_revoked();
        let links = self.links.all();
        let linked = |link: &&Arc<Link>| self.standing(link.peer()) == Err(Ended::Revoked);
        let of = |link: &Arc<Link>| (link.peer().key, link.peer().name.clone());
        revoked.extend(links.iter().filter(linked).map(of));
        let now = tokio::time::Instant::now().into_std();
        for (key, name) in revoked {
            self.links.forget_conduct(&key);
            let link = self.links.get(&name);
            if link.as_ref().is_some_and(|link| self.standing(link.peer()).is_ok()) {
                // The next holder of the name.
                continue;
            }
            tracing::warn!(%name, "the node was revoked; its links, lanes and labels here end");
            if let Some(link) = link {
                link.close(code::UNAUTHORISED, &Ended::Revoked.to_string());
                self.links.remove(&link);
            }
            // Nothing goes to it any more, also not as a relay of lanes that have not noticed yet.
            self.links.neighbour(&name).set_address(None);
            self.switch.withdraw_holder(&name);
            self.end_hosted(&name);
            self.members().expel(&name);
            self.known.lock().unwrap_or_else(PoisonError::into_inner).forget(&name);
            self.events.record(Event::MemberRevoked { name: name.clone() });
            self.routing().forget(now, &name);
            if let Some(host) = self.host.get() {
                host.end_lanes_of(&name);
            }
        }
        self.news.notify_one();
    }

    fn close_ended_links(&self) {
        for link in self.links.all() {
            match self.standing(link.peer()) {
                Ok(()) => {}
                // It was just being taken up when the list came.
                Err(Ended::Revoked) => self.expel_revoked(),
                Err(ended) => {
                    tracing::warn!(neighbour = %link.peer().name, reason = %ended, "closing the link");
                    link.close(code::UNAUTHORISED, &ended.to_string());
                }
            }
        }
    }

    /// Sends the revocation list in force to every neighbour that is not known to have it.
    fn spread_revocations(&self) {
        let identity = self.credentials.identity();
        let list = identity.revoked();
        for link in self.links.all() {
            link.tell_revocations(list.number(), list.der());
        }
    }

    /// Shows this node's new certificate to all neighbours.
    fn show_certificate(&self) {
        let own = self.credentials.identity();
        self.attestations.meet(&Arc::new(own.peer().clone()), &own.chain()[0]);
        for link in self.links.all() {
            link.notify(&Notice::Certificate(own.chain()[0].to_vec()));
        }
        // The next advertisement, which follows, is made under it.
        self.routing().renew(own.peer());
        self.news.notify_one();
    }

    /// A neighbour told a revocation list.
    pub(super) fn heard_revocations(&self, link: &Link, der: &[u8]) {
        if !self.may_check(link) {
            return;
        }
        match self.credentials.learn_revocations(der) {
            Ok(number) => {
                tracing::info!(neighbour = %link.peer().name, number, "a newer revocation list is in force");
                link.holds_revocations(number);
            }
            Err(ListIgnored::Stale) => {}
            Err(reason) => {
                tracing::warn!(neighbour = %link.peer().name, reason = reason.name(), "revocation list ignored");
                link.offended(LinkDrop::Malformed, Offence::Forged);
                link.close(code::PROTOCOL, "not a revocation list of this overlay");
            }
        }
    }

    /// A neighbour showed its new certificate.
    pub(super) fn heard_certificate(&self, link: &Link, der: Vec<u8>) {
        if !self.may_check(link) {
            return;
        }
        let certificate = CertificateDer::from(der);
        match self.credentials.member(&certificate, self.credentials.now()) {
            Ok(peer) if peer.name == link.peer().name && peer.key == link.peer().key => {
                tracing::debug!(?link, "the neighbour's certificate was renewed");
                let peer = Arc::new(peer);
                self.attestations.meet(&peer, &certificate);
                self.members().renewed(Instant::now().into_std(), &peer);
            }
            _ => {
                let drop = LinkDrop::Advertisement(AttestError::Certificate.name());
                link.conduct().dropped(Instant::now().into_std(), drop);
            }
        }
    }

    /// Whether the neighbour may cause one more check of a certificate or list; it is charged for it.
    pub(super) fn may_check(&self, link: &Link) -> bool {
        let may = link.conduct().take_check(Instant::now().into_std());
        if !may {
            link.offended(LinkDrop::ChecksOverBudget, Offence::OverBudget);
        }
        may
    }

    /// After the introductions: whoever has the newer revocation list sends it, and the other side
    /// takes it over before the link counts. Then the neighbour is judged by it.
    pub(super) async fn exchange_lists(
        &self,
        conn: &Connection,
        peer: &Peer,
        (ours, theirs): (&Hello, &Hello),
    ) -> Result<(), LinkError> {
        let failed = |error: &dyn std::fmt::Display| FrameError::Stream(error.to_string());
        if ours.revocations > theirs.revocations {
            let der = self.credentials.identity().revoked().der().to_vec();
            let send = async {
                let mut stream = conn.open_uni().await.map_err(|e| failed(&e))?;
                write_message(&mut stream, &Notice::Revocations(der)).await
            };
            timeout(LIST_TIMEOUT, send).await.map_err(|_| LinkError::TimedOut)??;
        } else if theirs.revocations > ours.revocations {
            expect_message(conn);
            let receive = async {
                let mut stream = conn.accept_uni().await.map_err(|e| failed(&e))?;
                read_message::<Notice>(&mut stream).await
            };
            let told = timeout(LIST_TIMEOUT, receive).await.map_err(|_| LinkError::TimedOut)??;
            let Notice::Revocations(der) = told else {
                return Err(LinkRefusal::Unexpected.into());
            };
            match self.credentials.learn_revocations(&der) {
                Ok(number) => {
                    tracing::info!(neighbour = %peer.name, number, "a newer revocation list is in force");
                    // Before the link counts: it may be that of the next holder of a name.
                    self.expel_revoked();
                }
                // Another neighbour was quicker.
                Err(ListIgnored::Stale) => {}
                Err(reason) => {
                    tracing::warn!(neighbour = %peer.name, reason = reason.name(), "revocation list ignored");
                    return Err(LinkRefusal::Unexpected.into());
                }
            }
        }
        if self.credentials.is_revoked(peer) {
            tracing::warn!(neighbour = %peer.name, "no link: the node is revoked");
            conn.close(code::UNAUTHORISED.into(), Ended::Revoked.to_string().as_bytes());
            return Err(LinkRefusal::Unexpected.into());
        }
        self.compare_clocks(peer, theirs.time);
        Ok(())
    }

    /// Compares this machine's clock with a neighbour's, which told its own in its introduction.
    fn compare_clocks(&self, peer: &Peer, theirs: u64) {
        let contact = self.credentials.authority();
        if contact.is_some_and(|contact| contact.name == peer.name) {
            self.credentials.compare_clock(theirs);
        }
        let ahead = skew(self.credentials.now(), theirs);
        let Some(words) = skew_in_words(ahead) else { return };
        // It may say another time on each of its links.
        if let Some(more) = self.links.conduct(peer).log(Instant::now().into_std(), "clock") {
            tracing::warn!(more, "this machine's clock is {words} that of {}", peer.name);
        }
    }
}
