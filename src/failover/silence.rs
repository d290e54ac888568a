//! Detects that the route in use has become silent.
//!
//! Silence is suspected when a packet that needs an answer went out, or a transfer was coming in,
//! and nothing has come in for a while. The agent then pings the far end. If nothing comes in until
//! the answer is overdue, the route is silent.
//!
//! ```text
//!  last packet in      ping               verdict
//!  ──┬─────────────────┬──────────────────┬──►
//!    │  ¼ RTT + 10 ms  │  1¼ RTT + 30 ms  │        in all 1½ RTT + 40 ms
//! ```
//!
//! The time-outs adapt to the round-trip time, queues included, and to the slowest answer of the
//! last minutes, so that jitter does not look like an outage. The second one doubles after each
//! verdict without a packet in between, so that a long outage does not cause many pings.
//!
//! Two [`Watch`]es check the same route. One counts packets of any kind: it is for the receiver of
//! a download, which sends nothing that needs an answer. The other counts acknowledgements: if only
//! our own direction is dead, packets of the far end still come in. Neither counts acknowledgements
//! and answers to pings as sent, because they need no answer. So two idle ends send nothing.

use std::time::{Duration, Instant};

use super::Timing;

/// Counts and times of the lane's packets so far, and its round-trip times.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Traffic {
    /// Packets sent that must be acknowledged.
    pub asked: u64,
    /// Those of them that were acknowledged.
    pub answered: u64,
    /// Packets of any kind that came in.
    pub received: u64,
    /// When the last packet went out; `None` before the first.
    pub departed: Option<Instant>,
    /// When the last packet came in; `None` before the first.
    pub arrived: Option<Instant>,
    /// The beginning and end of the last pause in arrivals of at least 10 ms.
    pub pause: Option<(Instant, Instant)>,
    /// The smoothed round-trip time, queues included; `None` before the first.
    pub smoothed_rtt: Option<Duration>,
    /// The least round-trip time seen on the route in use; `None` before the first.
    pub least_rtt: Option<Duration>,
}

impl Traffic {
    /// No packet yet.
    pub(crate) const NONE: Self = Self {
        asked: 0,
        answered: 0,
        received: 0,
        departed: None,
        arrived: None,
        pause: None,
        smoothed_rtt: None,
        least_rtt: None,
    };
}

/// What the agent shall do about the route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    /// Look again at this time.
    LookAt(Instant),
    /// Nothing is outstanding: sleep until a packet goes out.
    Rest,
    /// Ping the far end now, then look again at this time.
    Ping(Instant),
    /// The route has been silent for this long while packets were outstanding.
    Silent(Duration),
}

impl Finding {
    /// The more urgent of two findings about the same route.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Silent(a), Self::Silent(b)) => Self::Silent(a.max(b)),
            (silent @ Self::Silent(_), _) | (_, silent @ Self::Silent(_)) => silent,
            (Self::Ping(a), Self::Ping(b) | Self::LookAt(b)) | (Self::LookAt(a), Self::Ping(b)) => {
                Self::Ping(a.min(b))
            }
            (Self::LookAt(a), Self::LookAt(b)) => Self::LookAt(a.min(b)),
            (some, Self::Rest) | (Self::Rest, some) => some,
        }
    }
}

/// Both watches over the route in use.
#[derive(Debug)]
pub(super) struct Silence {
    packets: Watch,
    acknowledgements: Watch,
    /// The round-trip time by probes of a route that was just taken, until the lane has measured it.
    expected_rtt: Option<Duration>,
    /// Packets sent that must be acknowledged, as last seen.
    sent: u64,
    /// Those of them that need an answer: all except the answers to pings.
    asked: u64,
    /// Answers to pings that are about to leave.
    answers: u64,
}

impl Silence {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            packets: Watch::new(now),
            acknowledgements: Watch::new(now),
            expected_rtt: None,
            sent: 0,
            asked: 0,
            answers: 0,
        }
    }

    /// Checks the counts.
    pub(super) fn look(&mut self, now: Instant, timing: &Timing, traffic: &Traffic) -> Finding {
        let rtt = self.rtt(timing, traffic);
        let late = Rtt { smoothed: rtt.smoothed + rtt.smoothed / 2 + timing.ack_queue, ..rtt };
        self.count_asked(traffic.asked);
        let asked = self.asked;
        let last = |at: Option<Instant>| at.unwrap_or(now).min(now);
        let counts = Counts {
            asked,
            heard: traffic.received,
            last_out: last(traffic.departed),
            last_in: last(traffic.arrived),
        };
        let acks = Counts { heard: traffic.answered, last_out: now, last_in: now, ..counts };
        let heard = self.packets.look(now, timing, counts, rtt, None);
        // One ping serves both.
        heard.and(self.acknowledgements.look(now, timing, acks, late, self.packets.pinged))
    }

    /// The round-trip time that answers are expected to take.
    pub(super) fn rtt(&self, timing: &Timing, traffic: &Traffic) -> Rtt {
        // The smoothed one outlasts a reroute. No answer comes sooner than after the least one.
        let on_route = traffic.least_rtt.or(self.expected_rtt);
        let smoothed = traffic.smoothed_rtt.max(on_route).unwrap_or(timing.unknown_rtt);
        let smoothed = smoothed.min(timing.longest_answer);
        Rtt { smoothed, least: traffic.least_rtt.unwrap_or_default().min(smoothed) }
    }

    /// An answer to a ping is about to leave. It needs no answer.
    pub(super) fn answering(&mut self) {
        self.answers += 1;
    }

    /// Counts the packets that need an answer among those sent since the last look.
    fn count_asked(&mut self, sent: u64) {
        let more = sent.saturating_sub(self.sent);
        self.sent = sent;
        if more > 0 {
            // An answer may share its packet with others, so earlier ones are not subtracted later.
            self.asked += more.saturating_sub(std::mem::take(&mut self.answers));
        }
    }

    /// Starts over on another route, which probes measured to take `expected`.
    pub(super) fn rerouted(&mut self, now: Instant, expected: Option<Duration>) {
        self.expected_rtt = expected;
        self.packets.rerouted(now);
        self.acknowledgements.rerouted(now);
    }

    /// Since when packets have been outstanding on a silent route.
    pub(super) fn suspected_since(&self) -> Option<Instant> {
        [&self.packets, &self.acknowledgements]
            .into_iter()
            .filter(|watch| watch.pinged.is_some())
            .filter_map(|watch| watch.outstanding_since)
            .min()
    }
}

/// The round-trip times of the route in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rtt {
    /// Smoothed, queues included.
    pub(super) smoothed: Duration,
    /// The least one; zero if none is known.
    pub(super) least: Duration,
}

/// The counts that one watch checks.
#[derive(Debug, Clone, Copy)]
struct Counts {
    asked: u64,
    heard: u64,
    last_out: Instant,
    last_in: Instant,
}

#[derive(Debug)]
struct Watch {
    asked: u64,
    heard: u64,
    last_in: Instant,
    /// When the first packet went out after the last one came in, or since when more packets of a
    /// transfer are expected.
    outstanding_since: Option<Instant>,
    pinged: Option<Instant>,
    verdicts: u32,
    /// The slowest answer lately, and when it came.
    slowest: Option<(Duration, Instant)>,
    expected_look: Option<Instant>,
    /// Since when packets in are counted, and how many had come in before.
    counted_since: (Instant, u64),
    /// A transfer was coming in then.
    transfer: bool,
}

impl Watch {
    fn new(now: Instant) -> Self {
        Self {
            asked: 0,
            heard: 0,
            last_in: now,
            outstanding_since: None,
            pinged: None,
            verdicts: 0,
            slowest: None,
            expected_look: None,
            counted_since: (now, 0),
            transfer: false,
        }
    }

    /// Looks at the counters. `pinged`: when the far end was pinged for another watch.
    fn look(
        &mut self,
        now: Instant,
        timing: &Timing,
        counts: Counts,
        rtt: Rtt,
        pinged: Option<Instant>,
    ) -> Finding {
        let overslept = self.expected_look.is_some_and(|at| now > at + timing.overslept);
        if counts.heard != self.heard || overslept {
            self.hear(now, timing, counts, rtt, overslept);
        } else if counts.asked > self.asked && self.outstanding_since.is_none() {
            // Packets from before a reroute say nothing about the new route.
            self.outstanding_since = Some(counts.last_out.max(self.last_in));
        }
        (self.asked, self.heard) = (counts.asked, counts.heard);
        if let (Some(since), None) = (self.outstanding_since, self.pinged) {
            self.pinged = pinged.filter(|pinged| *pinged >= since);
        }
        let finding = self.judge(now, timing, rtt.smoothed);
        self.expected_look = match finding {
            Finding::LookAt(at) | Finding::Ping(at) => Some(at),
            Finding::Rest | Finding::Silent(_) => None,
        };
        finding
    }

    /// A packet came in, or this process slept.
    fn hear(&mut self, now: Instant, timing: &Timing, counts: Counts, rtt: Rtt, overslept: bool) {
        let heard = counts.heard != self.heard;
        if heard && !overslept {
            self.learn(now, timing, rtt.smoothed);
        }
        if overslept || self.may_be_answered(now, rtt.least) {
            (self.outstanding_since, self.pinged) = (None, None);
        }
        self.last_in = if overslept { now } else { counts.last_in };
        if heard {
            self.verdicts = 0;
        }
        // The receiver of a transfer sends nothing that needs an answer. It detects the silence
        // itself, because the sender's verdict would arrive later.
        if self.is_transfer(now, timing, counts.heard) {
            (self.outstanding_since, self.pinged) = (Some(self.last_in), None);
        }
    }

    /// Whether the last step had so many packets that more are expected.
    fn is_transfer(&mut self, now: Instant, timing: &Timing, heard: u64) -> bool {
        let (since, before) = self.counted_since;
        let many = heard.saturating_sub(before) >= timing.busy_packets;
        let over = now.saturating_duration_since(since);
        if many || over > timing.step {
            self.transfer = many && over <= 2 * timing.step;
            self.counted_since = (now, heard);
        }
        self.transfer
    }

    /// Whether the packet that came in may be an answer. No answer comes within ¾ of the least
    /// round trip.
    fn may_be_answered(&self, now: Instant, least: Duration) -> bool {
        self.outstanding_since.is_none_or(|since| now >= since + least / 4 * 3)
    }

    fn judge(&mut self, now: Instant, timing: &Timing, rtt: Duration) -> Finding {
        let next = now + step(timing, rtt);
        let Some(since) = self.outstanding_since else {
            let rest_at = self.last_in + timing.rest_after;
            return if now >= rest_at { Finding::Rest } else { Finding::LookAt(next) };
        };
        let Some(pinged) = self.pinged else {
            let ping_at = since + rtt / 4 + timing.ping_after;
            if now < ping_at {
                return Finding::LookAt(ping_at.min(next));
            }
            self.pinged = Some(now);
            return Finding::Ping(next);
        };
        let overdue = pinged + self.patience(timing, rtt);
        if now < overdue {
            return Finding::LookAt(overdue.min(next));
        }
        let silence = now.saturating_duration_since(self.last_in.max(since));
        self.verdicts += 1;
        (self.outstanding_since, self.pinged) = (None, None);
        Finding::Silent(silence)
    }

    /// Records the time of an answer, for the jitter of this path.
    fn learn(&mut self, now: Instant, timing: &Timing, rtt: Duration) {
        let (Some(since), 0) = (self.outstanding_since, self.verdicts) else { return };
        let longest = 2 * rtt + timing.verdict_after;
        let answer = now.saturating_duration_since(since).min(longest);
        let memory = timing.slow_answer_memory;
        let old = self.slowest.is_none_or(|(_, at)| now.saturating_duration_since(at) > memory);
        if old || self.slowest.is_some_and(|(slowest, _)| answer >= slowest) {
            self.slowest = Some((answer, now));
        }
    }

    fn patience(&self, timing: &Timing, rtt: Duration) -> Duration {
        let least = rtt + rtt / 4 + timing.verdict_after;
        // On a path with late answers, the next one may be a quarter later than the slowest.
        let before_ping = rtt / 4 + timing.ping_after;
        let seen = self.slowest.map_or(Duration::ZERO, |(slowest, _)| slowest + slowest / 4);
        let once = least.max((seen + timing.verdict_after).saturating_sub(before_ping));
        let doubled = once * 2u32.saturating_pow(self.verdicts.min(8));
        doubled.min(timing.longest_answer.max(once))
    }

    fn rerouted(&mut self, now: Instant) {
        (self.last_in, self.outstanding_since, self.pinged) = (now, None, None);
        self.expected_look = None;
    }
}

/// How often to look while there is traffic: the resolution of the verdict.
fn step(timing: &Timing, rtt: Duration) -> Duration {
    (rtt / 8).clamp(Duration::from_millis(4), timing.step)
}

#[cfg(test)]
#[path = "silence_tests.rs"]
mod tests;
