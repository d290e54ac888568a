//! Fills QUIC's receive buffers.

use std::io::IoSliceMut;

use noq::udp::RecvMeta;

/// The buffers that QUIC gave, and how many of them have been filled.
pub(super) struct Up<'a, 'b> {
    buffers: &'a mut [IoSliceMut<'b>],
    meta: &'a mut [RecvMeta],
    filled: usize,
}

impl<'a, 'b> Up<'a, 'b> {
    pub(super) fn new(buffers: &'a mut [IoSliceMut<'b>], meta: &'a mut [RecvMeta]) -> Self {
        Self { buffers, meta, filled: 0 }
    }

    pub(super) fn is_full(&self) -> bool {
        self.filled >= self.buffers.len().min(self.meta.len())
    }

    /// How many buffers were filled.
    pub(super) fn filled(&self) -> usize {
        self.filled
    }

    /// The next buffer; empty when all are full.
    pub(super) fn buffer(&mut self) -> &mut [u8] {
        if self.is_full() { &mut [] } else { &mut self.buffers[self.filled] }
    }

    /// Ends the next buffer: it has what `meta` says.
    pub(super) fn end_buffer(&mut self, meta: RecvMeta) {
        self.meta[self.filled] = meta;
        self.filled += 1;
    }
}
