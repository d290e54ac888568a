//! The recent loss rate of a sender. Pure.

/// The number of packets over which loss is averaged: some seconds of a sender at 2 Mbit/s, and
/// less than half a second of one that fills a fast path.
const MEMORY: f64 = 1024.0;

/// Above this share the path is lossy. Congestion control alone stays below it, except for a moment
/// after it has overflowed a queue.
const LOSSY: f64 = 0.005;

/// A mean over packets. The weight of a packet halves about every 700 packets.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RecentLoss(f64);

impl RecentLoss {
    pub(super) fn acknowledged(&mut self) {
        self.0 -= self.0 / MEMORY;
    }

    pub(super) fn lost(&mut self) {
        self.0 += (1.0 - self.0) / MEMORY;
    }

    /// Whether the state of congestion control comes mostly from the path's loss.
    pub(super) fn is_lossy(self) -> bool {
        self.0 > LOSSY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loses the first `lost` packets of every `of`, `times` times over.
    fn after(mut loss: RecentLoss, lost: usize, of: usize, times: usize) -> RecentLoss {
        for packet in 0..of * times {
            if packet % of < lost { loss.lost() } else { loss.acknowledged() }
        }
        loss
    }

    #[test]
    fn a_sender_on_a_path_that_loses_packets_is_held_back_by_them() {
        assert!(after(RecentLoss::default(), 30, 100, 1).is_lossy());
        assert!(after(RecentLoss::default(), 1, 100, 20).is_lossy());
    }

    #[test]
    fn the_losses_of_congestion_control_itself_say_nothing_of_the_path() {
        // Cubic on a clean path of 100 Mbit/s loses a few dozen packets every few seconds.
        let steady = after(RecentLoss::default(), 20, 20_000, 3);
        assert!(!steady.is_lossy());
        // Half a second after a slow start that overflowed a queue nothing of it counts any more.
        let overshot = after(RecentLoss::default(), 300, 1_000, 1);
        assert!(overshot.is_lossy() && !after(overshot, 0, 4_000, 1).is_lossy());
    }
}
