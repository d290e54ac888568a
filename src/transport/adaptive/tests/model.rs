//! Senders that share one bottleneck with a drop-tail queue, in virtual time.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::super::{cubic::Cubic, *};

pub(super) const MTU: u16 = 1_443;
pub(super) const PACKET: u64 = MTU as u64;
/// With the headers of UDP, IP and the label.
const WIRE: u64 = PACKET + 37;

/// A line, and what it does to packets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    pub(super) mbps: f64,
    pub(super) rtt_ms: f64,
    pub(super) queue_ms: f64,
    pub(super) loss: f64,
    /// Half of the width of an even distribution; packets stay in order.
    pub(super) jitter_ms: f64,
    /// The same of each packet by itself, each way. They are put back in order at the far end.
    pub(super) overtake_ms: f64,
    /// Rates in place of `mbps`, in turn, and how long each lasts.
    pub(super) varies: (&'static [f64], f64),
}

pub(super) const LINE: Line = Line {
    mbps: 50.0,
    rtt_ms: 40.0,
    queue_ms: 50.0,
    loss: 0.0,
    jitter_ms: 0.0,
    overtake_ms: 0.0,
    varies: (&[], 0.0),
};

/// What a sender achieved in the second half of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outcome {
    pub(super) mbps: f64,
    /// What a packet of somebody else would have waited in the queue: mean, and 95th percentile.
    pub(super) queue_ms: (f64, f64),
}

pub(super) enum Control {
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

pub(super) fn adaptive() -> Control {
    Control::Adaptive(Box::new(Adaptive::new(Instant::now(), MTU)))
}

pub(super) fn tcp() -> Control {
    Control::Tcp { window: 10.0, cubic: None, recovery_until: 0 }
}

/// Runs senders, each from its second on, and says what they achieved.
pub(super) fn run(line: Line, seconds: u64, senders: Vec<(Control, u64)>) -> Vec<Outcome> {
    World::new(line, seconds, senders).run()
}

pub(super) struct World {
    line: Line,
    origin: Instant,
    end: u64,
    pub(super) rng: Pcg64Mcg,
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
    pub(super) fn new(line: Line, seconds: u64, senders: Vec<(Control, u64)>) -> Self {
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

    pub(super) fn run(mut self) -> Vec<Outcome> {
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
            ([], _) => self.line.mbps,
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

    fn results(mut self) -> Vec<Outcome> {
        self.waits.sort_by(f64::total_cmp);
        let mean = self.waits.iter().sum::<f64>() / self.waits.len().max(1) as f64;
        let p95 = self.waits.get(self.waits.len() * 95 / 100).copied().unwrap_or_default();
        let seconds = as_f64(self.end) / 2e9;
        let mbps = |sender: &Sender| as_f64(sender.delivered) * 8e-6 / seconds;
        self.senders
            .iter()
            .map(|sender| Outcome { mbps: mbps(sender), queue_ms: (mean, p95) })
            .collect()
    }
}
