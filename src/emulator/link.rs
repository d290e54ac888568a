//! One direction of one path. PURE: time and randomness are arguments.
//!
//! A packet meets, in this order: the cut, the MTU, the queue in front of the bottleneck, the
//! bottleneck's rate, chance, and the delay with its jitter. Chance comes after the bottleneck, so
//! a packet that is lost by chance has used up its share of the rate, as behind a real modem.

use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

use super::{
    counters::{Counters, DropReason},
    units::{Bitrate, LossRate},
};

/// The biggest UDP payload on Ethernet with IPv4: 1,500 − 20 (IPv4) − 8 (UDP).
pub(super) const ETHERNET_MTU: u16 = 1_472;

/// How long one draw of the jitter lasts on an ordered link.
///
/// Queues at other people's bottlenecks swing over tens of milliseconds, not from one packet to the
/// next. Fresh jitter per packet, kept in order, would delay a dense stream by the maximum always.
const JITTER_HOLD: Duration = Duration::from_millis(10);

/// Jitter is cut off at this many times its mean: 0.7 % of draws, and a bound tests can rely on.
const JITTER_CEILING: f64 = 5.0;

/// How one direction of one path treats packets. Lengths count UDP payload, without headers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinkModel {
    /// Propagation delay, one way.
    pub delay: Duration,
    /// Mean of the extra delay, exponentially distributed and cut off at five times the mean.
    ///
    /// On an ordered link a draw lasts 10 ms; with [`reorder`](Self::reorder) each packet draws.
    pub jitter: Duration,
    /// The delay of each packet varies evenly by up to this much to both sides, and no further than to
    /// zero: netem's `delay 20ms 10ms`. Packets overtake each other if the link may
    /// [`reorder`](Self::reorder).
    pub swing: Duration,
    /// Whether a later packet may arrive first. If not, it waits for the earlier one.
    pub reorder: bool,
    /// Loss by chance.
    pub loss: Loss,
    /// The bottleneck's rate; `None` is infinitely fast, and then nothing queues.
    pub rate: Option<Bitrate>,
    /// The drop-tail buffer in front of the bottleneck; without a [`rate`](Self::rate) unused.
    pub queue: Queue,
    /// The largest UDP payload in bytes. A larger packet is dropped without a message.
    pub mtu: u16,
    /// Whether the path works; see [`Link::set_model`] for what cutting does.
    pub up: bool,
}

/// Loss by chance.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Loss {
    /// Nothing is lost by chance.
    #[default]
    None,
    /// Each packet is lost independently.
    Bernoulli(LossRate),
    /// The Gilbert–Elliott model in continuous time: the link alternates between a good and a bad
    /// state, each of exponentially distributed length. In time, not in packets, so that a
    /// probe a second and a bulk transfer see the same bursts.
    GilbertElliott {
        /// Loss in the good state.
        good: LossRate,
        /// Loss in the bad state.
        bad: LossRate,
        /// Mean length of the good state.
        good_for: Duration,
        /// Mean length of the bad state.
        bad_for: Duration,
    },
}

/// The buffer in front of a bottleneck. It holds the packet being sent, too; a packet that
/// finds the link idle always fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// As much as the bottleneck sends in this time.
    Time(Duration),
    /// This many bytes.
    Bytes(u32),
}

/// What a link did with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It arrives.
    Deliver {
        /// When.
        at: Instant,
    },
    /// It does not arrive.
    Dropped(DropReason),
}

/// The effect of a change of the model on packets on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "packets in flight on a link that was cut are to be dropped"]
pub enum InFlight {
    /// They arrive as computed when they were sent.
    Kept,
    /// They are lost: the link was cut.
    Lost,
}

/// One directed link: a model, and the state that earlier packets left.
#[derive(Debug, Clone)]
pub struct Link {
    model: LinkModel,
    /// When the bottleneck has sent all it was given.
    busy_until: Option<Instant>,
    last_arrival: Option<Instant>,
    jitter: Option<HeldJitter>,
    burst: Option<Burst>,
    counters: Counters,
}

#[derive(Debug, Clone, Copy)]
struct HeldJitter {
    until: Instant,
    extra: Duration,
}

/// The state of the Gilbert–Elliott model when it was last looked at.
#[derive(Debug, Clone, Copy)]
struct Burst {
    bad: bool,
    seen: Instant,
}

impl Default for LinkModel {
    /// A perfect link: no delay, no loss, no limit, Ethernet's MTU.
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            swing: Duration::ZERO,
            reorder: false,
            loss: Loss::None,
            rate: None,
            queue: Queue::Time(Duration::from_millis(50)),
            mtu: ETHERNET_MTU,
            up: true,
        }
    }
}

impl LinkModel {
    /// A link that only delays.
    #[must_use]
    pub fn new(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }

    /// The same link with independent loss at this rate.
    #[must_use]
    pub const fn with_loss(self, rate: LossRate) -> Self {
        Self { loss: Loss::Bernoulli(rate), ..self }
    }

    /// The same link with a bottleneck and its buffer.
    #[must_use]
    pub const fn with_rate(self, rate: Bitrate, queue: Queue) -> Self {
        Self { rate: Some(rate), queue, ..self }
    }

    /// The same link with this mean jitter.
    #[must_use]
    pub const fn with_jitter(self, jitter: Duration) -> Self {
        Self { jitter, ..self }
    }

    /// The same link with a delay that varies by up to `swing` to both sides from packet to packet, so
    /// that packets overtake each other.
    #[must_use]
    pub const fn with_overtaking(self, swing: Duration) -> Self {
        Self { swing, reorder: true, ..self }
    }

    /// The mean delay of a packet that finds an empty queue (the cut-off of 0.7 % left aside).
    #[must_use]
    pub fn mean_delay(&self) -> Duration {
        self.delay + self.jitter
    }
}

impl Loss {
    /// The share lost in the long run.
    #[must_use]
    pub fn mean(&self) -> LossRate {
        match *self {
            Self::None => LossRate::ZERO,
            Self::Bernoulli(rate) => rate,
            Self::GilbertElliott { good, bad, good_for, bad_for } => {
                let share = bad_share(good_for, bad_for);
                LossRate::from_fraction(good.fraction() * (1.0 - share) + bad.fraction() * share)
            }
        }
    }

    /// The same with an independent loss added.
    #[must_use]
    pub fn then(self, extra: LossRate) -> Self {
        match self {
            _ if extra == LossRate::ZERO => self,
            Self::None => Self::Bernoulli(extra),
            Self::Bernoulli(rate) => Self::Bernoulli(rate.then(extra)),
            Self::GilbertElliott { good, bad, good_for, bad_for } => {
                let (good, bad) = (good.then(extra), bad.then(extra));
                Self::GilbertElliott { good, bad, good_for, bad_for }
            }
        }
    }
}

impl Queue {
    fn as_time(self, rate: Bitrate) -> Duration {
        match self {
            Self::Time(time) => time,
            Self::Bytes(bytes) => rate.time_for(bytes as usize),
        }
    }
}

impl Link {
    /// A link that has carried nothing yet.
    #[must_use]
    pub fn new(model: LinkModel) -> Self {
        Self {
            model,
            busy_until: None,
            last_arrival: None,
            jitter: None,
            burst: None,
            counters: Counters::default(),
        }
    }

    /// How the link treats packets now.
    #[must_use]
    pub const fn model(&self) -> &LinkModel {
        &self.model
    }

    /// The counters of packets.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Changes the model for packets sent from now on.
    ///
    /// Packets in flight keep the arrival they were given, and later ones stay behind them (unless
    /// the model reorders). The exception is a cut, which is a cut fibre: what is in flight is
    /// lost, what waits in the queue too, and a healed link starts empty.
    pub const fn set_model(&mut self, model: LinkModel) -> InFlight {
        let cut = self.model.up && !model.up;
        self.model = model;
        if !cut {
            return InFlight::Kept;
        }
        self.busy_until = None;
        self.last_arrival = None;
        InFlight::Lost
    }

    /// Sends `len` bytes of payload; says when they arrive, or why they do not.
    pub fn send(&mut self, now: Instant, len: usize, rng: &mut (impl Rng + ?Sized)) -> Verdict {
        self.counters.note_sent(len);
        match self.carry(now, len, rng) {
            Ok(at) => Verdict::Deliver { at },
            Err(reason) => {
                self.counters.note_dropped(reason);
                Verdict::Dropped(reason)
            }
        }
    }

    pub(super) const fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }

    fn carry(
        &mut self,
        now: Instant,
        len: usize,
        rng: &mut (impl Rng + ?Sized),
    ) -> Result<Instant, DropReason> {
        if !self.model.up {
            return Err(DropReason::Cut);
        }
        if len > usize::from(self.model.mtu) {
            return Err(DropReason::TooBig);
        }
        let sent = self.pass_bottleneck(now, len)?;
        if self.is_lost(now, rng) {
            return Err(DropReason::Chance);
        }
        let at = sent + self.draw_delay(rng) + self.draw_jitter(sent, rng);
        if self.model.reorder {
            return Ok(at);
        }
        let at = self.last_arrival.map_or(at, |last| at.max(last));
        self.last_arrival = Some(at);
        Ok(at)
    }

    /// Queues the packet; says when its last bit leaves the bottleneck.
    fn pass_bottleneck(&mut self, now: Instant, len: usize) -> Result<Instant, DropReason> {
        let Some(rate) = self.model.rate else { return Ok(now) };
        let start = self.busy_until.map_or(now, |busy| busy.max(now));
        let sent = start + rate.time_for(len);
        if start > now && sent - now > self.model.queue.as_time(rate) {
            return Err(DropReason::QueueFull);
        }
        self.busy_until = Some(sent);
        Ok(sent)
    }

    fn is_lost(&mut self, now: Instant, rng: &mut (impl Rng + ?Sized)) -> bool {
        let rate = match self.model.loss {
            Loss::None => return false,
            Loss::Bernoulli(rate) => rate,
            Loss::GilbertElliott { good, bad, good_for, bad_for } => {
                if self.step_burst(now, good_for, bad_for, rng) { bad } else { good }
            }
        };
        rng.random::<f64>() < rate.fraction()
    }

    /// Advances the two-state Markov chain to `now`; says whether it is in the bad state.
    ///
    /// P(bad after t) = π + (\[bad before\] − π)·e^(−t·(1/g + 1/b)), π the bad state's share of time.
    fn step_burst(
        &mut self,
        now: Instant,
        good_for: Duration,
        bad_for: Duration,
        rng: &mut (impl Rng + ?Sized),
    ) -> bool {
        let share = bad_share(good_for, bad_for);
        let probability = self.burst.map_or(share, |before| {
            let elapsed = now.saturating_duration_since(before.seen).as_secs_f64();
            let turnover = good_for.as_secs_f64().recip() + bad_for.as_secs_f64().recip();
            let was_bad = if before.bad { 1.0 } else { 0.0 };
            let memory = if elapsed == 0.0 { 1.0 } else { (-elapsed * turnover).exp() };
            (was_bad - share).mul_add(memory, share)
        });
        let bad = rng.random::<f64>() < probability;
        self.burst = Some(Burst { bad, seen: now });
        bad
    }

    fn draw_delay(&self, rng: &mut (impl Rng + ?Sized)) -> Duration {
        let LinkModel { delay, swing, .. } = self.model;
        if swing.is_zero() {
            return delay;
        }
        (delay + swing.mul_f64(2.0 * rng.random::<f64>())).saturating_sub(swing)
    }

    fn draw_jitter(&mut self, now: Instant, rng: &mut (impl Rng + ?Sized)) -> Duration {
        if self.model.jitter.is_zero() {
            return Duration::ZERO;
        }
        if let Some(held) = self.jitter
            && held.until > now
            && !self.model.reorder
        {
            return held.extra;
        }
        let exponential = -(1.0 - rng.random::<f64>()).ln();
        let extra = self.model.jitter.mul_f64(exponential.min(JITTER_CEILING));
        self.jitter = Some(HeldJitter { until: now + JITTER_HOLD, extra });
        extra
    }
}

/// The share of time spent in the bad state; two states of no length count as always good.
fn bad_share(good_for: Duration, bad_for: Duration) -> f64 {
    let whole = (good_for + bad_for).as_secs_f64();
    if whole > 0.0 { bad_for.as_secs_f64() / whole } else { 0.0 }
}
