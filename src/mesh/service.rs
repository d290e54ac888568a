//! The answers to neighbours' requests.

use std::net::SocketAddr;

use bytes::Bytes;
use tokio::time::Instant;

use super::Mesh;
use crate::{
    flow::BoxFuture,
    link::{Link, LinkService},
    underlay::Carrier,
    wire::{
        link::{LinkRefusal, Notice, Reply, Request},
        nonce::AddressNonce,
    },
};

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
            Notice::Shared(bytes) => self.heard_shared(link, &bytes),
            Notice::Revocations(der) => self.heard_revocations(link, &der),
            Notice::Certificate(der) => self.heard_certificate(link, der),
            Notice::Seen(address) => {
                link.set_seen(address);
                self.take_vote(link);
            }
        }
    }

    fn probe(&self, link: &Link, probe: Bytes) {
        self.heard_probe(link, &probe);
    }

    fn send_nonce(&self, address: SocketAddr, nonce: AddressNonce) {
        self.nonces.send(address, nonce);
    }

    fn moved(&self, link: &Link, address: SocketAddr) {
        self.members().moved(&link.peer().name, address);
        // A stream's address means nothing outside this process.
        if Carrier::of(address) == Carrier::Udp {
            link.notify(&Notice::Seen(address));
        }
    }
}

impl Mesh {
    async fn try_answer(&self, link: &Link, request: Request) -> Result<Reply, LinkRefusal> {
        match request {
            Request::OpenLane(request) => self.grant_lane(link, request).await,
            Request::PassedOn { request, certificate } => {
                self.grant_passed_on(link, request, certificate).await
            }
            Request::PassOn(request) => self.pass_on(link, request).await,
            Request::Forward(request) => self.grant_forwarding(link, request),
            Request::Renew(labels) => Ok(self.renew_labels(link, &labels)),
            Request::RenewCertificate { signing_request, passed_on } => {
                self.renew_certificate(link, signing_request, passed_on).await
            }
            Request::Reach => self.answer_reach(link).await,
            Request::Judge(target) => self.answer_question(link, &target).await,
            Request::Hello(_) | Request::Trial => Err(LinkRefusal::Unexpected),
        }
    }
}
