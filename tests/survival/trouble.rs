//! What breaks in the chaos, such that each entry keeps a route that has been good for a while.

use std::{net::IpAddr, time::Duration};

use ronproxy::{
    emulator::{Loss, LossRate},
    lab::Lab,
};
use tokio::time::Instant;

/// A route counts only when it has been good for so long: that is, well within a flow's patience.
const SETTLED: Duration = Duration::from_secs(20);

/// Something that breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
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
pub(crate) struct Troubles {
    broken: Vec<(Trouble, Instant)>,
    mended: Vec<(Trouble, Instant)>,
    addresses: Vec<(String, IpAddr)>,
    moves: u8,
}

impl Troubles {
    pub(crate) fn new(lab: &Lab) -> Self {
        let sites = lab.topology().sites().iter();
        let addresses = sites.map(|site| (site.name.clone(), site.address)).collect();
        Self { broken: Vec::new(), mended: Vec::new(), addresses, moves: 0 }
    }

    /// Lets `trouble` begin, unless it would leave an entry without a route.
    pub(crate) async fn begin(&mut self, lab: &mut Lab, trouble: Trouble, lasts: Duration) {
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
        self.apply(lab, trouble);
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
        ["alice", "bob"].into_iter().all(|entry| {
            let via = |relay| !hurt(entry, relay) && !hurt(relay, "exit");
            !hurt(entry, "exit") || via("north") || via("south")
        })
    }

    pub(crate) async fn mend_due(&mut self, lab: &mut Lab) {
        let now = Instant::now();
        let due: Vec<_> = self.broken.extract_if(.., |(_, until)| *until <= now).collect();
        for (trouble, _) in due {
            self.mend(lab, trouble).await;
        }
    }

    pub(crate) async fn mend_all(&mut self, lab: &mut Lab) {
        for (trouble, _) in std::mem::take(&mut self.broken) {
            self.mend(lab, trouble).await;
        }
    }

    fn apply(&mut self, lab: &mut Lab, trouble: Trouble) {
        let net = lab.internet().clone();
        match trouble {
            Trouble::Cut(a, b) => net.cut(self.at(a), self.at(b)),
            Trouble::CutOneWay(a, b) => net.cut_one_way(self.at(a), self.at(b)),
            Trouble::Loss(a, b, percent) => self.set_loss(lab, a, b, percent),
            Trouble::Crash(node) => lab.crash(node),
            Trouble::Move(node) => {
                self.moves += 1;
                let new = IpAddr::from([198, 51, 100, self.moves]);
                net.move_host(self.at(node), new);
                let place = self.addresses.iter_mut().find(|(name, _)| name == node);
                place.unwrap().1 = new;
            }
        }
    }

    async fn mend(&mut self, lab: &mut Lab, trouble: Trouble) {
        tracing::info!(?trouble, "mended");
        match trouble {
            Trouble::Cut(a, b) => lab.internet().heal(self.at(a), self.at(b)),
            Trouble::CutOneWay(a, b) => lab.internet().heal_one_way(self.at(a), self.at(b)),
            Trouble::Loss(a, b, _) => self.set_loss(lab, a, b, 0),
            Trouble::Crash(node) => lab.restart(node).await.unwrap(),
            Trouble::Move(_) => {}
        }
        self.mended.push((trouble, Instant::now()));
    }

    fn set_loss(&self, lab: &Lab, a: &str, b: &str, percent: u8) {
        let loss = Loss::Bernoulli(LossRate::from_percent(percent.into()));
        for (from, to) in [(a, b), (b, a)] {
            lab.internet().update(self.at(from), self.at(to), |model| model.loss = loss);
        }
    }

    fn at(&self, name: &str) -> IpAddr {
        self.addresses.iter().find(|(site, _)| site == name).unwrap().1
    }
}
