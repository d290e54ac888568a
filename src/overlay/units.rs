//! The quantities of routing as types: loss rate, bit rate and throughput score.
//!
//! All are integers inside, so their order is derived and no NaN exists.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// A fraction of packets lost, 0 to 1, in one direction unless said otherwise.
///
/// Stored in parts per million: finer than the 1 % that a window of 100 probes resolves.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(from = "f64", into = "f64")]
pub struct LossRate(u32);

/// One, in parts per million.
const MILLION: u32 = 1_000_000;

impl LossRate {
    /// Nothing is lost.
    pub const ZERO: Self = Self(0);
    /// Everything is lost.
    pub const TOTAL: Self = Self(MILLION);

    /// The loss rate nearest to `fraction`, clamped to 0..=1; NaN counts as total loss.
    #[must_use]
    pub fn new(fraction: f64) -> Self {
        if fraction.is_nan() {
            return Self::TOTAL;
        }
        let ppm = saturating_u64(fraction.clamp(0.0, 1.0) * f64::from(MILLION));
        Self(u32::try_from(ppm).unwrap_or(MILLION))
    }

    /// `percent` of a hundred; above 100 means total loss.
    #[must_use]
    pub const fn from_percent(percent: u32) -> Self {
        let percent = if percent > 100 { 100 } else { percent };
        Self(percent * (MILLION / 100))
    }

    /// `lost` of `of` packets; `None` when there were none. More lost than sent is total loss.
    #[must_use]
    pub fn from_counts(lost: u64, of: u64) -> Option<Self> {
        (of > 0).then(|| Self::new(lost as f64 / of as f64))
    }

    /// The fraction, 0 to 1.
    #[must_use]
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / f64::from(MILLION)
    }

    /// The rate in parts per million.
    #[must_use]
    pub fn ppm(self) -> u32 {
        self.0
    }

    /// The loss of two hops in a row, 1 − (1 − a)(1 − b) (SOSP 2001, section 5.2). It assumes that
    /// losses of different hops are independent.
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        let (one, kept) = (u64::from(MILLION), u64::from(MILLION - self.0));
        let through = (kept * u64::from(MILLION - next.0) + one / 2) / one;
        Self(MILLION - u32::try_from(through).unwrap_or(0))
    }
}

impl From<f64> for LossRate {
    fn from(fraction: f64) -> Self {
        Self::new(fraction)
    }
}

impl From<LossRate> for f64 {
    fn from(loss: LossRate) -> Self {
        loss.fraction()
    }
}

impl fmt::Display for LossRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} %", self.fraction() * 100.0)
    }
}

/// A rate in bit/s.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Bitrate(u64);

impl Bitrate {
    /// `bits` per second.
    #[must_use]
    pub const fn from_bps(bits: u64) -> Self {
        Self(bits)
    }

    /// `kilobits` (1,000 bits) per second.
    #[must_use]
    pub const fn from_kbps(kilobits: u64) -> Self {
        Self(kilobits.saturating_mul(1000))
    }

    /// `bytes` in the time `over`; `None` when no time has passed.
    #[must_use]
    pub fn from_bytes(bytes: u64, over: Duration) -> Option<Self> {
        let bits = u128::from(bytes) * 8 * 1_000_000_000;
        let rate = bits.checked_div(over.as_nanos())?;
        Some(Self(u64::try_from(rate).unwrap_or(u64::MAX)))
    }

    /// Bits per second.
    #[must_use]
    pub const fn bps(self) -> u64 {
        self.0
    }

    /// This rate minus `other`; never below zero.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for Bitrate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bits if bits >= 1_000_000_000 => write!(f, "{:.2} Gbit/s", bits as f64 / 1e9),
            bits if bits >= 1_000_000 => write!(f, "{:.1} Mbit/s", bits as f64 / 1e6),
            bits if bits >= 1_000 => write!(f, "{:.1} kbit/s", bits as f64 / 1e3),
            bits => write!(f, "{bits} bit/s"),
        }
    }
}

/// `value` as an integer, truncated; negative and NaN become 0, too large becomes `u64::MAX`.
#[expect(clippy::cast_possible_truncation, reason = "saturation is what the callers want")]
pub(super) fn saturating_u64(value: f64) -> u64 {
    value as u64
}

/// `span` in whole nanoseconds; above 584 years becomes `u64::MAX`.
pub(super) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_loss_rate_is_clamped_and_never_nan() {
        let cases = [(-1.0, 0), (0.0, 0), (0.25, 250_000), (1.0, MILLION), (7.0, MILLION)];
        for (fraction, ppm) in cases {
            assert_eq!(LossRate::new(fraction).ppm(), ppm);
        }
        assert_eq!(LossRate::new(f64::NAN), LossRate::TOTAL);
        assert_eq!(LossRate::from_counts(3, 0), None);
        assert_eq!(LossRate::from_counts(9, 3), Some(LossRate::TOTAL));
    }

    #[test]
    fn quantities_print_with_their_unit() {
        assert_eq!(LossRate::from_percent(2).to_string(), "2.0 %");
        assert_eq!(Bitrate::from_kbps(32).to_string(), "32.0 kbit/s");
        assert_eq!(Bitrate::from_bps(96_500_000).to_string(), "96.5 Mbit/s");
    }

    #[test]
    fn bytes_over_no_time_are_no_rate() {
        assert_eq!(Bitrate::from_bytes(1, Duration::ZERO), None);
        let rate = Bitrate::from_bytes(125, Duration::from_millis(500));
        assert_eq!(rate, Some(Bitrate::from_bps(2000)));
    }

    fn any_loss() -> impl Strategy<Value = LossRate> {
        (0..=MILLION).prop_map(LossRate)
    }

    proptest! {
        #[test]
        fn loss_composes_as_one_minus_the_product_of_what_gets_through(
            a in any_loss(), b in any_loss(), c in any_loss()
        ) {
            let exact = 1.0 - (1.0 - a.fraction()) * (1.0 - b.fraction());
            prop_assert!((a.then(b).fraction() - exact).abs() < 1e-6);
            prop_assert_eq!(a.then(b), b.then(a));
            prop_assert!(a.then(b).then(c).ppm().abs_diff(a.then(b.then(c)).ppm()) <= 2);
            prop_assert!(a.then(b) >= a.max(b));
            prop_assert_eq!(a.then(LossRate::ZERO), a);
            prop_assert_eq!(a.then(LossRate::TOTAL), LossRate::TOTAL);
        }
    }
}
