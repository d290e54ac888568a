//! Whether long packets pass on the route in use. PURE: time is an argument.
//!
//! A path may carry small packets and silently drop long ones: from the beginning, from some moment
//! on, or after a reroute. QUIC's own detection of such a black hole needs four bursts of loss
//! (RFC 8899, section 4.3, in noq-proto's way), which takes seconds when nothing else is sent.
//!
//! So a few long packets leave in pieces ([`Leave`]) with each ping. While it is not known that long
//! packets pass whole, all of them leave in pieces:
//!
//! ```text
//!   ┌───────┐  three or more long ones in a row were lost, and after them   ┌─────────┐
//!   │ whole │  arrived what left in pieces with a ping                      │ doubted │
//!   └───────┘ ─────────────────────────────────────────────────────────────►└─────────┘
//!       ▲                                    a lane begins, a reroute ──►        │
//!       └────────────────────────────────────────────────────────────────────────┘
//!           a long packet that left whole arrived: a try after 1, 2, 4 … s, or QUIC's probe
//! ```
//!
//! So the answer to a ping arrives on a route that passes small packets only, and the lane does not leave
//! that route. A wrong "doubted" costs a second packet for each long one, for about a second.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{underlay::Leave, wire::piece::SURE_PACKET};

/// After this many long packets lost in a row, while shorter ones arrive, the route counts as one for small packets.
/// At 30 % loss, chance alone loses three in a row once in 37.
const ENOUGH: u32 = 3;

/// After a ping this many long packets leave in pieces. As many may leave beyond the window for the ping. They are
/// enough for loss recovery to declare all earlier packets lost (RFC 9002, section 6.1.1).
const WITH_A_PING: u8 = 3;

/// Most packets remembered that left since a ping in a size that passes. If one was forgotten, the packets of the
/// next ping show the same.
const MOST_SURE: usize = 64;

/// The first try to send a packet whole, after the doubt began. It costs one packet, and so a round
/// trip of one flow, if the doubt is right.
const FIRST_TRY: Duration = Duration::from_secs(1);

/// The pause between tries doubles up to this, QUIC's own pause between searches for a larger size.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// How long packets leave, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Whole,
    /// When a packet may leave whole again, and how long the pause after that is.
    Doubted {
        next_try: Option<Instant>,
        pause: Duration,
    },
}

const DOUBTED: State = State::Doubted { next_try: None, pause: FIRST_TRY };

/// The knowledge about long packets on the route in use.
#[derive(Debug, Clone)]
pub(super) struct Sizes {
    state: State,
    /// Nothing of the lane has been acknowledged yet.
    opening: bool,
    /// The first packet sent since the doubt began.
    from: Option<u64>,
    /// How many long packets still leave in pieces, because of a ping.
    with_a_ping: u8,
    /// Packets that left before the doubt, and since a ping, in a size that passes; neither acknowledged nor lost.
    sure: VecDeque<u64>,
    /// The newest packet that left in a size that passes, because of a ping or a doubt, and arrived.
    passed: Option<u64>,
    /// A long packet that left whole to try it, and is neither acknowledged nor lost.
    tried: Option<u64>,
    /// The newest long packet that arrived whole.
    arrived: Option<u64>,
    /// Long packets that left whole after that and were lost for their size.
    lost: u32,
}

impl Sizes {
    /// At the beginning of a lane.
    pub(super) fn new() -> Self {
        Self {
            state: DOUBTED,
            opening: true,
            from: None,
            with_a_ping: 0,
            sure: VecDeque::new(),
            passed: None,
            tried: None,
            arrived: None,
            lost: 0,
        }
    }

    /// How long packets leave now, those with a ping excepted.
    pub(super) fn leave(&self) -> Leave {
        match self.state {
            State::Whole => Leave::Whole,
            State::Doubted { .. } if self.opening => Leave::Both,
            State::Doubted { .. } => Leave::InPieces,
        }
    }

    /// A packet that must not be lost is about to leave: a ping.
    pub(super) fn asked(&mut self) {
        self.with_a_ping = WITH_A_PING;
    }

    /// The packets take another route from now on.
    pub(super) fn rerouted(&mut self) {
        *self = Self { opening: self.opening, ..Self::new() };
    }

    /// A packet is about to leave, and QUIC's packets have up to `present` bytes. Returns how it is to
    /// leave, if not as all.
    pub(super) fn sent(
        &mut self,
        now: Instant,
        pn: u64,
        bytes: u16,
        present: u16,
    ) -> Option<Leave> {
        // When QUIC's probe for a larger size is lost, the present size may still pass.
        let is_long = is_long(bytes) && bytes <= present;
        match &mut self.state {
            State::Whole if self.with_a_ping > 0 && bytes <= present => {
                if self.sure.len() >= MOST_SURE {
                    self.sure.pop_front();
                }
                self.sure.push_back(pn);
                self.with_a_ping -= u8::from(is_long);
                is_long.then_some(Leave::InPieces)
            }
            State::Whole => None,
            State::Doubted { next_try, pause } => {
                self.from.get_or_insert(pn);
                let due = next_try.is_some_and(|at| now >= at);
                if !is_long || !due || self.tried.is_some() {
                    return None;
                }
                *next_try = Some(now + *pause);
                *pause = (2 * *pause).min(LONGEST_PAUSE);
                self.tried = Some(pn);
                Some(Leave::Whole)
            }
        }
    }

    /// A packet was acknowledged. `whole_came`: the far end's long packets come in whole.
    pub(super) fn acked(&mut self, now: Instant, pn: u64, bytes: u16, whole_came: bool) {
        let since_doubt = self.from.is_some_and(|from| pn >= from);
        if self.tried == Some(pn) {
            self.arrived = Some(pn);
            self.pass();
        } else if since_doubt || self.take_sure(pn) {
            self.passed = self.passed.max(Some(pn));
        } else if is_long(bytes) {
            (self.arrived, self.lost) = (self.arrived.max(Some(pn)), 0);
        }
        if since_doubt {
            self.answered(now, whole_came);
        }
    }

    /// A packet that left since the doubt began has arrived.
    fn answered(&mut self, now: Instant, whole_came: bool) {
        if std::mem::take(&mut self.opening) && whole_came {
            return self.pass();
        }
        if let State::Doubted { next_try: next_try @ None, pause } = &mut self.state {
            *next_try = Some(now + *pause);
        }
    }

    /// A packet was lost. Returns whether its size explains that: such a loss is no sign of congestion
    /// (RFC 8899, section 3). No long packet that left later arrived whole, but one in pieces did.
    pub(super) fn lost(&mut self, now: Instant, pn: u64, bytes: u16) -> bool {
        if self.tried == Some(pn) {
            self.tried = None;
            return true;
        }
        let since_doubt = self.from.is_some_and(|from| pn >= from);
        if self.take_sure(pn) || since_doubt || !is_long(bytes) {
            return false;
        }
        let explained = self.passed > Some(pn) && self.arrived < Some(pn);
        self.lost += u32::from(explained);
        if self.state == State::Whole && self.lost >= ENOUGH {
            self.state = State::Doubted { next_try: Some(now + FIRST_TRY), pause: FIRST_TRY };
        }
        explained
    }

    /// Long packets pass.
    pub(super) fn pass(&mut self) {
        let arrived = self.arrived;
        *self = Self { state: State::Whole, opening: false, arrived, ..Self::new() };
    }

    /// Whether that packet left since a ping in a size that passes; its fate is known now.
    fn take_sure(&mut self, pn: u64) -> bool {
        let found = self.sure.binary_search(&pn);
        if let Ok(at) = found {
            self.sure.remove(at);
        }
        found.is_ok()
    }
}

fn is_long(bytes: u16) -> bool {
    usize::from(bytes) > SURE_PACKET
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: u16 = 1_441;
    const SHORT: u16 = 100;

    struct Bench {
        sizes: Sizes,
        now: Instant,
        next: u64,
    }

    impl Bench {
        /// A route on which long packets pass.
        fn whole() -> Self {
            let mut sizes = Sizes::new();
            sizes.pass();
            Self { sizes, now: Instant::now(), next: 0 }
        }

        fn send(&mut self, packets: u64, bytes: u16) -> std::ops::Range<u64> {
            let from = self.next;
            for _ in 0..packets {
                self.sizes.sent(self.now, self.next, bytes, LONG);
                self.next += 1;
            }
            from..self.next
        }

        fn ack(&mut self, packets: std::ops::Range<u64>, bytes: u16) {
            packets.for_each(|pn| self.sizes.acked(self.now, pn, bytes, false));
        }

        fn lose(&mut self, packets: std::ops::Range<u64>) -> Vec<bool> {
            packets.map(|pn| self.sizes.lost(self.now, pn, LONG)).collect()
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
        }
    }

    #[test]
    fn a_few_packets_from_a_ping_on_leave_in_pieces() {
        let mut bench = Bench::whole();
        bench.send(2, LONG);
        bench.sizes.asked();
        bench.send(1, SHORT);
        let now = bench.now;
        let leave = [10, 11, 12, 13].map(|pn| bench.sizes.sent(now, pn, LONG, LONG));
        let in_pieces = Some(Leave::InPieces);
        assert_eq!(leave, [in_pieces, in_pieces, in_pieces, None]);
        assert_eq!(bench.sizes.leave(), Leave::Whole);
    }

    #[test]
    fn long_packets_that_are_lost_in_a_row_while_pieces_arrive_are_doubted() {
        let mut bench = Bench::whole();
        let before = bench.send(5, LONG);
        bench.sizes.asked();
        let with_the_ping = bench.send(3, LONG);
        let after = bench.send(4, LONG);
        bench.ack(with_the_ping, LONG);
        assert_eq!(bench.lose(before), [true; 5], "no congestion");
        assert_eq!(bench.sizes.leave(), Leave::InPieces);
        let later = bench.send(20, LONG);
        bench.ack(later, LONG);
        assert_eq!(bench.lose(after), [true; 4], "nor are these");
        assert_eq!(bench.sizes.leave(), Leave::InPieces);
    }

    #[test]
    fn a_ping_without_data_shows_as_well_that_short_packets_pass() {
        let mut bench = Bench::whole();
        let before = bench.send(5, LONG);
        bench.sizes.asked();
        let ping = bench.send(1, SHORT);
        bench.ack(ping, SHORT);
        assert_eq!(bench.lose(before), [true; 5]);
        assert_eq!(bench.sizes.leave(), Leave::InPieces);
    }

    #[test]
    fn one_long_packet_that_is_lost_is_no_narrow_route_but_three_are() {
        let mut bench = Bench::whole();
        for n in 1..=3 {
            let before = bench.send(1, LONG);
            bench.sizes.asked();
            let ping = bench.send(3, LONG);
            bench.ack(ping, LONG);
            bench.lose(before);
            let expected = if n < 3 { Leave::Whole } else { Leave::InPieces };
            assert_eq!(bench.sizes.leave(), expected, "loss {n}");
        }
    }

    #[test]
    fn losses_between_packets_that_arrive_whole_are_congestion() {
        let mut bench = Bench::whole();
        let sent = bench.send(10, LONG);
        assert_eq!(bench.lose(sent.start..9), [false; 9]);
        bench.ack(9..10, LONG);
        bench.sizes.asked();
        let since = bench.send(1, SHORT);
        bench.ack(since, SHORT);
        assert_eq!(bench.sizes.leave(), Leave::Whole);
    }

    #[test]
    fn a_queue_that_overflows_before_a_ping_is_no_narrow_route() {
        let mut bench = Bench::whole();
        let before = bench.send(20, LONG);
        bench.sizes.asked();
        let since = bench.send(2, LONG);
        bench.ack(9..10, LONG);
        bench.ack(since, LONG);
        bench.ack(18..19, LONG);
        assert_eq!(bench.lose(before.start..9), [false; 9]);
        assert_eq!(bench.lose(10..18), [false; 8]);
        assert_eq!(bench.lose(19..20), [true], "nothing long came after it");
        assert_eq!(bench.sizes.leave(), Leave::Whole);
    }

    #[test]
    fn packets_sent_with_pings_are_remembered_up_to_a_bound() {
        let mut bench = Bench::whole();
        bench.sizes.asked();
        bench.send(1_000, SHORT);
        assert_eq!(bench.sizes.sure.len(), MOST_SURE);
    }

    #[test]
    fn a_packet_that_is_tried_whole_ends_the_doubt_or_prolongs_it() {
        let mut bench = Bench::whole();
        bench.sizes.rerouted();
        let first = bench.send(1, LONG);
        bench.ack(first, LONG);
        let mut tries = Vec::new();
        let began = bench.now;
        for _ in 0..200 {
            bench.pass(Duration::from_millis(100));
            let pn = bench.next;
            bench.next += 1;
            if bench.sizes.sent(bench.now, pn, LONG, LONG) == Some(Leave::Whole) {
                tries.push((bench.now - began).as_secs());
                bench.send(3, LONG);
                assert_eq!(bench.lose(pn..pn + 1), [true]);
                assert_eq!(bench.sizes.leave(), Leave::InPieces);
            } else {
                bench.ack(pn..pn + 1, LONG);
            }
        }
        assert_eq!(tries, [1, 2, 4, 8, 16]);
        bench.pass(Duration::from_secs(20));
        let tried = bench.sizes.sent(bench.now, bench.next, LONG, LONG);
        assert_eq!(tried, Some(Leave::Whole));
        bench.ack(bench.next..bench.next + 1, LONG);
        assert_eq!(bench.sizes.leave(), Leave::Whole);
    }

    #[test]
    fn tries_become_rare_and_never_cease() {
        let mut sizes = Sizes::new();
        let mut now = Instant::now();
        sizes.sent(now, 0, SHORT, LONG);
        sizes.acked(now, 0, SHORT, false);
        for pn in 1..20 {
            now += LONGEST_PAUSE;
            assert_eq!(sizes.sent(now, pn, LONG, LONG), Some(Leave::Whole), "{pn}");
            assert_eq!(sizes.sent(now, pn + 1_000, LONG, LONG), None, "one at a time");
            sizes.lost(now, pn, LONG);
        }
    }

    #[test]
    fn a_lane_begins_with_both_until_it_knows_what_comes_in() {
        for (whole_came, then) in [(true, Leave::Whole), (false, Leave::InPieces)] {
            let mut sizes = Sizes::new();
            let now = Instant::now();
            sizes.sent(now, 0, 1_200, 1_200);
            assert_eq!(sizes.leave(), Leave::Both);
            sizes.acked(now, 0, 1_200, whole_came);
            assert_eq!(sizes.leave(), then);
        }
    }

    #[test]
    fn a_probe_for_a_larger_size_is_no_witness() {
        let mut bench = Bench::whole();
        bench.sizes.asked();
        assert_eq!(bench.sizes.sent(bench.now, 0, 1_400, 1_200), None);
        assert!(bench.sizes.sure.is_empty());
    }
}
