//! The choice among exits for a new flow. Pure: figures are arguments.
//!
//! Live exits go before dead ones, those that serve the destination more closely before others, and
//! among equals the best measured route decides. A destination keeps its exit while that one is
//! live and nearly as good as the best: a site that sees a user's requests come from two addresses
//! may log them out.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use crate::{
    flow::{Hint, Host},
    identity::NodeName,
    overlay::metrics::PathMetrics,
};

/// Destinations whose exit is remembered: some weeks of one person's browsing. The one that was not
/// used for longest is removed.
const MAX_HELD: usize = 1024;

/// How much worse, in percent, a destination's exit may be than the best one and still be kept.
const KEPT_WITHIN: u64 = 30;

/// An exit that may carry a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offer {
    /// Its name.
    pub(super) exit: NodeName,
    /// How closely it serves the destination; more is closer.
    pub(super) fit: usize,
    /// What its best usable route costs; `None`: no route to it is up and admissible.
    pub(super) cost: Option<u64>,
}

/// What a route costs under a hint: less is better. A usable route that is not measured costs most.
pub(super) fn cost(hint: &Hint, metrics: Option<PathMetrics>) -> u64 {
    let Some(metrics) = metrics else { return u64::MAX };
    match hint {
        Hint::Latency | Hint::App(_) => micros(metrics.expected_latency()),
        // One percentage point of loss counts as much as 100 ms, because the hint ranks by loss
        // first.
        Hint::Loss => {
            let loss = u64::from(metrics.round_trip_loss().ppm()) * 10;
            loss.saturating_add(micros(metrics.rtt))
        }
        // The inverse of the score, in microseconds per packet.
        Hint::Throughput => {
            let per_packet = 1e6 / metrics.throughput().packets_per_second().max(1e-3);
            micros(Duration::from_secs_f64(per_packet / 1e3))
        }
    }
}

/// What the exit's own part costs under the hint `app:connect`, beside its route. One that no flow asked lately counts
/// as if it connected at once: it is tried where its route alone does not make it worse, and then it is known.
pub(super) fn connect_cost(took: Option<Duration>) -> u64 {
    took.map_or(0, micros)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// What an application's metric says of exits; less is better.
#[derive(Debug)]
pub(super) struct Figures(BTreeMap<NodeName, u64>);

impl Figures {
    /// `None` if no exit has a figure: then they rank by latency.
    pub(super) fn of_exits(figures: impl Iterator<Item = (NodeName, u64)>) -> Option<Self> {
        let figures: BTreeMap<_, _> = figures.collect();
        (!figures.is_empty()).then_some(Self(figures))
    }

    /// The cost of an exit. One without a figure costs most.
    pub(super) fn of(&self, exit: &NodeName) -> u64 {
        self.0.get(exit).copied().unwrap_or(u64::MAX)
    }
}

/// The exits in the order in which they are to be tried. Equal ones keep their order.
pub(super) fn order(mut offers: Vec<Offer>, held: Option<&NodeName>) -> Vec<NodeName> {
    offers.sort_by_key(|offer| (offer.cost.is_none(), Reverse(offer.fit), offer.cost));
    let best = offers.first().cloned();
    let keeps = |offer: &Offer| {
        let Some((best, cost)) = best.as_ref().zip(offer.cost) else { return false };
        let limit = best.cost.map(|cost| cost.saturating_add(cost / 100 * KEPT_WITHIN));
        Some(&offer.exit) == held && offer.fit == best.fit && limit.is_some_and(|l| cost <= l)
    };
    if let Some(at) = offers.iter().position(keeps) {
        offers[..=at].rotate_right(1);
    }
    offers.into_iter().map(|offer| offer.exit).collect()
}

/// Which exit each destination used last.
#[derive(Debug, Default)]
pub(super) struct Held {
    exits: HashMap<Host, (NodeName, u64)>,
    uses: u64,
}

impl Held {
    /// The exit of a destination.
    pub(super) fn exit(&self, host: &Host) -> Option<&NodeName> {
        self.exits.get(host).map(|(exit, _)| exit)
    }

    /// Remembers that a flow to `host` leaves at `exit`.
    pub(super) fn hold(&mut self, host: &Host, exit: &NodeName) {
        self.uses += 1;
        if self.exits.len() >= MAX_HELD && !self.exits.contains_key(host) {
            let oldest = self.exits.iter().min_by_key(|(_, (_, used))| *used);
            let oldest = oldest.map(|(host, _)| host.clone());
            oldest.and_then(|host| self.exits.remove(&host));
        }
        self.exits.insert(host.clone(), (exit.clone(), self.uses));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::units::LossRate;

    fn offer(exit: &str, fit: usize, cost: Option<u64>) -> Offer {
        Offer { exit: exit.parse().unwrap(), fit, cost }
    }

    fn ordered(offers: &[Offer], held: Option<&str>) -> String {
        let held: Option<NodeName> = held.map(|name| name.parse().unwrap());
        let names = order(offers.to_vec(), held.as_ref());
        names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn live_exits_go_first_then_the_closest_fit_then_the_best_route() {
        let (dead, near) = (offer("dead", 9, None), offer("near", 0, Some(10)));
        let (far, own) = (offer("far", 0, Some(80)), offer("own", 7, Some(500)));
        let unknown = offer("unknown", 0, Some(u64::MAX));
        let all = [dead, far, unknown, near, own];
        assert_eq!(ordered(&all, None), "own near far unknown dead");
        let equal = [offer("b", 0, Some(5)), offer("a", 0, Some(5))];
        assert_eq!(ordered(&equal, None), "b a", "the rule's order decides");
    }

    #[test]
    fn a_destination_keeps_its_exit_while_that_is_live_and_nearly_as_good() {
        let of = |cost| [offer("a", 0, Some(1000)), offer("b", 0, cost), offer("c", 0, Some(2000))];
        assert_eq!(ordered(&of(Some(1300)), Some("b")), "b a c");
        assert_eq!(ordered(&of(Some(1301)), Some("b")), "a b c");
        assert_eq!(ordered(&of(None), Some("b")), "a c b");
        assert_eq!(ordered(&of(Some(1300)), Some("elsewhere")), "a b c");
        let closer = [offer("a", 4, Some(1000)), offer("b", 0, Some(10))];
        assert_eq!(ordered(&closer, Some("b")), "a b");
    }

    #[test]
    fn the_cost_follows_the_hint() {
        let path = |ms, percent| {
            Some(PathMetrics {
                rtt: Duration::from_millis(ms),
                loss_out: LossRate::from_percent(percent),
                loss_in: LossRate::ZERO,
                exchanges: 66,
                delivered: None,
            })
        };
        let (fast, clean) = (path(20, 5), path(90, 0));
        for (hint, fast_wins) in [("latency", true), ("loss", false), ("throughput", true)] {
            let hint = hint.parse().unwrap();
            assert_eq!(cost(&hint, fast) < cost(&hint, clean), fast_wins, "{hint}");
            assert_eq!(cost(&hint, None), u64::MAX);
        }
    }

    #[test]
    fn destinations_without_end_fill_no_more_than_the_cap() {
        let mut held = Held::default();
        let host = |n: usize| -> Host { format!("h{n}.test").parse().unwrap() };
        for n in 0..2 * MAX_HELD {
            held.hold(&host(n), &"mit".parse().unwrap());
            held.hold(&host(0), &"utah".parse().unwrap());
        }
        assert_eq!(held.exits.len(), MAX_HELD);
        assert_eq!(held.exit(&host(0)), Some(&"utah".parse().unwrap()), "used all the time");
        assert_eq!(held.exit(&host(1)), None);
    }
}
