//! When this node advertises itself.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Advertisement, LinkReport, MAX_ADDRESSES, MAX_LINKS, MAX_VERSION, Roles, Version};
use crate::{
    identity::NodeName,
    overlay::budget::{ADVERT_BOUNDS, LEAST_SPACING},
};

/// How long an advertisement holds, in the longest regular intervals: three may be lost before a node is
/// forgotten.
const LIFETIME_INTERVALS: u32 = 4;

/// Why an advertisement is made; also the metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trigger {
    /// The regular interval is over.
    Interval,
    /// A link's figures changed by more than the hysteresis of routes.
    Moved,
    /// A link went up or down, a role changed, or the number of another incarnation had to be
    /// exceeded.
    Changed,
}

/// Decides when to advertise, and numbers the advertisements.
#[derive(Debug, Clone)]
pub struct Originator {
    origin: NodeName,
    version: Version,
    interval: Duration,
    /// The least time between two that only report moved figures.
    spacing: Duration,
    last: Option<Instant>,
    last_links: Vec<LinkReport>,
    pending: Option<Trigger>,
}

impl Originator {
    /// An originator that advertises at once.
    ///
    /// `incarnation` should be larger than at the last start. If it is not, [`Self::outbid`]
    /// corrects it.
    #[must_use]
    pub fn new(origin: NodeName, incarnation: u64) -> Self {
        Self {
            origin,
            version: Version { issued: 0, incarnation: incarnation.min(MAX_VERSION), sequence: 0 },
            interval: ADVERT_BOUNDS.0,
            spacing: LEAST_SPACING,
            last: None,
            last_links: Vec::new(),
            pending: None,
        }
    }

    /// Sets the regular interval, clamped to 14 s..60 s, and the least time between two that only report
    /// moved figures; both from [`crate::overlay::budget::plan`].
    pub fn set_pace(&mut self, interval: Duration, spacing: Duration) {
        self.interval = interval.clamp(ADVERT_BOUNDS.0, ADVERT_BOUNDS.1);
        self.spacing = spacing.clamp(LEAST_SPACING, self.interval);
    }

    /// From now on it advertises under the certificate that begins at `issued` seconds since 1970.
    pub fn certified(&mut self, issued: u64) {
        if self.version.issued != issued {
            self.version.issued = issued;
            self.changed();
        }
    }

    /// A link went up or down, or an address or role changed: the next advertisement is due.
    pub fn changed(&mut self) {
        self.pending = Some(Trigger::Changed);
    }

    /// The figures of the links are now these: an advertisement is due if they moved much.
    pub fn measured(&mut self, links: &[LinkReport]) {
        let moved = |link: &LinkReport| {
            let old = self.last_links.iter().find(|old| old.peer == link.peer);
            old.is_some_and(|old| link.moved_since(old))
        };
        if links.iter().any(moved) {
            self.pending = self.pending.max(Some(Trigger::Moved));
        }
    }

    /// Another node holds `seen` in this node's name ([`super::Install::Own`]): continue above it.
    ///
    /// So others accept a node with a smaller incarnation, whose clock was set back or whose disk
    /// was lost, after one round trip.
    pub fn outbid(&mut self, seen: Version) {
        // An advertisement under another certificate of this name is older, or cannot be exceeded.
        let comparable = seen.issued == self.version.issued && seen.incarnation <= MAX_VERSION;
        if seen <= self.version || !comparable {
            return;
        }
        let incarnation = seen.incarnation.saturating_add(1).min(MAX_VERSION);
        self.version = Version { incarnation, sequence: 0, ..self.version };
        if incarnation == seen.incarnation {
            self.version.sequence = seen.sequence;
        }
        self.changed();
    }

    /// When [`Self::poll`] has an advertisement.
    #[must_use]
    pub fn poll_timeout(&self, now: Instant) -> Instant {
        let Some(last) = self.last else { return now };
        last + match self.pending {
            // A link that goes down or up is told at once when nothing was sent lately; a flapping one, or
            // many at a time, are told once a second, so that a storm costs at most 14 times the regular
            // rate.
            Some(Trigger::Changed) => LEAST_SPACING,
            Some(Trigger::Moved) => self.spacing,
            Some(Trigger::Interval) | None => self.interval,
        }
    }

    /// The advertisement that is due at `now`, if one is, to be sent to every neighbour that is up.
    ///
    /// It contains the first 256 links and the first 8 addresses.
    pub fn poll(
        &mut self,
        now: Instant,
        roles: Roles,
        addresses: &[SocketAddr],
        serves: &[String],
        mut links: Vec<LinkReport>,
    ) -> Option<(Advertisement, Trigger)> {
        if now < self.poll_timeout(now) {
            return None;
        }
        links.truncate(MAX_LINKS);
        let trigger = self.pending.take().unwrap_or(Trigger::Interval);
        self.version.sequence = (self.version.sequence + 1).min(MAX_VERSION);
        self.last = Some(now);
        self.last_links.clone_from(&links);
        let lifetime = (ADVERT_BOUNDS.1 * LIFETIME_INTERVALS).as_secs();
        let advert = Advertisement {
            origin: self.origin.clone(),
            version: self.version,
            lifetime_s: u16::try_from(lifetime).unwrap_or(u16::MAX),
            roles,
            addresses: addresses.iter().copied().take(MAX_ADDRESSES).collect(),
            serves: serves.to_vec(),
            links,
        };
        Some((advert, trigger))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::{
        budget::DEFAULT_BUDGET,
        linkstate::{Flood, Install, LinkStateDb},
        monitor::{LinkState, LinkSummary},
        units::LossRate,
    };

    fn links(rtt_ms: u64, loss: u32) -> Vec<LinkReport> {
        let summary = LinkSummary {
            state: LinkState::Up,
            rtt: Some(Duration::from_millis(rtt_ms)),
            loss_out: Some(LossRate::from_percent(loss)),
            ..LinkSummary::unmeasured(Instant::now())
        };
        vec![LinkReport::new("b".parse().unwrap(), &summary)]
    }

    fn poll(originator: &mut Originator, now: Instant) -> Option<(u64, Trigger)> {
        let (advert, trigger) = originator.poll(now, Roles::NONE, &[], &[], links(60, 0))?;
        Some((advert.version.sequence, trigger))
    }

    #[test]
    fn advertisements_go_out_at_once_at_intervals_and_on_changes() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut originator = Originator::new("a".parse().unwrap(), 1);
        assert_eq!(poll(&mut originator, start), Some((1, Trigger::Interval)));
        assert_eq!(poll(&mut originator, at(13_999)), None);
        assert_eq!(poll(&mut originator, at(14_000)), Some((2, Trigger::Interval)));
        originator.changed();
        assert_eq!(poll(&mut originator, at(14_100)), None);
        assert_eq!(poll(&mut originator, at(15_000)), Some((3, Trigger::Changed)));
        originator.measured(&links(90, 0));
        originator.changed();
        originator.measured(&links(90, 0));
        assert_eq!(poll(&mut originator, at(16_000)), Some((4, Trigger::Changed)));
    }

    #[test]
    fn only_figures_that_moved_much_are_told_before_the_interval() {
        let start = Instant::now();
        for (figures, due) in
            [(links(62, 4), 14), (links(61, 0), 14), (links(64, 0), 1), (links(60, 5), 1)]
        {
            let mut originator = Originator::new("a".parse().unwrap(), 1);
            poll(&mut originator, start);
            originator.measured(&figures);
            assert_eq!(originator.poll_timeout(start) - start, Duration::from_secs(due));
        }
    }

    #[test]
    fn fifty_nodes_send_less_than_rons_33_kilobits_per_second() {
        let links = (0..49).map(|n| {
            let summary = LinkSummary {
                state: LinkState::Up,
                rtt: Some(Duration::from_millis(20 + 5 * n)),
                ..LinkSummary::unmeasured(Instant::now())
            };
            LinkReport::new(format!("site-{n:02}").parse().unwrap(), &summary)
        });
        let mut originator = Originator::new("site-49".parse().unwrap(), 1_700_000_000);
        let serves = ["example.edu".to_owned()];
        let (advert, _) =
            originator.poll(Instant::now(), Roles::RELAY, &[], &serves, links.collect()).unwrap();
        let bytes = postcard::to_stdvec(&Flood::new(advert, Vec::new())).unwrap().len();
        assert!(bytes < 49 * 15 + 40, "{bytes}");
        let plan = crate::overlay::budget::plan(DEFAULT_BUDGET, 49, 0, bytes, (0, 0));
        assert!(plan.probes.bps() + plan.adverts.bps() < 33_000, "{plan:?}");
        assert!(!plan.over_budget);
    }

    #[test]
    fn a_node_whose_incarnation_went_back_is_heard_again_after_one_answer() {
        let now = Instant::now();
        let mut others = LinkStateDb::new("b".parse().unwrap());
        let mut before = Originator::new("a".parse().unwrap(), 1_000);
        let (advert, _) = before.poll(now, Roles::NONE, &[], &[], links(60, 0)).unwrap();
        others.install(now, Flood::new(advert.clone(), Vec::new()));

        let mut after = Originator::new("a".parse().unwrap(), 5);
        let (low, _) = after.poll(now, Roles::NONE, &[], &[], links(60, 0)).unwrap();
        assert_eq!(others.install(now, Flood::new(low, Vec::new())), Install::Stale);
        let held = others.get(&"a".parse().unwrap(), now).unwrap();
        after.outbid(held.version);
        let later = now + LEAST_SPACING;
        let (high, _) = after.poll(later, Roles::NONE, &[], &[], links(60, 0)).unwrap();
        assert_eq!(others.install(later, Flood::new(high, Vec::new())), Install::Installed);
    }

    #[test]
    fn a_version_under_another_certificate_is_not_outbid() {
        let mut originator = Originator::new("a".parse().unwrap(), 7);
        originator.certified(1000);
        for issued in [999, 1001] {
            originator.outbid(Version { issued, incarnation: MAX_VERSION, sequence: 10 });
        }
        let (advert, _) = originator.poll(Instant::now(), Roles::NONE, &[], &[], vec![]).unwrap();
        assert_eq!(advert.version, Version { issued: 1000, incarnation: 7, sequence: 1 });
    }

    #[test]
    fn even_the_largest_version_can_be_outbid_by_its_sequence() {
        let mut originator = Originator::new("a".parse().unwrap(), 0);
        let seen = Version { issued: 0, incarnation: MAX_VERSION, sequence: 10 };
        originator.outbid(seen);
        let (advert, _) = originator.poll(Instant::now(), Roles::NONE, &[], &[], vec![]).unwrap();
        assert!(advert.version > seen);
    }
}
