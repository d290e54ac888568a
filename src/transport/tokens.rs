//! The tokens of Retry packets (RFC 9000, section 8.1.2): sealed with a key from the node's chance.
//!
//! A lab's seed must decide these bytes, too: a closed connection of noq reads those of a Retry packet as frames,
//! and a token that happens to begin like CONNECTION_CLOSE ends it without an answer.

use std::{sync::Arc, time::SystemTime};

use noq::{
    ServerConfig, TimeSource,
    crypto::{CryptoError, HandshakeTokenKey},
};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac,
};
use tokio::time::Instant;

use crate::chance::Chance;

/// Seals the tokens of `config` with a key drawn from `chance`, for its own lifetime.
pub fn seal_tokens(config: &mut ServerConfig, chance: &Chance) {
    config.token_key(Arc::new(TokenKey::drawn(chance)));
    config.time_source(Arc::new(SinceBegin(Instant::now())));
}

/// Derives a key for each token, so that no nonce of AES-GCM is used twice with one.
struct TokenKey(hmac::Key);

impl TokenKey {
    fn drawn(chance: &Chance) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &chance.draw::<[u8; 32]>()))
    }

    fn of(&self, token_nonce: u128) -> Result<LessSafeKey, CryptoError> {
        let derived = hmac::sign(&self.0, &token_nonce.to_be_bytes());
        let key = UnboundKey::new(&AES_256_GCM, derived.as_ref()).map_err(|_| CryptoError)?;
        Ok(LessSafeKey::new(key))
    }
}

/// The nonce of a key that seals once.
fn only_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

impl HandshakeTokenKey for TokenKey {
    fn seal(&self, token_nonce: u128, data: &mut Vec<u8>) -> Result<(), CryptoError> {
        let key = self.of(token_nonce)?;
        let sealed = key.seal_in_place_append_tag(only_nonce(), Aad::empty(), data);
        sealed.map_err(|_| CryptoError)
    }

    fn open<'a>(&self, token_nonce: u128, data: &'a mut [u8]) -> Result<&'a [u8], CryptoError> {
        let opened = self.of(token_nonce)?.open_in_place(only_nonce(), Aad::empty(), data);
        opened.map(|plain| &*plain).map_err(|_| CryptoError)
    }
}

/// The age of a token by the monotonic clock: a clock that is set does not end a handshake.
struct SinceBegin(Instant);

impl TimeSource for SinceBegin {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.0.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_under_its_own_key_and_nonce_only() {
        let (key, other) =
            (TokenKey::drawn(&Chance::seeded(1)), TokenKey::drawn(&Chance::seeded(2)));
        let mut sealed = b"an address".to_vec();
        key.seal(7, &mut sealed).unwrap();
        assert_eq!(sealed.len(), 10 + AES_256_GCM.tag_len());
        assert_eq!(key.open(7, &mut sealed.clone()).unwrap(), b"an address");
        assert!(key.open(8, &mut sealed.clone()).is_err());
        assert!(other.open(7, &mut sealed.clone()).is_err());
        sealed[0] ^= 1;
        assert!(key.open(7, &mut sealed).is_err());
    }

    #[test]
    fn a_seed_decides_the_bytes_of_a_token() {
        let sealed = |seed| {
            let mut data = b"an address".to_vec();
            TokenKey::drawn(&Chance::seeded(seed)).seal(7, &mut data).unwrap();
            data
        };
        assert_eq!(sealed(1), sealed(1));
        assert_ne!(sealed(1), sealed(2));
    }
}
