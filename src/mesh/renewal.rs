//! Renewal of certificates over links: this node's own, and those of neighbours.
//!
//! A node asks for its own key. A neighbour that does not have the authority passes the request on once.
//! Whoever brings a request pays for it.

use std::{cmp::Reverse, sync::Arc};

use rustls::pki_types::CertificateDer;
use tokio::time::Instant;

use super::Mesh;
use crate::{
    chance::Chance,
    flow::BoxFuture,
    identity::{NodeName, SigningRequest},
    link::{Link, LinkDrop, LinkError, Offence},
    wire::link::{LinkRefusal, RenewalRefusal, Reply, Request},
};

/// Neighbours asked in one attempt to renew a certificate: most have a link to the authority, or none
/// has. One that is silent costs the time-out of a request.
const MOST_ASKED: usize = 8;

/// Issues certificates; implemented where the authority lives.
pub trait CertificateDesk: Send + Sync + 'static {
    /// The next certificate for the key of `request`, which `neighbour` brought, and the authority's.
    fn renew<'a>(
        &'a self,
        request: SigningRequest,
        neighbour: &'a NodeName,
    ) -> BoxFuture<'a, Result<Vec<CertificateDer<'static>>, RenewalRefusal>>;
}

impl Mesh {
    /// Lets the authority's desk answer neighbours whose certificates are to be renewed.
    pub fn open_desk(&self, desk: Arc<dyn CertificateDesk>) {
        // Called once, by the wiring.
        let _ = self.desk.set(desk);
    }

    /// Asks for the next certificate over links: those that answer probes first, of these the
    /// authority's, then neighbours that may have a link to it, in an order by chance. An answer that
    /// is not the next certificate counts for nothing, and the next neighbour is asked.
    ///
    /// # Errors
    /// What the authority said over its own link, or why nobody else could be asked. Only the
    /// authority's own refusal is told; another's word may be a lie, and is `NoAuthority` here.
    pub async fn request_certificate(
        &self,
        signing_request: &[u8],
    ) -> Result<Vec<CertificateDer<'static>>, LinkError> {
        let signing_request = signing_request.to_vec();
        let request = Request::RenewCertificate { signing_request, passed_on: false };
        let authority = self.credentials.authority().map(|contact| contact.name);
        let is_authority = |link: &Link| Some(&link.peer().name) == authority.as_ref();
        let rank = |link: &Arc<Link>| (self.is_up(&link.peer().name), is_authority(link));
        let mut last = LinkError::from(LinkRefusal::from(RenewalRefusal::NoAuthority));
        for link in in_order(self.links.all(), rank, self.switch.chance()) {
            match self.ask_for_certificate(&link, &request).await {
                Ok(chain) => return Ok(chain),
                Err(error) => {
                    tracing::debug!(?link, %error, "certificate not renewed over this link");
                    if is_authority(&link) {
                        last = error;
                    }
                }
            }
        }
        Err(last)
    }

    /// Asks one neighbour for this node's next certificate, and checks what it answers.
    async fn ask_for_certificate(
        &self,
        link: &Link,
        request: &Request,
    ) -> Result<Vec<CertificateDer<'static>>, LinkError> {
        let Reply::Certificate(chain) = link.request(request).await? else {
            return Err(LinkRefusal::Unexpected.into());
        };
        let chain: Vec<_> = chain.into_iter().map(CertificateDer::from).collect();
        match self.credentials.would_renew(chain.clone()) {
            Ok(true) => return Ok(chain),
            // An honest neighbour passes on what the authority has answered.
            Ok(false) => {
                tracing::debug!(?link, "a neighbour answered with a certificate that ends no later")
            }
            Err(error) => {
                tracing::debug!(?link, %error, "a neighbour answered with a certificate of another node or key");
                link.offended(LinkDrop::RenewedCertificate, Offence::Forged);
            }
        }
        Err(LinkRefusal::from(RenewalRefusal::Failed).into())
    }

    /// Whether there is a link to `peer` on whose path probes are answered.
    fn is_up(&self, peer: &NodeName) -> bool {
        self.facts_of_link(peer).is_some_and(|facts| facts.up)
    }

    /// Answers a neighbour whose certificate, or whose neighbour's, is to be renewed.
    pub(super) async fn renew_certificate(
        &self,
        link: &Link,
        signing_request: Vec<u8>,
        passed_on: bool,
    ) -> Result<Reply, LinkRefusal> {
        let request = self.admit_renewal(link, signing_request, passed_on)?;
        if let Some(desk) = self.desk.get() {
            let chain = desk.renew(request, &link.peer().name).await?;
            return Ok(Reply::Certificate(chain.iter().map(|der| der.to_vec()).collect()));
        }
        let authority = self.credentials.authority().filter(|_| !passed_on);
        let authority = authority.filter(|contact| self.is_up(&contact.name));
        let authority = authority.ok_or(RenewalRefusal::NoAuthority)?;
        let signing_request = request.into_der();
        let onward = Request::RenewCertificate { signing_request, passed_on: true };
        match self.links.request(&authority.name, &onward).await {
            Ok(reply) => Ok(reply),
            Err(LinkError::Refused(refusal)) => Err(refusal),
            Err(_) => Err(RenewalRefusal::NoAuthority.into()),
        }
    }

    /// Charges the neighbour for a request, and checks that it is the neighbour's own if it says so.
    fn admit_renewal(
        &self,
        link: &Link,
        signing_request: Vec<u8>,
        passed_on: bool,
    ) -> Result<SigningRequest, LinkRefusal> {
        let now = Instant::now().into_std();
        if !link.conduct().with_budget(|budget| budget.take_renewal(now, passed_on)) {
            let drop = LinkDrop::RenewalOverBudget;
            // Those that it passes on may be too many without its fault.
            match passed_on {
                true => link.conduct().dropped(now, drop),
                false => link.offended(drop, Offence::OverBudget),
            }
            return Err(LinkRefusal::Full("renewals of certificates".into()));
        }
        if !self.may_check(link) {
            return Err(LinkRefusal::Full("signature checks".into()));
        }
        match SigningRequest::parse(signing_request) {
            Ok(request) if passed_on || request.key() == link.peer().key => Ok(request),
            _ => {
                link.offended(LinkDrop::SigningRequest, Offence::Forged);
                Err(LinkRefusal::Unexpected)
            }
        }
    }
}

/// Those to ask in one attempt, by whether they answer and whether each is the authority; others by
/// chance, so that names choose nobody, and an honest one gets its turn in one of the next attempts.
fn in_order<T>(mut all: Vec<T>, rank: impl Fn(&T) -> (bool, bool), chance: &Chance) -> Vec<T> {
    all.sort_by_cached_key(|one| (Reverse(rank(one)), chance.draw::<u64>()));
    all.truncate(MOST_ASKED);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_is_asked_first_and_each_other_neighbour_gets_its_turn() {
        let (chance, mut turns) = (Chance::seeded(5), [0; 32]);
        // The authority is 20, and 31 does not answer.
        for _ in 0..100 {
            let asked = in_order((0..32).collect(), |n| (*n != 31, *n == 20), &chance);
            assert_eq!((asked.len(), asked[0]), (MOST_ASKED, 20));
            asked.into_iter().for_each(|one| turns[one] += 1);
        }
        assert_eq!((turns[20], turns[31]), (100, 0));
        let others = || (0..31).filter(|n| *n != 20).map(|n| turns[n]);
        // 7 of 30 in each attempt.
        assert!(others().min() > Some(5) && others().max() < Some(50), "{turns:?}");
        let silent = in_order(vec![1, 2], |n| (*n == 1, *n == 2), &chance);
        assert_eq!(silent, [1, 2], "an authority that does not answer is asked later");
    }
}
