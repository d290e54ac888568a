//! Two agents, the two ends of one lane, over three routes in stepped time.

mod ablation;
mod late;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    time::{Duration, Instant},
};

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::*;
use crate::{
    flow::Hint,
    overlay::{candidates::Exclusion, metrics::PathMetrics, select::Selector, units::LossRate},
    wire::{
        label::Label,
        lane::{Moved, RerouteReason},
        link::LaneEndRole,
    },
};

const RELAYS: [&str; 2] = ["north", "south"];
/// One way, in milliseconds: direct, via north, via south. Half of a relayed way is its first link.
const WAYS: [u64; 3] = [30, 40, 50];
/// Bytes of a packet.
const PACKET: u64 = 1_200;
/// Probes find a link that fails for so long to be down.
const DOWN_AFTER: u64 = 1_500;

fn route(n: usize) -> Route {
    if n == 0 { Route::Direct } else { Route::Via(RELAYS[n - 1].parse().unwrap()) }
}

fn index(route: &Route) -> usize {
    (0..WAYS.len()).find(|n| self::route(*n) == *route).unwrap()
}

/// A time in which a way carries nothing: from, until, the way, towards the exit, towards the entry.
#[derive(Debug, Clone, Copy)]
struct Outage {
    from: u64,
    until: u64,
    way: usize,
    directions: [bool; 2],
}

impl Outage {
    fn of(way: usize, from: u64, until: u64) -> Self {
        Self { from, until, way, directions: [true; 2] }
    }
}

/// A time in which a way loses this share of the packets of both directions.
#[derive(Debug, Clone, Copy)]
struct Lossy {
    way: usize,
    from: u64,
    until: u64,
    share: f64,
}

/// Probes find the loss of a way after so long.
const LOSS_SEEN_AFTER: u64 = 10_000;

#[derive(Debug, Clone, PartialEq)]
enum Packet {
    Data(u64),
    Acknowledgement(u64),
    Notice(u64, LaneNotice),
    /// The answer of a link that an end probed, and when it did.
    Answered(NodeName, u64),
}

struct End {
    agent: RouteAgent,
    traffic: Traffic,
    /// When each packet was sent that nothing was heard of, neither that it arrived nor that it was lost.
    sent: BTreeMap<u64, u64>,
    /// The packets that arrived here.
    got: BTreeSet<u64>,
    counts: loss::Counts,
    next_id: u64,
    moves: Vec<(u64, Route, Option<RerouteReason>)>,
    closed: bool,
    packets_out: usize,
}

/// Both ends, and what is under way between them.
struct Pair {
    t0: Instant,
    now: u64,
    ends: [End; 2],
    heap: BinaryHeap<Reverse<(u64, u64, usize)>>,
    flying: BTreeMap<u64, Packet>,
    outages: Vec<Outage>,
    /// Times in which the line of an end carries nothing: which end, from, until.
    pauses: Vec<(usize, u64, u64)>,
    /// Times in which an end does nothing: which end, from, until.
    asleep: Vec<(usize, u64, u64)>,
    losses: Vec<Lossy>,
    /// How the relays refuse grants, at once, if they do.
    refuse: Option<Fault>,
    /// How often a grant was asked for, and refused.
    refused: usize,
    /// A packet is late by up to so many milliseconds.
    jitter: u64,
    /// From when a way takes how much longer each way.
    later: [(u64, u64); WAYS.len()],
    rng: Pcg64Mcg,
    next: u64,
    /// When data last arrived at each end.
    delivered: [u64; 2],
    longest_wait: [u64; 2],
}

impl Pair {
    fn new(outages: &[Outage]) -> Self {
        Self::with(Timing::default(), outages)
    }

    fn with(timing: Timing, outages: &[Outage]) -> Self {
        let t0 = Instant::now();
        let end = |n: usize| {
            let role = [LaneEndRole::Entry, LaneEndRole::Exit][n];
            let peer: NodeName = ["exit", "entry"][n].parse().unwrap();
            let selector = Selector::new(Hint::Latency);
            let agent = RouteAgent::new(t0, role, peer, Route::Direct, selector, timing);
            End {
                agent,
                // The handshake has measured it.
                traffic: Traffic {
                    smoothed_rtt: Some(Duration::from_millis(2 * WAYS[0])),
                    ..Traffic::NONE
                },
                sent: BTreeMap::new(),
                got: BTreeSet::new(),
                counts: loss::Counts::default(),
                next_id: 0,
                moves: Vec::new(),
                closed: false,
                packets_out: 0,
            }
        };
        Self {
            t0,
            now: 0,
            ends: [end(0), end(1)],
            heap: BinaryHeap::new(),
            flying: BTreeMap::new(),
            outages: outages.to_vec(),
            pauses: Vec::new(),
            asleep: Vec::new(),
            losses: Vec::new(),
            refuse: None,
            refused: 0,
            jitter: 0,
            later: [(0, 0); WAYS.len()],
            rng: Pcg64Mcg::seed_from_u64(0),
            next: 0,
            delivered: [0; 2],
            longest_wait: [0; 2],
        }
    }

    fn at(&self) -> Instant {
        self.t0 + Duration::from_millis(self.now)
    }

    /// Whether what leaves end `from` on `way` at `t` arrives.
    fn carries(&self, way: usize, from: usize, t: u64) -> bool {
        let hit = |o: &Outage| o.way == way && o.directions[from] && (o.from..o.until).contains(&t);
        !self.outages.iter().any(hit) && (0..2).all(|end| !self.is_paused(end, t))
    }

    fn is_paused(&self, end: usize, t: u64) -> bool {
        self.pauses
            .iter()
            .any(|(paused, from, until)| *paused == end && (*from..*until).contains(&t))
    }

    /// Whether chance loses a packet that leaves on `way` now.
    fn loses(&mut self, way: usize) -> bool {
        let share = self.losses_at(self.now).find(|l| l.way == way).map(|l| l.share);
        share.is_some_and(|share| self.rng.random_bool(share))
    }

    fn losses_at(&self, t: u64) -> impl Iterator<Item = &Lossy> {
        self.losses.iter().filter(move |lossy| (lossy.from..lossy.until).contains(&t))
    }

    /// When `end` handles what comes at `t`.
    fn awake_at(&self, end: usize, t: u64) -> u64 {
        let nap =
            self.asleep.iter().find(|(who, from, to)| *who == end && (*from..*to).contains(&t));
        nap.map_or(t, |(_, _, until)| *until)
    }

    /// Since when the way fails in either direction.
    fn failing_since(&self, way: usize) -> Option<u64> {
        let hit = |o: &&Outage| o.way == way && (o.from..o.until).contains(&self.now);
        self.outages.iter().filter(hit).map(|o| o.from).min()
    }

    fn send(&mut self, from: usize, way: usize, packet: Packet) {
        let end = &mut self.ends[from];
        end.traffic.departed = Some(self.t0 + Duration::from_millis(self.now));
        end.packets_out += 1;
        if let Packet::Data(id) | Packet::Notice(id, _) = &packet {
            end.counts.sent += 1;
            end.counts.sent_bytes += PACKET;
            end.traffic.asked += 1;
            end.sent.insert(*id, self.now);
        }
        if self.carries(way, from, self.now) && !self.loses(way) {
            let late = if self.jitter > 0 { self.rng.random_range(0..=self.jitter) } else { 0 };
            self.fly(self.now + WAYS[way] + self.later(way) + late, 1 - from, packet);
        }
    }

    /// How much longer than usual the way takes now.
    fn later(&self, way: usize) -> u64 {
        let (from, later) = self.later[way];
        if self.now >= from { later } else { 0 }
    }

    fn fly(&mut self, arrives: u64, to: usize, packet: Packet) {
        self.next += 1;
        self.heap.push(Reverse((arrives, self.next, to)));
        self.flying.insert(self.next, packet);
    }

    fn id(&mut self, of: usize) -> u64 {
        self.ends[of].next_id += 1;
        self.ends[of].next_id
    }

    fn send_data(&mut self, from: usize) {
        let (id, way) = (self.id(from), index(self.ends[from].agent.route()));
        self.send(from, way, Packet::Data(id));
    }

    fn arrive(&mut self, to: usize, packet: Packet) {
        let now = self.at();
        if let Packet::Answered(name, left) = packet {
            let left = self.t0 + Duration::from_millis(left);
            return self.input(to, Input::Answered(vec![(name, left)]));
        }
        let traffic = &mut self.ends[to].traffic;
        if let Some(last) = traffic.arrived.filter(|last| now - *last >= Duration::from_millis(10))
        {
            traffic.pause = Some((last, now));
        }
        traffic.received += 1;
        traffic.arrived = Some(now);
        self.ends[to].counts.received += 1;
        if let Packet::Data(id) | Packet::Notice(id, _) = &packet {
            self.ends[to].got.insert(*id);
        }
        let way = index(self.ends[to].agent.route());
        match packet {
            Packet::Data(id) => {
                let wait = self.now - self.delivered[to];
                self.longest_wait[to] = self.longest_wait[to].max(wait);
                self.delivered[to] = self.now;
                self.send(to, way, Packet::Acknowledgement(id));
            }
            Packet::Notice(id, notice) => {
                self.send(to, way, Packet::Acknowledgement(id));
                self.input(to, Input::Notice(notice));
            }
            Packet::Acknowledgement(id) => self.acknowledged(to, id),
            Packet::Answered(..) => unreachable!("handled above"),
        }
    }

    /// What `of` learns from an acknowledgement: it tells all that arrived before, and what is missing among
    /// packets that left an eighth of a round trip earlier is lost (RFC 9002, section 6.1.2).
    fn acknowledged(&mut self, of: usize, id: u64) {
        let now = self.now;
        let [a, b] = &mut self.ends;
        let (end, far) = if of == 0 { (a, b) } else { (b, a) };
        let Some(left) = end.sent.get(&id).copied() else { return };
        let moved = end.moves.last().map_or(0, |(at, ..)| *at);
        let older: Vec<_> = end.sent.range(..=id).map(|(id, left)| (*id, *left)).collect();
        for (old, sent) in older {
            let arrived = far.got.contains(&old);
            if arrived {
                end.traffic.answered += 1;
            } else if left < sent + (now - left) / 8 {
                continue;
            } else {
                end.counts.lost += 1;
                end.counts.lost_bytes += PACKET;
            }
            end.sent.remove(&old);
        }
        if left >= moved {
            let rtt = Duration::from_millis(now - left);
            let least = end.traffic.least_rtt.map_or(rtt, |least| least.min(rtt));
            end.traffic.least_rtt = Some(least);
            end.traffic.smoothed_rtt = Some(rtt);
        }
    }

    fn view(&self, of: usize) -> View {
        let routes = (0..WAYS.len()).map(|way| {
            let down = self.failing_since(way).is_some_and(|since| self.now > since + DOWN_AFTER);
            let peer: NodeName = ["exit", "entry"][of].parse().unwrap();
            let seen = self.losses_at(self.now.saturating_sub(LOSS_SEEN_AFTER));
            let share = seen.filter(|lossy| lossy.way == way).map(|lossy| lossy.share).next();
            let loss = LossRate::new(share.unwrap_or(0.0));
            let metrics = PathMetrics {
                rtt: Duration::from_millis(2 * WAYS[way]),
                loss_out: loss,
                loss_in: loss,
                exchanges: 66,
                delivered: None,
            };
            let excluded = down.then(|| Exclusion::LinkDown(peer.clone(), peer.clone()));
            let route = route(way);
            SeenRoute {
                candidate: Candidate { route, metrics: Some(metrics), app: None, excluded },
                link_rtt: Some(Duration::from_millis(Self::link_rtt(way))),
                process: Some(1),
            }
        });
        let counts = self.ends[of].counts;
        View { routes: routes.collect(), counts, far_process: Some(1), ..View::default() }
    }

    fn link_rtt(way: usize) -> u64 {
        if way == 0 { 2 * WAYS[0] } else { WAYS[way] }
    }

    fn input(&mut self, of: usize, input: Input) {
        let now = self.at();
        self.ends[of].agent.handle_input(now, input);
        while let Some(command) = self.ends[of].agent.poll_command() {
            self.execute(of, command);
        }
    }

    fn execute(&mut self, of: usize, command: Command) {
        match command {
            Command::Use { route, moved: true, .. } => {
                let end = &mut self.ends[of];
                let reason = end.agent.history().0.last().map(|last| last.reason);
                end.moves.push((self.now, route, reason));
                end.traffic.least_rtt = None;
            }
            Command::AskGrant { route } => {
                let label = Label(index(&route) as u64);
                let granted = Input::Granted { route: route.clone(), label, process: Some(1) };
                self.refused += usize::from(self.refuse.is_some());
                self.input(
                    of,
                    self.refuse.map_or(granted, |fault| Input::Refused { route, fault }),
                );
            }
            Command::Renew { route, label } => {
                self.input(of, Input::Renewed { route, label, holds: true });
            }
            Command::Tell(notice) => {
                let (id, way) = (self.id(of), index(self.ends[of].agent.route()));
                self.send(of, way, Packet::Notice(id, notice));
            }
            Command::Probe(name) => {
                let way = RELAYS.iter().position(|relay| *relay == name.as_str());
                let way = way.map_or(0, |n| n + 1);
                let rtt = Self::link_rtt(way) + self.later(way) * if way == 0 { 2 } else { 1 };
                // Of a relayed way only the first link is asked, which the far end's line does not matter
                // for.
                let hit = |o: &Outage| o.way == way && (o.from..o.until).contains(&self.now);
                let works = !self.outages.iter().any(hit)
                    && !self.is_paused(of, self.now)
                    && (way > 0 || !self.is_paused(1 - of, self.now));
                if works {
                    self.fly(self.now + rtt, of, Packet::Answered(name, self.now));
                }
            }
            Command::Kick => self.send_data(of),
            Command::Close(_) => self.ends[of].closed = true,
            Command::Use { .. }
            | Command::AskFar
            | Command::Suspect(_)
            | Command::Urge
            | Command::Watch(_)
            | Command::Observe(_) => {}
        }
    }

    /// Runs until `until`; each end sends data every so many milliseconds, 0 for never.
    fn run(&mut self, until: u64, every: [u64; 2]) {
        while self.now < until {
            while let Some(Reverse((at, id, to))) = self.heap.peek().copied() {
                if at > self.now {
                    break;
                }
                self.heap.pop();
                let awake = self.awake_at(to, self.now);
                if awake > self.now {
                    self.heap.push(Reverse((awake, id, to)));
                    continue;
                }
                if let Some(packet) = self.flying.remove(&id) {
                    self.arrive(to, packet);
                }
            }
            for of in [0, 1] {
                if self.awake_at(of, self.now) > self.now {
                    continue;
                }
                if every[of] > 0 && self.now.is_multiple_of(every[of]) {
                    self.send_data(of);
                }
                let now = self.at();
                if now >= self.ends[of].agent.next_view() {
                    let view = self.view(of);
                    self.input(of, Input::View(view));
                }
                let outstanding = self.ends[of].agent.poll_timeout();
                if outstanding.is_none_or(|at| now >= at) {
                    let traffic = self.ends[of].traffic;
                    self.input(of, Input::Traffic(traffic));
                }
            }
            self.now += 1;
        }
    }

    /// Runs until `until`; in how many of the steps of so many milliseconds an end was on another route than direct.
    fn steps_elsewhere(&mut self, until: u64, step: usize, every: [u64; 2]) -> u64 {
        let mut elsewhere = 0;
        for at in (0..until).step_by(step).skip(1) {
            self.run(at, every);
            let mut routes = self.ends.iter().map(|end| end.agent.route());
            elsewhere += u64::from(routes.any(|route| *route != Route::Direct));
        }
        elsewhere
    }

    fn reasons(&self, of: usize) -> Vec<String> {
        self.ends[of].moves.iter().map(|(at, to, why)| format!("{at} {to} {why:?}")).collect()
    }

    /// The longest wait for data that `of` receives, from now on.
    fn restart_waits(&mut self) {
        self.longest_wait = [0; 2];
        self.delivered = [self.now; 2];
    }
}

const BUSY: [u64; 2] = [2, 2];

#[test]
fn both_ends_move_once_when_the_direct_path_is_cut() {
    let mut pair = Pair::new(&[Outage::of(0, 3_000, 60_000)]);
    pair.run(2_900, BUSY);
    pair.restart_waits();
    pair.run(8_000, BUSY);
    for of in [0, 1] {
        assert_eq!(pair.ends[of].moves.len(), 1, "{:?}", pair.reasons(of));
        assert_eq!(*pair.ends[of].agent.route(), route(1));
        assert!(pair.longest_wait[of] < 220, "{} ms", pair.longest_wait[of]);
    }
}

#[test]
fn a_cut_of_one_direction_is_healed_by_whichever_end_notices() {
    for directions in [[true, false], [false, true]] {
        let cut = Outage { directions, ..Outage::of(0, 3_000, 60_000) };
        let mut pair = Pair::new(&[cut]);
        pair.run(2_900, BUSY);
        pair.restart_waits();
        pair.run(8_000, BUSY);
        let reasons = [pair.reasons(0), pair.reasons(1)];
        assert!(pair.longest_wait.iter().all(|wait| *wait < 350), "{:?}", pair.longest_wait);
        assert!(reasons.iter().all(|moves| moves.len() <= 1), "{reasons:?}");
    }
}

#[test]
fn a_pause_of_one_ends_line_blames_no_route() {
    let lengths = [150, 250, 275, 350, 400, 500, 1_200, 1_500, 5_000];
    for (long, end) in lengths.into_iter().flat_map(|long| [(long, 0), (long, 1)]) {
        for every in [BUSY, [200, 200], [0, 2]] {
            let mut pair = Pair::new(&[]);
            pair.pauses = (1..3).map(|n| (end, n * 20_000, n * 20_000 + long)).collect();
            let elsewhere = pair.steps_elsewhere(60_000, 1_000, every);
            let moves = [pair.reasons(0), pair.reasons(1)];
            assert!(moves[end].is_empty(), "{long} ms at {end}, {every:?}: {moves:?}");
            assert!(elsewhere <= 2 + 2 * long / 1_000, "{long} ms at {end}, {every:?}: {moves:?}");
        }
    }
}

#[test]
fn idle_ends_stay_silent() {
    let mut pair = Pair::new(&[]);
    pair.run(2_000, BUSY);
    pair.run(3_000, [0, 0]);
    let before = pair.ends.iter().map(|end| end.packets_out).sum::<usize>();
    pair.run(63_000, [0, 0]);
    let after = pair.ends.iter().map(|end| end.packets_out).sum::<usize>();
    assert_eq!(after - before, 0);
}

#[test]
fn a_keystroke_costs_no_more_than_its_ping_and_answer() {
    let mut pair = Pair::new(&[]);
    pair.run(1_000, [200, 0]);
    let before = pair.ends.iter().map(|end| end.packets_out).sum::<usize>();
    pair.run(11_000, [200, 0]);
    let packets = pair.ends.iter().map(|end| end.packets_out).sum::<usize>() - before;
    // The key and its acknowledgement; a ping, its acknowledgement, its answer and that one's.
    assert!(packets <= 50 * 6 + 6, "{packets}");
}

#[test]
fn a_new_grant_is_used_though_the_far_end_moves_to_its_route_meanwhile() {
    let (now, north) = (Instant::now(), route(1));
    let (old, new) = (Label(1), Label(2));
    let selector = Selector::new(Hint::Latency);
    let peer = "entry".parse().unwrap();
    let (role, timing) = (LaneEndRole::Exit, Timing::default());
    let mut agent = RouteAgent::new(now, role, peer, north.clone(), selector, timing);
    agent.hold_grant(now, &north, old, Some(7));
    agent.handle_input(now, Input::Renewed { route: north.clone(), label: old, holds: false });
    let moved = Moved { left: Route::Direct, reason: RerouteReason::Silent { ms: 100 } };
    agent.handle_input(
        now,
        Input::Notice(LaneNotice {
            epoch: 1,
            seen: 0,
            route: north.clone(),
            moved: Some(moved),
            limited: false,
            mine: false,
            ping: false,
        }),
    );
    agent.handle_input(now, Input::Granted { route: north, label: new, process: Some(7) });
    let commands = std::iter::from_fn(|| agent.poll_command());
    let used = commands.filter_map(|command| match command {
        Command::Use { label, .. } => label,
        _ => None,
    });
    assert_eq!(used.collect::<Vec<_>>(), [new]);
}

#[test]
fn relays_that_refuse_at_once_are_asked_a_few_times_a_second() {
    let (from, until) = (3_000, 13_000);
    // By the relay, or for want of a link to it.
    for fault in [Fault::Refused, Fault::Silent] {
        let mut pair = Pair::new(&[Outage::of(0, from, until)]);
        pair.refuse = Some(fault);
        pair.run(until, BUSY);
        // Two ends, two relays, four times a second.
        assert!((1..=160).contains(&pair.refused), "{fault:?}: {} refusals", pair.refused);
        pair.refuse = None;
        pair.restart_waits();
        pair.run(until + 2_000, BUSY);
        assert!(pair.longest_wait.iter().all(|wait| *wait <= 1_000), "{:?}", pair.longest_wait);
    }
}

fn outages() -> impl Strategy<Value = Vec<Outage>> {
    let one = (0..3usize, 2_000..40_000u64, 200..20_000u64, 0..3u8).prop_map(
        |(way, from, long, which)| Outage {
            directions: [which != 1, which != 2],
            ..Outage::of(way, from, from + long)
        },
    );
    prop::collection::vec(one, 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_ends_always_meet_on_a_route_that_works(outages in outages(), every in prop::sample::select(vec![[2, 2], [200, 200], [0, 3], [3, 0]])) {
        let mut pair = Pair::new(&outages);
        pair.run(62_000, every);
        // All outages are over; a lane resumes within the longest verdict and some round trips.
        pair.restart_waits();
        pair.run(66_000, every);
        for to in [0, 1] {
            if every[1 - to] > 0 {
                let wait = pair.now - pair.delivered[to];
                prop_assert!(wait < 1_000, "{wait} ms, {:?} {:?}", pair.reasons(0), pair.reasons(1));
            }
        }
        prop_assert!(!pair.ends[0].closed && !pair.ends[1].closed);
    }

    #[test]
    fn while_one_route_works_no_wait_is_long(outages in outages(), working in 0..3usize) {
        let outages: Vec<_> = outages.into_iter().filter(|o| o.way != working).collect();
        let mut pair = Pair::new(&outages);
        pair.run(62_000, BUSY);
        prop_assert!(
            pair.longest_wait.iter().all(|wait| *wait < 3_000),
            "{:?}: {:?} {:?}", pair.longest_wait, pair.reasons(0), pair.reasons(1)
        );
    }
}
