//! When a flow's bytes last moved, and the request to end it.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// When something last happened, written often and read seldom; and whether it is to end.
#[derive(Debug)]
pub struct Activity {
    epoch: Instant,
    /// Microseconds since the epoch.
    moved: AtomicU64,
    evicted: CancellationToken,
    closed: CancellationToken,
}

impl Default for Activity {
    fn default() -> Self {
        let (evicted, closed) = (CancellationToken::new(), CancellationToken::new());
        Self { epoch: Instant::now(), moved: AtomicU64::new(0), evicted, closed }
    }
}

impl Activity {
    /// Something happens now.
    pub fn touch(&self) {
        let now = u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.moved.store(now, Ordering::Relaxed);
    }

    /// When something last happened; at first, when this began.
    #[must_use]
    pub fn last(&self) -> Instant {
        self.epoch + Duration::from_micros(self.moved.load(Ordering::Relaxed))
    }

    /// Asks the owner to end the flow, because its place is needed.
    pub fn evict(&self) {
        self.evicted.cancel();
    }

    /// Asks the owner to end the flow, because its user wants that.
    pub fn close(&self) {
        self.closed.cancel();
    }

    /// Whether the user asks to end this.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Waits until the user asks to end this.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Waits until somebody asks to end this, as its place is needed.
    pub async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}
