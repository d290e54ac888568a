//! Hosts, links and inboxes put together. PURE: the handle and the sockets pass the time in.

use std::{
    collections::HashMap,
    io::IoSliceMut,
    net::{IpAddr, SocketAddr},
    task::Waker,
    time::{Duration, Instant},
};

use bytes::Bytes;
use noq::udp::{EcnCodepoint, RecvMeta, Transmit};
use rand_pcg::Pcg64Mcg;

use super::{
    counters::{Counters, DropReason},
    inbox::{Inbox, LinkId, Packet, SocketId},
    link::{InFlight, Link, LinkModel, Verdict},
    nat::Nats,
    seed,
    trace::Trace,
};

/// One-way delay of the pairs nobody described: a wired path across a country.
const UNLISTED_DELAY: Duration = Duration::from_millis(10);

/// The first port given to a socket that asks for port 0 (IANA's dynamic range).
const FIRST_EPHEMERAL_PORT: u16 = 49_152;

/// The whole state of an emulated Internet.
#[derive(Debug)]
pub(super) struct World {
    seed: u64,
    unlisted: LinkModel,
    links: Vec<Pair>,
    index: HashMap<(IpAddr, IpAddr), LinkId>,
    inboxes: HashMap<SocketAddr, Inbox>,
    /// Where each live socket is bound; it changes when its host moves.
    sockets: HashMap<SocketId, SocketAddr>,
    nats: Nats,
    /// Hosts whose packets carry another source address.
    forged: HashMap<IpAddr, SocketAddr>,
    next_socket: u64,
    next_seq: u64,
    trace: Trace,
}

/// A directed pair of hosts: its link, and chance of its own.
#[derive(Debug)]
struct Pair {
    link: Link,
    rng: Pcg64Mcg,
    /// Whether somebody described it; otherwise it follows the default.
    listed: bool,
}

/// What a reader finds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// So many datagrams were written.
    Packets(usize),
    /// Nothing yet; the next packet arrives then.
    NextAt(Instant),
    /// Nothing yet, and nothing on its way.
    Nothing,
}

/// How a packet gets from a socket to a destination.
struct Route {
    link: LinkId,
    source: SocketAddr,
    /// The socket behind the destination, if the packet may reach it.
    target: Result<SocketAddr, DropReason>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            unlisted: LinkModel::new(UNLISTED_DELAY),
            links: Vec::new(),
            index: HashMap::new(),
            inboxes: HashMap::new(),
            sockets: HashMap::new(),
            nats: Nats::default(),
            forged: HashMap::new(),
            next_socket: 0,
            next_seq: 0,
            trace: Trace::default(),
        }
    }

    /// Gives all packets of a host this source address from now on, or their own again.
    pub(super) fn forge_source(&mut self, host: IpAddr, source: Option<SocketAddr>) {
        match source {
            Some(source) => self.forged.insert(host, source),
            None => self.forged.remove(&host),
        };
    }

    pub(super) const fn nats(&mut self) -> &mut Nats {
        &mut self.nats
    }

    pub(super) fn model(&self, from: IpAddr, to: IpAddr) -> LinkModel {
        match self.index.get(&(from, to)) {
            Some(&LinkId(link)) => *self.links[link].link.model(),
            None => self.initial_model(from, to),
        }
    }

    pub(super) fn counters(&self, from: IpAddr, to: IpAddr) -> Counters {
        let link = self.index.get(&(from, to));
        link.map_or_else(Counters::default, |&LinkId(link)| *self.links[link].link.counters())
    }

    pub(super) const fn trace(&self) -> &Trace {
        &self.trace
    }

    pub(super) fn sent_by(&self, host: IpAddr) -> Vec<(IpAddr, Counters)> {
        let sent = self.index.iter().filter(|((from, _), _)| *from == host);
        let mut sent: Vec<_> = sent
            .map(|((_, to), LinkId(link))| (*to, *self.links[*link].link.counters()))
            .filter(|(_, counters)| counters.sent > 0)
            .collect();
        sent.sort_unstable_by_key(|(to, _)| *to);
        sent
    }

    pub(super) fn set_model(&mut self, now: Instant, from: IpAddr, to: IpAddr, model: LinkModel) {
        let id = self.link_between(from, to);
        self.links[id.0].listed = true;
        self.change(now, id, model);
    }

    pub(super) fn set_unlisted(&mut self, now: Instant, model: LinkModel) {
        self.unlisted = model;
        let follow = self
            .index
            .iter()
            .filter(|&(&(from, to), &LinkId(link))| from != to && !self.links[link].listed);
        for id in follow.map(|(_, &id)| id).collect::<Vec<_>>() {
            self.change(now, id, model);
        }
    }

    pub(super) fn settle(&mut self, now: Instant) {
        for inbox in self.inboxes.values_mut() {
            settle(inbox, &mut self.links, now);
        }
        self.inboxes.retain(|_, inbox| !inbox.is_unused());
    }

    pub(super) fn attach(&mut self, now: Instant, address: SocketAddr) -> (SocketId, SocketAddr) {
        let address = self.with_port(address);
        let id = SocketId(self.next_socket);
        self.next_socket += 1;
        let inbox = self.inboxes.entry(address).or_default();
        settle(inbox, &mut self.links, now);
        if let Some(predecessor) = inbox.owner {
            self.sockets.remove(&predecessor);
        }
        inbox.attach(id);
        self.sockets.insert(id, address);
        (id, address)
    }

    pub(super) fn detach(&mut self, now: Instant, id: SocketId) {
        let Some(address) = self.sockets.remove(&id) else { return };
        let Some(inbox) = self.inboxes.get_mut(&address) else { return };
        settle(inbox, &mut self.links, now);
        inbox.detach();
        if inbox.is_unused() {
            self.inboxes.remove(&address);
        }
    }

    pub(super) fn address_of(&self, id: SocketId) -> Option<SocketAddr> {
        self.sockets.get(&id).copied()
    }

    /// Sends a batch; gives the reader to wake, if there is one to wake.
    pub(super) fn send(
        &mut self,
        now: Instant,
        id: SocketId,
        transmit: &Transmit<'_>,
    ) -> Option<Waker> {
        let local = self.address_of(id)?;
        let mut route = self.route(local, transmit.destination);
        if let Some(forged) = self.forged.get(&local.ip()) {
            route.source = *forged;
        }
        if transmit.src_ip.is_some_and(|asked| asked != local.ip()) {
            route.target = Err(DropReason::StaleSource);
        }
        let mut rest = Bytes::copy_from_slice(transmit.contents);
        let segment = transmit.segment_size.unwrap_or(rest.len()).max(1);
        let mut wake = None;
        while !rest.is_empty() {
            let payload = rest.split_to(segment.min(rest.len()));
            wake = self.send_one(now, &route, transmit.ecn, payload).or(wake);
        }
        wake
    }

    /// Sends one datagram that claims to come from `source`; gives the reader to wake, if there is
    /// one to wake.
    pub(super) fn forge(
        &mut self,
        now: Instant,
        from: IpAddr,
        source: SocketAddr,
        destination: SocketAddr,
        payload: &[u8],
    ) -> Option<Waker> {
        let local = SocketAddr::new(from, source.port());
        let target = self.nats.translate_destination(local, source, destination);
        let link = self.link_between(from, target.unwrap_or(destination).ip());
        let route = Route { link, source, target: target.ok_or(DropReason::NatNoMapping) };
        self.send_one(now, &route, None, Bytes::copy_from_slice(payload))
    }

    /// Reads what has arrived, one datagram per buffer (longer ones are truncated, as by UDP).
    pub(super) fn receive(
        &mut self,
        now: Instant,
        id: SocketId,
        waker: &Waker,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Received {
        let inbox = self.sockets.get(&id).and_then(|address| self.inboxes.get_mut(address));
        let Some(inbox) = inbox else { return Received::Nothing };
        settle(inbox, &mut self.links, now);
        let mut count = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta) {
            let Some(packet) = inbox.read() else { break };
            let len = packet.payload.len().min(buf.len());
            buf[..len].copy_from_slice(&packet.payload[..len]);
            *meta = RecvMeta::default();
            meta.addr = packet.source;
            meta.len = len;
            meta.stride = len;
            meta.ecn = packet.ecn;
            meta.dst_ip = Some(packet.target);
            count += 1;
        }
        if count > 0 {
            return Received::Packets(count);
        }
        inbox.wait(waker).map_or(Received::Nothing, Received::NextAt)
    }

    /// Gives a host another address; returns the readers to wake.
    pub(super) fn move_host(&mut self, now: Instant, old: IpAddr, new: IpAddr) -> Vec<Waker> {
        if old == new {
            return Vec::new();
        }
        self.settle(now);
        self.nats.rename(old, new);
        self.rename_links(old, new);
        let mut moving: Vec<_> = self.inboxes.keys().filter(|a| a.ip() == old).copied().collect();
        moving.sort_unstable(); // the order of waking decides the order of running
        moving.into_iter().flat_map(|address| self.move_inbox(address, new)).flatten().collect()
    }

    fn move_inbox(&mut self, address: SocketAddr, new: IpAddr) -> [Option<Waker>; 2] {
        let Some(mut inbox) = self.inboxes.remove(&address) else { return [None, None] };
        for packet in inbox.drain() {
            drop_packet(&mut self.links, packet.link, DropReason::NoReceiver);
        }
        let Some(owner) = inbox.owner else { return [None, None] };
        let target = SocketAddr::new(new, address.port());
        let moved = inbox.take_reader();
        self.sockets.insert(owner, target);
        let replaced = self.inboxes.insert(target, inbox).and_then(|mut previous| {
            for packet in previous.drain() {
                drop_packet(&mut self.links, packet.link, DropReason::NoReceiver);
            }
            previous.owner.map(|id| self.sockets.remove(&id));
            previous.take_reader()
        });
        [moved, replaced]
    }

    /// The paths follow the host, unless somebody has described those of its new address.
    fn rename_links(&mut self, old: IpAddr, new: IpAddr) {
        let rename = |host: IpAddr| if host == old { new } else { host };
        let mut renamed: Vec<_> = self
            .index
            .iter()
            .filter(|((from, to), _)| *from == old || *to == old)
            .map(|(&key, &id)| (key, id))
            .collect();
        // A fixed order, because two old pairs may have the same new name.
        renamed.sort_unstable_by_key(|&(_, LinkId(link))| link);
        for ((from, to), id) in renamed {
            self.index.remove(&(from, to));
            let key = (rename(from), rename(to));
            let described = self.index.get(&key).is_some_and(|&LinkId(l)| self.links[l].listed);
            if !described {
                self.index.insert(key, id);
            }
        }
    }

    fn send_one(
        &mut self,
        now: Instant,
        route: &Route,
        ecn: Option<EcnCodepoint>,
        payload: Bytes,
    ) -> Option<Waker> {
        let target = match route.target {
            Ok(target) => target,
            Err(reason) => {
                self.links[route.link.0].link.counters_mut().note_sent(payload.len());
                drop_packet(&mut self.links, route.link, reason);
                return None;
            }
        };
        tracing::trace!(source = %route.source, %target, size = payload.len(), "packet sent");
        self.trace.note(now, route.source, target, payload.len());
        let pair = &mut self.links[route.link.0];
        let Verdict::Deliver { at } = pair.link.send(now, payload.len(), &mut pair.rng) else {
            return None;
        };
        let seq = self.next_seq;
        self.next_seq += 1;
        let Route { link, source, .. } = *route;
        let packet = Packet { at, seq, link, source, target: target.ip(), ecn, payload };
        let Some(inbox) = self.inboxes.get_mut(&target) else {
            drop_packet(&mut self.links, link, DropReason::NoReceiver);
            return None;
        };
        settle(inbox, &mut self.links, now);
        inbox.push(packet).unwrap_or_else(|reason| {
            drop_packet(&mut self.links, link, reason);
            None
        })
    }

    fn route(&mut self, local: SocketAddr, destination: SocketAddr) -> Route {
        let source = self.nats.translate_source(local, destination);
        let target = self.nats.translate_destination(local, source, destination);
        let host = target.unwrap_or(destination).ip();
        let link = self.link_between(local.ip(), host);
        Route { link, source, target: target.ok_or(DropReason::NatNoMapping) }
    }

    fn link_between(&mut self, from: IpAddr, to: IpAddr) -> LinkId {
        if let Some(&id) = self.index.get(&(from, to)) {
            return id;
        }
        let id = LinkId(self.links.len());
        let link = Link::new(self.initial_model(from, to));
        let rng = seed::rng(seed::derive_pair(self.seed, from, to));
        self.links.push(Pair { link, rng, listed: false });
        self.index.insert((from, to), id);
        id
    }

    fn initial_model(&self, from: IpAddr, to: IpAddr) -> LinkModel {
        if from == to { LinkModel::default() } else { self.unlisted }
    }

    fn change(&mut self, now: Instant, id: LinkId, model: LinkModel) {
        if self.links[id.0].link.set_model(model) == InFlight::Kept {
            return;
        }
        for inbox in self.inboxes.values_mut() {
            settle(inbox, &mut self.links, now);
            for _ in 0..inbox.lose(id) {
                drop_packet(&mut self.links, id, DropReason::CutInFlight);
            }
        }
    }

    /// Port 0 means any: the first free one of the dynamic range.
    fn with_port(&self, address: SocketAddr) -> SocketAddr {
        if address.port() != 0 {
            return address;
        }
        let free = (FIRST_EPHEMERAL_PORT..=u16::MAX)
            .map(|port| SocketAddr::new(address.ip(), port))
            .find(|candidate| !self.inboxes.contains_key(candidate));
        free.unwrap_or(address)
    }
}

fn settle(inbox: &mut Inbox, links: &mut [Pair], now: Instant) {
    inbox.settle(now, |packet, fate| match fate {
        Ok(()) => links[packet.link.0].link.counters_mut().note_delivered(packet.payload.len()),
        Err(reason) => drop_packet(links, packet.link, reason),
    });
}

fn drop_packet(links: &mut [Pair], link: LinkId, reason: DropReason) {
    tracing::trace!(link = link.0, %reason, "packet dropped");
    links[link.0].link.counters_mut().note_dropped(reason);
}
