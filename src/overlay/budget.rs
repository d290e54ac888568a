//! The intervals of probes and advertisements, from the budget of bytes.

use std::time::Duration;

use super::units::Bitrate;

/// The rate that a node may send for probes and advertisements. In steady state it receives as
/// much.
///
/// Just under what each node of RON sent at 50 nodes, 33 kbit/s (SOSP 2001, §6; the figure is that
/// of its packets sent: 3 · 49 probes of 69 bytes in 12 s, and 49 updates of 1,060 bytes in 14 s):
/// the largest overlay it was shown with.
pub const DEFAULT_BUDGET: Bitrate = Bitrate::from_kbps(32);

/// Bytes that each end of a link sends, on average, for a probe exchange in each of its intervals,
/// IP and UDP headers included.
///
/// An exchange is three DATAGRAM packets of about 28 (IPv4, UDP) + 11 (short header) + 16 (tag) +
/// 3 (frame) + 12 (message) = 70 bytes and two acknowledgements of about 60, which the
/// ACK-frequency extension leaves of the three without it: 330 bytes, half from each end. Whichever
/// end's interval is over first begins it, and both are jittered by a third: on average after 8/9
/// of the interval. 330 / 2 · 9/8 = 186.
pub const EXCHANGE_BYTES: u64 = 186;

/// The bounds of the probe interval of a link that is watched closely.
///
/// A shorter interval than half a second does not find an outage sooner, because lost probes follow
/// each other at the time-out, and it wakes idle radios. With a longer one than 10 s, a window of
/// 100 probes is older than a quarter of an hour.
pub const INTERVAL_BOUNDS: (Duration, Duration) = (Duration::from_millis(500), IDLE_INTERVAL);

/// The probe interval of a link that no lane in use depends on. It keeps the mappings of NATs (RFC 4787
/// asks for 2 min, many keep 30 s), finds a dead link within 20 s, and costs each end 17 byte/s.
pub const IDLE_INTERVAL: Duration = Duration::from_secs(10);

/// The probe interval of a link without use whose figures another node of the site tells, or that the
/// peer says so of: one in ten, as a check. QUIC's keep-alives, every 20 s, keep the mappings of NATs and
/// find a dead peer within 30 s.
pub const RARE_INTERVAL: Duration = Duration::from_secs(100);

/// The bounds of the time between two regular advertisements: RON's 14 s (SOSP 2001, section 5.1),
/// and one minute, because older figures of a relay do not help to choose.
pub const ADVERT_BOUNDS: (Duration, Duration) = (Duration::from_secs(14), Duration::from_secs(60));

/// The least time between two advertisements, whatever they tell: a burst of changes is told once.
pub const LEAST_SPACING: Duration = Duration::from_secs(1);

/// The bytes that carry one advertisement besides itself: IP, UDP, QUIC, and a share of an
/// acknowledgement.
const ADVERT_OVERHEAD: u64 = 90;

/// The time between two regular messages to a node of the site, also empty ones: they show that this node
/// is there. Two may be missed before figures are stale.
pub const SHARED_EVERY: Duration = Duration::from_secs(30);

/// How a node spends its budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// The mean time between two probe exchanges on a link that is watched closely; either end may start
    /// one. On the others it is [`IDLE_INTERVAL`].
    pub probe_interval: Duration,
    /// The time between two regular advertisements.
    pub advert_interval: Duration,
    /// The least time between two that tell of moved figures.
    pub advert_spacing: Duration,
    /// What this node sends for probes.
    pub probes: Bitrate,
    /// What this node sends as regular advertisements.
    pub adverts: Bitrate,
    /// What it sends as regular messages to the nodes of its site.
    pub shared: Bitrate,
    /// Whether all at their slowest still exceed the budget.
    pub over_budget: bool,
}

/// Divides `budget` for a node with `watched` links that lanes in use go by and `idle` others, whose
/// advertisement takes `advert_bytes`, and which tells `sharers` nodes of its site `shared_bytes` each
/// [`SHARED_EVERY`].
///
/// At most a third goes to advertisements, because news that a link is up or down is sent at once
/// in any case. Probes get the rest. A node without lanes in use advertises at the longest interval.
/// All intervals are clamped to their bounds, so a very small budget is exceeded, and
/// [`Plan::over_budget`] says so.
#[must_use]
pub fn plan(
    budget: Bitrate,
    watched: usize,
    idle: usize,
    advert_bytes: usize,
    (sharers, shared_bytes): (usize, usize),
) -> Plan {
    let (watched, idle) = (watched as u64, idle as u64);
    // Each round, this node sends its advertisement to every neighbour.
    let round = (watched + idle) * (advert_bytes as u64 + ADVERT_OVERHEAD);
    let share = Bitrate::from_bps(budget.bps() / 3);
    let advert_spacing = time_to_send(round, share).clamp(LEAST_SPACING, ADVERT_BOUNDS.1);
    let advert_interval = match watched {
        0 => ADVERT_BOUNDS.1,
        _ => advert_spacing.max(ADVERT_BOUNDS.0),
    };
    let adverts = Bitrate::from_bytes(round, advert_interval).unwrap_or_default();

    let message = shared_bytes as u64 + ADVERT_OVERHEAD;
    let shared = Bitrate::from_bytes(sharers as u64 * message, SHARED_EVERY).unwrap_or_default();
    let slow = Bitrate::from_bytes(idle * EXCHANGE_BYTES, IDLE_INTERVAL).unwrap_or_default();
    let exchanges = watched * EXCHANGE_BYTES;
    // What advertisements of moved figures may take is not spent on probes.
    let left = budget.minus(share.max(adverts)).minus(shared).minus(slow);
    let probe_interval = time_to_send(exchanges, left).clamp(INTERVAL_BOUNDS.0, INTERVAL_BOUNDS.1);
    let close = Bitrate::from_bytes(exchanges, probe_interval).unwrap_or_default();
    let probes = Bitrate::from_bps(close.bps() + slow.bps());
    let over_budget = probes.bps() + adverts.bps() + shared.bps() > budget.bps();
    Plan { probe_interval, advert_interval, advert_spacing, probes, adverts, shared, over_budget }
}

impl Plan {
    /// What this node sends in all to measure and to tell of it.
    #[must_use]
    pub fn in_all(&self) -> Bitrate {
        Bitrate::from_bps(self.probes.bps() + self.adverts.bps() + self.shared.bps())
    }
}

/// How long `bytes` take at `rate`; a day at no rate at all.
fn time_to_send(bytes: u64, rate: Bitrate) -> Duration {
    const NEVER: Duration = Duration::from_secs(86_400);
    if rate.bps() == 0 {
        return NEVER;
    }
    Duration::try_from_secs_f64(bytes as f64 * 8.0 / rate.bps() as f64).unwrap_or(NEVER).min(NEVER)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_small_overlay_probes_as_often_as_allowed() {
        let plan = plan(DEFAULT_BUDGET, 3, 0, 60, (0, 0));
        assert_eq!(plan.probe_interval, INTERVAL_BOUNDS.0);
        assert_eq!(plan.advert_interval, ADVERT_BOUNDS.0);
        assert!(!plan.over_budget);
    }

    #[test]
    fn fifty_nodes_cost_less_than_rons_33_kilobits_per_second() {
        // 49 links of 12 bytes each, the advertisement's head, and its signature.
        let plan = plan(DEFAULT_BUDGET, 49, 0, 49 * 12 + 30 + 74, (0, 0));
        assert!(plan.probes.bps() + plan.adverts.bps() <= 33_000, "{plan:?}");
        assert!(plan.probe_interval < Duration::from_secs(4), "{plan:?}");
        assert!(!plan.over_budget);
    }

    #[test]
    fn a_node_without_lanes_in_use_costs_less_than_a_third_of_rons_nodes() {
        for (nodes, ron) in [(10, 2.2), (20, 6.6), (30, 13.3), (40, 22.3), (50, 33.0)] {
            let links = nodes - 1;
            let plan = plan(DEFAULT_BUDGET, 0, links, links * 12 + 30 + 74, (0, 0));
            let kbps = (plan.probes.bps() + plan.adverts.bps()) as f64 / 1e3;
            println!("{nodes} nodes: {kbps:.1} kbit/s, RON {ron}");
            assert!(kbps < ron, "{nodes} nodes: {kbps:.1} kbit/s");
        }
    }

    #[test]
    fn figures_told_to_the_site_are_in_the_budget() {
        let alone = plan(DEFAULT_BUDGET, 20, 30, 700, (0, 0));
        let site = plan(DEFAULT_BUDGET, 20, 30, 700, (9, 360));
        // Nine messages of 450 bytes in 30 s.
        assert_eq!((alone.shared, site.shared), (Bitrate::default(), Bitrate::from_bps(1_080)));
        assert!(site.probe_interval > alone.probe_interval, "{site:?}, {alone:?}");
        assert!(!site.over_budget && site.in_all().bps() <= DEFAULT_BUDGET.bps(), "{site:?}");
        assert_eq!(site.in_all().bps(), site.probes.bps() + site.adverts.bps() + 1_080);
    }

    #[test]
    fn no_budget_means_the_slowest_rate_and_says_so() {
        let plan = plan(Bitrate::default(), 5, 5, 60, (0, 0));
        assert_eq!(plan.probe_interval, INTERVAL_BOUNDS.1);
        assert!(plan.over_budget);
    }

    proptest! {
        #[test]
        fn the_budget_is_kept_or_the_plan_is_the_slowest(
            budget in 0u64..10_000_000,
            links in 0usize..1000,
            idle in 0usize..1000,
            bytes in 0usize..20_000,
            sharers in 0usize..64,
        ) {
            let plan = plan(Bitrate::from_bps(budget), links, idle, bytes, (sharers, bytes));
            let slowest = links == 0 || plan.probe_interval == INTERVAL_BOUNDS.1;
            prop_assert!(!plan.over_budget || slowest, "{:?}", plan);
        }

        #[test]
        fn more_neighbours_never_mean_more_frequent_probes(links in 0usize..500) {
            let fewer = plan(DEFAULT_BUDGET, links, 9, 300, (0, 0)).probe_interval;
            prop_assert!(plan(DEFAULT_BUDGET, links + 1, 9, 300, (0, 0)).probe_interval >= fewer);
        }
    }
}
