//! How routes rank for a hint, and by how much one must beat another to replace it.

use std::{fmt, time::Duration};

use crate::{
    flow::{Hint, Route},
    overlay::{
        candidates::Candidate,
        loss::MIN_WEIGHT,
        metrics::PathMetrics,
        units::{LossRate, nanos},
    },
};

/// The round-trip loss above which a route is [`Tier::Lossy`], for the hints that do not rank by
/// loss. At 10 %, a page of 40 requests waits for several retransmissions at any latency.
pub const LOSSY: LossRate = LossRate::from_percent(10);

/// The loss at which the route in use becomes lossy. It is above [`LOSSY`], so that a lane does not leave and
/// take a route whose loss varies around the limit.
pub const LOSSY_IN_USE: LossRate = LossRate::from_percent(15);

/// Another route's lower loss counts if the difference is so many standard deviations of the difference between
/// two measurements of the same loss: chance exceeds that once in forty times.
const CHANCE: f64 = 2.0;

/// 5 % less latency is needed for a change (SOSP 2001, §5.2).
const LATENCY_PERCENT: u64 = 5;

/// And 1 ms less: on a campus, 5 % of the round trip is noise of scheduling.
const LATENCY_STEP: Duration = Duration::from_millis(1);

/// 2 points less loss are needed: two probes of the window of 100, one being chance.
const LOSS_STEP: LossRate = LossRate::from_percent(2);

/// And a quarter less: at 30 % loss the standard deviation of the window is 4.6 points, and two
/// points would be chance.
const LOSS_PERCENT: u64 = 25;

/// With no more loss, 20 % less latency is a reason to change under the hint `loss`, too. Otherwise
/// a lane that moved to a far relay would stay there after its direct path has recovered.
const LATENCY_PERCENT_FOR_LOSS: u64 = 20;

/// A score half as large again is needed for a change (SOSP 2001, §5.2).
const THROUGHPUT_FACTOR: f64 = 1.5;

/// The coarse order of usable routes, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Measured, and for the hints `latency` and `app` not lossy.
    Good,
    /// Measured, but loses more than 10 % of round trips (15 % while in use).
    Lossy,
    /// Not measured, or without a value of the application's metric.
    Unmeasured,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Good => "good",
            Self::Lossy => "lossy",
            Self::Unmeasured => "unmeasured",
        })
    }
}

/// What the rank of a route is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Compared {
    /// No route is in use, or it does not matter which.
    Alike,
    /// It is in use.
    InUse,
    /// It may replace the route in use, which has these figures.
    With(Option<PathMetrics>),
}

impl Compared {
    /// The loss that counts of a route with `metrics`: that of the route in use, if it is lower than that by
    /// chance.
    fn loss(self, metrics: PathMetrics) -> LossRate {
        let loss = metrics.round_trip_loss();
        let Self::With(Some(in_use)) = self else { return loss };
        let its_loss = in_use.round_trip_loss();
        let of = |m: PathMetrics| f64::from(m.exchanges.max(MIN_WEIGHT));
        let (n, m) = (of(metrics), of(in_use));
        let pooled = (loss.fraction() * n + its_loss.fraction() * m) / (n + m);
        let deviation = (pooled * (1.0 - pooled) * (1.0 / n + 1.0 / m)).sqrt();
        let by_chance = its_loss.fraction() - loss.fraction() < CHANCE * deviation;
        if by_chance { loss.max(its_loss) } else { loss }
    }
}

/// The rank of a usable route: the derived order, smallest first, is the preference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// The coarse order.
    pub tier: Tier,
    /// The score under the hint, as an integer; smaller is better.
    score: u64,
    /// For equal scores, in nanoseconds: the expected latency, or for the hint `loss` the
    /// round-trip time.
    latency: u64,
    /// The simpler route, then the name, for equal figures: the order is total.
    route: Route,
}

impl Rank {
    /// The rank of `candidate` under `hint`, `compared` with others.
    pub(super) fn of(hint: &Hint, candidate: &Candidate, compared: Compared) -> Self {
        let metrics = candidate.metrics;
        let measured = metrics.map_or(LossRate::TOTAL, |m| m.round_trip_loss());
        let loss = metrics.map_or(LossRate::TOTAL, |m| compared.loss(m));
        let latency = metrics.map_or(u64::MAX, |m| match hint {
            // The score includes the loss already.
            Hint::Loss => nanos(m.rtt),
            _ => nanos(m.latency_at(loss)),
        });
        let score = match hint {
            Hint::Latency => latency,
            Hint::Loss => u64::from(measured.ppm()),
            Hint::Throughput => metrics.map_or(u64::MAX, |m| m.throughput().descending()),
            Hint::App(_) => candidate.app.map_or(u64::MAX, |value| value.millionths()),
        };
        let limit = if matches!(compared, Compared::InUse) { LOSSY_IN_USE } else { LOSSY };
        let shuns_loss = matches!(hint, Hint::Latency | Hint::App(_));
        let unmeasured = metrics.is_none() || (score == u64::MAX && matches!(hint, Hint::App(_)));
        let tier = match () {
            () if unmeasured => Tier::Unmeasured,
            () if shuns_loss && loss > limit => Tier::Lossy,
            () => Tier::Good,
        };
        Self { tier, score, latency, route: candidate.route.clone() }
    }

    /// The route it is the rank of.
    #[must_use]
    pub fn route(&self) -> &Route {
        &self.route
    }

    /// Whether this route beats `current` by the margin of a change.
    ///
    /// Between tiers, always. Within one: 5 % and 1 ms for latency (loss included by way of the
    /// expected latency), 5 % for an application's value; 2 points and a quarter for loss, or 20 %
    /// and 1 ms of latency without more loss; half as much again for throughput.
    ///
    /// `self` ranks as one that may replace `current`, so at best as it would otherwise. Each change lowers (tier,
    /// score, latency) strictly, so with unchanging figures no sequence of changes returns to where it began.
    pub(super) fn beats(&self, hint: &Hint, current: &Self) -> bool {
        if self.tier != current.tier {
            return self.tier < current.tier;
        }
        let faster = |percent| {
            is_less_by(self.latency, current.latency, percent)
                && self.latency.saturating_add(nanos(LATENCY_STEP)) <= current.latency
        };
        match hint {
            Hint::App(_) if self.tier == Tier::Unmeasured => faster(LATENCY_PERCENT),
            Hint::App(_) => is_less_by(self.score, current.score, LATENCY_PERCENT),
            Hint::Latency => faster(LATENCY_PERCENT),
            Hint::Loss => {
                let faster = || self.score <= current.score && faster(LATENCY_PERCENT_FOR_LOSS);
                self.is_cleaner(current) || faster()
            }
            Hint::Throughput => {
                let (new, old) = (u64::MAX - self.score, u64::MAX - current.score);
                new as f64 >= THROUGHPUT_FACTOR * old as f64 && new > old
            }
        }
    }

    /// Whether this route beats `current` by its latency alone. Such a gain has to last for a
    /// while.
    pub(super) fn is_only_faster(&self, hint: &Hint, current: &Self) -> bool {
        let by_latency = match hint {
            Hint::Latency => true,
            Hint::Loss => !self.is_cleaner(current),
            Hint::Throughput | Hint::App(_) => false,
        };
        by_latency && self.tier == current.tier
    }

    /// By which fraction of its latency this route is faster than `current`, less half the margin
    /// that a change needs: of two equal routes, neither gains.
    pub(super) fn gain(&self, hint: &Hint, current: &Self) -> f64 {
        let percent = if *hint == Hint::Loss { LATENCY_PERCENT_FOR_LOSS } else { LATENCY_PERCENT };
        let faster = 1.0 - self.latency as f64 / (current.latency as f64).max(1.0);
        faster - percent as f64 / 200.0
    }

    fn is_cleaner(&self, current: &Self) -> bool {
        is_less_by(self.score, current.score, LOSS_PERCENT)
            && self.score + u64::from(LOSS_STEP.ppm()) <= current.score
    }

    /// Whether this route is within `tolerance` (a fraction, 0.1 for 10 %) of `best`.
    pub(super) fn is_near(&self, hint: &Hint, best: &Self, tolerance: f64) -> bool {
        if self.tier != best.tier {
            return false;
        }
        let near = |value: u64, best: u64| value as f64 <= best as f64 * (1.0 + tolerance);
        match hint {
            Hint::Throughput => near(u64::MAX - best.score, u64::MAX - self.score),
            Hint::Loss => {
                self.score <= best.score + u64::from(LOSS_STEP.ppm())
                    && near(self.latency, best.latency)
            }
            Hint::Latency | Hint::App(_) => near(self.score, best.score),
        }
    }
}

/// Whether `new` is less than `old` by at least `percent`.
fn is_less_by(new: u64, old: u64, percent: u64) -> bool {
    new < old && u128::from(new) * 100 <= u128::from(old) * u128::from(100 - percent)
}
