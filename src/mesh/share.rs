//! The performance database of a site: telling sharers, and taking what they tell.

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Mesh;
use crate::{
    identity::NodeName,
    link::{Kind, Link, LinkDrop, Offence},
    overlay::{
        sharing::{Figure, SharedLink, Use},
        units::{Bitrate, LossRate},
    },
    wire::{self, link::Notice},
};

/// What another node of the site measured of a member, as listings show it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SharedFacts {
    /// The member.
    pub peer: NodeName,
    /// Who measured the path to it, and told so.
    pub by: NodeName,
    /// Seconds since then.
    pub age_seconds: f64,
    /// The round-trip time in milliseconds, from the node that measured it.
    pub rtt_ms: f64,
    /// Loss from that node to the member in percent.
    pub loss_out_percent: f64,
    /// Loss from the member to that node in percent.
    pub loss_in_percent: f64,
    /// What lanes of that node delivered to the member directly, lately, in bits per second; `None` without
    /// traffic.
    pub delivered_bps: Option<u64>,
    /// What became of it: `used` (in place of own figures), `spare` (own figures are fresh, or another node's go
    /// first), `differs` (from own figures), `distrusted` (it differed for half a minute), or `down` (that node
    /// says that its link is down, or the link to that node is).
    #[serde(rename = "use")]
    pub used: String,
}

impl Mesh {
    /// Tells sharers what this node measures.
    pub(super) fn tell_sharers(&self, (sharers, links): (Vec<NodeName>, Vec<SharedLink>)) {
        let notice = Notice::Shared(wire::encode(&links));
        for link in sharers.iter().filter_map(|sharer| self.links.get(sharer)) {
            link.notify(&notice);
        }
    }

    /// Takes what a neighbour says that it measures.
    pub(super) fn heard_shared(&self, link: &Link, bytes: &[u8]) {
        if !link.admits(Kind::Shared) {
            return;
        }
        let now = Instant::now().into_std();
        let sender = &link.peer().name;
        if !self.routing().shares_with(sender) {
            link.conduct().dropped(now, LinkDrop::NotNamed);
            return;
        }
        let Ok(links) = wire::decode::<Vec<SharedLink>>(bytes) else {
            link.offended(LinkDrop::Malformed, Offence::Malformed);
            return;
        };
        self.routing().heard_shared(now, sender, links);
        self.news.notify_one();
        self.route_news.send_replace(());
    }

    /// What the other nodes of the site tell, by member.
    #[must_use]
    pub fn shared_facts(&self) -> Vec<SharedFacts> {
        let now = Instant::now().into_std();
        let percent = |loss: LossRate| loss.fraction() * 100.0;
        let facts = |(figure, used): (Figure, Use)| SharedFacts {
            peer: figure.of,
            by: figure.by,
            age_seconds: now.saturating_duration_since(figure.measured).as_secs_f64(),
            rtt_ms: figure.metrics.rtt.as_secs_f64() * 1e3,
            loss_out_percent: percent(figure.metrics.loss_out),
            loss_in_percent: percent(figure.metrics.loss_in),
            delivered_bps: figure.metrics.delivered.map(Bitrate::bps),
            used: used.name().to_owned(),
        };
        self.routing().database(now).into_iter().map(facts).collect()
    }

    /// Whose figure serves in place of own ones of the link to `peer`, and how old it is, in seconds.
    #[must_use]
    pub fn shared_by(&self, peer: &NodeName) -> Option<(NodeName, u64)> {
        let now = Instant::now().into_std();
        let figure = self.routing().shared(now, peer)?;
        Some((figure.by, now.saturating_duration_since(figure.measured).as_secs()))
    }
}
