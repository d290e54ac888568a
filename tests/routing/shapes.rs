//! The overlays of the scenarios, as data.

use std::time::Duration;

use ronproxy::internals::emulator::{Change, Event, LinkModel, Topology};

use crate::watch::Watch;

pub(crate) const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A path with this round trip, jitter included, and a tenth of it as jitter.
pub(crate) fn rtt(milliseconds: u64) -> LinkModel {
    let one_way = Duration::from_millis(milliseconds) / 2;
    LinkModel::new(one_way * 9 / 10).with_jitter(one_way / 10)
}

/// `a`, `b` and the relay `r`, which is halfway.
pub(crate) fn triangle(direct: LinkModel, detour_ms: u64) -> Topology {
    Topology::new(["a", "b", "r"]).both("a", "b", direct).both("a", "r", rtt(detour_ms / 2)).both(
        "r",
        "b",
        rtt(detour_ms / 2),
    )
}

/// `Change`s of the paths of a topology, by the sites' names.
pub(crate) struct Plan<'a>(pub(crate) &'a Topology);

impl Plan<'_> {
    pub(crate) fn set(&self, at: Duration, a: &str, b: &str, model: LinkModel) -> Event {
        let (a, b) = (self.0.address(a), self.0.address(b));
        Change::SetBoth { a, b, model }.at(at)
    }

    pub(crate) fn cut(&self, at: Duration, a: &str, b: &str) -> Event {
        Change::Cut { a: self.0.address(a), b: self.0.address(b) }.at(at)
    }

    pub(crate) fn heal(&self, at: Duration, a: &str, b: &str) -> Event {
        Change::Heal { a: self.0.address(a), b: self.0.address(b) }.at(at)
    }

    pub(crate) fn cut_one_way(&self, at: Duration, from: &str, to: &str) -> Event {
        Change::CutOneWay { from: self.0.address(from), to: self.0.address(to) }.at(at)
    }
}

/// What a failed assertion shows: the seed, and the last changes of route.
pub(crate) fn story(seed: u64, watch: &Watch) -> String {
    format!("replay with RON_SEED={seed}; newest first:\n{}", watch.told().join("\n"))
}
