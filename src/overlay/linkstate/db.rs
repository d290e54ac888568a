//! The link-state database: the newest advertisement of every node, for as long as it holds.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{Advertisement, Flood, MAX_NODES, Version};
use crate::identity::NodeName;

/// Expired advertisements that are kept, so that an old one that is sent again does not bring its
/// node back, and a restarted node learns which number to exceed. Four times the nodes, because
/// names change slowly.
const MAX_RETIRED: usize = 4 * MAX_NODES;

/// The longest lifetime that counts, whatever an advertisement says: five of the slowest intervals
/// (60 s). It bounds how long a vanished node counts as alive.
const MAX_LIFETIME: Duration = Duration::from_secs(300);

/// The number of nodes that forward an advertisement to a node that its origin cannot reach. One of
/// them could have failed; both rarely do.
const FORWARDERS: usize = 2;

/// The result of an advertisement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Install {
    /// Newer than the kept one. It is kept, and the caller forwards it.
    Installed,
    /// What is held already, said to be so much younger that it holds at least twice as long. It does
    /// from now on, and the caller forwards it. Its bytes are those that are held, so its signature
    /// needs no check.
    Younger,
    /// The same version as is held. Nothing changed.
    Duplicate,
    /// Older than the kept one. Nothing changed. If the sender is its origin, it restarted with a
    /// smaller incarnation: the caller sends it the kept one, and the origin exceeds its number.
    Stale,
    /// Its lifetime was over when it came. Nothing changed.
    Expired,
    /// It is about this node itself and newer than this node made: [`super::Originator::outbid`].
    Own,
    /// It breaks a rule of the format. Nothing changed.
    Refused(RefuseReason),
}

/// Why an advertisement is refused; also the metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RefuseReason {
    /// 256 nodes are kept already.
    TooManyNodes,
    /// A signature of more than 80 bytes.
    SignatureTooLong,
    /// More than 8 addresses.
    TooManyAddresses,
    /// More than 256 links.
    TooManyLinks,
    /// More than 64 patterns of what is served, or one of more than 253 bytes.
    TooMuchServed,
    /// A peer named twice, or the origin named as its own peer.
    BadLinks,
    /// An incarnation or sequence number beyond 2^62.
    VersionOutOfRange,
}

impl RefuseReason {
    /// The stable name, as in metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TooManyNodes => "too-many-nodes",
            Self::SignatureTooLong => "signature-too-long",
            Self::TooManyAddresses => "too-many-addresses",
            Self::TooManyLinks => "too-many-links",
            Self::TooMuchServed => "too-much-served",
            Self::BadLinks => "bad-links",
            Self::VersionOutOfRange => "version-out-of-range",
        }
    }
}

/// The newest advertisement of every other node.
#[derive(Debug, Clone)]
pub struct LinkStateDb {
    own: NodeName,
    nodes: BTreeMap<NodeName, Entry>,
    /// The last advertisements of expired nodes, and when they expired.
    retired: BTreeMap<NodeName, (Entry, Instant)>,
}

#[derive(Debug, Clone)]
struct Entry {
    signature: Vec<u8>,
    advert: Advertisement,
    expires: Instant,
    /// When it came first. It was made by then, whatever age it is said to have.
    came: Instant,
}

impl Entry {
    /// When `flood` expires by the age that it comes with at `now`; `None` if it is not the same as this
    /// entry, or holds less than twice as long.
    ///
    /// The age is not signed. A neighbour that says too much would make others forget the origin, so the
    /// smallest age counts that any neighbour says, but none that makes it younger than it can be. The
    /// factor bounds how often a neighbour that tells smaller and smaller ages has it forwarded; half of
    /// a lifetime is longer than two advertisements of an origin are apart.
    fn prolonged(&self, now: Instant, flood: &Flood) -> Option<Instant> {
        let same = flood.signature == self.signature && flood.advert == self.advert;
        let expires = (now + remaining(flood)).min(self.came + lifetime(&self.advert));
        let longer = expires > now && expires - now >= 2 * self.remaining(now);
        (same && longer).then_some(expires)
    }

    fn remaining(&self, now: Instant) -> Duration {
        self.expires.saturating_duration_since(now)
    }

    fn flood(&self, now: Instant) -> Flood {
        let over = now.saturating_duration_since(self.expires);
        let age = (lifetime(&self.advert) + over).saturating_sub(self.remaining(now));
        // Rounded up, so that an advertisement does not become younger on its way.
        let age_s = u16::try_from(age.as_millis().div_ceil(1000)).unwrap_or(u16::MAX);
        Flood { age_s, signature: self.signature.clone(), advert: self.advert.clone() }
    }
}

impl LinkStateDb {
    /// An empty database at the node `own`.
    #[must_use]
    pub fn new(own: NodeName) -> Self {
        Self { own, nodes: BTreeMap::new(), retired: BTreeMap::new() }
    }

    /// The result that [`Self::install`] would have. It is cheap, so the caller asks before it
    /// checks a signature.
    #[must_use]
    pub fn judge(&self, now: Instant, flood: &Flood) -> Install {
        if let Err(reason) = flood.check() {
            return Install::Refused(reason);
        }
        let advert = &flood.advert;
        if advert.origin == self.own {
            return Install::Own;
        }
        let install = match self.last(&advert.origin) {
            Some(held) if held.advert.version > advert.version => return Install::Stale,
            Some(held) if held.advert.version == advert.version => {
                if held.prolonged(now, flood).is_none() {
                    return Install::Duplicate;
                }
                Install::Younger
            }
            _ if remaining(flood).is_zero() => return Install::Expired,
            _ => Install::Installed,
        };
        if !self.nodes.contains_key(&advert.origin) && self.nodes.len() >= MAX_NODES {
            return Install::Refused(RefuseReason::TooManyNodes);
        }
        install
    }

    /// Takes an advertisement that came at `now`.
    ///
    /// The caller has checked the signature of its origin, unless it is [`Install::Younger`].
    pub fn install(&mut self, now: Instant, flood: Flood) -> Install {
        let judged = self.judge(now, &flood);
        if !matches!(judged, Install::Installed | Install::Younger) {
            return judged;
        }
        let held = self.last(&flood.advert.origin);
        let prolonged = held.and_then(|held| Some((held.prolonged(now, &flood)?, held.came)));
        let (expires, came) = prolonged.unwrap_or_else(|| (now + remaining(&flood), now));
        self.retired.remove(&flood.advert.origin);
        let Flood { signature, advert, .. } = flood;
        self.nodes.insert(advert.origin.clone(), Entry { signature, advert, expires, came });
        judged
    }

    /// Drops what has expired by `now` and names the nodes.
    pub fn expire(&mut self, now: Instant) -> Vec<NodeName> {
        let is_over = |(_, entry): &(&NodeName, &Entry)| entry.expires <= now;
        let expired: Vec<_> =
            self.nodes.iter().filter(is_over).map(|(name, _)| name.clone()).collect();
        for name in &expired {
            self.retire(name, now);
        }
        expired
    }

    /// Deletes a node whose certificate was revoked, with the version of its last advertisement, so
    /// that the next holder of the name does not look old. The caller accepts nothing more from the
    /// revoked node.
    pub fn forget(&mut self, name: &NodeName) {
        self.nodes.remove(name);
        self.retired.remove(name);
    }

    fn retire(&mut self, name: &NodeName, now: Instant) {
        let Some(entry) = self.nodes.remove(name) else { return };
        self.retired.insert(name.clone(), (entry, now));
        while self.retired.len() > MAX_RETIRED {
            let oldest = self.retired.iter().min_by_key(|(_, (_, at))| *at);
            let Some(name) = oldest.map(|(name, _)| name.clone()) else { break };
            self.retired.remove(&name);
        }
    }

    /// When [`Self::expire`] has something to do; `None` when nothing is kept.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.nodes.values().map(|entry| entry.expires).min()
    }

    /// The advertisement of `name`; `None` when it is unknown or expired.
    #[must_use]
    pub fn get(&self, name: &NodeName, now: Instant) -> Option<&Advertisement> {
        self.nodes.get(name).filter(|entry| entry.expires > now).map(|entry| &entry.advert)
    }

    /// All advertisements that hold at `now`, by name.
    pub fn iter(&self, now: Instant) -> impl Iterator<Item = &Advertisement> {
        self.nodes.values().filter(move |entry| entry.expires > now).map(|entry| &entry.advert)
    }

    /// How many nodes are kept, at most 256.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether no node is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The versions held at `now`: sent to a neighbour whose link came up, which answers with
    /// [`Self::newer_than`]. About 20 bytes per node, in place of all advertisements.
    #[must_use]
    pub fn digest(&self, now: Instant) -> Vec<(NodeName, Version)> {
        self.iter(now).map(|advert| (advert.origin.clone(), advert.version)).collect()
    }

    /// The advertisements that the sender of `digest` lacks, with their age at `now`.
    #[must_use]
    pub fn newer_than(&self, digest: &[(NodeName, Version)], now: Instant) -> Vec<Flood> {
        let theirs: BTreeMap<_, _> = digest.iter().map(|(name, version)| (name, version)).collect();
        self.iter(now)
            .filter(|held| theirs.get(&held.origin).is_none_or(|v| **v < held.version))
            .filter_map(|held| self.flood(&held.origin, now))
            .collect()
    }

    /// The advertisement of `name` with its age at `now`, ready to send.
    #[must_use]
    pub fn flood(&self, name: &NodeName, now: Instant) -> Option<Flood> {
        self.get(name, now)?;
        Some(self.nodes.get(name)?.flood(now))
    }

    /// The last advertisement of `name`, also if it has expired. It is for its origin that
    /// restarted with a smaller incarnation.
    #[must_use]
    pub fn last_flood(&self, name: &NodeName, now: Instant) -> Option<Flood> {
        self.last(name).map(|entry| entry.flood(now))
    }

    /// The neighbours of `up` to which this node forwards the new advertisement of `origin`: those
    /// that the origin does not reach itself, if this node is one of the two forwarders. The
    /// forwarders change with the sequence number, so that a forwarder that fails silently costs
    /// one advertisement and not all.
    #[must_use]
    pub fn forward_to(&self, origin: &NodeName, up: &[NodeName], now: Instant) -> Vec<NodeName> {
        let Some(advert) = self.get(origin, now) else { return Vec::new() };
        let turn = |to: &NodeName| {
            let mut able: Vec<_> = self
                .iter(now)
                .filter(|relay| advert.reaches(&relay.origin) && relay.reaches(to))
                .map(|relay| &relay.origin)
                .chain([&self.own])
                .collect();
            able.sort_unstable();
            let start = usize::try_from(advert.version.sequence % able.len() as u64).unwrap_or(0);
            able.iter().cycle().skip(start).take(FORWARDERS).any(|name| **name == self.own)
        };
        let unreached = |to: &&NodeName| *to != origin && !advert.reaches(to);
        up.iter().filter(unreached).filter(|to| turn(to)).cloned().collect()
    }

    /// The kept advertisement of `name`, also after its expiry.
    fn last(&self, name: &NodeName) -> Option<&Entry> {
        self.nodes.get(name).or_else(|| self.retired.get(name).map(|(entry, _)| entry))
    }
}

/// How long it still holds, by what its sender says.
fn remaining(flood: &Flood) -> Duration {
    lifetime(&flood.advert).saturating_sub(Duration::from_secs(u64::from(flood.age_s)))
}

/// How long it holds after it was made.
fn lifetime(advert: &Advertisement) -> Duration {
    advert.lifetime().min(MAX_LIFETIME)
}

#[cfg(test)]
#[path = "db_tests.rs"]
mod tests;
