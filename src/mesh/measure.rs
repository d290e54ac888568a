//! Driving the measurements: probes out and in, advertisements out and in.

use std::{
    net::SocketAddr,
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Mesh, attest::Attestations, certificates::Certified, unanswered::Unanswered};
use crate::{
    events::Event,
    identity::{AttestError, NodeName},
    link::{Kind, Link, LinkDrop, Offence, Topic},
    overlay::{
        linkstate::{Advertisement, Flood, Install, MAX_NODES, Version},
        monitor::{LinkEvent, Probe},
    },
    wire::{self, link::Notice, reach::is_stream_mark},
};

/// How often a silence may be taken for a move of our own: a move is noticed within this time, and
/// a long outage costs next to nothing.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Mesh {
    /// Probes and advertises until `shutdown`.
    pub async fn measure(self: Arc<Self>, shutdown: CancellationToken) {
        let mut unanswered = Unanswered::default();
        loop {
            let now = Instant::now().into_std();
            let (wake, rare) = {
                let routing = self.routing();
                (routing.next_timeout(now), routing.probed_rarely())
            };
            let look = unanswered.next_look(now, &rare);
            let wake = look.map_or(wake, |look| wake.min(look));
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep_until(wake.into()) => {}
                () = self.news.notified() => {}
            }
            self.look_at_silent(&mut unanswered, &rare);
            self.advance();
        }
    }

    /// Probes the links among `rare` whose packets are not answered.
    fn look_at_silent(&self, unanswered: &mut Unanswered, rare: &[NodeName]) {
        let now = Instant::now().into_std();
        if !unanswered.is_due(now) {
            return;
        }
        let links = rare.iter().filter_map(|peer| Some((peer, self.links.get(peer)?)));
        let silent = links.filter(|(peer, link)| unanswered.look(peer, link.packets()));
        let silent: Vec<&NodeName> = silent.map(|(peer, _)| peer).collect();
        let mut routing = self.routing();
        silent.into_iter().for_each(|peer| routing.unanswered(now, peer));
    }

    fn advance(&self) {
        let now = Instant::now().into_std();
        let due = self.routing().advance(now, &mut || self.switch.chance().draw());
        for (peer, probe) in due.probes {
            if let Some(link) = self.links.get(&peer) {
                link.send_probe(Bytes::from(wire::encode(&probe)));
            }
        }
        for (peer, event) in due.events {
            self.on_path(now, &peer, event);
        }
        for origin in due.expired {
            tracing::info!(%origin, "the node's advertisement has expired");
        }
        for (sharer, member) in due.distrusted {
            tracing::info!(%sharer, %member, "a node of this site tells figures that differ from own ones; they are ignored for 10 min");
        }
        if let Some(shared) = due.shared {
            self.tell_sharers(shared);
        }
        if let Some((advert, trigger)) = due.advert {
            tracing::debug!(?trigger, links = advert.links.len(), "advertising");
            self.advertise(advert);
        }
    }

    fn on_path(&self, now: std::time::Instant, peer: &NodeName, event: LinkEvent) {
        match event {
            LinkEvent::Up => {
                tracing::info!(%peer, "path up");
                self.events.record(Event::LinkUp { peer: peer.clone() });
                self.members().path_up(peer);
                if let Some(link) = self.links.get(peer) {
                    self.take_vote(&link);
                    self.catch_up(&link);
                }
            }
            LinkEvent::StillDown if self.members().is_path_down(peer) => {}
            LinkEvent::StillDown => {
                tracing::debug!(%peer, "path still down");
                self.path_lost(now, peer);
            }
            LinkEvent::Down => {
                tracing::info!(%peer, "path down");
                self.events.record(Event::LinkDown { peer: peer.clone() });
                self.path_lost(now, peer);
                if let Some(link) = self.links.get(peer) {
                    self.outside_changed(&link, |outside| outside.gone(peer));
                }
            }
        }
    }

    /// The link may be replaced from now on, and is dialled.
    fn path_lost(&self, now: std::time::Instant, peer: &NodeName) {
        self.look_at_network();
        self.members().path_down(now, peer);
    }

    fn advertise(&self, advert: Advertisement) {
        match self.attestations.sign(advert) {
            Ok(flood) => {
                let notice = Attestations::own_notice(&flood);
                for link in self.links.all() {
                    link.notify_about(Topic::Advertisement(self.us.name.clone()), &notice);
                }
                *self.own_record() = Some((flood, Instant::now()));
            }
            Err(error) => tracing::warn!(%error, "the advertisement could not be signed"),
        }
    }

    /// Sends an advertisement to a neighbour, in the place of an older one that still waits.
    fn send_flood(&self, link: &Link, flood: &Flood) {
        let origin = flood.advert.origin.clone();
        link.notify_about(Topic::Advertisement(origin), &self.attestations.notice(flood));
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
                let name = &link.peer().name;
                let (answer, left) = {
                    let mut routing = self.routing();
                    (routing.heard_probe(now, name, &probe), routing.answered(name))
                };
                if let Some(answer) = answer {
                    link.send_probe(Bytes::from(wire::encode(&answer)));
                }
                if let Some(left) = left {
                    self.members().answered(name, left);
                }
                self.news.notify_one();
                self.route_news.send_replace(());
            }
            Err(_) => link.offended(LinkDrop::Malformed, Offence::Malformed),
        }
    }

    pub(super) fn heard_advertisement(
        &self,
        link: &Link,
        bytes: &[u8],
        certificate: Option<Vec<u8>>,
    ) {
        if !link.admits(Kind::Advertisement) {
            return;
        }
        let Ok(flood) = wire::decode::<Flood>(bytes) else {
            link.offended(LinkDrop::Malformed, Offence::Malformed);
            return;
        };
        let now = Instant::now().into_std();
        let judged = self.routing().judge(now, &flood);
        match judged {
            Install::Installed | Install::Own => {}
            Install::Younger => {
                self.install(link, flood);
                return;
            }
            Install::Stale if flood.advert.origin == link.peer().name => {
                // It has to outbid what is held of it. Its handshake says who it is.
                let last = self.routing().last_flood(now, &flood.advert.origin);
                last.into_iter().for_each(|last| self.answer_with(link, &last));
                return;
            }
            Install::Refused(reason) => {
                link.conduct().dropped(now, LinkDrop::Advertisement(reason.name()));
                return;
            }
            Install::Stale | Install::Duplicate | Install::Expired => return,
        }
        if let Some(origin) = self.check(link, &flood, certificate) {
            self.take_advertisement(link, flood, &origin);
        }
    }

    /// Checks the signature of an advertisement, if the neighbour may cause another check.
    fn check(
        &self,
        link: &Link,
        flood: &Flood,
        certificate: Option<Vec<u8>>,
    ) -> Option<Arc<Certified>> {
        let (now, conduct) = (Instant::now().into_std(), link.conduct());
        if !conduct.with_budget(|budget| budget.may_check(now)) {
            link.offended(LinkDrop::ChecksOverBudget, Offence::OverBudget);
            return None;
        }
        let checked = self.attestations.check(flood, certificate, self.credentials.now());
        let good = checked.origin.is_ok();
        conduct.with_budget(|budget| budget.checked(now, checked.of_certificate, good));
        let error = match checked.origin {
            Ok(origin) => return Some(origin),
            Err(error) => error,
        };
        let drop = LinkDrop::Advertisement(error.name());
        match error {
            AttestError::Signature | AttestError::Overclaimed => {
                link.offended(drop, Offence::Forged);
            }
            // An honest neighbour with an older revocation list passes on what we refuse.
            AttestError::Certificate | AttestError::NoCertificate => conduct.dropped(now, drop),
        }
        None
    }

    fn take_advertisement(&self, link: &Link, flood: Flood, origin: &Certified) {
        let now = Instant::now().into_std();
        let addresses = self.usable(link, &flood.advert.addresses);
        let record = Arc::new(origin.record(&flood));
        let installed = self.install(link, flood);
        if installed == Install::Own {
            self.news.notify_one();
        }
        let is_news = installed == Install::Installed;
        if is_news && !self.members().recorded(now, origin.peer(), addresses, &record) {
            link.conduct().dropped(now, LinkDrop::DirectoryFull);
        }
        self.note_authority(&origin.peer().name);
    }

    /// Keeps an advertisement that has been checked, and passes it on to those who may lack it.
    fn install(&self, link: &Link, flood: Flood) -> Install {
        let now = Instant::now().into_std();
        let linked: Vec<NodeName> =
            self.links.all().iter().map(|link| link.peer().name.clone()).collect();
        let heard = self.routing().heard_advertisement(now, &link.peer().name, flood, &linked);
        for (peer, flood) in heard.send {
            if let Some(link) = self.links.get(&peer) {
                self.send_flood(&link, &flood);
            }
        }
        if matches!(heard.installed, Install::Installed | Install::Younger) {
            self.route_news.send_replace(());
        }
        heard.installed
    }

    /// The addresses in a record that may be dialled; the others are counted.
    fn usable(&self, link: &Link, told: &[SocketAddr]) -> Vec<SocketAddr> {
        let (own, now) = (self.own_kinds(), Instant::now().into_std());
        let check = |address: &&SocketAddr| {
            if is_stream_mark(**address) {
                return true;
            }
            let refused = own.check(**address).err();
            refused.into_iter().for_each(|refusal| {
                link.conduct().dropped(now, LinkDrop::Advertisement(refusal.name()));
            });
            refused.is_none()
        };
        told.iter().filter(check).copied().collect()
    }

    /// Tells a neighbour, after silence, what may have got lost, and asks for what we lack.
    pub(super) fn catch_up(&self, link: &Link) {
        let own = self.own_record().clone();
        if let Some((mut own, made)) = own {
            let age = made.elapsed().as_millis().div_ceil(1000);
            own.age_s = u16::try_from(age).unwrap_or(u16::MAX);
            self.send_flood(link, &own);
        }
        let digest = self.routing().digest(Instant::now().into_std());
        link.notify(&Notice::Digest(wire::encode(&digest)));
    }

    pub(super) fn heard_digest(&self, link: &Link, bytes: &[u8]) {
        if !link.admits(Kind::Digest) {
            return;
        }
        let Ok(digest) = wire::decode::<Vec<(NodeName, Version)>>(bytes) else {
            link.offended(LinkDrop::Malformed, Offence::Malformed);
            return;
        };
        let known = &digest[..digest.len().min(MAX_NODES)];
        let lacking = self.routing().newer_than(Instant::now().into_std(), known);
        lacking.iter().for_each(|flood| self.answer_with(link, flood));
    }

    /// Sends an advertisement that the neighbour asked for, as far as it may ask for more.
    fn answer_with(&self, link: &Link, flood: &Flood) {
        let now = Instant::now().into_std();
        let size = wire::encode(flood).len();
        if link.conduct().with_budget(|budget| budget.take_answer(now, size)) {
            self.send_flood(link, flood);
        } else {
            link.conduct().dropped(now, LinkDrop::AnswerOverBudget);
        }
    }

    fn own_record(&self) -> MutexGuard<'_, Option<(Flood, Instant)>> {
        self.own_record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
