//! The times at which packets arrived at a lane's slot.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// A shorter time between two packets is not a pause: acknowledgements of a busy lane have such
/// gaps.
const PAUSE: Duration = Duration::from_millis(10);

/// When packets came in: the last packet, the last pause, and the first packet after a moment that
/// [`await_next`](Self::await_next) sets. Updated once per batch.
#[derive(Debug)]
pub struct Arrivals {
    /// All times are microseconds since this one; zero is never.
    epoch: Instant,
    last: AtomicU64,
    pause_began: AtomicU64,
    pause_ended: AtomicU64,
    awaited: AtomicBool,
    next: AtomicU64,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            last: AtomicU64::new(0),
            pause_began: AtomicU64::new(0),
            pause_ended: AtomicU64::new(0),
            awaited: AtomicBool::new(false),
            next: AtomicU64::new(0),
        }
    }
}

impl Arrivals {
    /// Notes that packets came in now.
    pub(crate) fn note(&self) {
        let now = u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX).max(1);
        let before = self.last.swap(now, Ordering::Relaxed);
        if before > 0 && Duration::from_micros(now.saturating_sub(before)) >= PAUSE {
            self.pause_began.store(before, Ordering::Relaxed);
            self.pause_ended.store(now, Ordering::Relaxed);
        }
        if self.awaited.load(Ordering::Acquire) && self.awaited.swap(false, Ordering::AcqRel) {
            self.next.store(now, Ordering::Release);
        }
    }

    /// When the last packet came in.
    #[must_use]
    pub fn last(&self) -> Option<Instant> {
        self.instant(&self.last)
    }

    /// The beginning and end of the last pause of at least 10 ms.
    #[must_use]
    pub fn last_pause(&self) -> Option<(Instant, Instant)> {
        self.instant(&self.pause_began).zip(self.instant(&self.pause_ended))
    }

    /// Records when the next packet comes in.
    pub fn await_next(&self) {
        self.next.store(0, Ordering::Relaxed);
        self.awaited.store(true, Ordering::Release);
    }

    /// When the next packet after [`await_next`](Self::await_next) came in; `None` before that.
    #[must_use]
    pub fn awaited(&self) -> Option<Instant> {
        self.instant(&self.next)
    }

    fn instant(&self, micros: &AtomicU64) -> Option<Instant> {
        let micros = micros.load(Ordering::Acquire);
        (micros > 0).then(|| self.epoch + Duration::from_micros(micros))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_packet_after_a_moment_is_told_from_those_before_and_after() {
        let (arrivals, start) = (Arrivals::default(), Instant::now());
        let pass = async |ms| advance(Duration::from_millis(ms)).await;
        let at = |ms| start + Duration::from_millis(ms);
        pass(10).await;
        arrivals.note();
        arrivals.await_next();
        assert_eq!((arrivals.last(), arrivals.awaited()), (Some(at(10)), None));
        pass(90).await;
        arrivals.note();
        pass(5).await;
        arrivals.note();
        assert_eq!((arrivals.last(), arrivals.awaited()), (Some(at(105)), Some(at(100))));
        assert_eq!(arrivals.last_pause(), Some((at(10), at(100))));
    }
}
