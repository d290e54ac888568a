//! One type per unit: a loss rate and a bit rate are never bare numbers.

use std::{fmt, time::Duration};

/// The share of packets that are lost, from 0 (none) to 1 (all).
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default)]
pub struct LossRate(f64);

impl LossRate {
    /// Nothing is lost.
    pub const ZERO: Self = Self(0.0);
    /// Everything is lost.
    pub const TOTAL: Self = Self(1.0);

    /// A share between 0 and 1; what lies outside is moved to the nearer bound, NaN to 0.
    #[must_use]
    pub const fn from_fraction(fraction: f64) -> Self {
        if fraction > 0.0 { Self(fraction.min(1.0)) } else { Self(0.0) }
    }

    /// A percentage between 0 and 100; what lies outside is moved to the nearer bound, NaN to 0.
    #[must_use]
    pub const fn from_percent(percent: f64) -> Self {
        Self::from_fraction(percent / 100.0)
    }

    /// The share as a number between 0 and 1.
    #[must_use]
    pub const fn fraction(self) -> f64 {
        self.0
    }

    /// The loss of two lossy things one after the other: 1 − (1 − a)(1 − b).
    #[must_use]
    pub const fn then(self, other: Self) -> Self {
        Self::from_fraction(1.0 - (1.0 - self.0) * (1.0 - other.0))
    }
}

impl fmt::Display for LossRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} %", self.0 * 100.0)
    }
}

/// Bits per second, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bitrate(u64);

impl Bitrate {
    /// Bits per second; 0 is taken as 1 (a dead link is cut, not slow).
    #[must_use]
    pub const fn bits_per_second(bits: u64) -> Self {
        Self(if bits == 0 { 1 } else { bits })
    }

    /// Thousands of bits per second.
    #[must_use]
    pub const fn kbit(kbit: u32) -> Self {
        Self::bits_per_second(kbit as u64 * 1_000)
    }

    /// Millions of bits per second.
    #[must_use]
    pub const fn mbit(mbit: u32) -> Self {
        Self::bits_per_second(mbit as u64 * 1_000_000)
    }

    /// Bits per second, as a number.
    #[must_use]
    pub const fn as_bits_per_second(self) -> u64 {
        self.0
    }

    /// How long `bytes` take, rounded up to a nanosecond: a link is never faster than its rate.
    #[must_use]
    pub fn time_for(self, bytes: usize) -> Duration {
        let bit_nanos = bytes as u128 * 8 * 1_000_000_000;
        let nanos = bit_nanos.div_ceil(u128::from(self.0));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Bitrate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bits if bits % 1_000_000 == 0 => write!(f, "{} Mbit/s", bits / 1_000_000),
            bits if bits % 1_000 == 0 => write!(f, "{} kbit/s", bits / 1_000),
            bits => write!(f, "{bits} bit/s"),
        }
    }
}
