//! The certificates that the authority issued lately, by key. Pure.
//!
//! Who asks again soon gets the same certificate, as from the authority, and the signer is not asked.
//! Signing requests can be copied, so no budget is kept by key: a copy would use up its owner's.

use std::{collections::BTreeMap, time::Duration};

use rustls::pki_types::CertificateDer;

use crate::identity::{Fingerprint, Peer, UnixTime};

/// How long a certificate is kept: this part of its lifetime, which is much shorter than the time after
/// which the authority issues another one (a sixth).
const KEPT: u32 = 100;

/// The longest that one is kept. 256 members that ask all the time then cause four questions a second.
const LONGEST: Duration = Duration::from_secs(60);

/// Certificates kept: those of the members of the largest overlay.
const MAX_KEPT: usize = 256;

/// A certificate, and the authority's.
pub(super) type Chain = Vec<CertificateDer<'static>>;

#[derive(Debug, Default)]
pub(super) struct Recent(BTreeMap<Fingerprint, Issued>);

#[derive(Debug)]
struct Issued {
    at: UnixTime,
    peer: Peer,
    chain: Chain,
}

impl Recent {
    /// The certificate that the authority issued lately for `key`, if `may` its holder have it still.
    pub(super) fn get(
        &self,
        key: Fingerprint,
        now: UnixTime,
        may: impl FnOnce(&Peer) -> bool,
    ) -> Option<Chain> {
        let issued = self.0.get(&key).filter(|issued| may(&issued.peer))?;
        let kept = (issued.peer.lifetime() / KEPT).min(LONGEST);
        // A clock may be set back.
        let age = now.as_secs().abs_diff(issued.at.as_secs());
        (age < kept.as_secs()).then(|| issued.chain.clone())
    }

    /// The authority has just issued this certificate.
    pub(super) fn put(&mut self, chain: &Chain, now: UnixTime) {
        let Some(peer) = chain.first().and_then(|own| Peer::from_certificate(own).ok()) else {
            return;
        };
        if self.0.len() >= MAX_KEPT && !self.0.contains_key(&peer.key) {
            let oldest = self.0.iter().min_by_key(|(_, issued)| issued.at.as_secs());
            oldest.map(|(key, _)| *key).and_then(|key| self.0.remove(&key));
        }
        self.0.insert(peer.key, Issued { at: now, peer, chain: chain.clone() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::test_support::{NOW, Overlay, after};

    #[test]
    fn a_certificate_is_kept_for_a_minute_and_never_for_a_revoked_node() {
        let (overlay, mut recent) = (Overlay::new(), Recent::default());
        let node = overlay.node("utah", NOW);
        recent.put(&node.chain().to_vec(), NOW);
        let get = |seconds, may| recent.get(node.peer().key, after(seconds), |_| may);
        assert_eq!(get(59, true).unwrap(), node.chain());
        assert_eq!(get(60, true), None);
        assert_eq!(get(1, false), None);
    }

    #[test]
    fn the_oldest_of_256_certificates_makes_room() {
        let (overlay, mut recent) = (Overlay::new(), Recent::default());
        let nodes: Vec<_> = (0..=MAX_KEPT).map(|n| overlay.node(&format!("n{n}"), NOW)).collect();
        for (second, node) in nodes.iter().enumerate() {
            // Twice: its own place is enough.
            for _ in 0..2 {
                recent.put(&node.chain().to_vec(), after(second as u64 / 32));
            }
            assert!(recent.0.len() <= MAX_KEPT);
        }
        let kept = |node: &crate::identity::NodeIdentity| recent.0.contains_key(&node.peer().key);
        assert_eq!(nodes[..32].iter().filter(|node| !kept(node)).count(), 1);
        assert!(nodes[32..].iter().all(kept));
    }
}
