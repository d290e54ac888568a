//! The buffers for large reads from TCP, which the flows of a lane share.
//!
//! What was read stays in a buffer until QUIC has freed it, because the far end acknowledged it. Then the buffer is used
//! again. The system's allocator would give such memory back, and the page faults of a new buffer cost as much as the read.

use std::{
    collections::VecDeque,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::time::sleep;

/// The size of a buffer, and of the largest read.
pub(super) const BUFFER: usize = 64 * 1024;

/// A shorter read is copied out of its buffer, so that a keystroke does not pin it. Therefore a buffer with less room
/// than this is full.
const LEAST: usize = 16 * 1024;

/// A flow that waits for so long lets go of the buffers.
const RESTS: Duration = Duration::from_millis(100);

/// The buffers of a lane. They are kept while a flow reads much.
#[derive(Debug, Default)]
pub(super) struct ReadBuffers(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The one that is tried first at the front.
    buffers: VecDeque<BytesMut>,
    /// Flows that read much.
    readers: usize,
}

impl ReadBuffers {
    fn take(&self) -> BytesMut {
        let mut state = self.lock();
        if let Some(mut first) = state.buffers.pop_front() {
            if has_room(&first) || first.try_reclaim(LEAST) {
                return first;
            }
            // It may hold a slow flow's bytes for long: the next read tries the next one.
            state.buffers.push_back(first);
        }
        BytesMut::with_capacity(BUFFER)
    }

    fn put(&self, buffer: BytesMut, kept: usize) {
        let mut state = self.lock();
        if has_room(&buffer) {
            state.buffers.push_front(buffer);
        } else {
            state.buffers.push_back(buffer);
        }
        let most = if state.readers == 0 { 0 } else { kept / BUFFER };
        let most = most.min(state.buffers.len());
        let too_many = state.buffers.split_off(most);
        drop(state);
        drop(too_many);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a buffer, whose bytes were taken out, is not full.
fn has_room(buffer: &BytesMut) -> bool {
    buffer.capacity() >= LEAST
}

/// A flow that reads much from time to time. When the last such flow of a lane waits or ends, the buffers are freed.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    buffers: &'a ReadBuffers,
    reads: bool,
}

impl<'a> Reader<'a> {
    /// A flow that has not read much yet.
    pub(super) fn new(buffers: &'a ReadBuffers) -> Self {
        Self { buffers, reads: false }
    }

    /// What `read` puts into a buffer with room for [`LEAST`] bytes or more. Afterwards, buffers of `kept` bytes in all
    /// are kept at most.
    pub(super) fn fill(
        &mut self,
        kept: usize,
        read: impl FnOnce(&mut BytesMut) -> io::Result<usize>,
    ) -> io::Result<Bytes> {
        let mut buffer = self.buffers.take();
        let filled = read(&mut buffer).map(|read| match read {
            0..LEAST => {
                let copy = Bytes::copy_from_slice(&buffer);
                buffer.clear();
                copy
            }
            _ => {
                self.begin();
                buffer.split().freeze()
            }
        });
        self.buffers.put(buffer, kept);
        filled
    }

    fn begin(&mut self) {
        if !std::mem::replace(&mut self.reads, true) {
            self.buffers.lock().readers += 1;
        }
    }

    /// Waits for `done`, and lets go of the buffers if that takes long.
    pub(super) async fn wait<T>(&mut self, done: impl Future<Output = T>) -> T {
        let mut done = std::pin::pin!(done);
        if self.reads {
            tokio::select! {
                biased;
                done = &mut done => return done,
                () = sleep(RESTS) => self.rest(),
            }
        }
        done.await
    }

    fn rest(&mut self) {
        if !std::mem::take(&mut self.reads) {
            return;
        }
        let mut state = self.buffers.lock();
        state.readers -= 1;
        let freed =
            if state.readers == 0 { std::mem::take(&mut state.buffers) } else { VecDeque::new() };
        drop(state);
        drop(freed);
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.rest();
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut as _;

    use super::*;

    const KEPT: usize = 8 * BUFFER;

    fn put(bytes: usize) -> impl FnOnce(&mut BytesMut) -> io::Result<usize> {
        move |buffer| {
            assert!(buffer.is_empty() && has_room(buffer));
            buffer.put_bytes(1, bytes);
            Ok(bytes)
        }
    }

    fn fill(reader: &mut Reader<'_>, bytes: usize) -> Bytes {
        let filled = reader.fill(KEPT, put(bytes)).unwrap();
        assert!(filled.len() == bytes && filled.iter().all(|byte| *byte == 1));
        filled
    }

    fn held(buffers: &ReadBuffers) -> usize {
        buffers.lock().buffers.len()
    }

    #[test]
    fn a_buffer_is_used_again_when_all_that_was_read_into_it_is_gone() {
        let buffers = ReadBuffers::default();
        let mut reader = Reader::new(&buffers);
        let first = fill(&mut reader, BUFFER - LEAST);
        let second = fill(&mut reader, LEAST);
        assert_eq!(second.as_ptr(), first.as_ptr().wrapping_add(first.len()), "it was not full");
        let place = first.as_ptr();
        drop(first);
        assert_ne!(fill(&mut reader, BUFFER).as_ptr(), place, "a part of it is in use");
        drop(second);
        assert_eq!(fill(&mut reader, BUFFER).as_ptr(), place);
    }

    #[test]
    fn a_short_read_and_a_failed_one_pin_no_buffer() {
        let buffers = ReadBuffers::default();
        let mut reader = Reader::new(&buffers);
        let _short = fill(&mut reader, LEAST - 1);
        assert_eq!(held(&buffers), 0, "no flow reads much");
        let _long = fill(&mut reader, BUFFER - LEAST);
        for _ in 0..3 {
            let failed = reader.fill(KEPT, |_| Err(io::ErrorKind::WouldBlock.into()));
            assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::WouldBlock);
            let _short = fill(&mut reader, 1);
        }
        assert_eq!(held(&buffers), 1);
    }

    #[test]
    fn no_more_buffers_are_kept_than_the_lane_may() {
        let buffers = ReadBuffers::default();
        let mut reader = Reader::new(&buffers);
        let unacknowledged: Vec<_> = (0..9).map(|_| fill(&mut reader, BUFFER)).collect();
        assert_eq!(held(&buffers), 8);
        drop(unacknowledged);
        reader.fill(3 * BUFFER, |_| Ok(0)).unwrap();
        assert_eq!(held(&buffers), 3, "its share has shrunk");
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_flow_that_waits_or_ends_frees_the_buffers() {
        let buffers = ReadBuffers::default();
        let [mut one, mut two, mut small] = [(); 3].map(|()| Reader::new(&buffers));
        fill(&mut one, BUFFER);
        fill(&mut two, LEAST);
        fill(&mut small, 1);
        one.wait(sleep(RESTS / 2)).await;
        assert!(held(&buffers) > 0, "it waited for a moment");
        one.wait(sleep(2 * RESTS)).await;
        small.wait(sleep(2 * RESTS)).await;
        assert!(held(&buffers) > 0, "another one reads");
        fill(&mut one, BUFFER);
        drop(two);
        drop(small);
        assert!(held(&buffers) > 0, "it reads again");
        drop(one);
        assert_eq!(held(&buffers), 0);
    }
}
