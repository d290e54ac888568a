//! How many runs, with which seeds, and the row of figures that a scenario prints.

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// The seeds of a scenario: `RON_SEED` alone, or as many as `RON_SCENARIO_RUNS` says.
pub(crate) fn seeds(default: u64) -> Vec<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("RON_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("RON_SCENARIO_RUNS").unwrap_or(default)).collect(),
    }
}

/// Whether bounds are asserted; `RON_MEASURE` only prints the figures.
pub(crate) fn asserts() -> bool {
    std::env::var_os("RON_MEASURE").is_none()
}

/// The chance of one run.
pub(crate) fn rng(seed: u64) -> Pcg64Mcg {
    Pcg64Mcg::seed_from_u64(seed)
}

/// A moment between two others.
pub(crate) fn moment(rng: &mut Pcg64Mcg, from_ms: u64, until_ms: u64) -> Duration {
    Duration::from_millis(rng.random_range(from_ms..until_ms))
}

/// The stalls of a scenario's runs.
pub(crate) struct Stalls(Vec<Duration>);

impl Stalls {
    pub(crate) fn new(mut stalls: Vec<Duration>) -> Self {
        assert!(!stalls.is_empty(), "no run was made");
        stalls.sort_unstable();
        Self(stalls)
    }

    /// The stall that `percent` of the runs do not exceed (nearest rank).
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0[rank - 1]
    }

    pub(crate) fn worst(&self) -> Duration {
        self.percentile(100)
    }

    /// Prints the scenario's row.
    pub(crate) fn print(&self, scenario: &str, aim: &str) {
        let ms = |percent| self.percentile(percent).as_millis();
        let (n, median, most, worst) = (self.0.len(), ms(50), ms(95), ms(100));
        let figures = format!("median {median:>5} ms | 95 % {most:>5} ms | worst {worst:>5} ms");
        row(scenario, &format!("{n:>3} runs | {figures}"), aim);
    }
}

/// Prints one row of a table of figures.
pub(crate) fn row(scenario: &str, figures: &str, aim: &str) {
    println!("| {scenario:<44} | {figures} | aim: {aim} |");
}
