//! The advertisement, in the compact form in which it travels.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    MAX_ADDRESSES, MAX_LINKS, MAX_PATTERN, MAX_SERVES, MAX_SIGNATURE, MAX_VERSION, RefuseReason,
};
use crate::{
    identity::NodeName,
    overlay::{
        loss::EXCHANGES,
        metrics::PathMetrics,
        monitor::{LinkState, LinkSummary},
        units::{Bitrate, LossRate, saturating_u64},
    },
};

/// Which of two advertisements of one origin is newer: compared by certificate, incarnation, sequence.
///
/// The certificate comes first, so the next holder of a name is newer than the previous one,
/// whatever numbers that one used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// The start of the certificate under which it was made, in seconds since 1970. The receiver
    /// compares it with the certificate.
    pub issued: u64,
    /// Grows with each start of the node, from the wall clock or a counter on disk. If it does not
    /// grow, [`super::Originator::outbid`] corrects it.
    pub incarnation: u64,
    /// Grows with each advertisement of one incarnation.
    pub sequence: u64,
}

/// What a node does for others, as a set of bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Roles(u8);

impl Roles {
    /// No role: an entry only.
    pub const NONE: Self = Self(0);
    /// Forwards labelled packets for others.
    pub const RELAY: Self = Self(1);
    /// Opens real connections.
    pub const EXIT: Self = Self(2);

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is in this set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A node's message about itself to all others. About 12 bytes per link in postcard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advertisement {
    /// The node it is about, which made it.
    pub origin: NodeName,
    /// Which of the origin's advertisements it is.
    pub version: Version,
    /// How long it holds after it was made, in seconds.
    pub lifetime_s: u16,
    /// What the node does for others.
    pub roles: Roles,
    /// Where it can be dialled; at most 8.
    pub addresses: Vec<SocketAddr>,
    /// The domains and CIDRs it serves as an exit, as patterns; at most 64 of 253 bytes.
    pub serves: Vec<String>,
    /// Its links; at most 256, each peer once.
    pub links: Vec<LinkReport>,
}

/// An advertisement on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flood {
    /// How long ago it was made, in seconds, as far as the sender knows.
    pub age_s: u16,
    /// The origin's signature of the advertisement; at most 80 bytes. The shell, which has the
    /// keys, checks it.
    pub signature: Vec<u8>,
    /// The advertisement, as its origin made it.
    pub advert: Advertisement,
}

impl Flood {
    /// An advertisement that was just made and signed.
    #[must_use]
    pub fn new(advert: Advertisement, signature: Vec<u8>) -> Self {
        Self { age_s: 0, signature, advert }
    }

    /// Checks the caps.
    ///
    /// # Errors
    /// The first rule that it or its advertisement breaks.
    pub fn check(&self) -> Result<(), RefuseReason> {
        if self.signature.len() > MAX_SIGNATURE {
            return Err(RefuseReason::SignatureTooLong);
        }
        self.advert.check()
    }
}

/// One link in an advertisement, quantised: about 7 bytes and the peer's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkReport {
    /// The other end.
    pub peer: NodeName,
    /// Whether it can be used.
    pub state: ReportedState,
    /// The round-trip time in tenths of a millisecond; 0 means unknown, 65,535 that or more (6.5 s).
    rtt_tenths: u16,
    /// The loss from the origin to the peer, in half percents, 0 to 200.
    out_halves: u8,
    /// The loss from the peer to the origin, in half percents, 0 to 200.
    in_halves: u8,
    /// The delivered rate: 0 means unknown, else 1 + 8·log2(rate in kbit/s), steps of 9 %.
    rate_code: u8,
}

/// The state of a link as the other nodes need to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReportedState {
    /// Never measured.
    Unmeasured,
    /// Up.
    Up,
    /// Down, or recovering and not yet proven.
    Down,
}

/// Steps of the delivered rate per doubling: 9 % each, less than the rate varies.
const RATE_STEPS: f64 = 8.0;

impl LinkReport {
    /// The report of the link to `peer`.
    #[must_use]
    pub fn new(peer: NodeName, link: &LinkSummary) -> Self {
        let state = match link.state {
            LinkState::Unmeasured => ReportedState::Unmeasured,
            LinkState::Up => ReportedState::Up,
            LinkState::Down | LinkState::Recovering { .. } => ReportedState::Down,
        };
        Self {
            peer,
            state,
            rtt_tenths: link.rtt.map_or(0, |rtt| {
                let tenths = (rtt.as_micros() + 50) / 100;
                u16::try_from(tenths.max(1)).unwrap_or(u16::MAX)
            }),
            out_halves: halves(link.loss_out),
            in_halves: halves(link.loss_in),
            rate_code: link.delivered.map_or(0, rate_code),
        }
    }

    /// The link as a path, seen from the origin: `out` is from the origin to the peer. `None` while
    /// it is unmeasured.
    #[must_use]
    pub fn metrics(&self) -> Option<PathMetrics> {
        (self.rtt_tenths > 0).then(|| PathMetrics {
            rtt: Duration::from_micros(u64::from(self.rtt_tenths) * 100),
            loss_out: LossRate::new(f64::from(self.out_halves) / 200.0),
            loss_in: LossRate::new(f64::from(self.in_halves) / 200.0),
            // An advertisement does not tell. A young link's loss is taken for surer than it is.
            exchanges: EXCHANGES,
            delivered: rate_of_code(self.rate_code),
        })
    }

    /// Whether the figures moved so much since `old` that a route may depend on it: by a twentieth and
    /// 2 ms of round-trip time, or by 5 points of loss. Both are beyond the hysteresis of routes, so
    /// the next regular advertisement would come late.
    #[must_use]
    pub(crate) fn moved_since(&self, old: &Self) -> bool {
        let rtt = self.rtt_tenths.abs_diff(old.rtt_tenths);
        let out = self.out_halves.abs_diff(old.out_halves);
        let back = self.in_halves.abs_diff(old.in_halves);
        (rtt > old.rtt_tenths / 20 && rtt > 20) || out.max(back) >= 10
    }
}

fn halves(loss: Option<LossRate>) -> u8 {
    let ppm = loss.unwrap_or_default().ppm();
    u8::try_from((ppm + 2500) / 5000).unwrap_or(200)
}

fn rate_code(rate: Bitrate) -> u8 {
    let kbps = (rate.bps() as f64 / 1000.0).max(1.0);
    u8::try_from(saturating_u64((RATE_STEPS * kbps.log2()).round()) + 1).unwrap_or(u8::MAX)
}

fn rate_of_code(code: u8) -> Option<Bitrate> {
    let steps = f64::from(code.checked_sub(1)?);
    Some(Bitrate::from_bps(saturating_u64(1000.0 * (steps / RATE_STEPS).exp2())))
}

impl Advertisement {
    /// The report of the link to `peer`, if there is one.
    #[must_use]
    pub fn link(&self, peer: &NodeName) -> Option<&LinkReport> {
        self.links.iter().find(|link| link.peer == *peer)
    }

    /// Whether the origin says that its link to `peer` is up.
    #[must_use]
    pub fn reaches(&self, peer: &NodeName) -> bool {
        self.link(peer).is_some_and(|link| link.state == ReportedState::Up)
    }

    /// How long it holds after it was made.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        Duration::from_secs(u64::from(self.lifetime_s))
    }

    /// Checks the caps, and that it names no peer twice and not its own origin.
    ///
    /// # Errors
    /// The first rule it breaks.
    pub fn check(&self) -> Result<(), RefuseReason> {
        let Version { incarnation, sequence, .. } = self.version;
        if incarnation.max(sequence) > MAX_VERSION {
            return Err(RefuseReason::VersionOutOfRange);
        }
        if self.addresses.len() > MAX_ADDRESSES {
            return Err(RefuseReason::TooManyAddresses);
        }
        if self.links.len() > MAX_LINKS {
            return Err(RefuseReason::TooManyLinks);
        }
        if self.serves.len() > MAX_SERVES || self.serves.iter().any(|p| p.len() > MAX_PATTERN) {
            return Err(RefuseReason::TooMuchServed);
        }
        let peers: BTreeSet<_> = self.links.iter().map(|link| &link.peer).collect();
        if peers.len() < self.links.len() || peers.contains(&self.origin) {
            return Err(RefuseReason::BadLinks);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;

    fn summary(rtt: Duration, out: f64, back: f64, rate: Option<Bitrate>) -> LinkSummary {
        LinkSummary {
            state: LinkState::Up,
            rtt: Some(rtt),
            loss_out: Some(LossRate::new(out)),
            loss_in: Some(LossRate::new(back)),
            delivered: rate,
            ..LinkSummary::unmeasured(Instant::now())
        }
    }

    #[test]
    fn the_bytes_of_an_advertisement_are_fixed() {
        let rate = Some(Bitrate::from_kbps(1024));
        let link = summary(Duration::from_millis(60), 0.02, 1.0, rate);
        let advert = Advertisement {
            origin: "mit".parse().unwrap(),
            version: Version { issued: 1000, incarnation: 300, sequence: 7 },
            lifetime_s: 60,
            roles: Roles::RELAY.with(Roles::EXIT),
            addresses: vec![([192, 0, 2, 7], 4600).into()],
            serves: vec!["a.b".to_owned()],
            links: vec![LinkReport::new("utah".parse().unwrap(), &link)],
        };
        let bytes = [
            0x05, // age
            0x02, 0xaa, 0xbb, // signature
            0x03, b'm', b'i', b't', // origin
            0xe8, 0x07, 0xac, 0x02, 0x07, // certificate, incarnation, sequence
            0x3c, 0x03, // lifetime, roles
            0x01, 0x00, 192, 0, 2, 7, 0xf8, 0x23, // one address: 192.0.2.7:4600
            0x01, 0x03, b'a', b'.', b'b', // serves
            0x01, 0x04, b'u', b't', b'a', b'h', 0x01, // one link: peer, up
            0xd8, 0x04, // 600 tenths of a millisecond
            0x04, 0xc8, 0x51, // 2 %, 100 %, 2^10 kbit/s
        ];
        let flood = Flood { age_s: 5, signature: vec![0xaa, 0xbb], advert };
        assert_eq!(postcard::to_stdvec(&flood).unwrap(), bytes);
        assert_eq!(postcard::from_bytes::<Flood>(&bytes).unwrap(), flood);
    }

    #[test]
    fn the_extremes_are_quantised_without_wrapping() {
        let far = LinkReport::new(
            "a".parse().unwrap(),
            &summary(Duration::from_secs(100), 1.0, 0.0, Some(Bitrate::from_bps(u64::MAX))),
        );
        assert_eq!(far.metrics().unwrap().rtt, Duration::from_micros(6_553_500));
        let near = summary(Duration::ZERO, 0.0, 0.0, Some(Bitrate::from_bps(0)));
        let near = LinkReport::new("a".parse().unwrap(), &near).metrics().unwrap();
        assert_eq!(near.rtt, Duration::from_micros(100), "zero is taken for unknown");
        assert_eq!(near.delivered, Some(Bitrate::from_kbps(1)));
        let nothing = LinkSummary::unmeasured(Instant::now());
        assert_eq!(LinkReport::new("a".parse().unwrap(), &nothing).metrics(), None);
    }

    proptest! {
        #[test]
        fn a_report_is_within_half_a_step_of_the_truth(
            rtt_us in 100u64..6_000_000, out in 0.0f64..1.0, kbps in 1u64..100_000_000
        ) {
            let rate = Bitrate::from_kbps(kbps);
            let link = summary(Duration::from_micros(rtt_us), out, 0.0, Some(rate));
            let read = LinkReport::new("a".parse().unwrap(), &link).metrics().unwrap();
            prop_assert!(read.rtt.abs_diff(Duration::from_micros(rtt_us)) <= Duration::from_micros(50));
            prop_assert!((read.loss_out.fraction() - out).abs() <= 0.00251);
            let ratio = read.delivered.unwrap().bps() as f64 / rate.bps() as f64;
            prop_assert!((0.95..=1.05).contains(&ratio), "{}", ratio);
        }

        #[test]
        fn any_bytes_are_an_advertisement_or_an_error(
            bytes in prop::collection::vec(any::<u8>(), 0..200)
        ) {
            if let Ok(flood) = postcard::from_bytes::<Flood>(&bytes) {
                let _ = flood.check();
                flood.advert.links.iter().for_each(|link| { let _ = link.metrics(); });
            }
        }
    }
}
