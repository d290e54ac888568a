//! An overlay of real processes on an Internet on loopback.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use ronproxy::internals::emulator::{Internet, Topology};
use serde_json::Value;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    internet::{Loopback, Place, places},
    overlay::{Running, Site, configure, json, must, ronproxy},
    trouble::Fragile,
};

/// How long routes may take to be known.
const PATIENCE: Duration = Duration::from_secs(30);

/// How much of the machine a test needs: what one measures, another must not disturb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    /// A few may run side by side.
    Some,
    /// Nothing else may run.
    All,
}

/// Waits until this share of the machine is free, and holds it.
pub(crate) async fn turn(share: Share) -> SemaphorePermit<'static> {
    const SHARES: u32 = 4;
    static FREE: Semaphore = Semaphore::const_new(SHARES as usize);
    FREE.acquire_many(if share == Share::All { SHARES } else { 1 }).await.unwrap()
}

/// An overlay with one node per site; `exit` is its authority and only exit.
pub(crate) struct Processes {
    /// Dropped first: a failed test shows their logs.
    nodes: BTreeMap<String, Running>,
    site: Site,
    topology: Topology,
    places: Vec<Place>,
    loopback: Loopback,
    /// How the exit is started.
    exit_by: fn(&Path) -> Command,
}

impl Processes {
    /// Starts a node at each site of `topology`, of which `relays` may forward.
    pub(crate) async fn start(topology: Topology, relays: &[&str], seed: u64) -> Self {
        Self::start_with(topology, relays, seed, &[]).await
    }

    /// The same, with an exit that is started by this command.
    pub(crate) async fn start_by(
        topology: Topology,
        relays: &[&str],
        seed: u64,
        exit_by: fn(&Path) -> Command,
    ) -> Self {
        Self::start_all(topology, relays, seed, &[], exit_by).await
    }

    /// The same, with these lines of the authority's configuration replaced by others.
    pub(crate) async fn start_with(
        topology: Topology,
        relays: &[&str],
        seed: u64,
        settings: &[(&str, &str)],
    ) -> Self {
        Self::start_all(topology, relays, seed, settings, ronproxy).await
    }

    async fn start_all(
        topology: Topology,
        relays: &[&str],
        seed: u64,
        settings: &[(&str, &str)],
        exit_by: fn(&Path) -> Command,
    ) -> Self {
        let site = Site::new();
        let places = places(&topology);
        let exit = places.iter().find(|place| place.name == "exit").unwrap();
        // Who joins has no place yet: the exit itself has to be at its public address.
        let public = exit.public.to_string();
        let options = ["--listen", &public, "--advertise", &public, "--no-relay"];
        let dir = site.found("exit", &options);
        for (line, by) in settings {
            configure(&dir, line, by);
        }
        let authority = Running::start(&dir, &[]);
        for place in places.iter().filter(|place| place.name != "exit") {
            join(&site, place, relays.contains(&&*place.name));
        }
        drop(authority);
        let listen = |address| format!("listen = \"{address}\"");
        configure(&dir, &listen(exit.public), &listen(exit.private));
        let loopback = Loopback::between(&places, &topology, seed);
        let mut overlay =
            Self { nodes: BTreeMap::new(), site, topology, places, loopback, exit_by };
        for place in overlay.places.clone() {
            overlay.run(&place.name).await;
        }
        overlay
    }

    async fn run(&mut self, name: &str) {
        let dir = self.dir(name);
        let by = if name == "exit" { self.exit_by } else { ronproxy };
        let start = tokio::task::spawn_blocking(move || Running::start_as(by(&dir), &dir, &[]));
        self.nodes.insert(name.to_owned(), start.await.unwrap());
    }

    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        self.site.dir(name)
    }

    pub(crate) fn node(&self, name: &str) -> &Running {
        &self.nodes[name]
    }

    /// Where others reach a node.
    pub(crate) fn public(&self, name: &str) -> SocketAddr {
        self.places.iter().find(|place| place.name == name).unwrap().public
    }

    /// A node's facts.
    pub(crate) fn facts(&self, name: &str, listing: &str) -> Value {
        json(&self.dir(name), &[listing])
    }

    /// Waits until `entry` has measured so many routes to the exit, of which `best` is the best.
    pub(crate) async fn routes(&self, entry: &str, count: usize, best: &str) {
        let began = Instant::now();
        loop {
            let routes = self.facts(entry, "routes");
            let candidates = routes[0]["candidates"].as_array();
            let usable = |candidate: &&Value| {
                candidate["rtt_ms"].is_number() && candidate["verdict"] != "excluded"
            };
            let all = candidates.is_some_and(|all| all.iter().filter(usable).count() == count);
            if all && routes[0]["route"] == best {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{entry}: {best} is not the best: {routes:#}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The lines of all nodes' logs that tell of a defect.
    pub(crate) fn defects(&self) -> Vec<String> {
        let names = self.topology.sites().iter().map(|site| &site.name);
        let logs =
            names.filter_map(|name| std::fs::read_to_string(self.dir(name).join("log")).ok());
        let is_defect = |line: &&str| line.contains("ERROR") || line.contains("panicked");
        let lines =
            |log: String| log.lines().filter(is_defect).map(str::to_owned).collect::<Vec<_>>();
        logs.flat_map(lines).collect()
    }

    /// Fails if a node logged a defect, or anything went around the translation of addresses.
    pub(crate) fn check(&self) {
        assert_eq!(self.defects(), [""; 0]);
        let overruns = self.loopback.overruns();
        if overruns > 0 {
            println!("{overruns} packets overran a socket: this machine was too busy");
        }
        assert_eq!(self.loopback.strangers(), 0, "packets from unknown addresses");
    }
}

impl Fragile for Processes {
    /// A real socket stays where it is.
    const MOVES: bool = false;

    fn internet(&self) -> &Internet {
        self.loopback.internet()
    }

    fn topology(&self) -> &Topology {
        &self.topology
    }

    async fn crash(&mut self, name: &'static str) {
        self.nodes.remove(name).unwrap().crash();
    }

    async fn restart(&mut self, name: &'static str) {
        self.run(name).await;
    }
}

fn join(site: &Site, place: &Place, relay: bool) {
    let invite = ["invite", "--name", &place.name, "--relay"];
    let line = must(&site.dir("exit"), &invite[..if relay { 4 } else { 3 }]);
    let (private, public) = (place.private.to_string(), place.public.to_string());
    let options = ["--listen", &private, "--advertise", &public];
    site.join_by(line.trim(), &place.name, &options);
}
