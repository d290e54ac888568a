//! Renewal of certificates over links: this node's own, and those of neighbours.
//!
//! A node asks for its own key. A neighbour that does not have the authority passes the request on once.
//! Whoever brings a request pays for it.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use tokio::time::Instant;

use super::Mesh;
use crate::{
    flow::BoxFuture,
    identity::{NodeName, SigningRequest},
    link::{Link, LinkDrop, LinkError, Offence},
    wire::link::{LinkRefusal, RenewalRefusal, Reply, Request},
};

/// Neighbours asked in one attempt to renew a certificate or to pass that on: most have a link to
/// the authority, or none has.
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
    /// authority's, else neighbours that may have a link to it.
    ///
    /// # Errors
    /// The last refusal, or why nobody could be asked.
    pub async fn request_certificate(
        &self,
        signing_request: &[u8],
    ) -> Result<Vec<CertificateDer<'static>>, LinkError> {
        let ask = |passed_on| Request::RenewCertificate {
            signing_request: signing_request.to_vec(),
            passed_on,
        };
        let authority = self.credentials.authority().map(|contact| contact.name);
        let is_authority = |link: &Link| Some(&link.peer().name) == authority.as_ref();
        let mut links = self.links.all();
        // Each that is silent costs the time-out of a request, and the certificate may end meanwhile.
        links.sort_by_cached_key(|link| (!self.is_up(&link.peer().name), !is_authority(link)));
        let mut last = LinkError::Refused(RenewalRefusal::NoAuthority.into());
        for link in links.into_iter().take(MOST_ASKED) {
            match link.request(&ask(false)).await {
                Ok(Reply::Certificate(chain)) => {
                    return Ok(chain.into_iter().map(CertificateDer::from).collect());
                }
                Ok(_) => last = LinkRefusal::Unexpected.into(),
                Err(error) => {
                    tracing::debug!(?link, %error, "certificate not renewed over this link");
                    if is_authority(&link)
                        || matches!(
                            last,
                            LinkError::Refused(LinkRefusal::Renewal(RenewalRefusal::NoAuthority))
                        )
                    {
                        last = error;
                    }
                }
            }
        }
        Err(last)
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
