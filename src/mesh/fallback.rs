//! When a member is dialled by a stream, and when by UDP beside one. PURE: time is an argument.
//!
//! UDP has a head start (as the families of addresses have in RFC 8305), none in a network where
//! it was found blocked. A lane that suspects silence on a link has a stream dialled at once: if
//! the link answers meanwhile, that dial is given up. UDP is dialled beside a stream that is silent. Beside one that
//! works UDP is measured ([`trials`](super::trials)).

use std::time::{Duration, Instant};

use crate::underlay::Carrier;

/// The head start of UDP: QUIC repeats a lost first packet after a second (RFC 9002, section 6.2.2), and then needs
/// some round trips. It is short enough for a page.
pub(crate) const HEAD_START: Duration = Duration::from_millis(1_500);

/// First and longest pause between two dials by a stream; it doubles.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// The pause while a flow waits for a route: TCP repeats a lost first packet after a second.
const HURRIED_PAUSE: Duration = Duration::from_secs(1);

/// The pause after a dial that was given up, because the link answered: a suspicion that was wrong.
const AFTER_SUSPICION: Duration = Duration::from_secs(5);

/// The carriers by which this node may dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ways {
    /// UDP is allowed.
    pub(super) udp: bool,
    /// Streams are.
    pub(super) streams: bool,
    /// UDP was found blocked in the present network.
    pub(super) udp_blocked: bool,
}

impl Default for Ways {
    fn default() -> Self {
        Self { udp: true, streams: false, udp_blocked: false }
    }
}

/// The dials of one member by streams.
#[derive(Debug, Default)]
pub(super) struct Fallback {
    under_way: bool,
    failures: u32,
    /// Not before; and when the last one began.
    next: Option<Instant>,
    last: Option<Instant>,
    /// Since when UDP is dialled without an answer.
    udp_since: Option<Instant>,
    /// Since when a lane finds its link silent.
    suspected: Option<Instant>,
    /// The stream was dialled for such a suspicion, and the link is up as far as probes say.
    for_suspicion: bool,
    /// What the present link goes over.
    link: Option<Carrier>,
    /// When UDP was dialled last beside the present link.
    udp_tried: Option<Instant>,
}

impl Fallback {
    /// Whether a stream is to be dialled now. `works`: a link stands, and nothing says that its path is down;
    /// `hurried`: a flow waits for a route.
    pub(super) fn wants_stream(
        &self,
        now: Instant,
        ways: Ways,
        (works, hurried): (bool, bool),
    ) -> bool {
        let hurries = || hurried && self.last.is_none_or(|last| now >= last + HURRIED_PAUSE);
        let paused = self.next.is_some_and(|next| now < next) && !hurries();
        if !ways.streams || self.under_way || paused {
            return false;
        }
        let head_start = if ways.udp && !ways.udp_blocked { HEAD_START } else { Duration::ZERO };
        let had_it = self.udp_since.is_some_and(|since| now >= since + head_start);
        self.suspected.is_some() || !works && (had_it || !ways.udp)
    }

    /// Whether UDP is to be dialled beside the stream that the link goes over: a lane has found it silent.
    pub(super) fn wants_udp(&self, now: Instant) -> bool {
        let recently = self.udp_tried.is_some_and(|tried| now < tried + AFTER_SUSPICION);
        self.suspected.is_some() && self.link == Some(Carrier::Tls) && !recently
    }

    /// A dial by a stream has begun.
    pub(super) fn dialled(&mut self, now: Instant) {
        self.under_way = true;
        self.for_suspicion = self.suspected.is_some();
        self.next = Some(now + PAUSE.0);
        self.last = Some(now);
    }

    /// It has ended.
    pub(super) fn dial_ended(&mut self) {
        self.under_way = false;
    }

    /// It has failed, or was given up.
    pub(super) fn dial_failed(&mut self, now: Instant) {
        if std::mem::take(&mut self.for_suspicion) {
            self.suspected = None;
            self.next = Some(now + AFTER_SUSPICION);
            return;
        }
        let pause = PAUSE.0 * 2u32.saturating_pow(self.failures.min(8));
        self.failures = self.failures.saturating_add(1);
        self.next = Some(now + pause.min(PAUSE.1));
    }

    /// A dial by UDP has begun.
    pub(super) fn udp_dialled(&mut self, now: Instant) {
        self.udp_since.get_or_insert(now);
        self.udp_tried = Some(now);
    }

    /// A dial by UDP has failed, or was given up: beside a stream that answers. A node that has no streams to dial
    /// has no other end of a suspicion that was wrong, while the path of the link stays up.
    pub(super) fn udp_failed(&mut self) {
        if self.link == Some(Carrier::Tls) {
            self.suspected = None;
        }
    }

    /// A lane has found the link silent.
    pub(super) fn suspect(&mut self, now: Instant) {
        if self.link.is_some() {
            self.suspected.get_or_insert(now);
        }
    }

    /// Whether a lane has found the link silent, and it has not answered since.
    pub(super) fn is_suspected(&self) -> bool {
        self.suspected.is_some()
    }

    /// The link has answered a probe that left then.
    pub(super) fn answered(&mut self, left: Instant) {
        self.suspected = self.suspected.filter(|since| left < *since);
    }

    /// The path of the link is up.
    pub(super) fn path_up(&mut self) {
        self.suspected = None;
    }

    /// The path of the link is down. It may be that of a stream: UDP has its head start again.
    pub(super) fn path_down(&mut self) {
        self.udp_since = None;
        self.for_suspicion = false;
        self.failures = 0;
    }

    /// A link stands.
    pub(super) fn linked(&mut self, carrier: Carrier) {
        self.link = Some(carrier);
        self.suspected = None;
        self.failures = 0;
        (self.udp_since, self.udp_tried) = (None, None);
    }

    /// The link is gone.
    pub(super) fn unlinked(&mut self) {
        (self.suspected, self.link) = (None, None);
        self.for_suspicion = false;
        self.failures = 0;
    }

    /// The network may be another one.
    pub(super) fn network_changed(&mut self) {
        self.failures = 0;
        self.next = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAYS: Ways = Ways { udp: true, streams: true, udp_blocked: false };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_stream_is_dialled_some_time_after_udp_or_where_that_is_blocked() {
        let (mut member, start) = (Fallback::default(), Instant::now());
        assert!(!member.wants_stream(start, WAYS, (false, false)), "UDP has not been tried");
        member.udp_dialled(start);
        member.udp_dialled(start + ms(700));
        assert!(!member.wants_stream(start + HEAD_START - ms(1), WAYS, (false, false)));
        assert!(member.wants_stream(start + HEAD_START, WAYS, (false, false)));
        assert!(!member.wants_stream(start + HEAD_START, WAYS, (true, false)), "it has a link");
        assert!(member.wants_stream(start, Ways { udp_blocked: true, ..WAYS }, (false, false)));
        assert!(Fallback::default().wants_stream(
            start,
            Ways { udp: false, ..WAYS },
            (false, false)
        ));
        assert!(!member.wants_stream(
            start + ms(2000),
            Ways { streams: false, ..WAYS },
            (false, false)
        ));
    }

    #[test]
    fn one_dial_is_under_way_and_failures_double_the_pause() {
        let (mut member, mut now) = (Fallback::default(), Instant::now());
        member.udp_dialled(now);
        now += HEAD_START;
        for pause in [500, 1000, 2000, 4000, 8000, 15_000, 15_000] {
            assert!(member.wants_stream(now, WAYS, (false, false)));
            member.dialled(now);
            assert!(!member.wants_stream(now + ms(60_000), WAYS, (false, false)));
            member.dial_failed(now);
            member.dial_ended();
            assert!(!member.wants_stream(now + ms(pause - 1), WAYS, (false, false)));
            // A flow that waits for a route waits for a second at most.
            assert_eq!(member.wants_stream(now + ms(999), WAYS, (false, true)), pause <= 999);
            assert!(member.wants_stream(now + ms(1000), WAYS, (false, true)));
            now += ms(pause);
        }
    }

    #[test]
    fn a_silent_link_over_udp_has_a_stream_dialled_beside_it() {
        let (mut member, now) = (Fallback::default(), Instant::now());
        member.linked(Carrier::Udp);
        member.suspect(now);
        assert!(member.wants_stream(now, WAYS, (true, false)));
        member.answered(now);
        assert!(!member.wants_stream(now, WAYS, (true, false)));
        member.suspect(now);
        member.dialled(now);
        // The link answered: not again within 5 s.
        member.dial_failed(now);
        member.dial_ended();
        member.suspect(now);
        assert!(!member.wants_stream(now + ms(4999), WAYS, (true, false)));
        assert!(member.wants_stream(now + ms(5000), WAYS, (true, false)));
    }

    #[test]
    fn a_silent_stream_has_udp_and_another_one_dialled_beside_it() {
        let (mut member, now) = (Fallback::default(), Instant::now());
        member.suspect(now);
        assert!(!member.wants_stream(now, WAYS, (true, false)), "there is no link");
        // UDP was dialled in vain before the stream stood.
        member.udp_dialled(now);
        member.linked(Carrier::Tls);
        assert!(!member.wants_udp(now));
        member.suspect(now);
        assert!(member.wants_udp(now) && member.wants_stream(now, WAYS, (true, false)));
        member.udp_dialled(now);
        member.answered(now);
        member.suspect(now);
        assert!(!member.wants_udp(now + ms(4999)), "it has just been tried");
        member.answered(now);
        member.suspect(now);
        assert!(member.wants_udp(now + ms(5000)));
    }

    #[test]
    fn a_suspicion_ends_when_a_later_probe_is_answered() {
        for carrier in [Carrier::Udp, Carrier::Tls] {
            let (mut member, now) = (Fallback::default(), Instant::now());
            member.linked(carrier);
            member.suspect(now);
            member.suspect(now + ms(300));
            member.answered(now - ms(1));
            assert!(member.is_suspected(), "that probe left before");
            member.dialled(now);
            member.answered(now + ms(100));
            assert!(!member.is_suspected() && !member.wants_udp(now + ms(60_000)));
            // The dial that it caused is given up: not again within 5 s.
            member.dial_failed(now);
            member.dial_ended();
            member.suspect(now + ms(400));
            assert!(!member.wants_stream(now + ms(4999), WAYS, (true, false)));
        }
    }

    #[test]
    fn one_suspicion_of_a_stream_causes_one_dial_by_udp() {
        let (mut member, now) = (Fallback::default(), Instant::now());
        member.linked(Carrier::Tls);
        member.suspect(now);
        assert!(member.wants_udp(now));
        member.udp_dialled(now);
        member.udp_failed();
        assert!(!member.is_suspected() && !member.wants_udp(now + ms(60_000)));
    }
}
