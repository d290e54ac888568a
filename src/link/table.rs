//! The live links of a node.

use std::{
    collections::BTreeMap,
    fmt,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};

use super::{Conduct, Link, LinkDrops, LinkError};
use crate::{
    identity::{Fingerprint, NodeName, Peer},
    transport::code,
    underlay::Neighbour,
    wire::link::{Reply, Request},
};

/// The live links, at most one per neighbour.
#[derive(Default)]
pub struct Links {
    links: Mutex<BTreeMap<NodeName, Arc<Link>>>,
    neighbours: Mutex<BTreeMap<NodeName, Arc<Neighbour>>>,
    incarnations: Mutex<BTreeMap<NodeName, u64>>,
    /// By key: a name's next holder does not answer for the last one.
    conducts: Mutex<BTreeMap<Fingerprint, Arc<Conduct>>>,
    drops: Arc<LinkDrops>,
    /// Wakes tasks that wait for a link that replaces another.
    taken_up: Notify,
}

/// How long a request waits for the link that replaces its own. When two nodes dial each other at
/// the same time, both connections exist for a round trip, until both ends know which one stays.
const REPLACED_WITHIN: Duration = Duration::from_secs(1);

/// The result of a new link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the link to this neighbour now.
    Kept,
    /// Another connection to the same process is in use. This one was closed.
    Duplicate,
}

/// Whether of two connections between the same two processes the new one stays.
///
/// Both ends must decide in the same way, in whichever order they saw the connections. The
/// connection that the node with the smaller name dialled stays. Of two with the same dialler, the
/// newer one stays. Of two over UDP and over a stream the newer one stays, too: a stream is dialled when
/// UDP is silent, and UDP beside a stream to see whether it passes again.
fn new_one_stays(us: &NodeName, peer: &NodeName, old_by_us: bool, new_by_us: bool) -> bool {
    let preferred_by_us = us < peer;
    new_by_us == old_by_us || new_by_us == preferred_by_us
}

impl Links {
    /// The one [`Neighbour`] of this name: it survives the links to it.
    #[must_use]
    pub fn neighbour(&self, name: &NodeName) -> Arc<Neighbour> {
        let mut neighbours = self.neighbours.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || Arc::new(Neighbour::new(name.clone(), None));
        neighbours.entry(name.clone()).or_insert_with(make).clone()
    }

    /// How this member behaves. Callers ask only for holders of verified certificates, so there are at
    /// most as many as the authority gave keys a certificate.
    #[must_use]
    pub fn conduct(&self, peer: &Peer) -> Arc<Conduct> {
        let mut conducts = self.conducts();
        let make = || Arc::new(Conduct::new(peer.name.clone(), self.drops.clone()));
        conducts.entry(peer.key).or_insert_with(make).clone()
    }

    /// Whether links of this member are refused at present.
    #[must_use]
    pub fn is_refused(&self, now: std::time::Instant, peer: &Peer) -> bool {
        self.conducts().get(&peer.key).is_some_and(|conduct| conduct.is_refused(now))
    }

    /// Forgets how a revoked member behaved: its key gets no link any more.
    pub fn forget_conduct(&self, key: &Fingerprint) {
        self.conducts().remove(key);
    }

    fn conducts(&self) -> MutexGuard<'_, BTreeMap<Fingerprint, Arc<Conduct>>> {
        self.conducts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was dropped on all links.
    #[must_use]
    pub fn drops(&self) -> &LinkDrops {
        &self.drops
    }

    /// Whether `link` leads to another process than the last link to the same neighbour did. False
    /// for the first link.
    #[must_use]
    pub fn is_new_process(&self, link: &Link) -> bool {
        let mut incarnations = self.incarnations.lock().unwrap_or_else(PoisonError::into_inner);
        let incarnation = link.hello().incarnation;
        let before = incarnations.insert(link.peer().name.clone(), incarnation);
        before.is_some_and(|before| before != incarnation)
    }

    /// Which process of `peer` the last link led to.
    #[must_use]
    pub fn incarnation(&self, peer: &NodeName) -> Option<u64> {
        let incarnations = self.incarnations.lock().unwrap_or_else(PoisonError::into_inner);
        incarnations.get(peer).copied()
    }

    /// Takes up a new link of node `us`, or closes it if another one is in use. A link whose path
    /// is down (`path_down`) gives way: the new one has just shown that it works.
    pub fn insert(&self, us: &NodeName, link: &Arc<Link>, path_down: bool) -> Verdict {
        let peer = &link.peer().name;
        let mut links = self.lock();
        if let Some(old) = links.get(peer).filter(|old| old.is_open()) {
            let same_process = old.hello().incarnation == link.hello().incarnation;
            let preferred = old.carrier() != link.carrier()
                || new_one_stays(us, peer, old.we_dialled(), link.we_dialled());
            if same_process && !preferred && !path_down {
                link.close(code::DUPLICATE, "another connection serves");
                return Verdict::Duplicate;
            }
            old.close(code::DUPLICATE, "a newer connection serves");
        }
        // One that is closed here must not lead lanes to its address: that of a stream ends with it.
        link.taken_up();
        links.insert(peer.clone(), link.clone());
        self.taken_up.notify_waiters();
        Verdict::Kept
    }

    /// Removes `link` if it is still the link to its neighbour. True if it was.
    pub fn remove(&self, link: &Arc<Link>) -> bool {
        let mut links = self.lock();
        let peer = &link.peer().name;
        let current = links.get(peer).is_some_and(|current| Arc::ptr_eq(current, link));
        if current {
            links.remove(peer);
        }
        current
    }

    /// The link to `peer`, if one stands.
    #[must_use]
    pub fn get(&self, peer: &NodeName) -> Option<Arc<Link>> {
        self.lock().get(peer).filter(|link| link.is_open()).cloned()
    }

    /// All standing links, by name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Link>> {
        let mut links: Vec<_> = self.lock().values().filter(|l| l.is_open()).cloned().collect();
        links.sort_by(|a, b| a.peer().name.cmp(&b.peer().name));
        links
    }

    /// Asks `peer`. Asks again once if another link replaces the link meanwhile.
    ///
    /// # Errors
    /// When there is no link, or as [`Link::request`].
    pub async fn request(&self, peer: &NodeName, request: &Request) -> Result<Reply, LinkError> {
        let link = self.lock().get(peer).cloned();
        let link = link.ok_or_else(|| LinkError::NoLink(peer.clone()))?;
        match link.request(request).await {
            Err(LinkError::Frame(_)) if link.is_replaced() => {
                self.successor(peer).await?.request(request).await
            }
            outcome => outcome,
        }
    }

    /// The link that replaces the one to `peer` that was closed for it.
    async fn successor(&self, peer: &NodeName) -> Result<Arc<Link>, LinkError> {
        let successor = async {
            loop {
                let mut news = pin!(self.taken_up.notified());
                news.as_mut().enable();
                if let Some(link) = self.get(peer) {
                    return link;
                }
                news.await;
            }
        };
        let in_time = timeout(REPLACED_WITHIN, successor).await;
        in_time.map_err(|_| LinkError::NoLink(peer.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeName, Arc<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_keep_the_same_of_two_connections() {
        let (a, b): (NodeName, NodeName) = ("a".parse().unwrap(), "b".parse().unwrap());
        // Connection X was dialled by a, connection Y by b. Each end may see them in either order.
        for (first_at_a, first_at_b) in [("X", "X"), ("X", "Y"), ("Y", "X"), ("Y", "Y")] {
            let kept = |us: &NodeName, peer: &NodeName, first: &str| {
                let by_us = |conn: &str| (conn == "X") == (us == &a);
                let second = if first == "X" { "Y" } else { "X" };
                let stays = new_one_stays(us, peer, by_us(first), by_us(second));
                (if stays { second } else { first }).to_owned()
            };
            assert_eq!(kept(&a, &b, first_at_a), kept(&b, &a, first_at_b));
        }
    }
}
