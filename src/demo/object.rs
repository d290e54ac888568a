//! Downloads of any size whose every byte is known beforehand. PURE.

use std::fmt::Write;

use bytes::Bytes;
use ring::digest::{Context, SHA256};

/// Bytes made at a time: a few packets' worth, small enough to cost nothing when it waits.
pub(super) const CHUNK: usize = 32 * 1024;

/// A deterministic object of a given length. Each byte depends on its position, so a lost, doubled
/// or swapped piece changes the digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Object {
    len: u64,
}

impl Object {
    /// The object of this many bytes.
    #[must_use]
    pub(super) const fn new(len: u64) -> Self {
        Self { len }
    }

    /// Its length in bytes.
    #[must_use]
    pub(super) const fn len(self) -> u64 {
        self.len
    }

    /// The piece that starts at `at`, which must be a multiple of 8; `None` at the end.
    #[must_use]
    pub(super) fn chunk(self, at: u64) -> Option<Bytes> {
        let left = usize::try_from(self.len.checked_sub(at)?).unwrap_or(usize::MAX).min(CHUNK);
        let mut chunk = Vec::with_capacity(left + 8);
        let mut word = at / 8;
        while chunk.len() < left {
            chunk.extend_from_slice(&mixed(word).to_be_bytes());
            word += 1;
        }
        chunk.truncate(left);
        (left > 0).then(|| chunk.into())
    }

    /// Its pieces in order.
    pub(super) fn chunks(self) -> impl Iterator<Item = Bytes> {
        (0..).step_by(CHUNK).map_while(move |at| self.chunk(at))
    }

    /// Its SHA-256, in hexadecimal.
    #[must_use]
    pub(super) fn sha256(self) -> String {
        let mut hash = Hash::default();
        self.chunks().for_each(|chunk| hash.update(&chunk));
        hash.hex()
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood, 2014): every input bit moves every output bit.
const fn mixed(word: u64) -> u64 {
    let z = word.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A SHA-256 under way, with the count of its bytes.
#[derive(Clone)]
pub(super) struct Hash {
    context: Context,
    count: u64,
}

impl Default for Hash {
    fn default() -> Self {
        Self { context: Context::new(&SHA256), count: 0 }
    }
}

impl Hash {
    /// Takes in more bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
        self.count += bytes.len() as u64;
    }

    /// How many bytes were taken in.
    #[must_use]
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The digest in hexadecimal.
    #[must_use]
    pub(super) fn hex(self) -> String {
        self.context.finish().as_ref().iter().fold(String::with_capacity(64), |mut hex, byte| {
            // Writing to a String cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hash").field("count", &self.count).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_has_its_length_and_always_the_same_bytes() {
        for len in [0, 1, 7, 8, CHUNK as u64, CHUNK as u64 + 5, 3 * CHUNK as u64] {
            let object = Object::new(len);
            let total: usize = object.chunks().map(|chunk| chunk.len()).sum();
            assert_eq!(total as u64, len);
            assert_eq!(object.sha256(), object.sha256());
        }
        let long = Object::new(2 * CHUNK as u64);
        assert_ne!(long.chunk(0), long.chunk(CHUNK as u64));
    }

    #[test]
    fn the_digest_is_the_one_sha256sum_prints() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Object::new(0).sha256(), empty);
        let mut hash = Hash::default();
        hash.update(b"abc");
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((hash.count(), hash.hex().as_str()), (3, abc));
    }
}
