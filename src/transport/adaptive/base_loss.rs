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

/// A loss shows later than an acknowledgement: after 9/8 of a round trip, and after packets that overtake
/// others were waited for. So many rounds after the last packet was sent, all are known.
const SETTLES: u32 = 6;

/// The losses of a sender while it held back.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct BaseLoss {
    next: u64,
    /// The last time of holding back, until all of its losses are known.
    span: Option<Span>,
    held_back: Tally,
}

/// A time of holding back.
#[derive(Debug, Clone, Copy)]
struct Span {
    from: u64,
    /// The packet after its last one, and the rounds since; `None` while the sender holds back.
    ended: Option<(u64, u32)>,
    tally: Tally,
    /// Whether a packet of it was acknowledged in the present round.
    acked: bool,
    /// Its packets saw a queue, which may have lost some.
    queued: bool,
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

    /// Whether the sender holds back from now on, so that its packets find no queue of its own. Packets sent
    /// before the losses of the last such time are known do not count.
    pub(super) fn hold_back(&mut self, holding_back: bool) {
        match &mut self.span {
            None if holding_back => {
                let (from, tally) = (self.next, Tally::default());
                self.span = Some(Span { from, ended: None, tally, acked: false, queued: false });
            }
            Some(Span { ended: ended @ None, .. }) if !holding_back => {
                *ended = Some((self.next, 0))
            }
            _ => {}
        }
    }

    /// What was counted so far may have been lost in a queue.
    pub(super) fn forget(&mut self) {
        self.held_back = Tally::default();
        if let Some(span) = &mut self.span {
            span.queued = true;
        }
    }

    /// Whether all losses of the last time of holding back are known.
    pub(super) fn is_settled(&self) -> bool {
        self.span.is_none()
    }

    pub(super) fn acked(&mut self, pn: u64) {
        self.count(pn, Tally { acked: 1.0, lost: 0.0 });
    }

    pub(super) fn lost(&mut self, pn: u64) {
        self.count(pn, Tally { acked: 0.0, lost: 1.0 });
    }

    fn count(&mut self, pn: u64, packet: Tally) {
        let contains =
            |span: &&mut Span| pn >= span.from && span.ended.is_none_or(|(end, _)| pn < end);
        if let Some(span) = self.span.as_mut().filter(contains) {
            span.tally.add(packet);
            span.acked |= packet.acked > 0.0;
        }
    }

    /// Ends a round. A queue that stood all the time belongs to others, and may have lost some of the packets that
    /// saw it.
    pub(super) fn end_round(&mut self, queue_stood: bool) {
        let Some(span) = &mut self.span else { return };
        span.queued |= queue_stood && span.acked;
        span.acked = false;
        let Some((_, rounds)) = &mut span.ended else { return };
        *rounds += 1;
        if *rounds >= SETTLES {
            if !span.queued {
                self.held_back.add(span.tally);
            }
            self.span = None;
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

    /// The sender goes on at its rate until all losses of before are known.
    fn settle(loss: &mut BaseLoss) {
        loss.hold_back(false);
        (0..SETTLES).for_each(|_| loss.end_round(false));
        assert!(loss.is_settled());
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
        assert!(!loss.is_known(), "some may show later");
        settle(&mut loss);
        assert!(loss.is_known());
        assert!((loss.share() - 0.02).abs() < 1e-9, "{}", loss.share());
    }

    #[test]
    fn losses_in_a_standing_queue_are_not_the_paths_own() {
        let mut loss = BaseLoss::default();
        loss.hold_back(true);
        round(&mut loss, 0..200, 10, true);
        settle(&mut loss);
        assert!(loss.share() == 0.0 && loss.is_exceeded(199, 1));
    }

    #[test]
    fn what_was_counted_in_a_queue_that_nobody_saw_is_forgotten() {
        let mut loss = BaseLoss::default();
        loss.hold_back(true);
        round(&mut loss, 0..200, 10, false);
        settle(&mut loss);
        loss.hold_back(true);
        round(&mut loss, 200..400, 10, false);
        assert!(loss.is_known());
        loss.forget();
        settle(&mut loss);
        assert!(!loss.is_known() && loss.share() == 0.0);
    }

    #[test]
    fn losses_that_show_late_count_and_what_is_sent_before_does_not() {
        let mut loss = BaseLoss::default();
        loss.hold_back(true);
        (0..400).for_each(|pn| loss.sent(pn));
        (10..400).for_each(|pn| loss.acked(pn));
        loss.end_round(false);
        loss.hold_back(false);
        loss.hold_back(true);
        round(&mut loss, 400..600, 2, false);
        loss.hold_back(false);
        (0..10).for_each(|pn| loss.lost(pn));
        (0..SETTLES).for_each(|_| loss.end_round(false));
        assert!((loss.share() - 0.025).abs() < 1e-9, "{}", loss.share());
    }

    #[test]
    fn chance_alone_hardly_ever_exceeds_the_share() {
        let mut loss = BaseLoss::default();
        loss.hold_back(true);
        round(&mut loss, 0..400, 100, false);
        settle(&mut loss);
        for (lost, exceeded) in [(0, false), (2, false), (6, false), (8, true), (30, true)] {
            assert_eq!(loss.is_exceeded(170 - lost, lost), exceeded, "{lost} of 170 at 1 %");
        }
    }
}
