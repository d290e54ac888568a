//! Driving the measurements: probes out and in, advertisements out and in.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Mesh;
use crate::{
    identity::NodeName,
    link::Link,
    overlay::{
        linkstate::{Advertisement, Flood, Install, MAX_NODES, Version},
        monitor::{LinkEvent, Probe},
    },
    wire::{self, link::Notice},
};

/// How often a silence may be taken for a move of our own: a move is noticed within this time, and
/// a long outage costs next to nothing.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Mesh {
    /// Probes and advertises until `shutdown`.
    pub async fn measure(self: Arc<Self>, shutdown: CancellationToken) {
        loop {
            let wake = self.routing().next_timeout(Instant::now().into_std());
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep_until(wake.into()) => {}
                () = self.news.notified() => {}
            }
            self.advance();
        }
    }

    fn advance(&self) {
        let now = Instant::now().into_std();
        let due = self.routing().advance(now, &mut || rand::random());
        for (peer, probe) in due.probes {
            if let Some(link) = self.links.get(&peer) {
                link.send_datagram(Bytes::from(wire::encode(&probe)));
            }
        }
        for (peer, event) in due.events {
            match event {
                LinkEvent::Up => {
                    tracing::info!(%peer, "path up");
                    self.members().path_up(&peer);
                    if let Some(link) = self.links.get(&peer) {
                        self.catch_up(&link);
                    }
                }
                LinkEvent::Down => {
                    tracing::info!(%peer, "path down");
                    self.look_at_network();
                    self.members().path_down(now, &peer);
                }
            }
        }
        for origin in due.expired {
            tracing::info!(%origin, "nothing heard of the node any more");
        }
        if let Some((advert, trigger)) = due.advert {
            tracing::debug!(?trigger, links = advert.links.len(), "advertising");
            self.advertise(advert);
        }
    }

    fn advertise(&self, advert: Advertisement) {
        match self.attestations.sign(advert) {
            Ok(flood) => {
                let notice = self.attestations.notice(&flood);
                for link in self.links.all() {
                    link.notify(notice.clone());
                }
            }
            Err(error) => tracing::warn!(%error, "the advertisement could not be signed"),
        }
    }

    /// Something is silent; perhaps it is us who moved. QUIC pins each connection to the local
    /// address it last received on, which a laptop that changed networks no longer has: it is to
    /// forget that, and to try again at once what it sends. Costs one packet per connection.
    pub(super) fn look_at_network(&self) {
        let now = Instant::now();
        let mut looked = self.looked_at_network.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.is_none_or(|last| now.duration_since(last) >= LOOK_EVERY) {
            *looked = Some(now);
            self.endpoint.handle_network_change(None);
        }
    }

    pub(super) fn heard_probe(&self, link: &Link, datagram: &Bytes) {
        let now = Instant::now().into_std();
        match wire::decode::<Probe>(datagram) {
            Ok(probe) => {
                if let Some(answer) = self.routing().heard_probe(now, &link.peer().name, &probe) {
                    link.send_datagram(Bytes::from(wire::encode(&answer)));
                }
                self.news.notify_one();
            }
            Err(error) => tracing::debug!(?link, %error, "ignoring a malformed probe"),
        }
    }

    pub(super) fn heard_advertisement(
        &self,
        link: &Link,
        bytes: &[u8],
        certificate: Option<Vec<u8>>,
    ) {
        let flood: Flood = match wire::decode(bytes) {
            Ok(flood) => flood,
            Err(error) => {
                tracing::debug!(?link, %error, "ignoring a malformed advertisement");
                return;
            }
        };
        if let Err(error) = self.attestations.check(&flood, certificate, self.credentials.now()) {
            let (origin, reason) = (&flood.advert.origin, error.name());
            tracing::info!(?link, %origin, reason, "advertisement not believed");
            return;
        }
        self.take_advertisement(link, flood);
    }

    fn take_advertisement(&self, link: &Link, flood: Flood) {
        let now = Instant::now().into_std();
        let linked: Vec<NodeName> =
            self.links.all().iter().map(|link| link.peer().name.clone()).collect();
        let origin = flood.advert.origin.clone();
        let heard = self.routing().heard_advertisement(now, &link.peer().name, flood, &linked);
        for (peer, flood) in heard.send {
            if let Some(link) = self.links.get(&peer) {
                link.notify(self.attestations.notice(&flood));
            }
        }
        match heard.installed {
            Install::Own => self.news.notify_one(),
            Install::Refused(reason) => {
                tracing::info!(?link, %origin, reason = reason.name(), "advertisement refused");
            }
            _ => {}
        }
    }

    /// Tells a neighbour, after silence, what may have got lost, and asks for what we lack.
    pub(super) fn catch_up(&self, link: &Link) {
        link.tell_members(&self.tell_members());
        let digest = self.routing().digest(Instant::now().into_std());
        link.notify(Notice::Digest(wire::encode(&digest)));
    }

    pub(super) fn heard_digest(&self, link: &Link, bytes: &[u8]) {
        let digest: Vec<(NodeName, Version)> = match wire::decode(bytes) {
            Ok(digest) => digest,
            Err(error) => {
                tracing::debug!(?link, %error, "ignoring a malformed digest");
                return;
            }
        };
        let known = &digest[..digest.len().min(MAX_NODES)];
        for flood in self.routing().newer_than(Instant::now().into_std(), known) {
            link.notify(self.attestations.notice(&flood));
        }
    }
}
