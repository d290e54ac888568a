//! The chance that a node's logic draws from: labels, nonces, the jitter of probes.
//!
//! A node has one source. It is seeded by the operating system, except in a lab, where the lab's seed
//! makes a run repeat: with it, every packet leaves at the same time and with the same size.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use rand::{
    RngExt, SeedableRng,
    distr::{Distribution, StandardUniform},
    rngs::StdRng,
};

/// A source of chance that is fit for secrets, if its seed is one. Clones draw from the same source.
#[derive(Clone)]
pub struct Chance(Arc<Mutex<StdRng>>);

impl Chance {
    /// The source that this seed determines. For labs.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self::of(StdRng::seed_from_u64(seed))
    }

    fn of(rng: StdRng) -> Self {
        Self(Arc::new(Mutex::new(rng)))
    }

    /// A value, all of its type equally likely.
    #[must_use]
    pub fn draw<T>(&self) -> T
    where
        StandardUniform: Distribution<T>,
    {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).random()
    }
}

/// A source that the operating system seeds.
impl Default for Chance {
    fn default() -> Self {
        Self::of(rand::make_rng())
    }
}

impl fmt::Debug for Chance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chance").finish_non_exhaustive()
    }
}
