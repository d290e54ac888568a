//! A member's worst: everything that its certificate lets it send to a node, at once.
//!
//! For the first half of the time it comes and goes with another record of its own each time, and asks
//! for as much as its budgets allow: a member whose links are refused is not dialled. Then it floods. All the
//! while it holds lanes with flows that nobody reads, associations, look-ups and unreadable frames, and
//! sends raw packets of every kind.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    fmt,
    net::SocketAddr,
    time::Duration,
};

use bytes::Bytes;
use noq::{Connection, RecvStream, SendStream};
use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use ronproxy::internals::wire::label::Label;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout_at},
};

use crate::{
    peer::{HostileLink, Peer, Victim, open_flow, open_with, repeat},
    words,
};

/// Lanes that it holds: some with flows that nobody reads, as these use up their lane's window, one with
/// associations, and one with look-ups.
const LANES: usize = 4;
const FLOWS_PER_LANE: usize = 100;
const ASSOCIATIONS: u64 = 256;

/// How often it sends a datagram of an association, and asks for a name: 1 Mbit/s, and more than one
/// entry may ask for.
const DATAGRAM_EVERY: Duration = Duration::from_millis(2);
const LOOK_UP_EVERY: Duration = Duration::from_millis(8);

/// Look-ups that wait for their answer.
const LOOK_UPS: usize = 128;

/// Where its flows go.
pub(crate) struct Targets {
    /// Sends without end.
    pub(crate) source: String,
    /// Takes connections and reads nothing.
    pub(crate) deaf: String,
    /// Takes datagrams.
    pub(crate) datagrams: String,
    /// Ends of names that do not exist; `None`: look-ups would leave this machine.
    pub(crate) nowhere: Option<&'static str>,
}

/// Sends the raw packet of this number.
pub(crate) type SendPacket<'a> = Box<dyn Fn(u64, &[u8]) + 'a>;

/// The attack.
pub(crate) struct Worst<'a> {
    pub(crate) peer: &'a Peer,
    pub(crate) victim: Victim,
    /// Members in whose names it speaks: an entry and a relay.
    pub(crate) others: [&'a str; 2],
    /// Third parties that its own certified record names, and those that only its lies name.
    pub(crate) named: Vec<SocketAddr>,
    pub(crate) lied: Vec<SocketAddr>,
    pub(crate) targets: Targets,
    /// Sends the raw packet of this number to the victim, from any source.
    pub(crate) send: SendPacket<'a>,
    pub(crate) done: Done,
}

/// What the attack achieved. If it was little, the cost says little.
#[derive(Debug, Default)]
pub(crate) struct Done {
    visits: Cell<u64>,
    renewals: Cell<u64>,
    floods: Cell<u64>,
    lanes: Cell<u64>,
    flows: Cell<u64>,
    associations: Cell<u64>,
    datagrams: Cell<u64>,
    look_ups: Cell<u64>,
    packets: Cell<u64>,
    /// Labels of its lanes.
    labels: RefCell<Vec<Label>>,
}

fn count(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

impl Done {
    /// Fails if a part of the attack did not take place in `seconds`.
    pub(crate) fn assert_much(&self, seconds: u64) {
        let lanes = u64::try_from(LANES).unwrap();
        let enough = [
            (&self.visits, seconds / 4),
            (&self.renewals, seconds / 4),
            (&self.floods, 1),
            (&self.lanes, lanes),
            (&self.flows, lanes * 25),
            (&self.associations, ASSOCIATIONS / 2),
            (&self.datagrams, seconds * 250),
            (&self.packets, seconds * 800),
        ];
        assert!(enough.iter().all(|(done, least)| done.get() >= *least), "a weak attack: {self}");
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { visits, renewals, floods, lanes, flows, .. } = self;
        let Self { associations, datagrams, look_ups, packets, .. } = self;
        write!(
            f,
            "{} visits, {} renewals, {} floods; {} lanes, {} flows, {} associations, {} datagrams, \
             {} look-ups; {} packets",
            visits.get(),
            renewals.get(),
            floods.get(),
            lanes.get(),
            flows.get(),
            associations.get(),
            datagrams.get(),
            look_ups.get(),
            packets.get()
        )
    }
}

impl Worst<'_> {
    /// Attacks until `end`.
    pub(crate) async fn run(&self, end: Instant) {
        let half = Instant::now() + end.saturating_duration_since(Instant::now()) / 2;
        let links = async {
            self.come_and_go(half).await;
            let _ = timeout_at(end, self.flood(end)).await;
        };
        let lanes = async {
            let _ = timeout_at(end, self.use_lanes()).await;
        };
        let packets = repeat(end, Duration::from_millis(1), |number| {
            (self.send)(number, &self.packet(number));
            count(&self.done.packets);
        });
        tokio::join!(links, lanes, packets);
    }

    /// A link a second, whose record names other addresses than the one before.
    async fn come_and_go(&self, until: Instant) {
        let signing_request = self.peer.credentials().identity().signing_request().unwrap();
        let (renew, mut sequence) = (words::renew_certificate(&signing_request, false), 0);
        while Instant::now() < until {
            let Some(link) = self.peer.link(&self.victim).await else {
                sleep(Duration::from_millis(200)).await;
                continue;
            };
            sequence += 1;
            link.notice(&self.own_record(sequence)).await;
            link.notice(&words::empty_digest()).await;
            (0..20).for_each(|number| link.probe(&words::probe(number)));
            for _ in 0..4 {
                if link.request(&renew).await.is_some() {
                    count(&self.done.renewals);
                }
            }
            link.request(&words::forward(self.others[1], Label(sequence), None)).await;
            sleep(Duration::from_millis(600)).await;
            link.conn.close(0u32.into(), b"");
            count(&self.done.visits);
            sleep(Duration::from_millis(300)).await;
        }
    }

    /// Its own record, with the eight third parties of this turn.
    fn own_record(&self, sequence: u64) -> Vec<u8> {
        let first = usize::try_from(sequence).unwrap() * 8;
        let addresses = self.named.iter().cycle().skip(first % self.named.len()).take(8);
        let addresses: Vec<_> = addresses.copied().collect();
        let name = &self.peer.credentials().peer().name;
        words::record(name.as_str(), self.peer.credentials(), (1 << 60, sequence), &addresses)
    }

    /// Links, and everything that one takes, until the victim refuses them and after that again.
    async fn flood(&self, end: Instant) {
        let mut seed = 0;
        while Instant::now() < end {
            let Some(link) = self.peer.link(&self.victim).await else {
                sleep(Duration::from_millis(500)).await;
                continue;
            };
            seed += 1;
            count(&self.done.floods);
            self.flood_link(&link, end, seed).await;
        }
    }

    /// Messages of all kinds in random order, as fast as the victim takes them.
    async fn flood_link(&self, link: &HostileLink, end: Instant, seed: u64) {
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let (me, [entry, relay]) = (self.peer.credentials(), self.others);
        let exit = self.victim.name.as_str();
        let forged = words::record(relay, me, (1 << 60, 1), &self.lied);
        let hearsay: Vec<_> = (0..200).map(|i| (format!("n{i}"), self.lied.clone())).collect();
        let hearsay = words::hearsay(&hearsay);
        let signing_request = me.identity().signing_request().unwrap();
        let mut sequence = seed << 32;
        while Instant::now() < end && link.ended().is_none() {
            let label = Label(rng.random());
            sequence += 1;
            match rng.random_range(0..100) {
                0..25 => drop(link.notice(&forged).await),
                25..35 => drop(link.notice(&self.own_record(sequence)).await),
                35..50 => drop(link.notice(&words::empty_digest()).await),
                50..55 => drop(link.notice(&words::certificate(&me.certificate())).await),
                55..65 => drop(link.request(&words::forward(relay, label, None)).await),
                65..72 => drop(link.request(&words::open_lane(me, exit, label)).await),
                72..77 => drop(link.request(&words::passed_on(me, entry, exit)).await),
                77..82 => {
                    drop(
                        link.request(&words::renew_certificate(&signing_request, rng.random()))
                            .await,
                    );
                }
                82..99 => (0..10).for_each(|n| link.probe(&words::probe(n))),
                _ if rng.random_ratio(1, 50) => drop(link.notice(&hearsay).await),
                _ => {}
            }
        }
    }

    async fn use_lanes(&self) {
        let mut lanes = Vec::new();
        while lanes.len() < LANES {
            if let Some(link) = self.peer.link(&self.victim).await
                && let Some((lane, label)) = self.peer.lane(&self.victim, &link).await
            {
                self.done.labels.borrow_mut().push(label);
                count(&self.done.lanes);
                lanes.push(lane);
            } else {
                sleep(Duration::from_millis(200)).await;
            }
        }
        let [stalled @ .., associations, look_ups] = &lanes[..] else { return };
        let mut kept = Vec::new();
        for lane in stalled {
            kept.push(self.stalled_flows(lane).await);
        }
        tokio::join!(self.send_datagrams(associations), self.look_up(look_ups));
    }

    /// Downloads and uploads that nobody reads.
    async fn stalled_flows(&self, lane: &Connection) -> JoinSet<()> {
        let mut opened = Vec::new();
        for number in 0..FLOWS_PER_LANE {
            let targets = [&self.targets.source, &self.targets.deaf];
            let Some(flow) = open_flow(lane, targets[number % 2]).await else { break };
            count(&self.done.flows);
            opened.push(flow);
        }
        // The bytes of the first ones would leave no room for the headers of the others.
        let mut flows = JoinSet::new();
        for (mut send, recv) in opened {
            flows.spawn(async move {
                let _ = send.write_all(b"GET 100000000\n").await;
                // The attacker keeps no copy: the test counts memory.
                static PIECE: [u8; 65_536] = [7; 65_536];
                while send.write_chunk(Bytes::from_static(&PIECE)).await.is_ok() {}
                drop(recv);
            });
        }
        flows
    }

    /// Associations, and datagrams on all of them: whole ones, halves, to a name that does not exist,
    /// unreadable ones, and notices that are none.
    async fn send_datagrams(&self, lane: &Connection) {
        let mut kept = Vec::new();
        for _ in 0..ASSOCIATIONS {
            let Some(flow) = open_with(lane, &words::open_association()).await else { break };
            count(&self.done.associations);
            kept.push(flow);
        }
        let indices: Vec<u64> = kept.iter().map(|(send, _)| send.id().index()).collect();
        let forever = Instant::now() + Duration::from_secs(1 << 20);
        repeat(forever, DATAGRAM_EVERY, |number| {
            let turn = usize::try_from(number).unwrap();
            let flow = indices.get(turn % indices.len().max(1)).copied().unwrap_or(turn as u64);
            let number = u16::try_from(turn / indices.len().max(1) % 65_536).unwrap();
            let (to, payload) = (&self.targets.datagrams, [7; 200]);
            let nowhere = self.targets.nowhere.map(|end| format!("d{turn}{end}:53"));
            let datagram = match turn % 6 {
                0 => words::half_a_datagram(flow, number, to, &payload),
                1 => words::datagram(flow, number, &nowhere.unwrap_or(to.clone()), &payload),
                2 => Bytes::from_static(&[0x80, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
                3 => Bytes::from_static(&[0xff; 100]),
                _ => words::datagram(flow, number, to, &payload),
            };
            if lane.send_datagram(datagram).is_ok() {
                count(&self.done.datagrams);
            }
        })
        .await;
    }

    /// Flows to names that do not exist.
    async fn look_up(&self, lane: &Connection) {
        let Some(nowhere) = self.targets.nowhere else { return };
        let mut waiting: VecDeque<(SendStream, RecvStream)> = VecDeque::new();
        let mut next = Instant::now();
        loop {
            sleep_until(next).await;
            next += LOOK_UP_EVERY;
            let target = format!("n{}{nowhere}:80", self.done.look_ups.get());
            let Some(flow) = open_flow(lane, &target).await else { continue };
            count(&self.done.look_ups);
            waiting.push_back(flow);
            if waiting.len() > LOOK_UPS {
                waiting.pop_front();
            }
        }
    }

    /// A packet of 1,250 bytes, also under the labels of its lanes.
    fn packet(&self, number: u64) -> Vec<u8> {
        let labels = self.done.labels.borrow();
        let turn = usize::try_from(number).unwrap();
        match labels.get(turn % labels.len().max(1)) {
            Some(label) if number % 4 < 2 => {
                // In order, or anywhere.
                let number = if number.is_multiple_of(4) { turn } else { turn.wrapping_mul(7_919) };
                let number = u16::try_from(number % 65_536).unwrap();
                words::labelled(*label, number, &[0x5a; 1_239])
            }
            _ => rubbish(number),
        }
    }
}

/// A packet of 1,250 bytes: of no kind, labelled, marked as relayed, short and long headers of QUIC.
pub(crate) fn rubbish(number: u64) -> Vec<u8> {
    let mut packet = match number % 6 {
        0 => vec![0x3f],
        1 => [&[1][..], &number.to_be_bytes()].concat(),
        2 => [&[2][..], &number.to_be_bytes()].concat(),
        3 => vec![0x40],
        4 => [&[0xe0, 0, 0, 0, 1, 8][..], &number.to_be_bytes(), &[0]].concat(),
        _ => vec![0],
    };
    packet.resize(1_250, 0x5a);
    packet
}
