//! Checks a neighbour's new address before lane and relayed packets go there. PURE: time and chance
//! are arguments.
//!
//! QUIC uses the source address of a neighbour's newest packet before it has validated that address
//! (RFC 9000, section 9.3), and a member can forge the sources of its own packets. So the link
//! sends a random nonce to the new address. The nonce is in a datagram of its own, because QUIC may
//! send its packets to another address in between. The neighbour returns the nonce over the link.
//! Until then the previous address stays in use.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// The times of the nonces after the first packet from the new address. The first one is sent at
/// once, because flows wait for the answer. Four are sent, because packets get lost.
const SEND_AT: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(700),
];

/// The time after which the check fails: 300 ms after the last nonce, and a second after the first
/// one for long round trips.
const GIVE_UP_AFTER: Duration = Duration::from_millis(1000);

/// The least time between two challenges of one link. A neighbour that shows one address after
/// another causes at most one nonce to each, and 4 a second in all. One that moved twice does not
/// wait long.
const CHALLENGE_EVERY: Duration = Duration::from_millis(250);

/// The link closes after so many challenges in a row without an answer, because QUIC does not
/// return to the previous address by itself. At 70 % loss an honest neighbour misses all three with
/// a probability of 2 %.
const MAX_UNANSWERED: u32 = 3;

/// Checks the addresses from which a neighbour's packets come.
#[derive(Debug)]
pub(super) struct AddressCheck {
    /// The address that has answered last.
    current: SocketAddr,
    challenge: Option<Challenge>,
    last_challenge: Option<Instant>,
    unanswered: u32,
}

#[derive(Debug)]
struct Challenge {
    address: SocketAddr,
    nonce: u64,
    began: Instant,
    sent: usize,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Send this nonce to this address.
    Send(SocketAddr, u64),
    /// The new address has not answered. The check of it ends.
    Forgotten,
    /// No address has answered for several challenges: close the link.
    GiveUp,
}

impl AddressCheck {
    /// The check of a link whose handshake went to `address`.
    pub(super) fn new(address: SocketAddr) -> Self {
        Self { current: address, challenge: None, last_challenge: None, unanswered: 0 }
    }

    /// The address that has answered last, at first that of the handshake.
    pub(super) fn current(&self) -> SocketAddr {
        self.current
    }

    /// The newest packet came from `address`. A challenge of it uses `nonce`.
    pub(super) fn heard_from(&mut self, now: Instant, address: SocketAddr, nonce: u64) {
        if address == self.current {
            self.challenge = None;
            self.unanswered = 0;
            return;
        }
        let challenged = self.challenge.as_ref().is_some_and(|pending| pending.address == address);
        let soon = self.last_challenge.is_some_and(|last| now < last + CHALLENGE_EVERY);
        if !challenged && !soon {
            self.last_challenge = Some(now);
            self.challenge = Some(Challenge { address, nonce, began: now, sent: 0 });
        }
    }

    /// The neighbour returned `nonce`. Returns the address that is in use from now on.
    pub(super) fn answered(&mut self, nonce: u64) -> Option<SocketAddr> {
        let answered =
            self.challenge.take_if(|pending| pending.sent > 0 && pending.nonce == nonce)?;
        self.unanswered = 0;
        self.current = answered.address;
        Some(answered.address)
    }

    /// When to ask [`AddressCheck::due`] again.
    pub(super) fn timeout(&self) -> Option<Instant> {
        let pending = self.challenge.as_ref()?;
        let after = SEND_AT.get(pending.sent).copied().unwrap_or(GIVE_UP_AFTER);
        Some(pending.began + after)
    }

    /// What has to be done by `now`. Call it until it returns `None`.
    pub(super) fn due(&mut self, now: Instant) -> Option<Due> {
        if self.timeout()? > now {
            return None;
        }
        let pending = self.challenge.as_mut()?;
        if pending.sent < SEND_AT.len() {
            pending.sent += 1;
            return Some(Due::Send(pending.address, pending.nonce));
        }
        self.challenge = None;
        self.unanswered += 1;
        let given_up = self.unanswered >= MAX_UNANSWERED;
        Some(if given_up { Due::GiveUp } else { Due::Forgotten })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOME: &str = "192.0.2.1:4600";
    const CAFE: &str = "198.51.100.7:4600";

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Everything that is due by then, in order.
    fn all_due(check: &mut AddressCheck, now: Instant) -> Vec<Due> {
        std::iter::from_fn(|| check.due(now)).collect()
    }

    #[test]
    fn a_new_address_is_used_when_it_has_answered() {
        let (mut check, t0) = (AddressCheck::new(at(HOME)), Instant::now());
        check.heard_from(t0, at(CAFE), 7);
        assert_eq!(all_due(&mut check, t0), [Due::Send(at(CAFE), 7)]);
        check.heard_from(t0 + ms(20), at(CAFE), 8);
        assert_eq!(all_due(&mut check, t0 + ms(20)), [], "the same address again");
        assert_eq!((check.answered(8), check.current), (None, at(HOME)));
        assert_eq!((check.answered(7), check.current), (Some(at(CAFE)), at(CAFE)));
        assert_eq!((check.timeout(), check.answered(7)), (None, None));
    }

    #[test]
    fn a_lost_nonce_is_sent_again_and_an_address_without_answer_forgotten() {
        let (mut check, t0) = (AddressCheck::new(at(HOME)), Instant::now());
        check.heard_from(t0, at(CAFE), 7);
        let mut due = Vec::new();
        while let Some(when) = check.timeout() {
            due.push((when - t0, check.due(when).unwrap()));
        }
        let send = Due::Send(at(CAFE), 7);
        let sent = [0, 100, 300, 700].map(|after| (ms(after), send));
        assert_eq!(due, [&sent[..], &[(ms(1000), Due::Forgotten)]].concat());
        assert_eq!((check.current, check.answered(7)), (at(HOME), None), "too late");
    }

    #[test]
    fn nothing_changes_when_the_neighbour_is_back_at_the_old_address() {
        let (mut check, t0) = (AddressCheck::new(at(HOME)), Instant::now());
        check.heard_from(t0, at(CAFE), 7);
        all_due(&mut check, t0);
        check.heard_from(t0 + ms(50), at(HOME), 8);
        assert_eq!((check.timeout(), check.answered(7)), (None, None));
        assert_eq!(check.current, at(HOME));
    }

    #[test]
    fn a_link_is_given_up_after_three_challenges_without_an_answer() {
        let (mut check, mut now) = (AddressCheck::new(at(HOME)), Instant::now());
        let mut ends = Vec::new();
        for nonce in 0..4 {
            check.heard_from(now, at(CAFE), nonce);
            now += ms(1000);
            ends.extend(all_due(&mut check, now).pop());
        }
        let (forgotten, given_up) = (Due::Forgotten, Due::GiveUp);
        assert_eq!(ends, [forgotten, forgotten, given_up, given_up]);
    }

    #[test]
    fn a_neighbour_at_a_thousand_addresses_causes_few_nonces() {
        let (mut check, t0) = (AddressCheck::new(at(HOME)), Instant::now());
        let mut sent = Vec::new();
        for i in 0..1000_u16 {
            let (now, address) =
                (t0 + ms(u64::from(i)), SocketAddr::from(([203, 0, 113, 5], i + 1)));
            check.heard_from(now, address, u64::from(i));
            sent.extend(all_due(&mut check, now));
        }
        let nonces = sent.iter().filter(|due| matches!(due, Due::Send(..))).count();
        // Each address is replaced by another after 250 ms, and gets a second nonce before that.
        assert_eq!(nonces, 8, "{sent:?}");
    }

    proptest! {
        #[test]
        fn only_an_address_that_got_the_nonce_it_returns_is_ever_in_use(
            steps in prop::collection::vec((0u16..4, 0u64..4, 0u64..400), 1..200),
        ) {
            let (t0, mut passed) = (Instant::now(), 0);
            let place = |port: u16| SocketAddr::from(([192, 0, 2, 1], port + 1));
            let mut check = AddressCheck::new(place(0));
            let mut told = std::collections::BTreeSet::new();
            for (from, nonce, wait) in steps {
                passed += wait;
                let now = t0 + ms(passed);
                check.heard_from(now, place(from), nonce);
                for due in all_due(&mut check, now) {
                    if let Due::Send(address, nonce) = due {
                        told.insert((address, nonce));
                    }
                }
                let before = check.current;
                match check.answered(nonce) {
                    Some(address) => prop_assert!(told.contains(&(address, nonce))),
                    None => prop_assert_eq!(check.current, before),
                }
            }
        }
    }
}
