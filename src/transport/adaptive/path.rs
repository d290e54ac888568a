//! What a sender knows about its path, round by round: pure, time is an argument.

use std::time::{Duration, Instant};

use super::{
    as_f64,
    bandwidth::{BANDWIDTH_ROUNDS, Bandwidth, Sample},
    base_loss::BaseLoss,
    least_rtt::LeastRtt,
    round::{Counts, MeanRtt, Round},
};

/// The range of round trips, as a multiple of the mean less the least one: uniform delays in both directions
/// have 2, and few of the least ones are seen.
const SPREAD: u32 = 8;

/// How long the least round trip is kept, once to twice. Where others fill the queue it is seen
/// less often.
const RTT_KEPT: Duration = Duration::from_secs(15);
const RTT_KEPT_BESIDE_OTHERS: Duration = Duration::from_secs(60);

/// Every path has a queue of this many packets: one in the queue, and those of a burst.
const FEW: f64 = 4.0;

/// A queue stands in a round trip that exceeds the least one by one part in this many.
const STANDING: u32 = 4;

/// The same of the mean of a round, when there is a queue at all.
const QUEUED: u32 = 16;

/// A queue begins when the round trips of [`BEGINS_AFTER`] packets in a row, of one round, all exceed the usual least
/// one by an eighth, within bounds (RFC 9406, section 4.2). Rounds of fewer packets do not show the usual least one.
const BEGINS_AFTER: u32 = 8;
const BEGINS: u32 = 8;
const BEGINS_WITHIN: [Duration; 2] = [Duration::from_millis(4), Duration::from_millis(16)];

/// Packets that are acknowledged within this part of the least round trip, one in this many, are a lump.
const LUMP: u32 = 4;

/// A lump shows that the path carries more than the lane assumes, if it has this many times the bytes that are
/// due in its time, and a few packets more, because acknowledgements come in pairs.
const LUMPY: f64 = 2.0;
const FEW_IN_LUMP: f64 = 3.0;

/// A clock and a busy machine are no more exact than this.
const INEXACT: Duration = Duration::from_millis(1);

/// A sender that doubles its rate overflows a queue by more than one packet in this many, and by more than a few.
/// Some of the first packets on a path are late, and QUIC declares them lost until the hold is long enough.
const OVERFLOW: u32 = 8;
const LEAST_OVERFLOW: u32 = 16;

/// A round that lost this many times as much as it delivered is an outage and not congestion.
const OUTAGE: u32 = 4;

/// The path of one direction of a lane.
#[derive(Debug, Clone)]
pub(super) struct Path {
    pub(super) loss: BaseLoss,
    least_rtt: LeastRtt,
    /// The longest of the least round trips that were taken for those of an empty queue while that loss was counted. A
    /// clearly shorter one shows that there was a queue.
    counted_at: Duration,
    /// The least round trip of a round, apart from rounds of few packets, which are luckier.
    usual_least: LeastRtt,
    /// The least mean round trip of a round, or of rounds of few packets together, as few are luckier.
    least_mean: LeastRtt,
    /// Of the rounds of few packets that are not in it yet.
    unsampled: MeanRtt,
    bandwidth: Bandwidth,
    /// Mean less least round trip of a round, smoothed.
    jitter: Duration,
    /// The same of rounds without a queue.
    calm_jitter: Duration,
    /// The least round trip of the last round.
    last_least: Duration,
    /// How much of the least round trip of the last round jitter does not explain, as a part of
    /// the least one.
    excess_delay: f64,
    beside_others: bool,
    /// When the present lump of acknowledgements began, and its bytes.
    lump: (Instant, u64),
    /// Whether there was one in the last round.
    was_lumpy: bool,
    smoothed_rtt: Duration,
    largest_sent: u64,
    largest_acked: u64,
    round: Counts,
    mtu: u16,
}

impl Path {
    pub(super) fn new(now: Instant, mtu: u16) -> Self {
        Self {
            loss: BaseLoss::default(),
            least_rtt: LeastRtt::default(),
            counted_at: Duration::ZERO,
            usual_least: LeastRtt::default(),
            least_mean: LeastRtt::default(),
            unsampled: MeanRtt::default(),
            bandwidth: Bandwidth::default(),
            jitter: Duration::ZERO,
            calm_jitter: Duration::ZERO,
            last_least: Duration::ZERO,
            excess_delay: 0.0,
            beside_others: false,
            lump: (now, 0),
            was_lumpy: false,
            smoothed_rtt: Duration::ZERO,
            largest_sent: 0,
            largest_acked: 0,
            round: Counts::new(now, 0),
            mtu,
        }
    }

    /// The same sender on another path. It assumes `rate` until the rate is known.
    pub(super) fn change(&mut self, now: Instant, rate: f64) {
        let mut path = Self::new(now, self.mtu);
        path.assume(rate, BANDWIDTH_ROUNDS);
        path.smoothed_rtt = self.smoothed_rtt;
        path.sent(self.largest_sent);
        path.round.end = self.largest_sent + 1;
        *self = path;
    }

    /// Assumes this rate for this many rounds that the application does not limit.
    pub(super) fn assume(&mut self, rate: f64, rounds: usize) {
        self.bandwidth.assume(rate, rounds);
    }

    /// Whether the bandwidth was measured on this path.
    pub(super) fn is_measured(&self) -> bool {
        self.bandwidth.is_measured()
    }

    /// The size of its packets, in bytes.
    pub(super) fn mtu(&self) -> u16 {
        self.mtu
    }

    pub(super) fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu;
    }

    /// Whether others fill the queue.
    pub(super) fn set_beside_others(&mut self, beside_others: bool) {
        self.beside_others = beside_others;
    }

    /// In bytes per second; 0 before the first round.
    pub(super) fn bandwidth(&self) -> f64 {
        self.bandwidth.get()
    }

    pub(super) fn least_rtt(&self) -> Option<Duration> {
        self.least_rtt.get()
    }

    /// Whether the least round trip exceeds the one `before` by as much as a queue that stands.
    pub(super) fn is_longer_than(&self, before: Duration) -> bool {
        let queue = (before / STANDING).max(INEXACT) + self.jitter + self.time_of(FEW);
        self.least_rtt().is_some_and(|least| least > before + queue)
    }

    pub(super) fn smoothed_rtt(&self) -> Duration {
        self.smoothed_rtt
    }

    /// Whether a queue is there just now, and less than `growth` times the bandwidth arrives: round trips
    /// that vary look like a queue, too.
    pub(super) fn is_full(&self, now: Instant, growth: f64) -> bool {
        let elapsed = now.saturating_duration_since(self.round.began).as_secs_f64();
        let arrived = as_f64(self.round.bytes);
        // Less than half of a round trip says little.
        let long = elapsed > self.last_least.as_secs_f64() / 2.0;
        self.round.late_in_a_row >= BEGINS_AFTER
            && long
            && !self.round.lumpy
            && !self.was_lumpy
            && arrived < growth * self.bandwidth() * elapsed
    }

    /// Whether the path has to show its least round trip again: see [`LeastRtt::is_stale`]. The caller
    /// then sends little for a while, and is asked for it once.
    pub(super) fn has_to_look_for_least_rtt(&mut self, now: Instant) -> bool {
        let stale = self.least_rtt.is_stale(now);
        if stale {
            self.least_rtt.look(now);
        }
        stale
    }

    /// The bytes that the path holds without a queue; `None` before the first round.
    pub(super) fn bdp(&self) -> Option<f64> {
        let least = self.least_rtt()?;
        let bandwidth = self.bandwidth();
        (bandwidth > 0.0).then_some(bandwidth * least.as_secs_f64())
    }

    /// The bytes that are in flight because round trips vary.
    pub(super) fn in_jitter(&self) -> f64 {
        2.0 * self.jitter.as_secs_f64() * self.bandwidth()
    }

    /// The time within which all packets come that were sent at one moment. Jitter is less than half of the
    /// range of delays, and packets are late in both directions.
    fn spread(&self) -> Duration {
        SPREAD * self.jitter
    }

    /// How long another pace lasts until a rate shows it.
    pub(super) fn probe_time(&self) -> Duration {
        match self.spread() {
            spread if spread < self.smoothed_rtt => Duration::ZERO,
            spread => self.smoothed_rtt + spread,
        }
    }

    /// The bytes in flight at the path's rate while round trips are as long as in the last round.
    pub(super) fn in_round_trip(&self) -> f64 {
        self.bandwidth() * self.last_least.as_secs_f64()
    }

    /// The queue that stood throughout the last round, as a part of the least round trip.
    pub(super) fn excess_delay(&self) -> f64 {
        self.excess_delay
    }

    pub(super) fn sent(&mut self, pn: u64) {
        self.largest_sent = pn;
        self.loss.sent(pn);
    }

    pub(super) fn acked(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        pn: u64,
        app_limited: bool,
    ) {
        let rtt = now.saturating_duration_since(sent);
        self.least_rtt.sample(now, rtt, self.kept());
        if rtt + inexact(self.counted_at) < self.counted_at {
            self.counted_at = rtt;
            self.loss.forget();
        }
        let least = self.least_rtt.get().unwrap_or(rtt);
        let [low, high] = BEGINS_WITHIN;
        let late = self
            .usual_least
            .get()
            .is_some_and(|usual| rtt > usual + (usual / BEGINS).clamp(low, high) + self.jitter);
        self.round.late_in_a_row = if late { self.round.late_in_a_row + 1 } else { 0 };
        self.note_lump(now, bytes, least);
        self.loss.acked(pn);
        self.round.bytes += bytes;
        self.round.least = self.round.least.min(rtt);
        self.round.rtt.add(MeanRtt { packets: 1, sum: rtt });
        self.round.app_limited |= app_limited;
        self.largest_acked = self.largest_acked.max(pn);
        self.bandwidth.acked(sent);
    }

    /// Records whether packets are acknowledged so close together that the path carries far more than is
    /// believed. A queue of ours would have spread them, so a delay is then jitter: packets that overtook
    /// each other wait for one that is late, and arrive together.
    fn note_lump(&mut self, now: Instant, bytes: u64, least: Duration) {
        let time = (least / LUMP).max(INEXACT);
        if now > self.lump.0 + time {
            self.lump = (now, 0);
        }
        self.lump.1 += bytes;
        let few = FEW_IN_LUMP * f64::from(self.mtu);
        let due = self.bandwidth() * time.as_secs_f64();
        self.round.lumpy |= as_f64(self.lump.1) > LUMPY * due + few;
    }

    pub(super) fn lost(&mut self, pn: u64) {
        self.round.lost += 1;
        self.loss.lost(pn);
    }

    pub(super) fn marked(&mut self) {
        self.round.marked = true;
    }

    /// The findings of the round that has just ended, if one has. Call it after a batch of acknowledgements.
    pub(super) fn end_round(&mut self, now: Instant) -> Option<Round> {
        let counts = self.round;
        let (acked, mean) = (counts.rtt.packets, counts.rtt.get());
        let least = self.least_rtt()?;
        if acked == 0 || self.largest_acked < counts.end {
            return None;
        }
        self.bandwidth.end_round(self.sample(now, least), counts.app_limited);
        self.smoothed_rtt = match self.smoothed_rtt {
            Duration::ZERO => mean,
            smoothed => (7 * smoothed + mean) / 8,
        };
        self.last_least = counts.least;
        if acked >= BEGINS_AFTER {
            self.usual_least.sample(now, counts.least, self.kept());
        }
        self.unsampled.add(counts.rtt);
        if self.unsampled.packets >= BEGINS_AFTER {
            self.least_mean.sample(now, self.unsampled.get(), RTT_KEPT);
            self.unsampled = MeanRtt::default();
        }
        let few = self.time_of(FEW);
        let lumpy = counts.lumpy || self.was_lumpy;
        self.was_lumpy = counts.lumpy;
        let stands = |jitter| !lumpy && counts.least > least + least / STANDING + jitter + few;
        let (stood, others) = (stands(self.jitter), stands(self.calm_jitter));
        let usual = self.least_mean.get().unwrap_or(mean);
        let queued = mean > usual + inexact(least) + self.jitter / 2;
        let delay = counts.least.saturating_sub(least + self.jitter + few / 2);
        self.excess_delay =
            if lumpy { 0.0 } else { delay.as_secs_f64() / least.as_secs_f64().max(1e-6) };
        let varied = mean.saturating_sub(counts.least);
        self.jitter = (7 * self.jitter + varied) / 8;
        // A queue that always stands raises the mean to which rounds are compared.
        if !queued && !stood {
            self.calm_jitter = (7 * self.calm_jitter + varied) / 8;
        }
        self.counted_at = self.counted_at.max(least);
        let outage = counts.lost > OUTAGE * acked;
        let exceeded = self.loss.is_exceeded(acked, counts.lost) && !outage;
        self.loss.end_round(stood);
        self.round = Counts::new(now, self.largest_sent + 1);
        Some(Round {
            app_limited: counts.app_limited,
            lumpy,
            stood,
            others,
            queued,
            lossy: counts.lost > 0,
            overflowed: counts.lost > (acked / OVERFLOW).max(LEAST_OVERFLOW),
            congested: exceeded || counts.marked,
        })
    }

    /// Takes notice of the present round's delivery rate before its end.
    pub(super) fn look_at_rate(&mut self, now: Instant) {
        if let Some(least) = self.least_rtt() {
            self.bandwidth.look(self.sample(now, least));
        }
    }

    /// The bandwidth, or that of the present round so far, in bytes per second.
    pub(super) fn bandwidth_so_far(&self) -> f64 {
        self.bandwidth.so_far()
    }

    /// The present round so far.
    fn sample(&self, now: Instant, least: Duration) -> Sample {
        let Counts { began, bytes, .. } = self.round;
        Sample { now, began, bytes, least, spread: self.spread() }
    }

    fn kept(&self) -> Duration {
        if self.beside_others { RTT_KEPT_BESIDE_OTHERS } else { RTT_KEPT }
    }

    /// How long the path needs for this many packets.
    fn time_of(&self, packets: f64) -> Duration {
        let seconds = packets * f64::from(self.mtu) / self.bandwidth().max(1.0);
        Duration::from_secs_f64(seconds.min(1.0))
    }
}

/// Round trips on a path whose least one is this may differ by so much without a queue.
fn inexact(least: Duration) -> Duration {
    (least / QUEUED).max(INEXACT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// One packet of 1,250 bytes each millisecond, 10 Mbit/s, whose round trip is that; the rounds that
    /// ended.
    fn run(
        path: &mut Path,
        t0: Instant,
        pns: std::ops::Range<u64>,
        rtt: impl Fn(u64) -> Duration,
    ) -> Vec<Round> {
        let at = |pn: u64| t0 + u32::try_from(pn).unwrap() * MS;
        let mut acked = pns.start;
        let mut rounds = Vec::new();
        for pn in pns.clone() {
            path.sent(pn);
            while acked < pn && at(acked) + rtt(acked) <= at(pn) {
                path.acked(at(pn), at(acked), 1_250, acked, false);
                rounds.extend(path.end_round(at(pn)));
                acked += 1;
            }
        }
        rounds
    }

    #[test]
    fn a_steady_stream_shows_its_rate_and_an_empty_queue() {
        let (t0, mut path) = (Instant::now(), Path::new(Instant::now(), 1_250));
        let rounds = run(&mut path, t0, 0..1_000, |_| 40 * MS);
        assert!((15..=26).contains(&rounds.len()), "{}", rounds.len());
        assert!((path.bandwidth() - 1.25e6).abs() < 4e4, "{}", path.bandwidth());
        assert_eq!(path.least_rtt(), Some(40 * MS));
        assert!(rounds.iter().all(|round| !round.stood && !round.queued && !round.congested));
    }

    #[test]
    fn a_queue_that_stands_is_seen_and_jitter_is_none() {
        let (t0, mut path) = (Instant::now(), Path::new(Instant::now(), 1_250));
        run(&mut path, t0, 0..500, |_| 40 * MS);
        let rounds = run(&mut path, t0, 500..900, |_| 80 * MS);
        assert!(rounds.iter().skip(1).all(|round| round.stood), "{rounds:?}");
        let mut path = Path::new(t0, 1_250);
        let rounds =
            run(&mut path, t0, 0..2_000, |pn| Duration::from_millis(40 + (pn / 10) % 4 * 5));
        assert!(rounds.iter().all(|round| !round.stood), "{rounds:?}");
    }

    #[test]
    fn a_round_trip_far_below_the_least_one_voids_the_paths_own_loss() {
        let (t0, mut path) = (Instant::now(), Path::new(Instant::now(), 1_250));
        path.acked(t0 + 100 * MS, t0, 1_250, 0, false);
        path.end_round(t0 + 100 * MS);
        path.loss.hold_back(true);
        (1..401).for_each(|pn| path.sent(pn));
        (1..41).for_each(|pn| path.lost(pn));
        (41..401).for_each(|pn| path.loss.acked(pn));
        path.loss.hold_back(false);
        (0..10).for_each(|_| path.loss.end_round(false));
        // Two small steps are as good as a large one.
        for (rtt, share) in [(95, 0.1), (90, 0.0)] {
            path.acked(t0 + 500 * MS, t0 + (500 - rtt) * MS, 1_250, 401, false);
            assert!((path.loss.share() - share).abs() < 1e-9, "{rtt}: {}", path.loss.share());
        }
    }

    #[test]
    fn a_path_is_longer_than_before_by_as_much_as_a_queue_that_stands() {
        let (t0, mut path) = (Instant::now(), Path::new(Instant::now(), 1_250));
        assert!(!path.is_longer_than(40 * MS), "nothing is known yet");
        path.assume(1.25e6, 10);
        path.acked(t0 + 60 * MS, t0, 1_250, 0, false);
        // Four packets take 4 ms.
        for (before, longer) in [(40, true), (44, true), (45, false), (60, false)] {
            assert_eq!(path.is_longer_than(before * MS), longer, "{before}");
        }
    }

    #[test]
    fn another_path_keeps_the_rate_and_forgets_the_rest() {
        let (t0, mut path) = (Instant::now(), Path::new(Instant::now(), 1_250));
        run(&mut path, t0, 0..500, |_| 40 * MS);
        let bandwidth = path.bandwidth();
        path.change(t0 + 500 * MS, bandwidth);
        assert!((path.bandwidth() - bandwidth).abs() < 1e-9);
        assert_eq!(path.least_rtt(), None);
        assert_eq!(path.bdp(), None);
    }
}
