//! The packets that wait for a stream. PURE: time is an argument.
//!
//! TCP takes bytes at its own pace. A packet that waits long here misleads the QUIC inside, which takes its
//! late arrival for a longer path. So the queue is short. Senders of this node wait as soon as its oldest
//! packet has waited for [`BUSY_AFTER`]. The queue drops packets that have waited for [`FRESH_FOR`].

use std::{
    collections::VecDeque,
    task::Waker,
    time::{Duration, Instant},
};

use crate::wire::frame::{LENGTH_LEN, push_frame};

/// A packet that has waited for so long is dropped: the far end has taken it for lost, or will see a
/// delay that says nothing of the path.
pub(super) const FRESH_FOR: Duration = Duration::from_millis(50);

/// When the oldest packet has waited for so long, senders wait: long enough that TCP always finds
/// bytes to send when it wakes the task that writes, and short beside a path's round trip.
pub(super) const BUSY_AFTER: Duration = Duration::from_millis(10);

/// Most bytes that wait, also while the oldest is younger: 10 ms at 800 Mbit/s.
const MAX_BYTES: usize = 1 << 20;

/// Packets are written together up to this size: 0.3 ms at 200 Mbit/s. Written packets cannot be dropped
/// any more, so it is small.
const CHUNK: usize = 8 << 10;

/// The queue of one stream.
#[derive(Debug, Default)]
pub(super) struct Queue {
    chunks: VecDeque<Chunk>,
    bytes: usize,
    /// Senders that wait for room.
    waiting: Vec<Waker>,
}

/// Frames that are written together.
#[derive(Debug)]
struct Chunk {
    since: Instant,
    packets: usize,
    bytes: Vec<u8>,
}

impl Queue {
    /// Whether senders have to wait.
    pub(super) fn is_busy(&self, now: Instant) -> bool {
        let oldest = self.chunks.front();
        self.bytes >= MAX_BYTES || oldest.is_some_and(|oldest| now >= oldest.since + BUSY_AFTER)
    }

    /// Wakes this sender when there is room.
    pub(super) fn wake_with_room(&mut self, waker: &Waker) {
        if !self.waiting.iter().any(|other| other.will_wake(waker)) {
            self.waiting.push(waker.clone());
        }
    }

    /// Takes the packets of `contents`, each of `segment` bytes except perhaps the last. Returns how many
    /// were too long for a stream.
    pub(super) fn push(&mut self, now: Instant, contents: &[u8], segment: usize) -> usize {
        let mut oversized = 0;
        for packet in contents.chunks(segment.max(1)) {
            let len = packet.len() + LENGTH_LEN;
            let fits = |last: &&mut Chunk| last.since == now && last.bytes.len() + len <= CHUNK;
            let chunk = match self.chunks.back_mut().filter(fits) {
                Some(chunk) => chunk,
                None => {
                    let bytes = Vec::with_capacity(CHUNK.min(contents.len() + len));
                    self.chunks.push_back(Chunk { since: now, packets: 0, bytes });
                    let Some(chunk) = self.chunks.back_mut() else { break };
                    chunk
                }
            };
            if push_frame(&mut chunk.bytes, packet) {
                chunk.packets += 1;
                self.bytes += len;
            } else {
                oversized += 1;
            }
        }
        oversized
    }

    /// The next frames to write.
    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        let chunk = self.chunks.pop_front()?;
        self.bytes -= chunk.bytes.len();
        Some(chunk.bytes)
    }

    /// Drops packets that have waited too long; says how many.
    pub(super) fn expire(&mut self, now: Instant) -> usize {
        let mut dropped = 0;
        while self.chunks.front().is_some_and(|oldest| now >= oldest.since + FRESH_FOR) {
            let Some(chunk) = self.chunks.pop_front() else { break };
            self.bytes -= chunk.bytes.len();
            dropped += chunk.packets;
        }
        dropped
    }

    /// When [`expire`](Self::expire) drops something next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        Some(self.chunks.front()?.since + FRESH_FOR)
    }

    /// The senders that need not wait any more.
    pub(super) fn take_waiting(&mut self, now: Instant) -> Vec<Waker> {
        if self.is_busy(now) { Vec::new() } else { std::mem::take(&mut self.waiting) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(now: Instant, packets: usize) -> Queue {
        let mut queue = Queue::default();
        queue.push(now, &vec![7; packets * 1000], 1000);
        queue
    }

    #[test]
    fn packets_are_written_together_up_to_a_size() {
        let mut queue = filled(Instant::now(), 10);
        let sizes: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|bytes| bytes.len()).collect();
        assert_eq!(sizes, [8 * 1002, 2 * 1002]);
        assert_eq!(queue.bytes, 0);
    }

    #[test]
    fn packets_that_waited_for_50_ms_are_dropped_and_others_are_not() {
        let start = Instant::now();
        let mut queue = filled(start, 10);
        queue.push(start + Duration::from_millis(9), &[7; 500], 500);
        assert_eq!(queue.expire(start + Duration::from_millis(49)), 0);
        assert_eq!(queue.deadline(), Some(start + FRESH_FOR));
        assert_eq!(queue.expire(start + Duration::from_millis(50)), 10);
        assert_eq!(queue.bytes, 502);
        assert_eq!(queue.expire(start + Duration::from_millis(59)), 1);
        assert_eq!((queue.bytes, queue.deadline()), (0, None));
    }

    #[test]
    fn senders_wait_while_the_oldest_is_old_or_too_many_bytes_wait() {
        let start = Instant::now();
        let mut queue = filled(start, 2);
        queue.wake_with_room(Waker::noop());
        assert!(!queue.is_busy(start + Duration::from_millis(9)));
        let late = start + BUSY_AFTER;
        assert!(queue.is_busy(late) && queue.take_waiting(late).is_empty());
        queue.pop();
        assert!(!queue.is_busy(late) && queue.take_waiting(late).len() == 1);
        assert!(filled(start, 1100).is_busy(start));
    }
}
