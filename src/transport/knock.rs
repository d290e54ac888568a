//! The connection ID by which a dialling node shows that it knows the overlay. PURE.
//!
//! QUIC lets the client choose the destination connection ID of its first packets. Here it has 20 bytes,
//! and only some of them are random:
//!
//! | bytes | |
//! |---|---|
//! | 6 | random |
//! | 7 | a MAC of the random bytes by the overlay's key, which members and invited persons know |
//! | 7 | from a member: the first byte of its public key, masked, and 6 bytes of a MAC by the key that it shares with the dialled node |
//! | | from a joiner: 7 bytes of a MAC by the invitation's key, which the authority knows too |
//! | | otherwise random |
//!
//! A node answers no other first packet. So a stranger cannot make it send packets to a third party by forging that
//! party's address. A member or an invited person can, and the node knows which member it is. The ID does
//! not prove who sent the packet: anyone who sees it on its way can send it again.

use std::sync::Arc;

use noq_proto::ConnectionId;
use ring::hmac;

use crate::identity::{Fingerprint, NodeName, StatementKey};

/// These separate this use of the fingerprint, of the token's hash and of two members' secret from other uses.
const OVERLAY: &[u8] = b"ronproxy first packet 1";
const INVITATION: &[u8] = b"ronproxy invited first packet 1";
const MEMBERS: &[u8] = b"ronproxy member's first packet 1";

/// Bytes of chance: two nodes that dial within the same second choose the same ones once in 2⁴⁸ times.
const CHANCE_LEN: usize = 6;

/// Bytes of each proof; of a member's, one less. One guess needs a packet, so 2⁴⁸ of them are out of reach.
const PROOF_LEN: usize = 7;
const MEMBER_PROOF_LEN: usize = PROOF_LEN - 1;

/// The bytes of chance and, if it were there, of the second proof.
pub(super) type Drawn = [u8; CHANCE_LEN + PROOF_LEN];

/// A key of proofs.
#[derive(Debug, Clone)]
pub struct KnockKey(hmac::Key);

impl KnockKey {
    /// That of the overlay with this authority.
    #[must_use]
    pub fn of_overlay(authority: &Fingerprint) -> Self {
        Self::derived(OVERLAY, authority.bytes())
    }

    /// That of the invitation whose token has this SHA-256.
    #[must_use]
    pub fn of_invitation(token: &[u8; 32]) -> Self {
        Self::derived(INVITATION, token)
    }

    /// That of the two members that share this secret.
    #[must_use]
    pub fn of_members(secret: &[u8; 32]) -> Self {
        Self::derived(MEMBERS, secret)
    }

    fn derived(purpose: &[u8], from: &[u8; 32]) -> Self {
        let key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, purpose), from);
        Self(hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()))
    }

    /// A proof, and the byte behind it.
    fn proof(&self, chance: &[u8]) -> ([u8; PROOF_LEN], u8) {
        let tag = hmac::sign(&self.0, chance);
        let mut proof = [0; PROOF_LEN];
        proof.copy_from_slice(&tag.as_ref()[..PROOF_LEN]);
        (proof, tag.as_ref()[PROOF_LEN])
    }
}

/// What a dialler shows.
#[derive(Debug, Clone)]
pub struct Knock {
    overlay: KnockKey,
    second: Second,
}

#[derive(Debug, Clone)]
enum Second {
    Nothing,
    Invitation(KnockKey),
    Member { sender: u8, key: KnockKey },
}

impl Knock {
    /// That it knows the overlay.
    #[must_use]
    pub fn new(overlay: KnockKey) -> Self {
        Self { overlay, second: Second::Nothing }
    }

    /// That it has this invitation, too.
    #[must_use]
    pub fn invited(self, invitation: KnockKey) -> Self {
        Self { second: Second::Invitation(invitation), ..self }
    }

    /// That it is the member of the public key `own`; `shared` with the node that it dials.
    #[must_use]
    pub fn member(self, own: &StatementKey, shared: KnockKey) -> Self {
        Self { second: Second::Member { sender: sender(own), key: shared }, ..self }
    }

    /// A connection ID from these random bytes.
    #[must_use]
    pub(super) fn number(&self, drawn: Drawn) -> ConnectionId {
        let (chance, filling) = drawn.split_at(CHANCE_LEN);
        let (first, mask) = self.overlay.proof(chance);
        let mut second = [0; PROOF_LEN];
        second.copy_from_slice(filling);
        match &self.second {
            Second::Nothing => {}
            Second::Invitation(key) => second = key.proof(chance).0,
            Second::Member { sender, key } => {
                second[0] = sender ^ mask;
                second[1..].copy_from_slice(&key.proof(chance).0[..MEMBER_PROOF_LEN]);
            }
        }
        ConnectionId::new(&[chance, &first, &second].concat())
    }
}

/// The byte by which a node finds out which members a number may be of.
#[must_use]
pub fn sender(key: &StatementKey) -> u8 {
    key.bytes()[0]
}

/// A connection ID claims to be of a member whose public key begins with this byte.
#[derive(Debug)]
pub struct Claim<'a> {
    /// The byte.
    pub sender: u8,
    chance: &'a [u8],
    proof: &'a [u8],
}

impl Claim<'_> {
    /// Whether it is of the member with which this key is shared.
    #[must_use]
    pub fn is_by(&self, shared: &KnockKey) -> bool {
        self.proof == &shared.proof(self.chance).0[..MEMBER_PROOF_LEN]
    }
}

/// What a connection ID shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// Nothing.
    Nothing,
    /// Its sender knows the overlay.
    Overlay,
    /// It has an open invitation, too.
    Invitation,
    /// It is this member.
    Member(NodeName),
}

/// Says whose first packet it is, by the key of the overlay. `member` names the member of a claim. The keys of
/// `open` invitations are needed only if it is no member's.
#[must_use]
pub fn shown(
    number: &ConnectionId,
    overlay: &KnockKey,
    member: impl FnOnce(&Claim<'_>) -> Option<NodeName>,
    open: impl FnOnce() -> Arc<[KnockKey]>,
) -> Shown {
    let Some((chance, proofs)) = number.split_at_checked(CHANCE_LEN) else { return Shown::Nothing };
    let Some((first, second)) = proofs.split_at_checked(PROOF_LEN) else { return Shown::Nothing };
    let (known, mask) = overlay.proof(chance);
    // The time of the comparison tells a sender little, because a proof is valid for one connection ID.
    if first != known {
        return Shown::Nothing;
    }
    let Some((claimed, proof)) = second.split_first() else { return Shown::Overlay };
    if let Some(name) = member(&Claim { sender: claimed ^ mask, chance, proof }) {
        return Shown::Member(name);
    }
    match open().iter().any(|key| second == key.proof(chance).0) {
        true => Shown::Invitation,
        false => Shown::Overlay,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustls::pki_types::CertificateDer;

    use super::*;
    use crate::identity::test_support::{NOW, Overlay};

    fn overlay(authority: &[u8]) -> KnockKey {
        KnockKey::of_overlay(&Fingerprint::of(authority))
    }

    fn nobody(_: &Claim<'_>) -> Option<NodeName> {
        None
    }

    fn key_of(name: &str) -> StatementKey {
        let certificate: CertificateDer<'_> = Overlay::new().node(name, NOW).chain()[0].clone();
        StatementKey::of(&certificate).unwrap()
    }

    #[test]
    fn a_number_shows_the_overlay_and_an_open_invitation() {
        let (ours, theirs) = (overlay(b"a"), overlay(b"b"));
        let (open, other) = (KnockKey::of_invitation(&[1; 32]), KnockKey::of_invitation(&[2; 32]));
        let both: Arc<[_]> = [open.clone(), other.clone()].into();
        let knower = Knock::new(ours.clone()).number([7; 13]);
        let joiner = Knock::new(ours.clone()).invited(open).number([7; 13]);
        assert_eq!((knower.len(), joiner.len()), (20, 20));
        assert_eq!(shown(&knower, &ours, nobody, || both.clone()), Shown::Overlay);
        assert_eq!(shown(&joiner, &ours, nobody, || both.clone()), Shown::Invitation);
        // The invitation was used.
        assert_eq!(shown(&joiner, &ours, nobody, || [other].into()), Shown::Overlay);
        for number in [knower, joiner] {
            assert_eq!(shown(&number, &theirs, nobody, || both.clone()), Shown::Nothing);
        }
    }

    #[test]
    fn a_number_shows_which_member_it_is_of() {
        let ours = overlay(b"a");
        let (utah, name) = (key_of("utah"), "utah".parse::<NodeName>().unwrap());
        let [shared, other] = [1, 2].map(|secret| KnockKey::of_members(&[secret; 32]));
        let number = Knock::new(ours.clone()).member(&utah, shared.clone()).number([7; 13]);
        let with = |key: &KnockKey| {
            let member = |claim: &Claim<'_>| {
                assert_eq!(claim.sender, utah.bytes()[0]);
                claim.is_by(key).then(|| name.clone())
            };
            shown(&number, &ours, member, Arc::default)
        };
        assert_eq!(with(&shared), Shown::Member(name.clone()));
        assert_eq!(with(&other), Shown::Overlay);
        assert_eq!(shown(&number, &overlay(b"b"), nobody, Arc::default), Shown::Nothing);
    }

    #[test]
    fn a_number_has_these_bytes() {
        let knock = Knock::new(overlay(b"a"));
        let (first, second) = ([91, 93, 164, 253, 25, 27, 6], [229, 75, 3, 167, 198, 211, 180]);
        assert_eq!(*knock.number([7; 13]), [&[7; 6][..], &first, &[7; 7]].concat());
        let knock = knock.invited(KnockKey::of_invitation(&[1; 32]));
        assert_eq!(*knock.number([7; 13]), [&[7; 6][..], &first, &second].concat());
    }

    proptest! {
        #[test]
        fn no_other_number_shows_anything(bytes in prop::collection::vec(any::<u8>(), 0..=20)) {
            let number = ConnectionId::new(&bytes);
            prop_assert_eq!(shown(&number, &overlay(b"a"), nobody, Arc::default), Shown::Nothing);
        }
    }
}
