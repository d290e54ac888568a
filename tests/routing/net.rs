//! The paths between the nodes: one emulated link for each direction of each pair.

use std::{net::IpAddr, time::Instant};

use rand_pcg::Pcg64Mcg;
use ronproxy::internals::{
    emulator::{Change, InFlight, Link, LinkModel, Topology, Verdict},
    overlay::{metrics::PathMetrics, units::LossRate},
};

use crate::figures::rng;

/// One direction of one pair.
struct Way {
    link: Link,
    chance: Pcg64Mcg,
    /// Counts the cuts: what was sent before one does not arrive.
    cuts: u32,
}

/// All paths. A pair that the topology does not describe has none.
pub(crate) struct Net {
    addresses: Vec<IpAddr>,
    ways: Vec<Way>,
}

/// A packet on its way, and when it arrives unless the path is cut before.
pub(crate) struct Sent {
    pub(crate) at: Instant,
    pub(crate) cuts: u32,
}

impl Net {
    pub(crate) fn new(topology: &Topology, seed: u64) -> Self {
        let addresses: Vec<_> = topology.sites().iter().map(|site| site.address).collect();
        let none = LinkModel { up: false, ..LinkModel::default() };
        let way = |at: u64| Way {
            link: Link::new(none),
            chance: rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ at),
            cuts: 0,
        };
        let pairs = (addresses.len() * addresses.len()) as u64;
        let mut net = Self { addresses, ways: (0..pairs).map(way).collect() };
        for path in topology.paths() {
            net.set(path.from, path.to, path.model);
        }
        net
    }

    /// Sends `len` bytes; `None` when they are lost.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        from: usize,
        to: usize,
        len: usize,
    ) -> Option<Sent> {
        let way = self.way(from, to);
        match way.link.send(now, len, &mut way.chance) {
            Verdict::Deliver { at } => Some(Sent { at, cuts: way.cuts }),
            Verdict::Dropped(_) => None,
        }
    }

    /// Whether the path was cut since `cuts`.
    pub(crate) fn was_cut(&mut self, from: usize, to: usize, cuts: u32) -> bool {
        self.way(from, to).cuts != cuts
    }

    pub(crate) fn apply(&mut self, change: &Change) {
        match *change {
            Change::Set { from, to, model } => self.set(from, to, model),
            Change::SetBoth { a, b, model } => {
                self.set(a, b, model);
                self.set(b, a, model);
            }
            Change::Cut { a, b } => {
                self.switch(a, b, false);
                self.switch(b, a, false);
            }
            Change::Heal { a, b } => {
                self.switch(a, b, true);
                self.switch(b, a, true);
            }
            Change::CutOneWay { from, to } => self.switch(from, to, false),
            Change::HealOneWay { from, to } => self.switch(from, to, true),
            Change::MoveHost { .. } | Change::Nat { .. } | Change::RebindNat { .. } => {
                panic!("routing knows no addresses: {change:?}")
            }
        }
    }

    /// What the direct path between two nodes is really like, both ways; `None` while it is cut.
    pub(crate) fn truth(&self, from: usize, to: usize) -> Option<PathMetrics> {
        let way = |from, to| self.ways[self.index(from, to)].link.model();
        let (out, back) = (way(from, to), way(to, from));
        let loss = |model: &LinkModel| LossRate::new(model.loss.mean().fraction());
        (out.up && back.up).then(|| PathMetrics {
            rtt: out.mean_delay() + back.mean_delay(),
            loss_out: loss(out),
            loss_in: loss(back),
            exchanges: 66,
            delivered: None,
        })
    }

    fn set(&mut self, from: IpAddr, to: IpAddr, model: LinkModel) {
        let (from, to) = (self.place(from), self.place(to));
        let way = self.way(from, to);
        if way.link.set_model(model) == InFlight::Lost {
            way.cuts += 1;
        }
    }

    fn switch(&mut self, from: IpAddr, to: IpAddr, up: bool) {
        let index = self.index(self.place(from), self.place(to));
        let model = LinkModel { up, ..*self.ways[index].link.model() };
        self.set(from, to, model);
    }

    fn place(&self, address: IpAddr) -> usize {
        self.addresses.iter().position(|known| *known == address).unwrap()
    }

    fn index(&self, from: usize, to: usize) -> usize {
        from * self.addresses.len() + to
    }

    fn way(&mut self, from: usize, to: usize) -> &mut Way {
        let index = self.index(from, to);
        &mut self.ways[index]
    }
}
