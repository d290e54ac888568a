//! Watches the route in use: pure, time is an argument.
//!
//! A route in use is suspected when packets have gone out, or a transfer was coming in, and none has
//! come in for a while. It is then probed at once with a ping that the far end answers; if nothing at all comes in until the
//! answer is overdue, the route is dead.
//!
//! ```text
//!  last packet in      ping               verdict
//!  ──┬─────────────────┬──────────────────┬──►
//!    │  ¼ RTT + 10 ms  │  1¼ RTT + 30 ms  │        in all 1½ RTT + 40 ms
//! ```
//!
//! The time-outs adapt to the round-trip time QUIC measures, queues included, and to the slowest
//! answer of the last minutes, so that jitter is not taken for an outage. They double after
//! each verdict without any packet in between, so that a long outage does not cause a storm.

use std::time::{Duration, Instant};

/// After an outgoing packet, silence of this long plus ¼ RTT causes a ping. It is longer than the
/// acknowledgement delay of a busy peer (a few ms) and shorter than the 25 ms of an idle one, whose
/// late acknowledgement costs a ping and nothing else.
const PING_AFTER: Duration = Duration::from_millis(10);

/// The ping's answer is overdue after this long plus 1¼ RTT: room for jitter and a busy CPU.
const VERDICT_AFTER: Duration = Duration::from_millis(30);

/// How long the slowest answer is remembered: jitter comes and goes with the hours of the day.
const MEMORY: Duration = Duration::from_secs(300);

/// Without a measurement yet, the round-trip time is taken to be this; a handshake has just shown
/// that the route works.
pub(super) const UNKNOWN_RTT: Duration = Duration::from_millis(250);

/// A longer round trip is taken for what is left of an outage in the estimate. Answers that really
/// take so long are waited for nevertheless, as those of the last minutes were.
const LONGEST_RTT: Duration = Duration::from_secs(1);

/// Longest time-out of the verdict after several verdicts in a row: about what an outage of all
/// routes lasts longer for the lane when it is over.
const LONGEST_VERDICT: Duration = Duration::from_secs(1);

/// So many packets in between two looks are a transfer of which more is expected: what a path of
/// 5 Mbit/s carries meanwhile.
const BUSY: u64 = 4;

/// If the watch itself wakes up later than this, the process was suspended or starved: what looks
/// like silence of the route may be ours.
const OVERSLEPT: Duration = Duration::from_millis(150);

/// Without traffic for this long, the watch sleeps until a packet goes out.
const REST_AFTER: Duration = Duration::from_millis(500);

/// What is known of a route's round-trip time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rtt {
    /// The smoothed round-trip time, queues included.
    pub(super) smoothed: Duration,
    /// The least that was seen on this route; zero where nothing is known.
    pub(super) least: Duration,
}

impl Rtt {
    pub(super) fn new(smoothed: Option<Duration>, least: Option<Duration>) -> Self {
        let smoothed = smoothed.unwrap_or(UNKNOWN_RTT).min(LONGEST_RTT);
        Self { smoothed, least: least.unwrap_or_default().min(smoothed) }
    }
}

/// What the owner of the watch shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    /// Look again at this time.
    LookAt(Instant),
    /// Nothing is outstanding: sleep until a packet goes out.
    Rest,
    /// Ping the far end now, then look again at this time.
    Ping(Instant),
    /// The route has been silent for so long although something was outstanding.
    Dead(Duration),
}

impl Finding {
    /// What two watches over the same route find together: the more urgent finding.
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Dead(a), Self::Dead(b)) => Self::Dead(a.max(b)),
            (dead @ Self::Dead(_), _) | (_, dead @ Self::Dead(_)) => dead,
            (Self::Ping(a), Self::Ping(b) | Self::LookAt(b)) | (Self::LookAt(a), Self::Ping(b)) => {
                Self::Ping(a.min(b))
            }
            (Self::LookAt(a), Self::LookAt(b)) => Self::LookAt(a.min(b)),
            (some, Self::Rest) | (Self::Rest, some) => some,
        }
    }
}

/// The watch of one lane's end over its route.
#[derive(Debug)]
pub(super) struct Watch {
    sent: u64,
    received: u64,
    last_in: Instant,
    /// When the first packet went out after the last one came in, or since when more of a transfer
    /// is expected.
    outstanding_since: Option<Instant>,
    pinged: Option<Instant>,
    verdicts: u32,
    /// The slowest answer lately, and when it came.
    slowest: Option<(Duration, Instant)>,
    expected_look: Option<Instant>,
}

impl Watch {
    /// A watch that starts now, with the counters of packets sent and received.
    pub(super) fn new(now: Instant, (sent, received): (u64, u64)) -> Self {
        Self {
            sent,
            received,
            last_in: now,
            outstanding_since: None,
            pinged: None,
            verdicts: 0,
            slowest: None,
            expected_look: None,
        }
    }

    /// Looks at the counters, and at when the last packet went out and came in. `rtt` is what QUIC
    /// has measured, and what it was at least.
    pub(super) fn look(
        &mut self,
        now: Instant,
        (sent, received): (u64, u64),
        (last_out, last_in): (Instant, Instant),
        rtt: Rtt,
    ) -> Finding {
        let Rtt { smoothed: rtt, least } = rtt;
        let overslept = self.expected_look.is_some_and(|at| now > at + OVERSLEPT);
        if received != self.received || overslept {
            if received != self.received && !overslept {
                self.learn(now, rtt);
            }
            if overslept || self.may_be_answered(now, least) {
                (self.outstanding_since, self.pinged) = (None, None);
            }
            self.last_in = if overslept { now } else { last_in };
            if received != self.received {
                self.verdicts = 0;
            }
            // The receiver of a transfer has nothing to send when it stops. It is not to learn from
            // the sender that the path is dead: in one direction, that takes longer to notice.
            if received.saturating_sub(self.received) >= BUSY {
                (self.outstanding_since, self.pinged) = (Some(self.last_in), None);
            }
        } else if sent != self.sent && self.outstanding_since.is_none() {
            // What went out before a reroute says nothing of the route since.
            self.outstanding_since = Some(last_out.max(self.last_in));
        }
        (self.sent, self.received) = (sent, received);
        let finding = self.judge(now, rtt);
        self.expected_look = match finding {
            Finding::LookAt(at) | Finding::Ping(at) => Some(at),
            Finding::Rest | Finding::Dead(_) => None,
        };
        finding
    }

    /// Whether what came in may answer what is outstanding, and was not on its way before.
    fn may_be_answered(&self, now: Instant, least: Duration) -> bool {
        self.outstanding_since.is_none_or(|since| now >= since + least / 4 * 3)
    }

    fn judge(&mut self, now: Instant, rtt: Duration) -> Finding {
        let Some(since) = self.outstanding_since else {
            let rest_at = self.last_in + REST_AFTER;
            let next = now + Self::step(rtt);
            return if now >= rest_at { Finding::Rest } else { Finding::LookAt(next) };
        };
        let Some(pinged) = self.pinged else {
            let ping_at = since + rtt / 4 + PING_AFTER;
            if now < ping_at {
                return Finding::LookAt(ping_at.min(now + Self::step(rtt)));
            }
            self.pinged = Some(now);
            return Finding::Ping(now + Self::step(rtt));
        };
        let overdue = pinged + self.patience(rtt);
        if now < overdue {
            return Finding::LookAt(overdue.min(now + Self::step(rtt)));
        }
        let silence = now.saturating_duration_since(self.last_in.max(since));
        self.verdicts += 1;
        (self.outstanding_since, self.pinged) = (None, None);
        Finding::Dead(silence)
    }

    /// How often to look while there is traffic: the resolution of the verdict.
    fn step(rtt: Duration) -> Duration {
        (rtt / 8).clamp(Duration::from_millis(4), Duration::from_millis(20))
    }

    /// Notes how long an answer took, for the jitter of this path.
    fn learn(&mut self, now: Instant, rtt: Duration) {
        let (Some(since), 0) = (self.outstanding_since, self.verdicts) else { return };
        let answer = now.saturating_duration_since(since).min(2 * rtt + VERDICT_AFTER);
        let old = self.slowest.is_none_or(|(_, at)| now.saturating_duration_since(at) > MEMORY);
        if old || self.slowest.is_some_and(|(slowest, _)| answer >= slowest) {
            self.slowest = Some((answer, now));
        }
    }

    fn patience(&self, rtt: Duration) -> Duration {
        let least = rtt + rtt / 4 + VERDICT_AFTER;
        // On a path whose answers were late before, they may be as late again, and a quarter more.
        let before_ping = rtt / 4 + PING_AFTER;
        let seen = self.slowest.map_or(Duration::ZERO, |(slowest, _)| slowest + slowest / 4);
        let once = least.max((seen + VERDICT_AFTER).saturating_sub(before_ping));
        (once * 2u32.saturating_pow(self.verdicts.min(8))).min(LONGEST_VERDICT.max(once))
    }

    /// Starts over after a reroute: the new route has shown nothing yet.
    pub(super) fn rerouted(&mut self, now: Instant) {
        (self.last_in, self.outstanding_since, self.pinged) = (now, None, None);
        self.expected_look = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(60);

    fn measured() -> Rtt {
        Rtt::new(Some(RTT), Some(RTT))
    }

    /// Steps a watch through time; `counters(ms)` gives the packets sent and received until then.
    /// Returns the findings other than "look again", with their times in milliseconds.
    fn run(ms: u64, counters: impl Fn(u64) -> (u64, u64)) -> Vec<(u64, Finding)> {
        let t0 = Instant::now();
        let mut watch = Watch::new(t0, (0, 0));
        let mut findings = Vec::new();
        let mut look_at = Some(t0);
        for t in 0..ms {
            let now = t0 + Duration::from_millis(t);
            let woken = look_at.is_none() && counters(t).0 != watch.sent;
            if look_at.is_some_and(|at| now >= at) || woken {
                let finding = watch.look(now, counters(t), (now, now), measured());
                look_at = match finding {
                    Finding::LookAt(at) | Finding::Ping(at) => Some(at),
                    Finding::Rest => None,
                    Finding::Dead(_) => {
                        watch.rerouted(now);
                        Some(now)
                    }
                };
                if !matches!(finding, Finding::LookAt(_)) {
                    findings.push((t, finding));
                }
            }
        }
        findings
    }

    fn verdicts(findings: &[(u64, Finding)]) -> Vec<u64> {
        let dead =
            |(t, finding): &(u64, Finding)| matches!(finding, Finding::Dead(_)).then_some(*t);
        findings.iter().filter_map(dead).collect()
    }

    #[test]
    fn a_busy_route_that_goes_silent_is_dead_after_one_and_a_half_round_trips_and_a_little() {
        // A packet each way every 2 ms until the cut at 300 ms; then only outgoing ones.
        let findings = run(500, |t| (t / 2, t.min(300) / 2));
        let dead = verdicts(&findings)[0];
        assert!((300 + 90..=300 + 160).contains(&dead), "{findings:?}");
    }

    #[test]
    fn an_interactive_route_is_judged_from_the_keystroke_on() {
        // A keystroke every 200 ms, answered 60 ms later until the cut at 1 s.
        let findings = run(1_400, |t| (t / 200, t.min(1_000).saturating_sub(60) / 200));
        let dead = verdicts(&findings)[0];
        assert!((1_000 + 90..=1_000 + 200).contains(&dead), "{findings:?}");
    }

    #[test]
    fn a_receiver_that_sends_nothing_notices_that_a_transfer_stopped() {
        let findings = run(500, |t| (10, t.min(300)));
        let dead = verdicts(&findings)[0];
        assert!((300 + 90..=300 + 160).contains(&dead), "{findings:?}");
    }

    #[test]
    fn the_end_of_a_transfer_costs_one_ping() {
        let findings = run(5_000, |t| (10 + u64::from(t >= 325), t.min(300) + u64::from(t >= 385)));
        assert!(verdicts(&findings).is_empty(), "{findings:?}");
        assert_eq!(findings.iter().filter(|(_, f)| matches!(f, Finding::Ping(_))).count(), 1);
    }

    #[test]
    fn what_was_on_its_way_before_is_no_answer() {
        // A keystroke after a second; 20 ms later something comes in that the far end sent before.
        let findings = run(1_400, |t| (u64::from(t >= 1_000), u64::from(t >= 1_020)));
        let dead = verdicts(&findings)[0];
        assert!((1_000 + 90..=1_000 + 180).contains(&dead), "{findings:?}");
    }

    #[test]
    fn what_went_out_between_two_looks_is_outstanding_from_then_on() {
        let t0 = Instant::now();
        let mut watch = Watch::new(t0, (0, 0));
        let ms = |t| t0 + Duration::from_millis(t);
        watch.look(ms(20), (1, 0), (ms(5), t0), measured());
        let ping_at = ms(5) + RTT / 4 + PING_AFTER;
        let early = watch.look(ping_at - RTT / 60, (1, 0), (ms(5), t0), measured());
        assert_eq!(early, Finding::LookAt(ping_at));
        let due = watch.look(ping_at, (1, 0), (ms(5), t0), measured());
        assert!(matches!(due, Finding::Ping(_)), "{due:?}");
    }

    #[test]
    fn an_idle_route_is_never_dead() {
        let findings = run(60_000, |_| (0, 0));
        assert!(verdicts(&findings).is_empty(), "{findings:?}");
    }

    #[test]
    fn a_last_acknowledgement_that_nobody_answers_costs_one_ping() {
        // The ping, sent through the same counters, is answered within a round trip.
        let findings = run(2_000, |t| match t {
            0..100 => (0, 0),
            100..130 => (1, 0),
            130..200 => (2, 0),
            _ => (2, 1),
        });
        assert!(verdicts(&findings).is_empty(), "{findings:?}");
        assert_eq!(findings.iter().filter(|(_, f)| matches!(f, Finding::Ping(_))).count(), 1);
    }

    #[test]
    fn jitter_of_a_round_trip_is_no_outage() {
        let findings = run(10_000, |t| (t / 2, t / 60 * 30));
        assert!(verdicts(&findings).is_empty(), "{findings:?}");
    }

    #[test]
    fn a_path_that_answered_late_before_is_given_that_time_again() {
        // A packet every 400 ms, answered after 120 ms for a minute, then after 150 ms.
        let answered = |t: u64| {
            let late = if t < 60_000 { 120 } else { 150 };
            t / 400 + u64::from(t % 400 >= late)
        };
        let findings = run(90_000, |t| (t / 400 + 1, answered(t)));
        assert!(verdicts(&findings).is_empty(), "{findings:?}");
    }

    #[test]
    fn an_outage_of_all_routes_causes_no_storm() {
        let findings = run(60_000, |t| (t / 2, t.min(300) / 2));
        assert!(verdicts(&findings).len() < 70, "{}", verdicts(&findings).len());
    }

    #[test]
    fn an_estimate_of_seconds_that_an_outage_left_behind_does_not_delay_the_verdict_by_seconds() {
        let (t0, rtt) = (Instant::now(), Rtt::new(Some(Duration::from_secs(7)), None));
        let mut watch = Watch::new(t0, (0, 0));
        let (mut now, mut dead) = (t0, None);
        while dead.is_none() && now < t0 + Duration::from_secs(10) {
            match watch.look(now, (1, 0), (now, now), rtt) {
                Finding::LookAt(at) | Finding::Ping(at) => now = at,
                Finding::Dead(silence) => dead = Some(silence),
                Finding::Rest => panic!("a packet is outstanding"),
            }
        }
        assert!(dead.is_some_and(|silence| silence < Duration::from_secs(2)), "{dead:?}");
    }

    #[test]
    fn of_two_watches_the_more_urgent_one_decides() {
        let at = |ms| Instant::now() + Duration::from_millis(ms);
        let (soon, late) = (at(1), at(9));
        let silent = Finding::Dead(RTT);
        assert_eq!(Finding::Rest.and(Finding::LookAt(late)), Finding::LookAt(late));
        assert_eq!(Finding::LookAt(soon).and(Finding::Ping(late)), Finding::Ping(soon));
        assert_eq!(silent.and(Finding::Ping(late)), silent);
        assert_eq!(Finding::Rest.and(silent), silent);
        assert_eq!(Finding::Rest.and(Finding::Rest), Finding::Rest);
    }

    #[test]
    fn a_process_that_slept_does_not_blame_the_route() {
        let t0 = Instant::now();
        let mut watch = Watch::new(t0, (0, 0));
        let ms = |t| t0 + Duration::from_millis(t);
        watch.look(ms(0), (5, 5), (ms(0), ms(0)), measured());
        watch.look(ms(20), (9, 5), (ms(20), ms(20)), measured());
        let woken = watch.look(ms(90_000), (9, 5), (ms(90_000), ms(90_000)), measured());
        assert!(!matches!(woken, Finding::Dead(_)), "{woken:?}");
    }
}
