//! The figures of a path, computed from those of its links.

use std::time::Duration;

use super::{
    throughput::ThroughputScore,
    units::{Bitrate, LossRate},
};

/// The figures of a path of one or two links.
///
/// Both directions are kept apart: a flow uses both, and a link may lose in one only. `out` is away
/// from the node that chooses, `in` is towards it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathMetrics {
    /// The round-trip time: the sum over the links.
    pub rtt: Duration,
    /// The loss away from this node: 1 − ∏(1 − l).
    pub loss_out: LossRate,
    /// The loss towards this node: 1 − ∏(1 − l).
    pub loss_in: LossRate,
    /// Of how many probe exchanges the loss is: the least over the links.
    pub exchanges: u32,
    /// The largest rate lately delivered, a lower bound: the smallest over the links; `None` when
    /// a link has carried no data lately.
    pub delivered: Option<Bitrate>,
}

/// What a QUIC receiver may add before it acknowledges (RFC 9000, §18.2: `max_ack_delay`).
const ACK_DELAY: Duration = Duration::from_millis(25);

/// From this round-trip loss on, the expected latency is [`HOPELESS`]: at one half the sum in
/// [`PathMetrics::expected_latency`] diverges, because each time-out doubles.
const DIVERGES: f64 = 0.5;

/// The largest expected latency: the patience of a flow without any route.
const HOPELESS: Duration = Duration::from_secs(60);

impl PathMetrics {
    /// The metrics of this path followed by `next`.
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        Self {
            rtt: self.rtt.saturating_add(next.rtt),
            loss_out: self.loss_out.then(next.loss_out),
            loss_in: self.loss_in.then(next.loss_in),
            exchanges: self.exchanges.min(next.exchanges),
            delivered: self.delivered.zip(next.delivered).map(|(a, b)| a.min(b)),
        }
    }

    /// The loss in the direction that loses more.
    #[must_use]
    pub fn worse_loss(self) -> LossRate {
        self.loss_out.max(self.loss_in)
    }

    /// The chance that a packet or its answer is lost: both directions composed as two hops.
    #[must_use]
    pub fn round_trip_loss(self) -> LossRate {
        self.loss_out.then(self.loss_in)
    }

    /// The paper's score, with the loss of the worse direction.
    ///
    /// Data that is lost slows a sender and a lost acknowledgement hardly does; which way the data
    /// of a flow goes is not known when its route is chosen.
    #[must_use]
    pub fn throughput(self) -> ThroughputScore {
        ThroughputScore::of(self.rtt, self.worse_loss())
    }

    /// How long a request and its answer are expected to take, retransmissions included.
    ///
    /// With P the round-trip loss, `rtt + PTO · P / (1 − 2P)`, at most 60 s, where
    /// PTO = 1.5·rtt + 25 ms. The k-th retransmission happens with chance P^k and costs
    /// 2^(k−1)·PTO (RFC 9002, §6.2: the probe time-out doubles); the sum is the formula, and it
    /// diverges at P = ½.
    #[must_use]
    pub fn expected_latency(self) -> Duration {
        self.latency_at(self.round_trip_loss())
    }

    /// The same at another `loss` of round trips.
    pub(super) fn latency_at(self, loss: LossRate) -> Duration {
        let loss = loss.fraction();
        if loss >= DIVERGES {
            return HOPELESS;
        }
        let timeout = (self.rtt.as_secs_f64() * 1.5) + ACK_DELAY.as_secs_f64();
        let seconds = self.rtt.as_secs_f64() + timeout * loss / (1.0 - 2.0 * loss);
        Duration::try_from_secs_f64(seconds).unwrap_or(HOPELESS).min(HOPELESS)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::overlay::loss::EXCHANGES;

    fn path(rtt_ms: u64, out: u32, back: u32) -> PathMetrics {
        PathMetrics {
            rtt: Duration::from_millis(rtt_ms),
            loss_out: LossRate::from_percent(out),
            loss_in: LossRate::from_percent(back),
            exchanges: EXCHANGES,
            delivered: Some(Bitrate::from_kbps(rtt_ms)),
        }
    }

    #[test]
    fn a_route_combines_the_latency_loss_and_rate_of_its_links() {
        let both = path(60, 10, 0).then(path(20, 20, 5));
        assert_eq!(both.rtt, Duration::from_millis(80));
        assert_eq!(both.loss_out, LossRate::from_percent(28));
        assert_eq!(both.loss_in, LossRate::from_percent(5));
        assert_eq!(both.delivered, Some(Bitrate::from_kbps(20)));
        assert_eq!(both.round_trip_loss(), LossRate::new(0.316));
        let unknown = PathMetrics { delivered: None, ..path(1, 0, 0) };
        assert_eq!(both.then(unknown).delivered, None);
    }

    #[test]
    fn the_expected_latency_of_a_clean_path_is_its_round_trip() {
        assert_eq!(path(60, 0, 0).expected_latency(), Duration::from_millis(60));
    }

    #[test]
    fn thirty_percent_loss_costs_more_than_a_clean_detour() {
        // EasyTier#1687: 60 ms direct with 30 % loss against 80 ms clean.
        assert!(path(60, 30, 0).expected_latency() > path(80, 0, 0).expected_latency());
        assert!(path(60, 30, 30).expected_latency() == HOPELESS);
    }

    proptest! {
        #[test]
        fn more_rtt_or_more_loss_never_lowers_the_expected_latency(
            rtt in 0u64..2000, more in 0u64..2000, out in 0u32..=100, back in 0u32..=100
        ) {
            let base = path(rtt, out, back).expected_latency();
            prop_assert!(path(rtt + more, out, back).expected_latency() >= base);
            prop_assert!(path(rtt, out + 1, back).expected_latency() >= base);
            prop_assert!(path(rtt, out, back + 1).expected_latency() >= base);
        }

        #[test]
        fn a_longer_path_is_never_better(
            a in (0u64..2000, 0u32..=100, 0u32..=100), b in (0u64..2000, 0u32..=100, 0u32..=100)
        ) {
            let (one, two) = (path(a.0, a.1, a.2), path(b.0, b.1, b.2));
            let both = one.then(two);
            prop_assert!(both.rtt >= one.rtt.max(two.rtt));
            prop_assert!(both.loss_out >= one.loss_out && both.loss_in >= two.loss_in);
            prop_assert!(both.throughput() <= one.throughput().min(two.throughput()));
            prop_assert_eq!(both, two.then(one), "composition does not depend on the order");
        }
    }
}
