//! What a slot sent lately, kept to be sent again after a reroute. PURE: time is an argument.
//!
//! QUIC beneath does not see a reroute. It sends lost data again only when an acknowledgement of a
//! later packet has come over the new route: a round trip after the reroute. The same packets sent
//! again on the new route save that round trip. The far end's QUIC drops those it already has.
//!
//! Only lanes that send little are served: a bulk transfer would fill the new route's queue with
//! packets that may have arrived, and copying each packet would cost throughput.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Most packets kept: 0.3 s of a stream of 20 Mbit/s; 740 KB at most.
const MAX_PACKETS: usize = 512;

/// A batch of more bytes is bulk, and is not kept: jumbo packets between fast machines. QUIC's
/// largest batch of ordinary packets, ten, is below.
const MAX_BATCH: usize = 16 * 1024;

/// Packets older than this are forgotten: the longest silence before a verdict is shorter.
const MAX_AGE: Duration = Duration::from_secs(3);

/// The packets a slot sent lately.
#[derive(Debug, Default)]
pub(super) struct Replay {
    sent: VecDeque<(Instant, Vec<u8>)>,
    /// Packets sent until then are not all kept.
    incomplete_until: Option<Instant>,
    again: VecDeque<Vec<u8>>,
}

impl Replay {
    /// Keeps the packets of a batch that was just sent.
    pub(super) fn record(&mut self, now: Instant, contents: &[u8], segment: usize) {
        if contents.len() > MAX_BATCH {
            self.sent.clear();
            self.incomplete_until = Some(now);
            return;
        }
        while self.sent.front().is_some_and(|(at, _)| *at + MAX_AGE < now) {
            self.sent.pop_front();
        }
        for packet in contents.chunks(segment) {
            let mut room = Vec::new();
            if self.sent.len() >= MAX_PACKETS
                && let Some((at, oldest)) = self.sent.pop_front()
            {
                self.incomplete_until = Some(at);
                room = oldest;
                room.clear();
            }
            room.extend_from_slice(packet);
            self.sent.push_back((now, room));
        }
    }

    /// Marks what was sent after `since` to be sent again, if all of that is kept.
    pub(super) fn rewind(&mut self, since: Instant) {
        let complete = self.incomplete_until.is_none_or(|until| until < since);
        let sent = std::mem::take(&mut self.sent);
        if complete {
            let lost = sent.into_iter().filter(|(at, _)| *at >= since);
            self.again = lost.map(|(_, packet)| packet).collect();
        }
    }

    /// The next packet to be sent again.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        self.again.pop_front()
    }

    /// Puts a packet back that could not be sent now.
    pub(super) fn put_back(&mut self, packet: Vec<u8>) {
        self.again.push_front(packet);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(replay: &mut Replay) -> Vec<u8> {
        std::iter::from_fn(|| replay.next()).map(|packet| packet[0]).collect()
    }

    #[test]
    fn what_was_sent_since_then_is_sent_again_in_order_and_once() {
        let (t0, mut replay) = (Instant::now(), Replay::default());
        let ms = |ms| t0 + Duration::from_millis(ms);
        for i in 0..6 {
            replay.record(ms(10 * u64::from(i)), &[i, i, i, i], 4);
        }
        replay.rewind(ms(30));
        assert_eq!(again(&mut replay), [3, 4, 5]);
        replay.rewind(ms(0));
        assert_eq!(again(&mut replay), [0; 0]);
    }

    #[test]
    fn a_bulk_transfer_is_not_sent_again() {
        let (t0, mut replay) = (Instant::now(), Replay::default());
        replay.record(t0, &[0; 10], 4);
        replay.record(t0, &[1; MAX_BATCH + 1], 1400);
        replay.record(t0 + Duration::from_millis(1), &[2; 4], 4);
        replay.rewind(t0);
        assert_eq!(again(&mut replay), [0; 0]);
    }

    #[test]
    fn a_fast_stream_keeps_no_more_than_the_cap() {
        let (t0, mut replay) = (Instant::now(), Replay::default());
        for i in 0..2 * MAX_PACKETS as u64 {
            replay.record(t0 + Duration::from_millis(i / 10), &[1; 4], 4);
        }
        assert_eq!(replay.sent.len(), MAX_PACKETS);
        replay.rewind(t0);
        assert_eq!(again(&mut replay), [0; 0], "the oldest packets are gone");
    }
}
