//! What two members know and nobody else, without a message between them: X25519 (RFC 7748) with the keys of
//! their certificates.
//!
//! An Ed25519 key is a point of the same curve in another form, so it serves for both. The use of one key pair
//! for both is analysed by Thormarker, "On using the same key pair for Ed25519 and an X25519 based KEM"
//! (IACR ePrint 2021/509). The secret is an input of a keyed hash, and never a key by itself.

use ed25519_dalek::{SigningKey, VerifyingKey};
use rustls::pki_types::PrivatePkcs8KeyDer;

use super::StatementKey;

/// Where the 32 bytes of an Ed25519 key are in PKCS#8 (RFC 8410, section 7), and what stands before them: the
/// algorithm, and the octet strings around them.
const SEED_AT: usize = 16;
const BEFORE_SEED: [u8; 11] = [0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// The secret that the owner of `own` shares with the owner of `other`. `None`: one of them is no Ed25519 key.
pub(super) fn shared_secret(
    own: &PrivatePkcs8KeyDer<'_>,
    other: &StatementKey,
) -> Option<[u8; 32]> {
    let (before, seed) = own.secret_pkcs8_der().split_at_checked(SEED_AT)?;
    let seed: &[u8; 32] = seed.first_chunk().filter(|_| before.ends_with(&BEFORE_SEED))?;
    let other = VerifyingKey::from_bytes(other.bytes()).ok()?;
    let scalar = SigningKey::from_bytes(seed).to_scalar_bytes();
    Some(other.to_montgomery().mul_clamped(scalar).to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{
        NodeIdentity,
        test_support::{NOW, Overlay, live},
    };

    fn key(node: &NodeIdentity) -> StatementKey {
        StatementKey::of(&node.chain()[0]).unwrap()
    }

    #[test]
    fn two_members_share_a_secret_that_a_third_does_not() {
        let overlay = Overlay::new();
        let [a, b, c] = ["a", "b", "c"].map(|name| overlay.node(name, NOW));
        let secret = live(&a).shared_with(&key(&b));
        assert!(secret.is_some());
        assert_eq!(live(&b).shared_with(&key(&a)), secret);
        for other in [live(&c).shared_with(&key(&a)), live(&c).shared_with(&key(&b))] {
            assert_ne!(other, secret);
        }
    }

    #[test]
    fn an_unreadable_key_shares_nothing() {
        let other = key(&Overlay::new().node("a", NOW));
        for garbage in [vec![], vec![0x30; 15], vec![0x30; 80]] {
            assert_eq!(shared_secret(&garbage.into(), &other), None);
        }
    }
}
