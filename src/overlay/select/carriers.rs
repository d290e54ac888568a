//! Which of two carriers to one neighbour is better: UDP, or a stream. It is ranked as routes are for the
//! hint `latency`, whose expected latency has the loss in it.
//!
//! UDP is preferred. It is left when it loses more than a good route may, the stream does not, and the stream wins by
//! the margin of a change. It is taken again when it is good and its loss would not let the stream win any more,
//! however fast that is. Where both lose more than a good route may, it is taken again if it is expected to be faster:
//! a transfer that fills the queue of a stream makes exchanges late, and UDP need not be better. So figures that stay
//! the same cause one change at most.

use super::rank::{Compared, LOSSY, Rank};
use crate::{
    flow::{Hint, Route},
    overlay::{candidates::Candidate, metrics::PathMetrics},
};

/// Whether a carrier with these figures loses more than a good route may.
#[must_use]
pub fn is_lossy(carrier: PathMetrics) -> bool {
    carrier.round_trip_loss() > LOSSY
}

/// Whether a neighbour that is reached by UDP is to be reached by a stream.
#[must_use]
pub fn leaves_udp(udp: PathMetrics, stream: PathMetrics) -> bool {
    // A route that loses much ranks behind any other. A stream on the same path should be no slower, too.
    let faster = stream.expected_latency() < udp.expected_latency();
    is_lossy(udp) && !is_lossy(stream) && beats(stream, udp) && faster
}

/// Whether a neighbour that is reached by a stream is to be reached by UDP.
#[must_use]
pub fn returns_to_udp(stream: PathMetrics, udp: PathMetrics) -> bool {
    let as_far = PathMetrics { rtt: stream.rtt.max(udp.rtt), ..stream };
    match (is_lossy(stream), is_lossy(udp)) {
        (_, false) => !beats(as_far, udp),
        (true, true) => udp.expected_latency() < stream.expected_latency(),
        (false, true) => false,
    }
}

/// Whether a stream wins against UDP by the margin of a change.
fn beats(stream: PathMetrics, udp: PathMetrics) -> bool {
    let rank = |metrics| {
        let route = Route::Direct;
        let candidate = Candidate { route, metrics: Some(metrics), app: None, excluded: None };
        Rank::of(&Hint::Latency, &candidate, Compared::Alike)
    };
    rank(stream).beats(&Hint::Latency, &rank(udp))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::overlay::units::LossRate;

    fn path(rtt_ms: u64, out: u32, back: u32) -> PathMetrics {
        PathMetrics {
            rtt: Duration::from_millis(rtt_ms),
            loss_out: LossRate::from_percent(out),
            loss_in: LossRate::from_percent(back),
            exchanges: 66,
            delivered: None,
        }
    }

    #[test]
    fn udp_is_left_only_where_it_loses_much_and_the_stream_does_not() {
        for (udp, stream, leaves) in [
            (path(60, 20, 20), path(61, 0, 0), true),
            (path(60, 0, 12), path(60, 0, 0), true),
            // It delivers, so nothing changes, however fast the stream is.
            (path(60, 0, 0), path(20, 0, 0), false),
            (path(60, 5, 5), path(60, 0, 0), false),
            // The stream's packets are late as often as UDP's are lost, or it is far slower.
            (path(60, 20, 20), path(60, 20, 20), false),
            (path(60, 6, 6), path(200, 0, 0), false),
        ] {
            assert_eq!(leaves_udp(udp, stream), leaves, "{udp:?} {stream:?}");
        }
    }

    #[test]
    fn udp_is_taken_again_when_a_stream_would_not_win() {
        for (udp, returns) in [(0, true), (2, true), (4, false), (9, false), (36, false)] {
            assert_eq!(returns_to_udp(path(61, 0, 0), path(60, udp, 0)), returns, "{udp} %");
        }
        for (stream, udp, returns) in [
            // A transfer makes exchanges of the stream late: UDP loses more.
            (path(20, 20, 0), path(20, 40, 40), false),
            (path(61, 20, 0), path(60, 20, 20), false),
            (path(61, 40, 0), path(60, 20, 0), true),
            (path(61, 20, 0), path(60, 0, 0), true),
            (path(61, 20, 0), path(60, 9, 0), true),
        ] {
            assert_eq!(returns_to_udp(stream, udp), returns, "{stream:?} {udp:?}");
        }
        assert!(returns_to_udp(path(30, 0, 0), path(60, 0, 0)), "UDP carries more");
    }

    proptest! {
        #[test]
        fn figures_that_stay_the_same_never_lead_there_and_back(
            udp in (1u64..2000, 0u32..=100, 0u32..=100),
            stream in (1u64..2000, 0u32..=100, 0u32..=100),
        ) {
            let (udp, stream) = (path(udp.0, udp.1, udp.2), path(stream.0, stream.1, stream.2));
            prop_assert!(!(leaves_udp(udp, stream) && returns_to_udp(stream, udp)));
        }
    }
}
