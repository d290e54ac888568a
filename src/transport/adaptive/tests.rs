//! Senders that share one bottleneck with a drop-tail queue, in virtual time.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
};

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::*;

const MTU: u16 = 1_443;
const PACKET: u64 = MTU as u64;
/// With the headers of UDP, IP and the label.
const WIRE: u64 = PACKET + 37;

/// A line, and what it does to packets.
#[derive(Debug, Clone, Copy)]
struct Line {
    mbps: f64,
    rtt_ms: f64,
    queue_ms: f64,
    loss: f64,
    /// Half of the width of an even distribution; packets stay in order.
    jitter_ms: f64,
    /// The same of each packet by itself, each way. They are put back in order at the far end.
    overtake_ms: f64,
    /// From the middle of the run on.
    then_mbps: Option<f64>,
    /// Rates in place of `mbps`, in turn, and how long each lasts.
    varies: (&'static [f64], f64),
}

const LINE: Line = Line {
    mbps: 50.0,
    rtt_ms: 40.0,
    queue_ms: 50.0,
    loss: 0.0,
    jitter_ms: 0.0,
    overtake_ms: 0.0,
    then_mbps: None,
    varies: (&[], 0.0),
};

/// What a sender achieved in the second half of a run.
#[derive(Debug, Clone, Copy)]
struct Result {
    mbps: f64,
    /// What a packet of somebody else would have waited in the queue: mean, and 95th percentile.
    queue_ms: (f64, f64),
}

enum Control {
    Adaptive(Box<Adaptive>),
    /// As TCP: CUBIC behind a slow start.
    Tcp {
        window: f64,
        cubic: Option<Cubic>,
        recovery_until: u64,
    },
}

struct Sender {
    control: Control,
    unacked: BTreeMap<u64, u64>,
    next: u64,
    largest: Option<u64>,
    srtt: f64,
    tokens: f64,
    refilled: u64,
    wakes: u64,
    probes: u32,
    begins: u64,
    delivered: u64,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Acked(usize, u64),
    Wake(usize),
    /// Nothing after this packet was acknowledged for long.
    Silence(usize, u64),
}

impl Control {
    fn window(&self) -> f64 {
        match self {
            Self::Adaptive(adaptive) => as_f64(adaptive.window()),
            Self::Tcp { window, cubic, .. } => {
                cubic.map_or(*window, |cubic| cubic.window()) * as_f64(PACKET)
            }
        }
    }

    fn pace(&self) -> Option<f64> {
        match self {
            Self::Adaptive(adaptive) => adaptive.pacing_rate(0),
            Self::Tcp { .. } => None,
        }
    }

    fn sent(&mut self, now: Instant, pn: u64) {
        if let Self::Adaptive(adaptive) = self {
            adaptive.on_packet_sent(now, MTU, pn);
        }
    }

    fn acked(&mut self, now: Instant, sent: Instant, pn: u64, in_flight: u64, srtt: f64) {
        match self {
            Self::Adaptive(adaptive) => {
                adaptive.acked(now, sent, PACKET, pn, false);
                adaptive.on_end_acks(now, in_flight, false, Some(pn));
            }
            Self::Tcp { window, cubic: None, .. } => *window += 1.0,
            Self::Tcp { cubic: Some(cubic), .. } => {
                cubic.on_ack(now, 1.0, Duration::from_secs_f64(srtt));
            }
        }
    }

    fn lost(&mut self, now: Instant, pns: &[u64], next: u64) {
        match self {
            Self::Adaptive(adaptive) => {
                pns.iter().for_each(|pn| adaptive.on_packet_lost(MTU, *pn, now));
            }
            Self::Tcp { window, cubic, recovery_until } => {
                if pns.iter().all(|pn| pn < recovery_until) {
                    return;
                }
                *recovery_until = next;
                match cubic {
                    Some(cubic) => cubic.on_congestion(now),
                    None => *cubic = Some(Cubic::after_congestion_at(now, *window)),
                }
            }
        }
    }
}

fn adaptive() -> Control {
    Control::Adaptive(Box::new(Adaptive::new(Instant::now(), MTU)))
}

fn tcp() -> Control {
    Control::Tcp { window: 10.0, cubic: None, recovery_until: 0 }
}

/// Runs senders, each from its second on, and says what they achieved.
fn run(line: Line, seconds: u64, senders: Vec<(Control, u64)>) -> Vec<Result> {
    World::new(line, seconds, senders).run()
}

struct World {
    line: Line,
    origin: Instant,
    end: u64,
    rng: Pcg64Mcg,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    scheduled: u64,
    senders: Vec<Sender>,
    busy_until: u64,
    last_arrival: u64,
    /// When the last packet came to the far end, and whether one before it is missing.
    far: (u64, bool),
    jitter: (u64, u64),
    waits: Vec<f64>,
}

fn ns(ms: f64) -> u64 {
    as_u64(ms * 1e6)
}

impl World {
    fn new(line: Line, seconds: u64, senders: Vec<(Control, u64)>) -> Self {
        let senders = senders.into_iter().map(|(control, second)| Sender {
            control,
            unacked: BTreeMap::new(),
            next: 0,
            largest: None,
            srtt: line.rtt_ms / 1e3,
            tokens: 0.0,
            refilled: second * 1_000_000_000,
            wakes: u64::MAX,
            probes: 0,
            begins: second * 1_000_000_000,
            delivered: 0,
        });
        let mut world = Self {
            line,
            origin: Instant::now(),
            end: seconds * 1_000_000_000,
            rng: Pcg64Mcg::seed_from_u64(7),
            events: BinaryHeap::new(),
            scheduled: 0,
            senders: senders.collect(),
            busy_until: 0,
            last_arrival: 0,
            far: (0, false),
            jitter: (0, 0),
            waits: Vec::new(),
        };
        for i in 0..world.senders.len() {
            world.at(world.senders[i].begins, Event::Wake(i));
        }
        world
    }

    fn run(mut self) -> Vec<Result> {
        while let Some(Reverse((now, _, event))) = self.events.pop() {
            if now > self.end {
                break;
            }
            self.handle(now, event);
        }
        self.results()
    }

    fn at(&mut self, when: u64, event: Event) {
        self.scheduled += 1;
        self.events.push(Reverse((when, self.scheduled, event)));
    }

    fn instant(&self, now: u64) -> Instant {
        self.origin + Duration::from_nanos(now)
    }

    fn handle(&mut self, now: u64, event: Event) {
        let (Event::Acked(i, _) | Event::Wake(i) | Event::Silence(i, _)) = event;
        match event {
            Event::Wake(_) if self.senders[i].wakes == now => self.senders[i].wakes = u64::MAX,
            Event::Wake(_) => {}
            Event::Silence(_, since) => {
                let sender = &mut self.senders[i];
                if sender.largest == Some(since) && !sender.unacked.is_empty() {
                    sender.probes += 2;
                }
            }
            Event::Acked(_, pn) => self.acknowledge(now, i, pn),
        }
        self.send(now, i);
    }

    fn acknowledge(&mut self, now: u64, i: usize, pn: u64) {
        let (at, half) = (self.instant(now), self.end / 2);
        let origin = self.origin;
        let sender = &mut self.senders[i];
        let Some(sent) = sender.unacked.remove(&pn) else { return };
        let rtt = as_f64(now - sent) / 1e9;
        sender.srtt =
            if sender.largest.is_none() { rtt } else { 0.875 * sender.srtt + 0.125 * rtt };
        sender.delivered += if now >= half { PACKET } else { 0 };
        let largest = sender.largest.map_or(pn, |largest| largest.max(pn));
        sender.largest = Some(largest);
        let in_flight = sender.unacked.len() as u64 * PACKET;
        let sent_at = origin + Duration::from_nanos(sent);
        sender.control.acked(at, sent_at, pn, in_flight, sender.srtt);
        // RFC 9002, section 6.1.
        let late = as_u64(sender.srtt.max(rtt) * 1.125e9);
        let earlier = sender.unacked.range(..largest);
        let lost: Vec<u64> = earlier
            .filter(|(pn, sent)| largest >= **pn + 3 || now - **sent >= late)
            .map(|(pn, _)| *pn)
            .collect();
        if !lost.is_empty() {
            sender.unacked.retain(|pn, _| !lost.contains(pn));
            sender.control.lost(at, &lost, sender.next);
        }
        let silence = now + as_u64(sender.srtt * 3e9).max(50_000_000);
        self.at(silence, Event::Silence(i, largest));
    }

    fn send(&mut self, now: u64, i: usize) {
        loop {
            let at = self.instant(now);
            let sender = &mut self.senders[i];
            let window = sender.control.window();
            let full = as_f64((sender.unacked.len() as u64 + 1) * PACKET) > window;
            if now < sender.begins || (full && sender.probes == 0) {
                return;
            }
            let rate = sender.control.pace().unwrap_or(1.25 * window / sender.srtt);
            let most = (rate * 0.002).clamp(10.0 * as_f64(PACKET), 65_536.0);
            sender.tokens = (sender.tokens + rate * as_f64(now - sender.refilled) / 1e9).min(most);
            sender.refilled = now;
            if sender.tokens < as_f64(PACKET) && sender.probes == 0 {
                let wake = now + as_u64((as_f64(PACKET) - sender.tokens) / rate * 1e9) + 1_000;
                if wake < sender.wakes {
                    sender.wakes = wake;
                    self.at(wake, Event::Wake(i));
                }
                return;
            }
            sender.tokens -= as_f64(PACKET);
            sender.probes = sender.probes.saturating_sub(1);
            let pn = sender.next;
            sender.next += 1;
            sender.unacked.insert(pn, now);
            sender.control.sent(at, pn);
            if let Some(arrives) = self.carry(now) {
                self.at(arrives, Event::Acked(i, pn));
            }
        }
    }

    /// When the acknowledgement of a packet that is sent now comes, if one does.
    fn carry(&mut self, now: u64) -> Option<u64> {
        let late = now >= self.end / 2;
        let begins = self.busy_until.max(now);
        let mbps = match self.line.varies {
            ([], _) => self.line.then_mbps.filter(|_| late).unwrap_or(self.line.mbps),
            (rates, each_ms) => rates[usize::try_from(begins / ns(each_ms)).unwrap() % rates.len()],
        };
        let wait = as_f64(begins - now) / 1e6;
        if late {
            self.waits.push(wait.min(self.line.queue_ms));
        }
        if wait > self.line.queue_ms {
            return None;
        }
        self.busy_until = begins + as_u64(as_f64(WIRE) * 8e3 / mbps);
        if self.rng.random::<f64>() < self.line.loss {
            self.far.1 = true;
            return None;
        }
        // One draw lasts for 10 ms: see `emulator::Link`.
        if now >= self.jitter.0 {
            let draw = self.rng.random::<f64>();
            self.jitter = (now + 10_000_000, ns(2.0 * draw * self.line.jitter_ms));
        }
        let there = self.overtake(self.busy_until + ns(self.line.rtt_ms / 2.0) + self.jitter.1);
        // One that is missing is waited for.
        let missing = std::mem::take(&mut self.far.1);
        let wait = if missing { ns(2.0 * self.line.overtake_ms) } else { 0 };
        self.far.0 = self.far.0.max(there + wait);
        let back = self.overtake(self.far.0 + ns(self.line.rtt_ms / 2.0));
        self.last_arrival = self.last_arrival.max(back);
        Some(self.last_arrival)
    }

    fn overtake(&mut self, arrives: u64) -> u64 {
        if self.line.overtake_ms == 0.0 {
            return arrives;
        }
        let swing = self.line.overtake_ms * (2.0 * self.rng.random::<f64>() - 1.0);
        if swing < 0.0 { arrives - ns(-swing) } else { arrives + ns(swing) }
    }

    fn results(mut self) -> Vec<Result> {
        self.waits.sort_by(f64::total_cmp);
        let mean = self.waits.iter().sum::<f64>() / self.waits.len().max(1) as f64;
        let p95 = self.waits.get(self.waits.len() * 95 / 100).copied().unwrap_or_default();
        let seconds = as_f64(self.end) / 2e9;
        let mbps = |sender: &Sender| as_f64(sender.delivered) * 8e-6 / seconds;
        self.senders
            .iter()
            .map(|sender| Result { mbps: mbps(sender), queue_ms: (mean, p95) })
            .collect()
    }
}

fn alone(line: Line) -> Result {
    let result = run(line, 30, vec![(adaptive(), 0)])[0];
    eprintln!("{line:?}: {result:.1?}");
    result
}

#[test]
fn alone_it_fills_the_line_and_not_the_queue() {
    for (mbps, queue_ms) in [(50.0, 500.0), (10.0, 500.0), (1.0, 1_000.0)] {
        let result = alone(Line { mbps, queue_ms, ..LINE });
        assert!(result.mbps > 0.92 * mbps, "{mbps} Mbit/s: {result:.1?}");
        assert!(result.queue_ms.1 < 25.0, "{mbps} Mbit/s: {result:.1?}");
    }
}

#[test]
fn loss_that_is_the_paths_own_costs_only_what_is_lost() {
    for (loss, aim) in [(0.01, 0.9), (0.03, 0.9), (0.1, 0.8), (0.4, 0.45)] {
        let result = alone(Line { loss, ..LINE });
        assert!(result.mbps > aim * LINE.mbps, "{loss}: {result:.1?}");
    }
}

#[test]
fn loss_does_not_keep_it_from_finding_the_rate_of_a_long_path() {
    let line = Line { mbps: 200.0, rtt_ms: 249.0, ..LINE };
    assert!(alone(Line { loss: 0.42, ..line }).mbps > 60.0);
}

/// Whether all parameters are run, of which a part suffices to assert.
fn measures() -> bool {
    std::env::var_os("RON_MEASURE").is_some()
}

/// Our part of what both carried, over starts that differ, from the least to the largest.
fn shares(line: Line) -> Vec<f64> {
    // All take minutes without optimisation.
    let starts = [(0, 0), (2, 0), (5, 0), (0, 3), (1, 0), (3, 0), (0, 1), (0, 2), (0, 5)];
    let starts = starts.into_iter().take(if measures() { 9 } else { 2 });
    let mut shares: Vec<f64> = starts
        .map(|(ours, theirs)| {
            let results = run(line, 60, vec![(adaptive(), ours), (tcp(), theirs)]);
            results[0].mbps / (results[0].mbps + results[1].mbps)
        })
        .collect();
    shares.sort_by(f64::total_cmp);
    shares
}

#[test]
fn beside_tcp_both_get_between_a_third_and_two_thirds() {
    let lines = [
        (20.0, 40.0, 50.0),
        (20.0, 40.0, 10.0),
        (10.0, 100.0, 50.0),
        (50.0, 40.0, 20.0),
        (100.0, 20.0, 200.0),
    ];
    for (mbps, rtt_ms, queue_ms) in lines.into_iter().take(if measures() { 5 } else { 3 }) {
        let line = Line { mbps, rtt_ms, queue_ms, ..LINE };
        let shares = shares(line);
        eprintln!("{line:?}: {shares:.2?}");
        let median = shares[shares.len() / 2];
        assert!((0.33..=0.67).contains(&median), "{line:?}: {shares:.2?}");
        assert!(shares[0] > 0.1, "{line:?}: {shares:.2?}");
    }
}

/// One start of nine gives us 71 %.
#[test]
fn beside_tcp_on_a_slow_line_with_a_long_queue_neither_starves() {
    let line = Line { mbps: 1.0, queue_ms: 1_000.0, ..LINE };
    let shares = shares(line);
    eprintln!("{line:?}: {shares:.2?}");
    assert!(shares[0] > 0.33 && shares[shares.len() - 1] < 0.75, "{shares:.2?}");
}

#[test]
fn two_lanes_share_the_line() {
    // In a queue of a quarter of the round trip one may get 70 %.
    for (queue_ms, most) in [(10.0, 3.0), (50.0, 2.0), (500.0, 2.0)] {
        let results = run(Line { queue_ms, ..LINE }, 60, vec![(adaptive(), 0), (adaptive(), 5)]);
        let (one, two) = (results[0].mbps, results[1].mbps);
        assert!(one < most * two && two < most * one, "{queue_ms} ms: {one} {two}");
    }
}

#[test]
fn jitter_is_not_taken_for_a_queue() {
    for (jitter_ms, aim) in [(5.0, 46.0), (20.0, 43.0), (40.0, 36.0)] {
        let result = alone(Line { jitter_ms, ..LINE });
        assert!(result.mbps > aim, "{jitter_ms} ms: {result:.1?}");
    }
}

#[test]
fn it_follows_a_line_whose_rate_changes() {
    for then in [2.0, 10.0, 100.0] {
        let result = alone(Line { then_mbps: Some(then), queue_ms: 200.0, ..LINE });
        assert!(result.mbps > 0.9 * then, "{then} Mbit/s: {result:.1?}");
    }
}

#[test]
fn it_follows_a_line_whose_rate_varies_as_well_as_tcp() {
    const STEPS: &[f64] = &[50.0, 15.0, 80.0, 30.0];
    const TWO: &[f64] = &[10.0, 100.0];
    const WIRELESS: &[f64] =
        &[20.0, 35.0, 12.0, 8.0, 22.0, 60.0, 45.0, 30.0, 10.0, 25.0, 5.0, 16.0, 40.0];
    let lines = [
        (STEPS, 1_000.0, 40.0, 100.0),
        (WIRELESS, 300.0, 40.0, 200.0),
        (TWO, 2_000.0, 40.0, 100.0),
        (STEPS, 1_000.0, 20.0, 50.0),
        (STEPS, 1_000.0, 40.0, 300.0),
        (STEPS, 1_000.0, 100.0, 100.0),
        (STEPS, 3_000.0, 40.0, 100.0),
        (WIRELESS, 1_000.0, 40.0, 200.0),
        (WIRELESS, 300.0, 60.0, 500.0),
    ];
    for (rates, each_ms, rtt_ms, queue_ms) in lines.into_iter().take(if measures() { 9 } else { 3 })
    {
        let line = Line { varies: (rates, each_ms), rtt_ms, queue_ms, ..LINE };
        let [ours, tcp] = [adaptive(), tcp()].map(|sender| run(line, 40, vec![(sender, 0)])[0]);
        eprintln!("{line:?}: {ours:.1?}; TCP: {tcp:.1?}");
        assert!(ours.mbps > 0.9 * tcp.mbps, "{line:?}: {ours:.1?}; TCP: {tcp:.1?}");
    }
}

#[test]
fn a_policer_without_a_queue_is_not_flooded() {
    let line = Line { queue_ms: 2.0, ..LINE };
    let result = alone(line);
    assert!(result.mbps > 0.85 * LINE.mbps, "{result:.1?}");
}

/// A lane whose first packet, of ten bytes of handshake, took that long.
fn after_a_round_trip(carried: Option<Carried>, rtt: Duration) -> Adaptive {
    let t0 = Instant::now();
    let mut adaptive = Adaptive::new(t0, MTU);
    carried.into_iter().for_each(|carried| adaptive.resume(carried));
    adaptive.on_packet_sent(t0, 10, 0);
    adaptive.acked(t0 + rtt, t0, 10, 0, true);
    adaptive.on_end_acks(t0 + rtt, 0, true, Some(0));
    adaptive
}

#[test]
fn a_lane_begins_with_what_the_route_lately_carried() {
    let (ms, rate) = (Duration::from_millis, 6.25e6);
    let carried = Carried { rate, rtt: ms(60) };
    // Startup sends more than it knows of.
    for (rtt, window) in [(60, STARTUP * (RESUMED * rate * 0.06)), (200, 14_720.0), (20, 14_720.0)]
    {
        let resumed = after_a_round_trip(Some(carried), ms(rtt));
        assert_eq!(resumed.window(), as_u64(window), "{rtt} ms");
        // What is believed was not measured.
        assert_eq!(resumed.carries().is_none(), rtt == 60, "{rtt} ms");
    }
}

#[test]
fn a_line_that_carries_less_than_before_is_not_flooded_for_long() {
    let mut resumed = Adaptive::new(Instant::now(), MTU);
    resumed.resume(Carried { rate: 12.5e6, rtt: Duration::from_millis(40) });
    let line = Line { mbps: 5.0, queue_ms: 200.0, ..LINE };
    let result = run(line, 4, vec![(Control::Adaptive(Box::new(resumed)), 0)])[0];
    assert!(result.mbps > 0.9 * line.mbps && result.queue_ms.1 < 50.0, "{result:.1?}");
}

#[test]
fn flows_that_begin_together_bring_a_window_each() {
    let (rtt, first) = (Duration::from_millis(60), INITIAL_WINDOW);
    let mut adaptive = after_a_round_trip(None, rtt);
    let windows = [0, 3, 50, 500].map(|flows| adaptive.window_with(flows * first) / first);
    assert_eq!(windows, [1, 3, 50, FLOWS_AT_ONCE]);
    let pace = adaptive.pacing_rate(50 * first).unwrap() * rtt.as_secs_f64();
    assert!((50.0..=65.0).contains(&(pace / as_f64(first))), "all within a round trip");
    // Two rounds later they are acknowledged.
    adaptive.set_opened(50 * first);
    for pn in 1..=2 {
        let sent = Instant::now() + 10 * rtt * u32::try_from(pn).unwrap();
        adaptive.on_packet_sent(sent, 10, pn);
        adaptive.acked(sent + rtt, sent, 10, pn, true);
        adaptive.on_end_acks(sent + rtt, 0, true, Some(pn));
    }
    assert_eq!(adaptive.window_with(50 * first), first);
}

/// Round trips then vary by up to twice the least one, and most are far from it.
#[test]
fn a_path_whose_packets_overtake_each_other_is_filled() {
    let paths = [(20.0, 0.0, 34.0), (10.0, 0.0, 38.0), (3.0, 0.0, 43.0), (3.0, 0.02, 30.0)];
    let seeds = if measures() { 1..=5 } else { 1..=2 };
    for (overtake_ms, loss, aim) in paths {
        let line = Line { overtake_ms, loss, ..LINE };
        let mbps: Vec<f64> = seeds
            .clone()
            .map(|seed| {
                let mut world = World::new(line, 10, vec![(adaptive(), 0)]);
                world.rng = Pcg64Mcg::seed_from_u64(seed);
                world.run()[0].mbps
            })
            .collect();
        eprintln!("±{overtake_ms} ms, loss {loss}: {mbps:.1?}");
        assert!(mbps.iter().all(|mbps| *mbps > aim), "±{overtake_ms} ms, {loss}: {mbps:.1?}");
    }
}

/// What a path does with the packets under way after so many microseconds.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Sends(u8),
    Delivers(u8),
    Loses(u8),
    /// So many rounds of so many packets, of which it loses some.
    Carries(u8, u8, u8),
    Reroutes(Option<u32>),
    Sizes(u16),
}

fn fates() -> impl Strategy<Value = Vec<(u64, Fate)>> {
    let fate = prop_oneof![
        4 => (1_u8..60).prop_map(Fate::Sends),
        4 => any::<u8>().prop_map(Fate::Delivers),
        2 => any::<u8>().prop_map(Fate::Loses),
        4 => (1_u8..20, 1_u8..60, 0_u8..4).prop_map(|(n, all, lost)| Fate::Carries(n, all, lost)),
        1 => prop::option::of(any::<u32>()).prop_map(Fate::Reroutes),
        1 => (1_200_u16..9_000).prop_map(Fate::Sizes),
    ];
    let pause = prop_oneof![Just(0), 0_u64..300, 0_u64..200_000];
    prop::collection::vec((pause, fate), 1..200)
}

/// A lane's end whose packets have a fate.
struct Fated {
    now: Instant,
    adaptive: Adaptive,
    flying: VecDeque<(u64, Instant)>,
    pn: u64,
}

impl Fated {
    fn new() -> Self {
        let now = Instant::now();
        Self { now, adaptive: Adaptive::new(now, MTU), flying: VecDeque::new(), pn: 0 }
    }

    fn send(&mut self, count: u8) {
        for _ in 0..count {
            self.adaptive.on_packet_sent(self.now, MTU, self.pn);
            self.flying.push_back((self.pn, self.now));
            self.pn += 1;
        }
    }

    fn deliver(&mut self, count: u8) {
        let some = self.flying.len().min(count.into());
        for (pn, sent) in self.flying.drain(..some) {
            self.adaptive.acked(self.now, sent, PACKET, pn, count.is_multiple_of(8));
        }
        let in_flight = self.flying.len() as u64 * PACKET;
        self.adaptive.on_end_acks(self.now, in_flight, false, self.pn.checked_sub(1));
    }

    fn lose(&mut self, count: u8) {
        let some = self.flying.len().min(count.into());
        for (pn, _) in self.flying.drain(..some) {
            self.adaptive.on_packet_lost(MTU, pn, self.now);
        }
    }

    fn meet(&mut self, us: u64, fate: Fate) {
        self.now += Duration::from_micros(us);
        match fate {
            Fate::Sends(count) => self.send(count),
            Fate::Delivers(count) => self.deliver(count),
            Fate::Loses(count) => self.lose(count),
            Fate::Carries(rounds, packets, lost) => {
                for round in 0..rounds {
                    self.send(packets);
                    self.now += Duration::from_micros(us + u64::from(round) * us / 16);
                    self.lose(lost);
                    self.deliver(u8::MAX);
                }
            }
            Fate::Reroutes(rate) => {
                let rtt = Duration::from_millis(50);
                let carried = rate.map(|rate| Carried { rate: rate.into(), rtt });
                self.adaptive.rerouted(self.now, carried);
            }
            Fate::Sizes(mtu) => self.adaptive.on_mtu_update(mtu),
        }
    }
}

proptest! {
    #[test]
    fn whatever_a_path_does_the_window_and_the_pace_are_numbers(fates in fates()) {
        let mut end = Fated::new();
        for (us, fate) in fates {
            end.meet(us, fate);
            let least = LEAST_WINDOW * u64::from(end.adaptive.path.mtu());
            let (window, pace) = (end.adaptive.window(), end.adaptive.pacing_rate(0));
            prop_assert!((least..1 << 40).contains(&window), "{window}");
            prop_assert!((0.0..1e13).contains(&pace.unwrap_or_default()), "{pace:?}");
        }
    }
}
