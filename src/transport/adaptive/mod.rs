//! The congestion control of lanes by default: BBR where the lane has the bottleneck to itself, CUBIC
//! where others fill its queue. PURE: time is an argument.
//!
//! ```text
//!  Startup ─ the pipe is full ─► Drain ─► Cruise ─ 6 rounds ─► ProbeUp ─► ProbeDown ─┐
//!                                           ▲ ▲                                      │
//!                                           │ └──────────────────────────────────────┘
//!                                           └─ the queue empties when we hold back ─ Sharing (CUBIC)
//!  any ── a queue stands for a cycle, or more is lost than the path loses by itself ──► Sharing
//! ```
//!
//! Alone, the lane sends at the rate that the path delivered (draft-cardwell-iccrg-bbr-
//! congestion-control-00). So the queue stays empty, keystrokes do not wait for the same user's download, and
//! loss that does not depend on the rate does not count as congestion. Beside TCP such a sender gets too
//! much of a short queue and too little of a long one. So when the lane sees other senders, it uses CUBIC as
//! they do, and tests from time to time whether they are gone (as Copa switches modes:
//! Arun and Balakrishnan, NSDI 2018).

mod bandwidth;
mod base_loss;
mod cubic;
mod least_rtt;
mod path;
mod round;
mod sharing;

use std::{
    any::Any,
    time::{Duration, Instant},
};

use noq::congestion::{Controller, ControllerMetrics};

use path::Path;
use round::Round;
use sharing::{FIRST_PAUSE, Sharing};

#[cfg(test)]
mod tests;

/// Ten packets (RFC 9002, section 7.2).
pub(super) const INITIAL_WINDOW: u64 = 14_720;

/// Each flow that begins brings the window that a TCP connection of its own would begin with, up to
/// this many flows: browsers open six for each of some ten servers.
pub(super) const FLOWS_AT_ONCE: u64 = 64;

/// Their first windows leave within a round trip, a little faster as not all begin with it; those of so few
/// flows, which fill no queue, as fast as that of one.
const OPENING: f64 = 1.25;
const FEW_FLOWS: u64 = 16;

/// A lane begins with this part of the rate that the path carried lately. Startup then takes it to
/// 1.4 times the rate.
const RESUMED: f64 = 0.5;

/// The lane assumes this rate for this many rounds: one to send, one to see the effect, one more.
const RESUMED_ROUNDS: usize = 3;

/// It is another path when its round trip is this many times as long or as short.
const ANOTHER: u32 = 2;

/// The least window, in packets (BBR's `BBRMinPipeCwnd`).
const LEAST_WINDOW: u64 = 4;

/// The pace while the rate doubles each round: 2/ln 2 (BBR's `BBRStartupPacingGain` of 2016).
const STARTUP: f64 = 2.885;

/// The same after a round that the application limited. The path then carries at least the rate that the
/// application needed, and a window may leave in half a round trip.
const STARTUP_AFTER_LITTLE: f64 = 2.0 * STARTUP;

/// The pipe is full when the bandwidth grew by less than this in three rounds.
const GROWTH: f64 = 1.25;
const FLAT_ROUNDS: u32 = 3;

/// The same where packets are lost without a queue, as then it grows unsteadily.
const FLAT_ROUNDS_OF_LOSS: u32 = 12;

/// The paces of a cycle, as parts of the bandwidth. Below 1 while cruising, as the bandwidth is a maximum.
const UP: f64 = 1.25;
const DOWN: f64 = 0.75;
const CRUISE: f64 = 0.99;
const CRUISE_ROUNDS: u32 = 6;

/// After a probe by which the bandwidth grew so much, the next one comes at once, and goes further up: the
/// lane is far below the path's rate.
const WORTH_ANOTHER: f64 = 1.15;

/// While cruising the pace is lowered by the queue that stands, by no more than this.
const MOST_DRAINED: f64 = 0.2;

/// Most bytes in flight, as a multiple of the bytes that the path holds: acknowledgements come in lumps.
const IN_FLIGHT: f64 = 2.0;

/// The same as a multiple of the bytes in flight at the path's rate: more than [`UP`], and room for jitter.
const WINDOW_OVER_PACE: f64 = 1.5;

/// A lossy path is sent more, so that as much arrives; for no higher loss than this.
const MOST_COMPENSATED: f64 = 0.5;

/// A queue that stands for this many least round trips, the time of a whole cycle, is not ours. It lasts half as many
/// rounds at least.
const OTHERS: u32 = 8;

/// Packets that are lost while a queue stands for so many rounds are lost in the queue, also where nothing is known yet of
/// what the path loses by itself.
const NOT_OURS: u32 = OTHERS / 2;

/// How long at least little is sent to see the least round trip.
const PROBE_RTT: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Startup { best: f64, flat: u32 },
    Drain,
    Cruise { left: u32 },
    ProbeUp { gain: f64 },
    ProbeDown { after: Duration },
    ProbeRtt { until: Instant },
}

/// The rate of a path, and its round trip.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Carried {
    /// In bytes per second.
    pub(super) rate: f64,
    /// The least round trip.
    pub(super) rtt: Duration,
}

/// The controller.
#[derive(Debug, Clone)]
pub(super) struct Adaptive {
    path: Path,
    in_flight: u64,
    phase: Phase,
    since: Instant,
    /// The bandwidth before the last probe.
    probed_from: f64,
    /// Rounds in a row with a standing queue, and the end of the last one before them.
    stood: u32,
    queue_since: Instant,
    sharing: Option<Sharing>,
    /// How long the lane assumes other senders the next time.
    pause: Duration,
    alone_since: Instant,
    /// The least round trip that a lane had on this route before this one came to it. One that comes while others fill
    /// the queue sees only longer ones.
    remembered_rtt: Option<Duration>,
    /// The rate that the path had lately, until its round trip shows whether it is the same path.
    resumes: Option<Carried>,
    /// First bytes of flows so far; and when the present round began, and the one before.
    opened: u64,
    opened_before: [u64; 2],
    /// Whether the application limited the last round.
    app_limited: bool,
}

impl Adaptive {
    pub(super) fn new(now: Instant, mtu: u16) -> Self {
        Self {
            path: Path::new(now, mtu),
            in_flight: 0,
            phase: Phase::Startup { best: 0.0, flat: 0 },
            since: now,
            probed_from: 0.0,
            stood: 0,
            queue_since: now,
            sharing: None,
            pause: FIRST_PAUSE,
            alone_since: now,
            remembered_rtt: None,
            resumes: None,
            opened: 0,
            opened_before: [0; 2],
            app_limited: false,
        }
    }

    /// The path lately carried that much.
    pub(super) fn resume(&mut self, carried: Carried) {
        self.resumes = Some(carried);
    }

    /// The rate of the path, once it is known.
    pub(super) fn carries(&self) -> Option<Carried> {
        let rate = self.path.is_measured().then(|| self.path.bandwidth())?;
        Some(Carried { rate, rtt: self.path.least_rtt()? })
    }

    /// Whether the path is the one that was remembered shows in its first round trip.
    fn confirm(&mut self) {
        let Some(least) = self.path.least_rtt() else { return };
        let Some(Carried { rate, rtt }) = self.resumes.take() else { return };
        if least <= ANOTHER * rtt && rtt <= ANOTHER * least {
            self.path.assume(RESUMED * rate, RESUMED_ROUNDS);
        }
    }

    /// First bytes of flows that are not acknowledged yet, of `opened` so far.
    fn opening(&self, opened: u64) -> u64 {
        opened.saturating_sub(self.opened_before[1]).min(FLOWS_AT_ONCE * INITIAL_WINDOW)
    }

    /// The packets take another route from now on. Until its rate is known, the lane assumes the present rate, but
    /// at least half of the rate that the route had lately, and at most that rate.
    pub(super) fn rerouted(&mut self, now: Instant, carried: Option<Carried>) {
        let kept = self.path.bandwidth();
        let rate = carried.map_or(kept, |Carried { rate, .. }| kept.clamp(RESUMED * rate, rate));
        self.path.change(now, rate);
        self.sharing = None;
        self.remembered_rtt = carried.map(|Carried { rtt, .. }| rtt);
        (self.stood, self.queue_since) = (0, now);
        self.pause = FIRST_PAUSE;
        self.alone_since = now;
        if !matches!(self.phase, Phase::Startup { .. }) {
            self.enter(now, Phase::Cruise { left: CRUISE_ROUNDS });
        }
    }

    fn enter(&mut self, now: Instant, phase: Phase) {
        if matches!(phase, Phase::ProbeUp { .. }) || self.phase == Phase::Drain {
            self.probed_from = self.path.bandwidth();
        }
        self.phase = phase;
        self.since = now;
        let holding_back =
            matches!(phase, Phase::Drain | Phase::ProbeDown { .. } | Phase::ProbeRtt { .. });
        self.path.loss.hold_back(holding_back);
    }

    fn on_round(&mut self, now: Instant, round: Round) {
        if self.sharing.is_some() {
            return self.share_on(now, round);
        }
        let starting = matches!(self.phase, Phase::Startup { .. });
        let others_overflow = round.overflowed && self.found_others();
        self.next_phase(now, round);
        let limited = round.app_limited && !others_overflow;
        if starting || limited || matches!(self.phase, Phase::ProbeRtt { .. }) {
            (self.stood, self.queue_since) = (0, now);
            return;
        }
        if round.stood {
            self.stood += 1;
        } else {
            (self.stood, self.queue_since) = (0, now);
        }
        let others_queue = self.stood >= NOT_OURS;
        let known = self.path.loss.is_known() || others_queue;
        let lost = round.congested && (round.queued && known || others_overflow);
        // While a queue stands, rounds are longer than those of the cycle that would have emptied it.
        let cycle = OTHERS * self.path.least_rtt().unwrap_or_default();
        let lasts = others_queue && now.saturating_duration_since(self.queue_since) >= cycle;
        if others_overflow {
            // What was lost there is not the path's own loss.
            self.path.loss.forget();
        }
        if lost || lasts {
            self.share(now, lost);
        } else if round.congested
            && matches!(self.phase, Phase::Cruise { .. })
            && self.path.loss.is_settled()
        {
            // Is it the path's own loss, or does it depend on our rate?
            self.enter(now, Phase::ProbeDown { after: Duration::ZERO });
        }
    }

    /// Whether the lane has just come to a route whose queue others fill, as far as the round trip of before tells.
    fn found_others(&self) -> bool {
        let before = self.remembered_rtt.filter(|_| !self.path.is_measured());
        before.is_some_and(|before| self.path.is_longer_than(before))
    }

    fn next_phase(&mut self, now: Instant, round: Round) {
        if round.app_limited {
            // Such a probe shows nothing. It ends, as what waits for the window of a flow would otherwise be sent at its pace.
            if matches!(self.phase, Phase::ProbeUp { .. }) {
                self.enter(now, Phase::ProbeDown { after: Duration::ZERO });
            }
            return;
        }
        let bandwidth = self.path.bandwidth();
        let grew = bandwidth > WORTH_ANOTHER * self.probed_from;
        match self.phase {
            Phase::Startup { best, flat } => {
                let unsteady = round.lossy && !round.queued || round.lumpy;
                let most = if unsteady { FLAT_ROUNDS_OF_LOSS } else { FLAT_ROUNDS };
                let overflows = round.congested && round.queued && round.overflowed;
                if bandwidth >= GROWTH * best {
                    self.phase = Phase::Startup { best: bandwidth, flat: 0 };
                } else if overflows || round.stood || flat + 1 >= most {
                    self.enter(now, Phase::Drain);
                } else {
                    self.phase = Phase::Startup { best, flat: flat + 1 };
                }
            }
            Phase::ProbeDown { .. } | Phase::Cruise { left: 5.. } if grew && !round.stood => {
                self.enter(now, Phase::ProbeUp { gain: UP });
            }
            Phase::ProbeUp { .. } if now < self.since + self.path.probe_time() => {}
            Phase::ProbeUp { gain } if grew && !round.stood => {
                self.enter(now, Phase::ProbeUp { gain: (UP * gain).min(STARTUP) });
            }
            Phase::ProbeUp { .. } => {
                let after = now.saturating_duration_since(self.since);
                self.enter(now, Phase::ProbeDown { after });
            }
            Phase::Cruise { left: 0 } => self.enter(now, Phase::ProbeUp { gain: UP }),
            Phase::Cruise { left } => self.phase = Phase::Cruise { left: left - 1 },
            Phase::Drain | Phase::ProbeDown { .. } | Phase::ProbeRtt { .. } => {}
        }
    }

    /// Ends phases that end before their round does.
    fn after_acks(&mut self, now: Instant) {
        let Some((least, bdp)) = self.path.least_rtt().zip(self.path.bdp()) else { return };
        let lasted = now.saturating_duration_since(self.since);
        let drained = as_f64(self.in_flight) <= bdp;
        let over = match self.phase {
            Phase::Drain => drained || lasted > 4 * least,
            // To drain what a probe up sent too much takes as long as that.
            Phase::ProbeDown { after } => {
                drained && lasted > least || lasted > (2 * least).max(after)
            }
            Phase::ProbeRtt { until } => now >= until,
            Phase::Startup { .. } if self.path.is_full(now, GROWTH) => {
                return self.enter(now, Phase::Drain);
            }
            Phase::Startup { .. } | Phase::Cruise { .. } | Phase::ProbeUp { .. } => false,
        };
        if over {
            self.enter(now, Phase::Cruise { left: CRUISE_ROUNDS });
        }
        let cruising = matches!(self.phase, Phase::Cruise { .. }) && self.sharing.is_none();
        if cruising && self.path.has_to_look_for_least_rtt(now) {
            self.enter(now, Phase::ProbeRtt { until: now + (2 * least).max(PROBE_RTT) });
        }
    }

    /// How many packets have to leave on a lossy path so that one arrives.
    fn compensation(&self) -> f64 {
        1.0 / (1.0 - self.path.loss.share().min(MOST_COMPENSATED))
    }

    fn pacing_gain(&self) -> f64 {
        match self.phase {
            Phase::Startup { .. } if self.app_limited => STARTUP_AFTER_LITTLE,
            Phase::Startup { .. } => STARTUP,
            Phase::Drain => 1.0 / STARTUP,
            Phase::ProbeUp { gain } => gain,
            Phase::ProbeDown { .. } => DOWN,
            Phase::Cruise { .. } | Phase::ProbeRtt { .. } => {
                CRUISE - self.path.excess_delay().min(MOST_DRAINED)
            }
        }
    }

    /// In bytes per second; `None`: a window in a round trip. `opened`: first bytes of flows so far.
    fn pacing_rate(&self, opened: u64) -> Option<f64> {
        let bandwidth = self.path.bandwidth();
        let trial = self.sharing.as_ref().map(|sharing| sharing.trial.is_some());
        if bandwidth <= 0.0 || trial == Some(false) {
            return None;
        }
        let gain = if trial.is_some() { CRUISE } else { self.pacing_gain() };
        let bandwidth = match self.phase {
            Phase::Startup { .. } if self.app_limited => self.path.bandwidth_so_far(),
            _ => bandwidth,
        };
        let rate = gain * bandwidth * self.compensation();
        match (self.phase, self.path.least_rtt()) {
            // While the path is unknown, as much as TCP would send.
            (Phase::Startup { .. }, Some(least)) if trial.is_none() => {
                let opening = self.opening(opened);
                let few = opening.clamp(INITIAL_WINDOW, FEW_FLOWS * INITIAL_WINDOW);
                let first = (OPENING * as_f64(opening)).max(STARTUP * as_f64(few));
                Some(rate.max(first / least.as_secs_f64().max(1e-4)))
            }
            _ => Some(rate),
        }
    }
}

impl Controller for Adaptive {
    fn on_packet_sent(&mut self, _now: Instant, bytes: u16, pn: u64) {
        self.in_flight += u64::from(bytes);
        self.path.sent(pn);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        pn: u64,
        app_limited: bool,
        _rtt: &noq_proto::RttEstimator,
    ) {
        self.acked(now, sent, bytes, pn, app_limited);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        _app_limited: bool,
        _largest_packet_num_acked: Option<u64>,
    ) {
        self.in_flight = in_flight;
        self.confirm();
        if matches!(self.phase, Phase::Startup { .. }) {
            self.path.look_at_rate(now);
        }
        if let Some(round) = self.path.end_round(now) {
            self.opened_before = [self.opened, self.opened_before[0]];
            self.app_limited = round.app_limited;
            self.on_round(now, round);
        }
        self.after_acks(now);
    }

    fn on_packet_lost(&mut self, lost_bytes: u16, pn: u64, _now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(lost_bytes.into());
        self.path.lost(pn);
    }

    fn on_congestion_event(
        &mut self,
        _now: Instant,
        _sent: Instant,
        _is_persistent_congestion: bool,
        is_ecn: bool,
        _lost_bytes: u64,
        _largest_lost_pn: u64,
    ) {
        // Losses are judged by the round. An outage that loses everything is the route's, and the
        // owner of the route judges it.
        if is_ecn {
            self.path.marked();
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.path.set_mtu(new_mtu);
    }

    fn window(&self) -> u64 {
        self.window_with(self.opened)
    }

    fn metrics(&self) -> ControllerMetrics {
        self.metrics_with(self.opened)
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        INITIAL_WINDOW
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

impl Adaptive {
    /// The window, where flows have written `opened` first bytes so far.
    pub(super) fn window_with(&self, opened: u64) -> u64 {
        let first = as_f64(INITIAL_WINDOW.max(self.opening(opened)));
        let least = LEAST_WINDOW * u64::from(self.path.mtu());
        let bdp = self.path.bdp().map(|bdp| bdp * self.compensation());
        let window = match (&self.sharing, bdp, self.phase) {
            (Some(sharing), bdp, _) => {
                let cubic = sharing.cubic.window() * f64::from(self.path.mtu());
                if sharing.trial.is_some() {
                    bdp.map_or(cubic, |bdp| bdp.min(cubic))
                } else {
                    cubic
                }
            }
            // At the beginning, or on a new route, whose round trip is not known yet. It may be twice that of the last
            // one before the window holds up the pace.
            (None, None, _) => {
                let before = self.path.bandwidth() * self.path.smoothed_rtt().as_secs_f64();
                (IN_FLIGHT * before).max(first)
            }
            (None, Some(bdp), Phase::Startup { .. }) => {
                let held = bdp.max(self.path.in_round_trip());
                (STARTUP * held).max(first)
            }
            (None, Some(bdp), Phase::ProbeRtt { .. }) => bdp / 2.0,
            (None, Some(bdp), _) => {
                // The least round trip may be one that the path hardly ever has. The pace, not the
                // window, then decides how much is sent, in a probe too.
                let least = WINDOW_OVER_PACE * self.path.in_round_trip() * self.compensation();
                least.max(IN_FLIGHT * bdp + self.path.in_jitter())
                    + 3.0 * f64::from(self.path.mtu())
            }
        };
        as_u64(window).max(least)
    }

    /// The same, with the other values that QUIC asks for.
    pub(super) fn metrics_with(&self, opened: u64) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.window_with(opened);
        metrics.pacing_rate = self.pacing_rate(opened).map(as_u64);
        metrics.bandwidth_estimate = Some(as_u64(8.0 * self.path.bandwidth()));
        metrics
    }

    /// Takes notice, before a batch of acknowledgements ends, of the first bytes of flows so far.
    pub(super) fn set_opened(&mut self, opened: u64) {
        self.opened = opened;
    }

    /// A packet was acknowledged. Apart from the trait, whose round-trip estimate only QUIC can make, so
    /// that a model of a path can tell it too.
    fn acked(&mut self, now: Instant, sent: Instant, bytes: u64, pn: u64, app_limited: bool) {
        self.in_flight = self.in_flight.saturating_sub(bytes);
        self.path.acked(now, sent, bytes, pn, app_limited);
        let smoothed = self.path.smoothed_rtt();
        if let Some(sharing) = &mut self.sharing
            && !app_limited
            && sharing.trial.is_none()
        {
            sharing.cubic.on_ack(now, as_f64(bytes) / f64::from(self.path.mtu()), smoothed);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "windows are far below 2^52 bytes")]
fn as_f64(bytes: u64) -> f64 {
    bytes as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "not negative, and far below 2^63"
)]
fn as_u64(bytes: f64) -> u64 {
    bytes as u64
}
