//! Two monitors over a seeded link: each direction has its own delay and loss.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::*;
use crate::overlay::units::{Bitrate, LossRate};

/// What the emulated link does. Direction 0 is from end 0 to end 1.
#[derive(Clone, Copy)]
struct Conditions {
    delay: Duration,
    loss: [f64; 2],
}

const CLEAN: Conditions = Conditions { delay: ms(30), loss: [0.0, 0.0] };
const CUT: Conditions = Conditions { delay: ms(30), loss: [1.0, 1.0] };

struct Pair {
    ends: [Monitor; 2],
    conditions: Conditions,
    now: Instant,
    rng: Pcg64Mcg,
    /// In flight, by arrival time and order of sending: the end it goes to, and the message.
    flying: BTreeMap<(Instant, u64), (usize, Probe)>,
    sent: u64,
    events: Vec<(Instant, usize, LinkEvent)>,
}

impl Pair {
    fn new(conditions: Conditions, seed: u64) -> Self {
        let now = Instant::now();
        Self {
            ends: [Monitor::new(now, 1), Monitor::new(now, 2)],
            conditions,
            now,
            rng: Pcg64Mcg::seed_from_u64(seed),
            flying: BTreeMap::new(),
            sent: 0,
            events: Vec::new(),
        }
    }

    fn run(&mut self, span: Duration) -> &mut Self {
        let until = self.now + span;
        loop {
            let arrival = self.flying.keys().next().map(|key| key.0);
            let timers = self.ends.iter().filter_map(Monitor::poll_timeout);
            let Some(next) = timers.chain(arrival).min().filter(|&next| next <= until) else {
                break;
            };
            self.now = self.now.max(next);
            self.step();
        }
        self.now = until;
        self
    }

    fn step(&mut self) {
        while let Some(entry) = self.flying.first_entry().filter(|entry| entry.key().0 <= self.now)
        {
            let (to, message) = entry.remove();
            if let Some(answer) = self.ends[to].handle_message(self.now, &message) {
                self.send(to, answer);
            }
        }
        for end in 0..2 {
            self.ends[end].handle_timeout(self.now);
            let draw = self.rng.random::<f64>();
            if let Some(request) = self.ends[end].poll_transmit(self.now, draw) {
                self.send(end, request);
            }
            let event = self.ends[end].poll_event();
            self.events.extend(event.map(|event| (self.now, end, event)));
        }
    }

    fn send(&mut self, from: usize, message: Probe) {
        self.sent += 1;
        if self.rng.random::<f64>() >= self.conditions.loss[from] {
            let arrival = (self.now + self.conditions.delay, self.sent);
            self.flying.insert(arrival, (1 - from, message));
        }
    }

    /// One exchange that end 0 begins, whose events nobody fetches.
    fn exchange(&mut self) {
        let now = self.now;
        let request = self.ends[0].poll_transmit(now, 0.5).unwrap();
        let reply = self.ends[1].handle_message(now, &request).unwrap();
        let finish = self.ends[0].handle_message(now, &reply).unwrap();
        self.ends[1].handle_message(now, &finish);
    }

    fn summary(&self, end: usize) -> LinkSummary {
        self.ends[end].summary(self.now)
    }

    fn states(&self) -> [LinkState; 2] {
        [self.summary(0).state, self.summary(1).state]
    }
}

const fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

const fn s(value: u64) -> Duration {
    Duration::from_secs(value)
}

#[test]
fn one_good_exchange_is_enough_on_first_contact() {
    let mut pair = Pair::new(CLEAN, 1);
    pair.run(ms(100));
    assert_eq!(pair.states(), [LinkState::Up; 2]);
    assert_eq!(pair.summary(0).rtt, Some(ms(60)));
    assert_eq!(pair.summary(1).rtt, Some(ms(60)));
}

#[test]
fn a_silent_end_learns_both_figures_from_the_other_ends_probes() {
    let now = Instant::now();
    let (mut a, mut b) = (Monitor::new(now, 1), Monitor::new(now, 2));
    let request = a.poll_transmit(now, 0.5).unwrap();
    let reply = b.handle_message(now + ms(10), &request).unwrap();
    let finish = a.handle_message(now + ms(20), &reply).unwrap();
    assert_eq!(b.handle_message(now + ms(30), &finish), None);
    let seen = b.summary(now + ms(30));
    assert_eq!(seen.rtt, Some(ms(20)));
    assert_eq!((seen.loss_in, seen.loss_out), (Some(LossRate::ZERO), Some(LossRate::ZERO)));
}

#[test]
fn one_way_losses_are_found_in_both_directions_at_both_ends() {
    for seed in 0..6 {
        let lossy = Conditions { delay: ms(30), loss: [0.12, 0.03] };
        let mut pair = Pair::new(lossy, seed);
        // The mean of up to 60 windows: one window of 100 alone varies by about 3 points.
        let (mut out, mut back, mut rounds) = (0.0, 0.0, 0.0);
        for _ in 0..60 {
            pair.run(s(90));
            if pair.ends.iter().any(|end| end.inbound.counts().of() < 100) {
                continue;
            }
            let (a, b) = (pair.summary(0), pair.summary(1));
            out += a.loss_out.unwrap().fraction() + b.loss_in.unwrap().fraction();
            back += a.loss_in.unwrap().fraction() + b.loss_out.unwrap().fraction();
            rounds += 2.0;
        }
        assert!(rounds > 60.0, "seed {seed}: {rounds}");
        assert!((out / rounds - 0.12).abs() < 0.02, "seed {seed}: {}", out / rounds);
        assert!((back / rounds - 0.03).abs() < 0.015, "seed {seed}: {}", back / rounds);
    }
}

#[test]
fn both_ends_find_a_dead_link_within_four_timeouts() {
    for seed in 0..20 {
        let mut pair = Pair::new(CLEAN, seed);
        pair.run(s(30));
        pair.events.clear();
        pair.conditions = CUT;
        let (cut, timeout) = (pair.now, pair.ends[0].latency.timeout());
        pair.run(s(5));
        assert_eq!(pair.states(), [LinkState::Down; 2]);
        // The end that did not begin the last exchange waits half an interval and a time-out longer.
        let bound = INTERVAL_BOUNDS.0.mul_f64(1.5 + JITTER) + CLEAN.delay * 2 + timeout * 5;
        for (at, end, event) in &pair.events {
            assert_eq!(*event, LinkEvent::Down);
            assert!(*at - cut <= bound, "seed {seed}: end {end} took {:?}", *at - cut);
        }
    }
}

#[test]
fn a_lane_that_hears_nothing_gets_the_verdict_in_four_timeouts() {
    let mut pair = Pair::new(CLEAN, 3);
    pair.ends.iter_mut().for_each(|end| end.set_interval(pair.now, s(10)));
    pair.run(s(120));
    pair.conditions = CUT;
    pair.flying.clear();
    let (now, timeout) = (pair.now, pair.ends[0].latency.timeout());
    pair.ends[0].probe_now(now);
    pair.run(timeout * 4);
    assert_eq!(pair.summary(0).state, LinkState::Down);
}

#[test]
fn a_link_that_is_dead_one_way_is_down_at_both_ends() {
    for loss in [[1.0, 0.0], [0.0, 1.0]] {
        let mut pair = Pair::new(CLEAN, 4);
        pair.run(s(10));
        pair.conditions.loss = loss;
        pair.run(s(10));
        assert_eq!(pair.states(), [LinkState::Down; 2], "{loss:?}");
    }
}

#[test]
fn a_recovered_link_needs_three_good_probes_and_drops_outage_losses() {
    let mut pair = Pair::new(CLEAN, 5);
    pair.run(s(30));
    pair.conditions = CUT;
    pair.run(s(600));
    pair.conditions = CLEAN;
    pair.events.clear();
    let healed = pair.now;
    while !matches!(pair.summary(0).state, LinkState::Recovering { good: 1 }) {
        assert!(pair.now - healed < s(14), "the slowest pause is 10 s and a third");
        pair.run(ms(10));
    }
    assert_ne!(pair.summary(0).state, LinkState::Up);
    pair.run(s(3));
    assert_eq!(pair.states(), [LinkState::Up; 2]);
    pair.run(s(10));
    for end in 0..2 {
        assert_eq!(pair.summary(end).loss_in, Some(LossRate::ZERO));
        assert_eq!(pair.summary(end).loss_out, Some(LossRate::ZERO));
    }
}

#[test]
fn a_lossy_link_keeps_its_loss_record_over_a_short_outage() {
    for seed in 0..4 {
        let mut pair = Pair::new(Conditions { delay: ms(30), loss: [0.3, 0.0] }, seed);
        pair.run(s(120));
        for _ in 0..1_200 {
            pair.run(s(1));
            let seen = pair.summary(0);
            let lossy = seen.loss_out.is_some_and(|loss| loss.fraction() > 0.1);
            assert!(lossy || seen.state != LinkState::Up, "seed {seed}: {seen:?}");
        }
    }
}

/// The mean loss of both directions by one end after short silences every 2 s, and how often the link was
/// down. `asks`: a lane suspects each silence, and asks; else packets of one keep the link up.
fn loss_in_short_silences(asks: bool) -> (f64, usize) {
    let (mut loss, mut down) = (0.0, 0);
    for seed in 0..20 {
        let mut pair = Pair::new(CLEAN, seed);
        pair.run(s(3));
        for scan in 0..100 {
            let silent = ms(150 + 125 * (scan % 3));
            pair.conditions = CUT;
            pair.run(ms(60));
            if asks {
                let now = pair.now;
                pair.ends[0].probe_now(now);
            }
            pair.run(silent - ms(60));
            pair.conditions = CLEAN;
            for _ in 0..10 {
                pair.run((s(2) - silent) / 10);
                let delivered = PassiveSample { delivered: u32::from(!asks), ..Default::default() };
                let now = pair.now;
                pair.ends.iter_mut().for_each(|end| end.record_passive(now, &delivered));
            }
        }
        let seen = pair.ends[0].clone();
        loss += seen.inbound.counts().rate().unwrap().fraction() / 40.0;
        loss += seen.outbound.rate().unwrap().fraction() / 40.0;
        down += pair.events.iter().filter(|event| event.2 == LinkEvent::Down).count();
    }
    (loss, down)
}

#[test]
fn short_silences_cost_a_link_that_they_take_down_as_much_as_another() {
    let ((up, none), (down, often)) = (loss_in_short_silences(false), loss_in_short_silences(true));
    assert!(often > 3 * none, "{none} and {often} times down");
    assert!((up - down).abs() < 0.03, "loss {up:.3} and {down:.3}");
}

#[test]
fn a_new_connection_that_carries_nothing_is_told_once() {
    let mut pair = Pair::new(CLEAN, 3);
    pair.run(s(5));
    pair.conditions = CUT;
    pair.run(s(60));
    pair.events.clear();
    let now = pair.now;
    pair.ends[0].shook_hands();
    pair.ends[0].probe_now(now);
    pair.run(s(60));
    let [(at, 0, LinkEvent::StillDown)] = pair.events[..] else { panic!("{:?}", pair.events) };
    assert!(at - now < s(10), "{:?}", at - now);
    assert_eq!(pair.summary(0).state, LinkState::Down);
}

#[test]
fn a_link_that_is_down_is_probed_at_a_bounded_rate() {
    let mut pair = Pair::new(CUT, 6);
    pair.run(s(60));
    let before = pair.sent;
    pair.run(s(600));
    let per_end = (pair.sent - before) / 2;
    assert!((50..=90).contains(&per_end), "{per_end} probes in ten minutes");
}

#[test]
fn an_exchange_serves_both_ends_so_the_link_costs_one_per_interval() {
    let mut pair = Pair::new(CLEAN, 7);
    pair.ends.iter_mut().for_each(|end| end.set_interval(pair.now, s(5)));
    pair.run(s(1000));
    let exchanges = pair.sent / 3;
    assert!((180..=260).contains(&exchanges), "{exchanges} exchanges in 1000 s");
}

#[test]
fn a_peer_that_starts_again_is_no_loss() {
    let mut pair = Pair::new(CLEAN, 8);
    pair.run(s(100));
    pair.ends[1] = Monitor::new(pair.now, 77);
    pair.run(s(100));
    assert_eq!(pair.summary(0).loss_in, Some(LossRate::ZERO));
    assert_eq!(pair.summary(1).loss_in, Some(LossRate::ZERO));
    assert_eq!(pair.states(), [LinkState::Up; 2]);
}

#[test]
fn delivered_data_keeps_a_congested_link_up_and_its_loss_counts() {
    let mut pair = Pair::new(CLEAN, 9);
    pair.run(s(20));
    pair.conditions = CUT;
    let sample =
        PassiveSample { rtt: None, lost: 10, delivered: 90, bytes: 125_000, over: ms(100) };
    for _ in 0..100 {
        pair.run(ms(100));
        pair.ends[0].record_passive(pair.now, &sample);
    }
    assert_eq!(pair.states(), [LinkState::Up, LinkState::Down]);
    assert!(pair.summary(0).loss_out.unwrap() > LossRate::from_percent(8));
    assert_eq!(pair.summary(0).delivered, Some(Bitrate::from_kbps(10_000)));
    pair.ends[1].record_passive(pair.now, &sample);
    assert_eq!(pair.summary(1).state, LinkState::Down, "only probes end an outage");
}

/// The exchanges within `span` with these needs of both ends, and the pace of a link without use.
fn exchanges(needs: [Need; 2], span: Duration) -> u64 {
    let mut pair = Pair::new(CLEAN, 3);
    for (end, need) in pair.ends.iter_mut().zip(needs) {
        end.set_need(pair.now, need);
        end.set_interval(pair.now, IDLE_INTERVAL);
    }
    pair.run(s(60));
    let before = pair.sent;
    pair.run(span);
    (pair.sent - before) / 3
}

#[test]
fn a_link_is_probed_rarely_if_neither_end_needs_more() {
    for (needs, expected) in [
        ([Need::Any, Need::Any], 90..=120),
        ([Need::Few, Need::Any], 8..=13),
        ([Need::Any, Need::Few], 8..=13),
        ([Need::Few, Need::Few], 8..=13),
        ([Need::Few, Need::Usual], 85..=120),
        ([Need::Usual, Need::Few], 85..=120),
    ] {
        let made = exchanges(needs, s(1000));
        assert!(expected.contains(&made), "{needs:?}: {made}");
    }
}

#[test]
fn a_link_that_was_probed_rarely_is_probed_at_once_when_needed() {
    let mut pair = Pair::new(CLEAN, 3);
    for end in &mut pair.ends {
        end.set_need(pair.now, Need::Few);
        end.set_interval(pair.now, IDLE_INTERVAL);
    }
    pair.run(s(200));
    assert!(!pair.ends[0].is_measured(pair.now), "its figures are old");
    let before = pair.sent;
    pair.ends[0].set_need(pair.now, Need::Usual);
    pair.run(ms(100));
    assert_eq!(pair.sent - before, 3);
    pair.run(s(60));
    assert!(pair.ends[0].is_measured(pair.now));
}

#[test]
fn a_link_that_is_probed_rarely_is_down_soon_after_its_connection_ends() {
    let mut pair = Pair::new(CLEAN, 3);
    pair.ends[0].set_need(pair.now, Need::Few);
    pair.ends.iter_mut().for_each(|end| end.set_interval(pair.now, IDLE_INTERVAL));
    pair.run(s(200));
    pair.conditions = CUT;
    pair.ends.iter_mut().for_each(|end| end.unanswered(pair.now));
    pair.run(s(2));
    assert_eq!(pair.states(), [LinkState::Down; 2]);
}

fn any_probe() -> impl Strategy<Value = Probe> {
    let kind = prop_oneof![
        Just(ProbeKind::Request),
        (0u32..20).prop_map(|to| ProbeKind::Reply { to }),
        (0u32..20).prop_map(|to| ProbeKind::Finish { to }),
    ];
    (0u16..3, any::<u32>(), any::<Option<u32>>(), any::<u8>(), any::<u8>(), any::<bool>(), kind)
        .prop_map(|(epoch, seq, regular, heard_lost, heard_of, rarely, kind)| Probe {
            epoch,
            seq,
            regular,
            heard_lost,
            heard_of,
            rarely,
            kind,
        })
}

proptest! {
    #[test]
    fn a_hostile_peer_neither_panics_nor_grows_the_monitor(
        messages in prop::collection::vec((any_probe(), 0u64..2000), 0..200)
    ) {
        let mut now = Instant::now();
        let mut monitor = Monitor::new(now, 1);
        for (message, wait) in messages {
            now += ms(wait);
            monitor.handle_timeout(now);
            monitor.poll_transmit(now, 0.5);
            monitor.handle_message(now, &message);
            prop_assert!(monitor.requests.len() <= REMEMBERED);
            prop_assert!(monitor.replies.len() <= REMEMBERED);
            prop_assert!(monitor.poll_timeout().is_some());
        }
    }
}

#[test]
fn a_monitor_that_succeeds_counts_on_and_tells_no_event_twice() {
    let mut old = Pair::new(CLEAN, 1);
    old.run(s(10));
    let before = old.ends[0].probed();
    for (was_up, event) in [(true, None), (false, Some(LinkEvent::Up))] {
        if !was_up {
            old.conditions = CUT;
            old.run(s(60));
            assert_eq!(old.states(), [LinkState::Down; 2]);
        }
        let counted = old.ends[0].probed();
        let mut new = Pair::new(CLEAN, 2);
        new.now = old.now;
        new.ends = [1, 2].map(|epoch| Monitor::new(new.now, epoch));
        new.exchange();
        assert_eq!(new.states(), [LinkState::Up; 2]);
        let [mut monitor, _] = new.ends;
        monitor.succeed(new.now, &old.ends[0]);
        assert_eq!(monitor.poll_event(), event);
        assert_eq!(monitor.probed(), counted);
        assert!(counted.answered >= before.answered && before.answered > 0);
        assert_eq!(monitor.poll_timeout().map(|at| at <= new.now), Some(true), "it probes at once");
    }
}
