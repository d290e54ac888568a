//! What we answer our neighbours.

use std::net::SocketAddr;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Mesh, relay::GRANT_LIFETIME};
use crate::{
    flow::BoxFuture,
    identity::{NodeName, Peer},
    link::{Link, LinkError, LinkService},
    wire::{
        label::Label,
        link::{ForwardRequest, LaneEndRole, LinkRefusal, Notice, OpenLane, Reply, Request},
    },
};

/// Labels that one renewal may name: more than a neighbour may hold.
const MAX_RENEWED: usize = crate::underlay::labels::MAX_PER_PAYER;

impl LinkService for Mesh {
    fn answer<'a>(&'a self, link: &'a Link, request: Request) -> BoxFuture<'a, Reply> {
        Box::pin(async move {
            self.try_answer(link, request).await.unwrap_or_else(|refusal| {
                if let Some(more) = link.conduct().log(Instant::now().into_std(), "request refused") {
                    tracing::info!(neighbour = %link.peer().name, %refusal, more, "request refused");
                }
                Reply::Refused(refusal)
            })
        })
    }

    fn notice(&self, link: &Link, notice: Notice) {
        match notice {
            Notice::Advertisement { flood, certificate } => {
                self.heard_advertisement(link, &flood, certificate);
            }
            Notice::Digest(bytes) => self.heard_digest(link, &bytes),
            Notice::Revocations(der) => self.heard_revocations(link, &der),
            Notice::Certificate(der) => self.heard_certificate(link, der),
            Notice::Seen(address) => {
                link.set_seen(address);
                self.take_vote(link);
            }
        }
    }

    fn datagram(&self, link: &Link, datagram: Bytes) {
        self.heard_probe(link, &datagram);
    }

    fn moved(&self, link: &Link, address: SocketAddr) {
        self.members().moved(&link.peer().name, address);
        link.notify(&Notice::Seen(address));
    }
}

impl Mesh {
    async fn try_answer(&self, link: &Link, request: Request) -> Result<Reply, LinkRefusal> {
        let now = Instant::now().into_std();
        let holder = link.peer();
        match request {
            Request::OpenLane(open) => self.grant_lane(&holder.name, open).await,
            Request::PassedOn { from, open } => self.grant_lane(&from, open).await,
            Request::PassOn { to, open } => self.pass_on(&holder.name, &to, open).await,
            Request::Forward(request) => {
                self.admit_forwarding(holder, &request)?;
                self.relay.grant(now, holder, &request, &self.links, &self.switch)
            }
            Request::Renew(labels) => Ok(self.renew_labels(now, &holder.name, &labels)),
            Request::RenewCertificate { signing_request, passed_on } => {
                self.renew_certificate(signing_request, passed_on).await
            }
            Request::Hello(_) => Err(LinkRefusal::Unexpected),
        }
    }

    async fn grant_lane(&self, entry: &NodeName, open: OpenLane) -> Result<Reply, LinkRefusal> {
        let host = self.host.get().ok_or_else(|| LinkRefusal::NotMyRole("exit".into()))?;
        Ok(Reply::LaneOpened { label: host.grant(entry, open).await? })
    }

    /// Judges a request to forward by this node's own rules. The groups are those in the
    /// certificate of the lane's entry, whatever the asking node claims.
    fn admit_forwarding(&self, holder: &Peer, request: &ForwardRequest) -> Result<(), LinkRefusal> {
        let toward = self
            .links
            .get(&request.toward)
            .ok_or_else(|| LinkRefusal::NoLink(request.toward.clone()))?;
        let (entry, exit) = match request.end {
            LaneEndRole::Entry => (holder, toward.peer()),
            LaneEndRole::Exit => (toward.peer(), holder),
        };
        self.routing()
            .admits(&entry.groups, request.class.as_deref(), &entry.name, &exit.name)
            .map_err(|rule| LinkRefusal::Policy(rule.to_string()))
    }

    /// Passes a request on to a node that our neighbour cannot reach directly.
    async fn pass_on(
        &self,
        from: &NodeName,
        to: &NodeName,
        open: OpenLane,
    ) -> Result<Reply, LinkRefusal> {
        let onward = Request::PassedOn { from: from.clone(), open };
        match self.links.request(to, &onward).await {
            Ok(reply) => Ok(reply),
            Err(LinkError::Refused(refusal)) => Err(refusal),
            Err(_) => Err(LinkRefusal::NoLink(to.clone())),
        }
    }

    fn renew_labels(&self, now: std::time::Instant, holder: &NodeName, labels: &[Label]) -> Reply {
        let renewed = self.switch.with_labels(|table| {
            let labels = labels.iter().take(MAX_RENEWED);
            labels.map(|label| table.renew(now, *label, holder, GRANT_LIFETIME)).collect()
        });
        Reply::Renewed(renewed)
    }
}
