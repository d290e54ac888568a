//! Who may wait at the listener without having a link. PURE: time is an argument.
//!
//! A connection has a place from its acceptance until a link stands on it, or it ends. Places are counted
//! by prefix, as the handshakes of strangers on UDP are: an IPv4 /24 or an IPv6 /48. Where places run out, the oldest
//! connection of the prefix with the most places ends.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::{link::Bucket, underlay::prefix};

/// Places of all. Each costs some 40 KiB for TLS and HTTP, so 20 MiB.
pub(super) const MAX_PLACES: usize = 512;

/// Places of one prefix: browsers open six, and a small overlay behind one NAT one for each node.
pub(super) const MAX_PER_PREFIX: usize = 32;

/// New connections of one prefix: a small overlay that comes back at once, and then a few a second.
const PREFIX_RATE: (u32, f64) = (64, 4.0);

/// New connections of all: at a third of a millisecond each, a fifteenth of a core.
const RATE: (u32, f64) = (400, 200.0);

/// A connection of this age may be ended for another: two round trips of TLS, and three of a link, of 200 ms.
const GIVES_WAY_AFTER: Duration = Duration::from_secs(1);

/// Prefixes whose rate is known: those of the connections of the last minute.
const MAX_PREFIXES: usize = 4096;

/// A prefix, as [`prefix`] returns it.
type Prefix = [u8; 7];

/// The connections that have a place.
#[derive(Debug)]
pub(super) struct Strangers {
    next: u64,
    places: Vec<Place>,
    all: Bucket,
    rates: HashMap<Prefix, Bucket>,
}

#[derive(Debug)]
struct Place {
    ticket: u64,
    began: Instant,
    prefix: Prefix,
}

/// A place for a new connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Admitted {
    pub(super) ticket: u64,
    /// The connection that has to end for it.
    pub(super) instead_of: Option<u64>,
}

impl Default for Strangers {
    fn default() -> Self {
        let all = Bucket::new(RATE.0, RATE.1);
        Self { next: 0, places: Vec::new(), all, rates: HashMap::new() }
    }
}

impl Strangers {
    /// Gives a connection from `ip` a place; `None`: it gets none.
    pub(super) fn admit(&mut self, now: Instant, ip: IpAddr) -> Option<Admitted> {
        let prefix = prefix(ip);
        if !self.in_rate(now, prefix) {
            return None;
        }
        let own = self.count(prefix);
        let instead_of = if own >= MAX_PER_PREFIX {
            Some(self.oldest(now, prefix)?)
        } else if self.places.len() >= MAX_PLACES {
            Some(self.oldest(now, self.busiest()?)?)
        } else {
            None
        };
        if let Some(other) = instead_of {
            self.leave(other);
        }
        self.next += 1;
        self.places.push(Place { ticket: self.next, began: now, prefix });
        Some(Admitted { ticket: self.next, instead_of })
    }

    /// The connection has ended, or a link stands on it.
    pub(super) fn leave(&mut self, ticket: u64) {
        self.places.retain(|place| place.ticket != ticket);
    }

    fn in_rate(&mut self, now: Instant, prefix: Prefix) -> bool {
        if self.rates.len() >= MAX_PREFIXES && !self.rates.contains_key(&prefix) {
            let full = f64::from(PREFIX_RATE.0);
            self.rates.retain(|_, bucket| !bucket.has(now, full));
            // More prefixes than in any crowd: the rate of all bounds them.
            if self.rates.len() >= MAX_PREFIXES {
                return self.all.take(now, 1.0);
            }
        }
        let bucket = || Bucket::new(PREFIX_RATE.0, PREFIX_RATE.1);
        self.rates.entry(prefix).or_insert_with(bucket).take(now, 1.0) && self.all.take(now, 1.0)
    }

    fn count(&self, prefix: Prefix) -> usize {
        self.places.iter().filter(|place| place.prefix == prefix).count()
    }

    /// The prefix with the most places.
    fn busiest(&self) -> Option<Prefix> {
        let mut counts = HashMap::new();
        self.places.iter().for_each(|place| *counts.entry(place.prefix).or_insert(0) += 1);
        counts.into_iter().max_by_key(|(_, count)| *count).map(|(prefix, _)| prefix)
    }

    /// The oldest connection of a prefix, if it had its time.
    fn oldest(&self, now: Instant, prefix: Prefix) -> Option<u64> {
        let of_prefix = self.places.iter().filter(|place| place.prefix == prefix);
        let oldest = of_prefix.min_by_key(|place| place.began)?;
        let had_its_time = now.saturating_duration_since(oldest.began) >= GIVES_WAY_AFTER;
        had_its_time.then_some(oldest.ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(prefix: u32, host: u32) -> IpAddr {
        IpAddr::from((prefix << 8 | host).to_be_bytes())
    }

    #[test]
    fn idle_connections_of_a_prefix_have_32_places_and_others_theirs() {
        let (mut strangers, start) = (Strangers::default(), Instant::now());
        let admitted = (0..10_000).filter(|n| strangers.admit(start, at(1, n % 256)).is_some());
        assert_eq!(admitted.count(), MAX_PER_PREFIX);
        assert_eq!(strangers.admit(start, at(2, 1)).unwrap().instead_of, None);
        // A second later the oldest of the prefix gives way to the next.
        let later = start + GIVES_WAY_AFTER;
        assert_eq!(strangers.admit(later, at(1, 7)).unwrap().instead_of, Some(1));
        assert_eq!(strangers.places.len(), MAX_PER_PREFIX + 1);
    }

    #[test]
    fn in_a_full_house_the_prefix_with_the_most_places_gives_one_up() {
        let (mut strangers, start) = (Strangers::default(), Instant::now());
        let mut now = start;
        for n in 0..3_000 {
            now = start + Duration::from_millis(n * 10);
            let n = u32::try_from(n).unwrap();
            strangers.admit(now, at(n % 40, n));
            assert!(strangers.places.len() <= MAX_PLACES);
        }
        assert_eq!(strangers.places.len(), MAX_PLACES);
        let admitted = strangers.admit(now + GIVES_WAY_AFTER, at(77, 1)).unwrap();
        assert!(admitted.instead_of.is_some());
    }

    #[test]
    fn a_prefix_has_four_new_connections_a_second_and_all_have_200() {
        let (mut strangers, start) = (Strangers::default(), Instant::now());
        let mut admitted = [0; 2];
        for ms in 0..10_000_u32 {
            let now = start + Duration::from_millis(ms.into());
            for (count, ip) in admitted.iter_mut().zip([at(1, 1), at(1000 + ms, 1)]) {
                if let Some(place) = strangers.admit(now, ip) {
                    *count += 1;
                    strangers.leave(place.ticket);
                }
            }
        }
        assert!((100..=104).contains(&admitted[0]), "{admitted:?}");
        assert!((2200..=2400).contains(&admitted[1]), "{admitted:?}");
        assert!(strangers.rates.len() <= MAX_PREFIXES);
    }
}
