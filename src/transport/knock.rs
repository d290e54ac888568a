//! The connection number with which who dials shows what it knows. PURE.
//!
//! QUIC lets the client choose the destination connection number of its first packets, 20 bytes. Here they
//! are no mere chance:
//!
//! | bytes | |
//! |---|---|
//! | 6 | chance |
//! | 7 | of the chance, by the overlay's key: known to members and to who has an invitation |
//! | 7 | of the same, by the invitation's key: known to who has it, and to the authority. Else chance |
//!
//! Nobody else gets an answer, so packets in a third party's name make a node send nothing there unless
//! a member, or who was invited, sends them. It proves no more: who sees such a packet on its way can send it again.

use std::sync::Arc;

use noq_proto::ConnectionId;
use ring::hmac;

use crate::identity::Fingerprint;

/// What separates these uses of the fingerprint and of the token's hash from others.
const OVERLAY: &[u8] = b"ronproxy first packet 1";
const INVITATION: &[u8] = b"ronproxy invited first packet 1";

/// Bytes of chance: two nodes that dial within the same second choose the same ones once in 2⁴⁸ times.
const CHANCE_LEN: usize = 6;

/// Bytes of each proof. One guess needs a packet, so 2⁵⁶ of them are out of reach.
const PROOF_LEN: usize = 7;

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

    fn derived(purpose: &[u8], from: &[u8; 32]) -> Self {
        let key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, purpose), from);
        Self(hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()))
    }

    fn proof(&self, chance: &[u8]) -> [u8; PROOF_LEN] {
        let mut proof = [0; PROOF_LEN];
        proof.copy_from_slice(&hmac::sign(&self.0, chance).as_ref()[..PROOF_LEN]);
        proof
    }
}

/// What a dialler knows.
#[derive(Debug, Clone)]
pub struct Knock {
    /// The overlay's key.
    pub overlay: KnockKey,
    /// Its invitation's, if it is to join.
    pub invitation: Option<KnockKey>,
}

impl Knock {
    /// A connection number for `drawn` by chance.
    #[must_use]
    pub(super) fn number(&self, drawn: Drawn) -> ConnectionId {
        let (chance, filling) = drawn.split_at(CHANCE_LEN);
        let second = self.invitation.as_ref().map(|key| key.proof(chance));
        let second = second.as_ref().map_or(filling, |proof| proof);
        ConnectionId::new(&[chance, &self.overlay.proof(chance), second].concat())
    }
}

/// What a connection number shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// Nothing.
    Nothing,
    /// Its sender knows the overlay.
    Overlay,
    /// It has an open invitation, too.
    Invitation,
}

/// Tells who is at the door, with the key of the overlay. Those of `open` invitations are asked for only if it fits.
#[must_use]
pub fn shown(
    number: &ConnectionId,
    overlay: &KnockKey,
    open: impl FnOnce() -> Arc<[KnockKey]>,
) -> Shown {
    let Some((chance, proofs)) = number.split_at_checked(CHANCE_LEN) else { return Shown::Nothing };
    let Some((first, second)) = proofs.split_at_checked(PROOF_LEN) else { return Shown::Nothing };
    // How long the comparison takes tells a sender little of a proof that is good for one number.
    if first != overlay.proof(chance) {
        return Shown::Nothing;
    }
    match open().iter().any(|key| second == key.proof(chance)) {
        true => Shown::Invitation,
        false => Shown::Overlay,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn overlay(authority: &[u8]) -> KnockKey {
        KnockKey::of_overlay(&Fingerprint::of(authority))
    }

    #[test]
    fn a_number_shows_the_overlay_and_an_open_invitation() {
        let (ours, theirs) = (overlay(b"a"), overlay(b"b"));
        let (open, other) = (KnockKey::of_invitation(&[1; 32]), KnockKey::of_invitation(&[2; 32]));
        let both: Arc<[_]> = [open.clone(), other.clone()].into();
        let member = Knock { overlay: ours.clone(), invitation: None };
        let joiner = Knock { overlay: ours.clone(), invitation: Some(open) };
        let (member, joiner) = (member.number([7; 13]), joiner.number([7; 13]));
        assert_eq!((member.len(), joiner.len()), (20, 20));
        assert_eq!(shown(&member, &ours, || both.clone()), Shown::Overlay);
        assert_eq!(shown(&joiner, &ours, || both.clone()), Shown::Invitation);
        // The invitation was used.
        assert_eq!(shown(&joiner, &ours, || [other].into()), Shown::Overlay);
        for number in [member, joiner] {
            assert_eq!(shown(&number, &theirs, || both.clone()), Shown::Nothing);
        }
    }

    #[test]
    fn a_number_has_these_bytes() {
        let invitation = KnockKey::of_invitation(&[1; 32]);
        let knock = Knock { overlay: overlay(b"a"), invitation: Some(invitation) };
        let (first, second) = ([91, 93, 164, 253, 25, 27, 6], [229, 75, 3, 167, 198, 211, 180]);
        assert_eq!(*knock.number([7; 13]), [&[7; 6][..], &first, &second].concat());
        let knock = Knock { invitation: None, ..knock };
        assert_eq!(*knock.number([7; 13]), [&[7; 6][..], &first, &[7; 7]].concat());
    }

    proptest! {
        #[test]
        fn no_other_number_shows_anything(bytes in prop::collection::vec(any::<u8>(), 0..=20)) {
            let number = ConnectionId::new(&bytes);
            prop_assert_eq!(shown(&number, &overlay(b"a"), Arc::default), Shown::Nothing);
        }
    }
}
