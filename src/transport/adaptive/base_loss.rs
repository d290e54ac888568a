//! The path's own loss: the share of packets lost while the sender holds back. Pure.
//!
//! Loss that does not depend on our rate is not a sign of congestion. The sender holds back from
//! time to time. Loss at such a time, without a queue, is the path's own loss. Loss above it is
//! congestion.

/// The least number of packets from which the share is computed.
const KNOWN: f64 = 200.0;

/// The memory, in packets sent while holding back. When it is full, the counts are halved.
const MEMORY: f64 = 1000.0;

/// A round may lose this many standard deviations more than the share. One in about ten thousand
/// exceeds that by chance, and a mistake costs seconds.
const DEVIATIONS: f64 = 4.0;

/// And it may lose this much more, because the share is an estimate.
const MARGIN: f64 = 1.1;

/// The losses of a sender while it held back.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct BaseLoss {
    holding_back: bool,
    /// The packet numbers that were sent while it last held back; without an end while it holds
    /// back.
    from: u64,
    end: Option<u64>,
    next: u64,
    held_back: Tally,
    /// The same of the present round, which does not count yet.
    round: Tally,
}

/// Packets; later ones have more weight.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    acked: f64,
    lost: f64,
}

impl Tally {
    fn sum(self) -> f64 {
        self.acked + self.lost
    }

    fn share(self) -> f64 {
        self.lost / self.sum().max(KNOWN / 2.0)
    }

    fn add(&mut self, other: Self) {
        self.acked += other.acked;
        self.lost += other.lost;
        if self.sum() > MEMORY {
            self.acked /= 2.0;
            self.lost /= 2.0;
        }
    }
}

impl BaseLoss {
    pub(super) fn sent(&mut self, pn: u64) {
        self.next = pn + 1;
    }

    /// Whether the sender holds back from now on, so that its packets find no queue of its own.
    pub(super) fn hold_back(&mut self, holding_back: bool) {
        match (self.holding_back, holding_back) {
            (false, true) => (self.from, self.end) = (self.next, None),
            (true, false) => self.end = Some(self.next),
            _ => {}
        }
        self.holding_back = holding_back;
    }

    pub(super) fn acked(&mut self, pn: u64) {
        self.count(pn, Tally { acked: 1.0, lost: 0.0 });
    }

    pub(super) fn lost(&mut self, pn: u64) {
        self.count(pn, Tally { acked: 0.0, lost: 1.0 });
    }

    fn count(&mut self, pn: u64, packet: Tally) {
        if self.counts(pn) {
            self.round.add(packet);
        }
    }

    fn counts(&self, pn: u64) -> bool {
        pn >= self.from
            && (self.holding_back && self.end.is_none() || self.end.is_some_and(|end| pn < end))
    }

    /// Ends a round. A queue that stood all the time belongs to others, and may have lost the
    /// packets.
    pub(super) fn end_round(&mut self, queue_stood: bool) {
        let round = std::mem::take(&mut self.round);
        if !queue_stood {
            self.held_back.add(round);
        }
    }

    /// Whether enough was sent while holding back.
    pub(super) fn is_known(&self) -> bool {
        self.held_back.sum() >= KNOWN
    }

    /// The path's own loss, 0 to 1.
    pub(super) fn share(&self) -> f64 {
        self.held_back.share()
    }

    /// Whether a round lost more than the path's own loss.
    pub(super) fn is_exceeded(&self, acked: u32, lost: u32) -> bool {
        let expected = self.share() * f64::from(acked + lost);
        f64::from(lost) > MARGIN * expected + DEVIATIONS * expected.sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends so many packets, of which every so-many-th is lost, and ends the round.
    fn round(loss: &mut BaseLoss, pns: std::ops::Range<u64>, every: u64, queue_stood: bool) {
        pns.clone().for_each(|pn| loss.sent(pn));
        pns.for_each(|pn| if pn % every == 0 { loss.lost(pn) } else { loss.acked(pn) });
        loss.end_round(queue_stood);
    }

    #[test]
    fn only_packets_sent_while_holding_back_count() {
        let mut loss = BaseLoss::default();
        round(&mut loss, 0..100, 2, false);
        assert!(!loss.is_known() && loss.share() == 0.0);
        loss.hold_back(true);
        round(&mut loss, 100..300, 50, false);
        loss.hold_back(false);
        round(&mut loss, 300..600, 2, false);
        assert!(loss.is_known());
        assert!((loss.share() - 0.02).abs() < 1e-9, "{}", loss.share());
    }

    #[test]
    fn what_was_lost_in_a_standing_queue_is_not_the_paths_own_loss() {
        let mut loss = BaseLoss::default();
        loss.hold_back(true);
        round(&mut loss, 0..200, 10, true);
        assert!(loss.share() == 0.0 && loss.is_exceeded(199, 1));
    }

    #[test]
    fn chance_alone_hardly_ever_exceeds_the_share() {
        let mut loss = BaseLoss::default();
        loss.hold_back(true);
        round(&mut loss, 0..400, 100, false);
        for (lost, exceeded) in [(0, false), (2, false), (6, false), (8, true), (30, true)] {
            assert_eq!(loss.is_exceeded(170 - lost, lost), exceeded, "{lost} of 170 at 1 %");
        }
    }
}
