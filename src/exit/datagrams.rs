//! Associations at the exit: one UDP socket each.
//!
//! All destinations see the same source address and port (endpoint-independent mapping, RFC 4787), and
//! only addresses that the association has sent to may answer. Each destination is judged like that of a
//! connection, before the first datagram goes there.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{net::UdpSocket, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    DenialReason, Exit, ExitPermit, Policy,
    destinations::{Destinations, NewDestinations, Step},
};
use crate::{
    flow::{
        Carried, DatagramDrop, DatagramDrops, DatagramSink, MAX_DATAGRAM, OutwardDatagrams,
        Refusal, RefusalKind, Target, is_exhaustion,
    },
    identity::NodeName,
};

/// What the kernel may keep of a socket's datagrams, in bytes: 30 ms of 50 Mbit/s by its own count, which
/// is twice the content. The system may allow less.
const SOCKET_BUFFER: usize = 512 << 10;

/// Bytes of all associations of an entry that wait for judgements. One association may have 32 KiB.
const WAITING_PER_ENTRY: usize = 1 << 20;

/// Errors in a row after which a socket is given up. An error of one destination is followed by a
/// datagram of another one.
const MAX_ERRORS: u32 = 64;

/// Associations of each entry. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Associations(Arc<Mutex<Shares>>);

#[derive(Debug)]
struct Shares {
    /// Associations that an entry may have.
    limit: usize,
    /// An entry without an association is kept until the next association of any, after its last second.
    entries: BTreeMap<NodeName, Share>,
}

#[derive(Debug, Default)]
struct Share {
    associations: usize,
    waiting: Arc<AtomicUsize>,
    new: Arc<NewDestinations>,
}

/// The place of one association; dropping it gives it back.
#[derive(Debug)]
struct Place {
    entry: NodeName,
    waiting: Arc<AtomicUsize>,
    new: Arc<NewDestinations>,
    associations: Associations,
}

impl Associations {
    pub(super) fn new(limit: usize) -> Self {
        Self(Arc::new(Mutex::new(Shares { limit, entries: BTreeMap::new() })))
    }

    /// Admits so many associations of an entry from now on. Those that are open stay.
    pub(super) fn set_limit(&self, limit: usize) {
        self.lock().limit = limit;
    }

    fn admit(&self, now: Instant, entry: &NodeName) -> Result<Place, Refusal> {
        let Shares { limit, entries } = &mut *self.lock();
        entries.retain(|_, share| share.associations > 0 || !share.new.rests(now.into_std()));
        if *limit == 0 {
            let detail = "the exit carries no datagrams (UDP): its max_associations_per_entry is 0";
            return Err(Refusal::new(RefusalKind::Policy, detail));
        }
        if entries.get(entry).is_some_and(|share| share.associations >= *limit) {
            let detail = format!("the exit carries its limit of {limit} associations for {entry}");
            return Err(Refusal::new(RefusalKind::Overloaded, detail));
        }
        let share = entries.entry(entry.clone()).or_default();
        share.associations += 1;
        let (waiting, new) = (share.waiting.clone(), share.new.clone());
        Ok(Place { entry: entry.clone(), waiting, new, associations: self.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Shares> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let entries = &mut self.associations.lock().entries;
        if let Some(share) = entries.get_mut(&self.entry) {
            share.associations -= 1;
        }
    }
}

/// One association.
struct Outbound {
    exit: Arc<Exit>,
    groups: Vec<String>,
    socket: UdpSocket,
    is_dual: bool,
    back: Arc<dyn DatagramSink>,
    drops: Arc<DatagramDrops>,
    carried: Arc<Carried>,
    place: Place,
    state: Mutex<Judged>,
    me: Weak<Self>,
    ended: CancellationToken,
}

/// The destinations, and the policy that judged them.
struct Judged {
    by: Arc<Policy>,
    destinations: Destinations,
}

impl Judged {
    /// The destinations as `policy` judges them.
    fn under(&mut self, policy: Arc<Policy>) -> &mut Destinations {
        if !Arc::ptr_eq(&self.by, &policy) {
            self.by = policy;
            self.destinations.forget();
        }
        &mut self.destinations
    }
}

/// What ends with an association.
struct Kept {
    _ends: DropGuard,
    _permit: ExitPermit,
}

impl Exit {
    /// Opens a socket for datagrams of the entry `peer_name`, whose certificate names `groups`.
    ///
    /// # Errors
    /// - [`RefusalKind::NotAnExit`] when the node is no exit;
    /// - [`RefusalKind::Policy`] when it carries no datagrams;
    /// - [`RefusalKind::Overloaded`] when a limit is reached.
    pub fn associate(
        self: &Arc<Self>,
        peer_name: &NodeName,
        groups: &[String],
        back: Arc<dyn DatagramSink>,
        drops: Arc<DatagramDrops>,
    ) -> Result<OutwardDatagrams, Refusal> {
        if !self.config.enabled {
            self.count_denial(DenialReason::NotAnExit);
            return Err(Refusal::new(RefusalKind::NotAnExit, DenialReason::NotAnExit.to_string()));
        }
        let place = self.associations.admit(Instant::now(), peer_name)?;
        let permit = self.limits.admit(peer_name)?;
        let (socket, is_dual) = open().map_err(|error| Refusal::from_connect_error(&error))?;
        let local = socket.local_addr().map_err(|error| Refusal::from_connect_error(&error))?;
        let ended = CancellationToken::new();
        let outbound = Arc::new_cyclic(|me| Outbound {
            exit: self.clone(),
            groups: groups.to_vec(),
            socket,
            is_dual,
            back,
            drops,
            carried: permit.carried(),
            state: Mutex::new(Judged {
                by: self.policy.get(),
                destinations: Destinations::of_entry(place.new.clone()),
            }),
            place,
            me: me.clone(),
            ended: ended.clone(),
        });
        let receiving = outbound.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = receiving.ended.cancelled() => {}
                () = receiving.receive() => {}
            }
        });
        let carried = permit.carried();
        let kept = Kept { _ends: ended.drop_guard(), _permit: permit };
        Ok(OutwardDatagrams { sink: outbound, local, carried, permit: Box::new(kept) })
    }

    /// The address of `target` to which datagrams of `entry` may go.
    async fn judge_datagrams(
        &self,
        entry: &NodeName,
        groups: &[String],
        target: &Target,
        is_usable: impl Fn(SocketAddr) -> bool,
    ) -> Result<SocketAddr, Refusal> {
        let deadline = Instant::now() + self.config.connect_timeout;
        let target = self.checked(groups, target)?;
        let addrs = self.addresses(deadline, entry, groups, &target).await?;
        addrs.into_iter().find(|addr| is_usable(*addr)).ok_or_else(|| {
            let detail = format!("{} has no address of a family that the exit has", target.host);
            Refusal::new(RefusalKind::Unreachable, detail)
        })
    }
}

/// A socket for both families, or for IPv4 where the system has no IPv6.
fn open() -> io::Result<(UdpSocket, bool)> {
    let dual = || {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_only_v6(false)?;
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into())?;
        Ok(socket)
    };
    let (socket, is_dual) = match dual() {
        Ok(socket) => (socket, true),
        Err(error) if is_exhaustion(&error) => return Err(error),
        Err(_) => {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
            socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into())?;
            (socket, false)
        }
    };
    // The system bounds both; with less, bursts are lost sooner.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.set_nonblocking(true)?;
    Ok((UdpSocket::from_std(socket.into())?, is_dual))
}

impl Outbound {
    fn send(&self, to: SocketAddr, payload: &[u8]) {
        let to = match to {
            SocketAddr::V4(to) if self.is_dual => {
                SocketAddr::from((to.ip().to_ipv6_mapped(), to.port()))
            }
            to => to,
        };
        // Tokio's `try_send_to` fails before the first event of a new socket.
        match SockRef::from(&self.socket).send_to(payload, &to.into()) {
            Ok(_) => self.carried.add_sent(payload.len()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.drops.count(DatagramDrop::SocketFull);
            }
            Err(error) => {
                tracing::debug!(%error, "a datagram cannot be sent");
                self.drops.count(DatagramDrop::Unreachable);
            }
        }
    }

    /// Judges `target`, and sends what waited for it.
    fn judge(&self, target: Target) {
        let Some(me) = self.me.upgrade() else { return };
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = me.ended.cancelled() => {}
                () = me.judge_now(&target) => {}
            }
        });
    }

    async fn judge_now(&self, target: &Target) {
        let is_usable = |addr: SocketAddr| self.is_dual || addr.is_ipv4();
        let (judged, verdict, waited) = loop {
            let policy = self.exit.policy.get();
            let judging =
                self.exit.judge_datagrams(&self.place.entry, &self.groups, target, is_usable);
            let judged = judging.await;
            let verdict = judged.as_ref().map(|addr| *addr).map_err(|refusal| reason(refusal.kind));
            let now = Instant::now().into_std();
            // A verdict of a policy that is no longer in force is none.
            if Arc::ptr_eq(&policy, &self.exit.policy.get()) {
                break (judged, verdict, self.change(|state| state.judged(now, target, verdict)));
            }
        };
        match (verdict, judged) {
            (Ok(to), _) => waited.iter().for_each(|payload| self.send(to, payload)),
            (Err(reason), judged) => {
                waited.iter().for_each(|_| self.drops.count(reason));
                if let Err(refusal) = judged {
                    self.back.refused(target, refusal);
                }
            }
        }
    }

    /// Changes the destinations, and counts the bytes that wait for the entry.
    fn change<T>(&self, change: impl FnOnce(&mut Destinations) -> T) -> T {
        let policy = self.exit.policy.get();
        let mut judged = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = judged.under(policy);
        let before = state.waiting_bytes();
        let result = change(state);
        let after = state.waiting_bytes();
        if after >= before {
            self.place.waiting.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.place.waiting.fetch_sub(before - after, Ordering::Relaxed);
        }
        result
    }

    /// Takes what destinations send, until the socket fails.
    async fn receive(&self) {
        // One more than the longest, to see that a datagram is longer.
        let (mut buffer, mut errors) = ([0; MAX_DATAGRAM + 1], 0);
        while errors < MAX_ERRORS {
            match self.socket.recv_from(&mut buffer).await {
                Ok((length, from)) => {
                    errors = 0;
                    self.received(&buffer[..length], from);
                }
                Err(error) => {
                    errors += 1;
                    tracing::debug!(%error, "an association receives an error");
                }
            }
        }
    }

    fn received(&self, payload: &[u8], from: SocketAddr) {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        if !self.change(|state| state.may_answer(from.ip())) {
            return self.drops.count(DatagramDrop::Unsolicited);
        }
        if payload.len() > MAX_DATAGRAM {
            return self.drops.count(DatagramDrop::TooLarge);
        }
        self.carried.add_received(payload.len());
        self.back.deliver(&from.into(), payload);
    }
}

fn reason(kind: RefusalKind) -> DatagramDrop {
    match kind {
        RefusalKind::NameNotFound | RefusalKind::TimedOut => DatagramDrop::Unresolved,
        RefusalKind::Overloaded => DatagramDrop::QueueFull,
        RefusalKind::Protocol => DatagramDrop::BadDestination,
        RefusalKind::Unreachable
        | RefusalKind::ConnectionRefused
        | RefusalKind::NoExit
        | RefusalKind::ExitUnreachable => DatagramDrop::Unreachable,
        RefusalKind::Policy | RefusalKind::NotAnExit => DatagramDrop::Denied,
    }
}

impl DatagramSink for Outbound {
    fn deliver(&self, peer: &Target, payload: &[u8]) {
        let now = Instant::now().into_std();
        let room = self.place.waiting.load(Ordering::Relaxed) + payload.len() <= WAITING_PER_ENTRY;
        match self.change(|state| state.step(now, peer, payload, room)) {
            Step::Send(to) => self.send(to, payload),
            Step::SendAndJudge(to) => {
                self.send(to, payload);
                self.judge(peer.clone());
            }
            Step::Judge => self.judge(peer.clone()),
            Step::Wait => {}
            Step::Drop(reason) => self.drops.count(reason),
        }
    }

    fn refused(&self, _: &Target, _: Refusal) {}
}

impl Drop for Outbound {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.place.waiting.fetch_sub(state.destinations.waiting_bytes(), Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "datagrams_tests.rs"]
mod tests;
