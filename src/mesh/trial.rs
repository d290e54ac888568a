//! Measuring a neighbour by another carrier beside its link: the shell around [`CarrierTrial`] and
//! [`Trials`](super::trials).
//!
//! The end that finds the link lossy dials, proposes a trial, and probes. The other end answers. If the new
//! connection is better, the end that dialled introduces itself on it, and both ends take it up for the link.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    pin::pin,
    slice,
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use noq::Connection;
use tokio::time::{Instant, sleep_until, timeout};

use super::{
    Mesh,
    arrival::Arrival,
    dial::DIAL_TIMEOUT,
    members::Dial,
    trials::{Measured, Trials},
};
use crate::{
    identity::{NodeName, Peer},
    lane::RouteControl as _,
    link::{Introduction, Kind, Link, LinkDrop, Offence},
    overlay::{
        monitor::{Monitor, Probe},
        select::{leaves_udp, returns_to_udp},
        trial::{CarrierTrial, TRIAL, is_heard, measured},
    },
    transport::code,
    underlay::{Carrier, StreamHold},
    wire::{
        self,
        link::{Hello, LinkDatagram},
    },
};

/// How long the end that answers waits for the verdict: the trial, the requests before and after, and some slack.
const HOSTED: Duration = TRIAL.saturating_add(Duration::from_secs(15));

/// A connection beside the link.
struct Beside {
    conn: Connection,
    peer: Peer,
    address: SocketAddr,
    /// Keeps the stream open, if it goes over one.
    stream: Option<StreamHold>,
}

impl Mesh {
    /// Measures a carrier, and makes it that of the link if it is better.
    pub(super) async fn try_carrier(self: Arc<Self>, dial: Dial) {
        let Dial { name, carrier, addresses, .. } = dial;
        let Some(link) = self.links.get(&name).filter(|link| link.carrier() != carrier) else {
            return;
        };
        let Some(beside) = self.beside(&name, carrier, &addresses).await else { return };
        self.members().trials(&name).into_iter().for_each(Trials::connected);
        if carrier == Carrier::Udp {
            self.note_carrier(carrier, true);
        }
        let verdict = match self.measure_beside(&beside, &link, carrier).await {
            Some(trial) if self.is_better(&link, carrier, &trial) => Ok(trial),
            Some(_) => Err("the link is better"),
            None => Err("the trial came to nothing"),
        };
        match verdict {
            Ok(trial) => self.take_beside(beside, trial).await,
            Err(reason) => beside.conn.close(code::DONE.into(), reason.as_bytes()),
        }
    }

    async fn beside(
        &self,
        name: &NodeName,
        carrier: Carrier,
        addresses: &[SocketAddr],
    ) -> Option<Beside> {
        for address in addresses {
            let connect = async {
                let stream = match carrier {
                    Carrier::Udp => None,
                    Carrier::Tls => Some(self.streams.as_ref()?.dial(*address).await.ok()?),
                };
                let address = stream.as_ref().map_or(*address, StreamHold::virtual_address);
                let (conn, peer) = self.connect(name, address).await?;
                Link::propose_trial(&conn).await.ok()?;
                Some(Beside { conn, peer, address, stream })
            };
            match timeout(DIAL_TIMEOUT, connect).await {
                Ok(Some(beside)) => return Some(beside),
                Ok(None) | Err(_) => tracing::debug!(%name, %address, "no trial of the carrier"),
            }
        }
        None
    }

    /// Probes until the trial is over. `None`: the connection ended, or the link was replaced. A link that loses much
    /// is found silent now and then, which is no reason to give up the trial.
    async fn measure_beside(
        &self,
        beside: &Beside,
        link: &Arc<Link>,
        carrier: Carrier,
    ) -> Option<CarrierTrial> {
        let (chance, name) = (self.switch.chance(), &beside.peer.name);
        let now = || Instant::now().into_std();
        let mut trial = CarrierTrial::new(now(), chance.draw(), carrier == Carrier::Tls);
        while !trial.is_over(now()) {
            if !link.is_open() {
                return None;
            }
            // The link is compared by what it does meanwhile, so it is probed as fast as when it is in use, and when it
            // is down as fast as when a flow waits for it.
            self.routing().hurry_link(now(), name);
            self.watch(slice::from_ref(name));
            trial.advance(now(), chance.draw()).iter().for_each(|probe| send(&beside.conn, probe));
            tokio::select! {
                biased;
                probe = next_probe(&beside.conn, link) => {
                    let answer = trial.handle_message(now(), &probe?);
                    answer.iter().for_each(|probe| send(&beside.conn, probe));
                }
                () = sleep_until(trial.next().into()) => {}
            }
        }
        Some(trial)
    }

    /// Whether the carrier that was measured is to be that of the link. Keeps the figures of the one that is not.
    fn is_better(&self, link: &Link, carrier: Carrier, trial: &CarrierTrial) -> bool {
        let (name, at) = (&link.peer().name, Instant::now().into_std());
        let Some(found) = trial.metrics(at) else { return false };
        let Some(now) = self.routing().measured(at, name, link.carrier() == Carrier::Tls) else {
            return false;
        };
        let better = match carrier {
            Carrier::Tls => leaves_udp(now, found),
            Carrier::Udp => returns_to_udp(now, found),
        };
        let (kept, metrics) = if better { (link.carrier(), now) } else { (carrier, found) };
        self.keep(name, Measured { carrier: kept, metrics, at });
        let ms = |rtt: Duration| rtt.as_secs_f64() * 1e3;
        tracing::info!(
            neighbour = %name, tried = carrier.name(), better, rtt_ms = ms(found.rtt),
            loss = %found.round_trip_loss(), link_rtt_ms = ms(now.rtt),
            link_loss = %now.round_trip_loss(), "another carrier was measured"
        );
        better
    }

    fn keep(&self, name: &NodeName, measured: Measured) {
        self.members().trials(name).into_iter().for_each(|trials| trials.found(measured));
    }

    /// Keeps the figures of the carrier that the link does not go over after a trial of the neighbour, as far as this
    /// end has them. `trial`: what measured the other carrier here, and to the end; `None`: that becomes the link's.
    fn keep_hosted(&self, link: &Link, trial: Option<(Carrier, &Monitor)>) {
        let (name, at, ours) = (&link.peer().name, Instant::now().into_std(), link.carrier());
        let (carrier, metrics) = match trial {
            Some((carrier, monitor)) => (carrier, measured(monitor, at, carrier == Carrier::Tls)),
            None => (ours, self.routing().measured(at, name, ours == Carrier::Tls)),
        };
        metrics.into_iter().for_each(|metrics| self.keep(name, Measured { carrier, metrics, at }));
    }

    /// Makes a connection that was measured the link.
    async fn take_beside(self: Arc<Self>, beside: Beside, trial: CarrierTrial) {
        let Beside { conn, peer, address, stream } = beside;
        let introduced = timeout(DIAL_TIMEOUT, self.introduce_on(&conn, &peer)).await;
        if let Ok(Some(hello)) = introduced {
            let arrival = Arrival::tried(true, address, trial.into_monitor());
            self.take_up(conn, peer, hello, arrival);
        }
        drop(stream);
    }

    /// Answers the probes of a neighbour that measures this connection beside its link, until it makes the
    /// connection the link or closes it. A neighbour has one such connection.
    pub(super) async fn host_trial(
        self: Arc<Self>,
        conn: Connection,
        peer: Peer,
        address: SocketAddr,
    ) {
        let Some(link) = self.links.get(&peer.name) else {
            conn.close(code::PROTOCOL.into(), b"there is no link to compare with");
            return;
        };
        let began = Instant::now().into_std();
        let first = self.us.name < peer.name;
        if !self.members().trials(&peer.name).is_some_and(|trials| trials.hosts(began, first)) {
            conn.close(code::DUPLICATE.into(), b"a trial of this end is under way");
            return;
        }
        let _stream = self.switch.streams().hold(address);
        let older = self.hosted().insert(peer.name.clone(), conn.clone());
        if let Some(older) = older {
            older.close(code::DUPLICATE.into(), b"a newer trial");
        }
        let mut monitor = Monitor::new(began, self.switch.chance().draw());
        let hosted = timeout(HOSTED, self.answer_beside(&conn, &link, &mut monitor)).await;
        let now = Instant::now().into_std();
        let welcome = self.standing(&peer).is_ok() && !self.links.is_refused(now, &peer);
        let hello = match hosted {
            // The connection stays in `hosted` until the revocation lists are exchanged.
            Ok(Some((ours, theirs))) if welcome => {
                self.settle(&conn, &peer, (&ours, &theirs)).await.then_some(theirs)
            }
            _ => None,
        };
        // From now on a newer trial does not close it. One that was closed for a newer trial becomes no link.
        let counts = self.end_hosting(&conn, &peer.name);
        match hello.filter(|_| counts) {
            Some(hello) => {
                self.keep_hosted(&link, None);
                self.take_up(conn, peer, hello, Arrival::tried(false, address, monitor));
            }
            None => {
                conn.close(code::DONE.into(), b"the trial is over");
                // A carrier that fell silent before has figures of the time when it worked.
                if now >= began + TRIAL && is_heard(&monitor, now) {
                    self.keep_hosted(&link, Some((Carrier::of(address), &monitor)));
                }
            }
        }
    }

    /// Answers probes until the neighbour introduces itself; returns what both say of themselves. `None`: it broke the protocol or closed.
    async fn answer_beside(
        &self,
        conn: &Connection,
        link: &Link,
        monitor: &mut Monitor,
    ) -> Option<(Hello, Hello)> {
        let mut introduced = pin!(Link::introduced(conn, || self.hello()));
        loop {
            tokio::select! {
                biased;
                introduced = &mut introduced => return match introduced.ok()? {
                    Introduction::Link { theirs, ours } => Some((ours, theirs)),
                    Introduction::Trial => None,
                },
                probe = next_probe(conn, link) => {
                    let now = Instant::now().into_std();
                    let answer = monitor.handle_message(now, &probe?);
                    answer.iter().for_each(|probe| send(conn, probe));
                }
            }
        }
    }

    /// The connection is no longer one beside the link. False if it was none any more: it was closed for a newer one, or
    /// the neighbour was revoked.
    fn end_hosting(&self, conn: &Connection, name: &NodeName) -> bool {
        let mut hosted = self.hosted();
        let counts = hosted.get(name).is_some_and(|kept| kept.stable_id() == conn.stable_id());
        if counts {
            hosted.remove(name);
        }
        counts
    }

    /// Closes the connection beside the link of a neighbour that was revoked.
    pub(super) fn end_hosted(&self, name: &NodeName) {
        if let Some(conn) = self.hosted().remove(name) {
            conn.close(code::UNAUTHORISED.into(), b"certificate revoked");
        }
    }

    fn hosted(&self) -> MutexGuard<'_, BTreeMap<NodeName, Connection>> {
        self.hosted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The next probe that comes on a connection beside `link`, within the neighbour's budget; `None`: the
/// connection has ended, or what came is no probe.
async fn next_probe(conn: &Connection, link: &Link) -> Option<Probe> {
    loop {
        let datagram = conn.read_datagram().await.ok()?;
        if !link.admits(Kind::Probe) {
            continue;
        }
        let probe = match LinkDatagram::decode(&datagram) {
            Some(LinkDatagram::Probe(probe)) => wire::decode(&probe).ok(),
            Some(LinkDatagram::Nonce(_)) | None => None,
        };
        if probe.is_none() {
            link.offended(LinkDrop::Malformed, Offence::Malformed);
        }
        return probe;
    }
}

/// Sends a probe, which may get lost.
fn send(conn: &Connection, probe: &Probe) {
    let datagram = LinkDatagram::Probe(Bytes::from(wire::encode(probe)));
    if let Err(error) = conn.send_datagram(datagram.encode()) {
        tracing::trace!(%error, "probe not sent");
    }
}

#[cfg(all(test, feature = "emulator"))]
#[path = "trial_tests.rs"]
mod tests;
