//! What breaks in the chaos, such that each entry keeps a route that has been good for a while.

use std::{net::IpAddr, time::Duration};

use rand::{RngExt, seq::IndexedRandom};
use rand_pcg::Pcg64Mcg;
use ronproxy::internals::emulator::{
    Bitrate, Internet, LinkModel, Loss, LossRate, Queue, Topology,
};
use tokio::time::{Instant, sleep};

/// A route counts only when it has been good for so long: that is, well within a flow's patience.
const SETTLED: Duration = Duration::from_secs(20);

/// The nodes that have applications.
pub(crate) const ENTRIES: [&str; 2] = ["alice", "bob"];

/// An overlay that may be broken.
pub(crate) trait Fragile {
    /// Whether a host can get another address.
    const MOVES: bool;

    fn internet(&self) -> &Internet;
    fn topology(&self) -> &Topology;

    /// Kills a node.
    async fn crash(&mut self, name: &'static str);

    /// Starts a node that was killed.
    async fn restart(&mut self, name: &'static str);
}

/// Two entries, an exit, two relays; 20 Mbit/s everywhere.
pub(crate) fn five_sites() -> Topology {
    let path = |ms| {
        LinkModel::new(Duration::from_millis(ms))
            .with_jitter(Duration::from_millis(2))
            .with_rate(Bitrate::mbit(20), Queue::Time(Duration::from_millis(50)))
    };
    let mut topology = Topology::new(["alice", "bob", "exit", "north", "south"]);
    for (a, b, ms) in [
        ("alice", "exit", 30),
        ("bob", "exit", 20),
        ("alice", "north", 15),
        ("alice", "south", 25),
        ("bob", "north", 25),
        ("bob", "south", 10),
        ("north", "exit", 25),
        ("south", "exit", 20),
        ("north", "south", 20),
        ("alice", "bob", 20),
    ] {
        topology = topology.both(a, b, path(ms));
    }
    topology
}

/// Breaks and mends things until then, and mends everything at the end.
pub(crate) async fn make_trouble<F: Fragile>(lab: &mut F, mut rng: Pcg64Mcg, until: Instant) {
    let mut troubles = Troubles::new(lab);
    while Instant::now() < until {
        sleep(Duration::from_millis(rng.random_range(500..6_000))).await;
        troubles.mend_due(lab).await;
        let trouble = draw(&mut rng, F::MOVES);
        let lasts = Duration::from_millis(rng.random_range(1_000..40_000));
        troubles.begin(lab, trouble, lasts).await;
    }
    troubles.mend_all(lab).await;
}

/// Something that breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Cut(&'static str, &'static str),
    CutOneWay(&'static str, &'static str),
    Loss(&'static str, &'static str, u8),
    Crash(&'static str),
    Move(&'static str),
}

impl Trouble {
    fn hurts_path(self, a: &str, b: &str) -> bool {
        match self {
            Self::Cut(x, y) | Self::CutOneWay(x, y) | Self::Loss(x, y, _) => {
                (x, y) == (a, b) || (y, x) == (a, b)
            }
            // A host that moved has to be found again by all its neighbours.
            Self::Crash(node) => node == a || node == b,
            Self::Move(_) => false,
        }
    }
}

/// What is broken, and what was until a short time ago.
struct Troubles {
    broken: Vec<(Trouble, Instant)>,
    mended: Vec<(Trouble, Instant)>,
    addresses: Vec<(String, IpAddr)>,
    moves: u8,
}

impl Troubles {
    fn new(lab: &impl Fragile) -> Self {
        let sites = lab.topology().sites().iter();
        let addresses = sites.map(|site| (site.name.clone(), site.address)).collect();
        Self { broken: Vec::new(), mended: Vec::new(), addresses, moves: 0 }
    }

    /// Lets `trouble` begin, unless it would leave an entry without a route.
    async fn begin(&mut self, lab: &mut impl Fragile, trouble: Trouble, lasts: Duration) {
        self.mended.retain(|(_, at)| at.elapsed() < SETTLED);
        let same = |(other, _): &(Trouble, Instant)| match (trouble, *other) {
            (Trouble::Crash(a), Trouble::Crash(b)) => a == b,
            (Trouble::Crash(_) | Trouble::Move(_), _) | (_, Trouble::Move(_)) => false,
            (Trouble::Cut(a, b) | Trouble::CutOneWay(a, b) | Trouble::Loss(a, b, _), other) => {
                other.hurts_path(a, b)
            }
        };
        let moving = |(other, _): &(Trouble, Instant)| matches!(other, Trouble::Move(_));
        if self.broken.iter().any(same) || self.mended.iter().any(moving) {
            return;
        }
        self.broken.push((trouble, Instant::now() + lasts));
        if !self.every_entry_has_a_route() {
            self.broken.pop();
            return;
        }
        tracing::info!(?trouble, ?lasts, "trouble");
        self.apply(lab, trouble).await;
        if matches!(trouble, Trouble::Move(_)) {
            self.broken.pop();
            self.mended.push((trouble, Instant::now()));
        }
    }

    fn every_entry_has_a_route(&self) -> bool {
        let hurt = |a, b| {
            let all = self.broken.iter().chain(&self.mended);
            all.into_iter().any(|(trouble, _)| trouble.hurts_path(a, b))
        };
        ENTRIES.into_iter().all(|entry| {
            let via = |relay| !hurt(entry, relay) && !hurt(relay, "exit");
            !hurt(entry, "exit") || via("north") || via("south")
        })
    }

    async fn mend_due(&mut self, lab: &mut impl Fragile) {
        let now = Instant::now();
        let due: Vec<_> = self.broken.extract_if(.., |(_, until)| *until <= now).collect();
        for (trouble, _) in due {
            self.mend(lab, trouble).await;
        }
    }

    async fn mend_all(&mut self, lab: &mut impl Fragile) {
        for (trouble, _) in std::mem::take(&mut self.broken) {
            self.mend(lab, trouble).await;
        }
    }

    async fn apply(&mut self, lab: &mut impl Fragile, trouble: Trouble) {
        let net = lab.internet().clone();
        match trouble {
            Trouble::Cut(a, b) => net.cut(self.at(a), self.at(b)),
            Trouble::CutOneWay(a, b) => net.cut_one_way(self.at(a), self.at(b)),
            Trouble::Loss(a, b, percent) => self.set_loss(lab, a, b, percent),
            Trouble::Crash(node) => lab.crash(node).await,
            Trouble::Move(node) => {
                self.moves += 1;
                let new = IpAddr::from([198, 51, 100, self.moves]);
                net.move_host(self.at(node), new);
                let place = self.addresses.iter_mut().find(|(name, _)| name == node);
                place.unwrap().1 = new;
            }
        }
    }

    async fn mend(&mut self, lab: &mut impl Fragile, trouble: Trouble) {
        tracing::info!(?trouble, "mended");
        match trouble {
            Trouble::Cut(a, b) => lab.internet().heal(self.at(a), self.at(b)),
            Trouble::CutOneWay(a, b) => lab.internet().heal_one_way(self.at(a), self.at(b)),
            Trouble::Loss(a, b, _) => self.set_loss(lab, a, b, 0),
            Trouble::Crash(node) => lab.restart(node).await,
            Trouble::Move(_) => {}
        }
        self.mended.push((trouble, Instant::now()));
    }

    fn set_loss(&self, lab: &impl Fragile, a: &str, b: &str, percent: u8) {
        let loss = Loss::Bernoulli(LossRate::from_percent(percent.into()));
        lab.internet().update_both(self.at(a), self.at(b), |model| model.loss = loss);
    }

    fn at(&self, name: &str) -> IpAddr {
        self.addresses.iter().find(|(site, _)| site == name).unwrap().1
    }
}

fn draw(rng: &mut Pcg64Mcg, moves: bool) -> Trouble {
    let paths = [
        ("alice", "exit"),
        ("bob", "exit"),
        ("alice", "north"),
        ("alice", "south"),
        ("bob", "north"),
        ("bob", "south"),
        ("north", "exit"),
        ("south", "exit"),
    ];
    let &(a, b) = paths.choose(rng).unwrap();
    let &relay = ["north", "south"].choose(rng).unwrap();
    match rng.random_range(if moves { 0..10 } else { 0..9 }) {
        0..3 => Trouble::Cut(a, b),
        3 => Trouble::CutOneWay(a, b),
        4 => Trouble::CutOneWay(b, a),
        5..7 => Trouble::Loss(a, b, rng.random_range(2..50)),
        7..9 => Trouble::Crash(relay),
        _ => Trouble::Move(ENTRIES.choose(rng).unwrap()),
    }
}
