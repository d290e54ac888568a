//! Bytes made on the fly, and their checksums.

use std::{
    pin::Pin,
    sync::LazyLock,
    task::{Context, Poll},
};

use hyper::body::{Body, Bytes, Frame};
use ring::digest::{Context as Digest, SHA256};

pub const MIB: usize = 1024 * 1024;

const BLOCK: usize = 64 * 1024;

/// Bytes that no compression or repetition could stand for, by a linear congruential generator.
static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 1u64;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    (0..BLOCK).map(|_| next()).collect()
});

/// The first `len` bytes of a stream in which every block differs: a lost, doubled or swapped block
/// changes the checksum.
#[derive(Debug, Clone)]
pub struct Stream {
    block: u64,
    left: usize,
}

impl Stream {
    pub fn of(len: usize) -> Self {
        Self { block: 0, left: len }
    }

    pub fn checksum(self) -> String {
        let mut checksum = Checksum::new();
        self.for_each(|block| checksum.add(&block));
        checksum.hex()
    }
}

impl Iterator for Stream {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let len = self.left.min(BLOCK);
        let mut block = NOISE[..len].to_vec();
        let number = self.block.to_be_bytes();
        let marked = len.min(number.len());
        block[..marked].copy_from_slice(&number[..marked]);
        self.block += 1;
        self.left -= len;
        (len > 0).then(|| block.into())
    }
}

impl Body for Stream {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.next().map(|block| Ok(Frame::data(block))))
    }
}

/// SHA-256 of what was added.
pub struct Checksum(Digest);

impl Checksum {
    pub fn new() -> Self {
        Self(Digest::new(&SHA256))
    }

    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn hex(self) -> String {
        self.0.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
