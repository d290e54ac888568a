//! Answers of name servers, kept for a short while. Pure.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Names kept. Each costs at most 600 bytes: a name of 253 and 16 addresses.
const MAX: usize = 1024;

/// An answer is used for at least this long, so that the connections of a page ask once, and for at
/// most five minutes, whatever its TTL.
const LEAST: Duration = Duration::from_secs(5);
const MOST: Duration = Duration::from_secs(300);

/// How long a negative answer is used: long enough for a client's own retries, and short enough for
/// a name that is created.
const NEGATIVE: Duration = Duration::from_secs(5);

/// Names and their addresses; no address means that the name has none.
#[derive(Debug, Default)]
pub(super) struct NameCache(HashMap<String, Answer>);

#[derive(Debug)]
struct Answer {
    until: Instant,
    addresses: Vec<IpAddr>,
}

impl NameCache {
    /// The addresses of `name`; `None` when they have to be asked for.
    pub(super) fn get(&self, now: Instant, name: &str) -> Option<Vec<IpAddr>> {
        let answer = self.0.get(name).filter(|answer| now < answer.until)?;
        Some(answer.addresses.clone())
    }

    /// Keeps an answer that its server says is good for `lifetime`.
    pub(super) fn put(
        &mut self,
        now: Instant,
        name: &str,
        addresses: &[IpAddr],
        lifetime: Duration,
    ) {
        if self.0.len() >= MAX && !self.0.contains_key(name) {
            self.0.retain(|_, answer| now < answer.until);
        }
        if self.0.len() >= MAX && !self.0.contains_key(name) {
            let first = self.0.iter().min_by_key(|(_, answer)| answer.until);
            if let Some(name) = first.map(|(name, _)| name.clone()) {
                self.0.remove(&name);
            }
        }
        let kept = if addresses.is_empty() { NEGATIVE } else { lifetime.clamp(LEAST, MOST) };
        let answer = Answer { until: now + kept, addresses: addresses.to_vec() };
        self.0.insert(name.to_owned(), answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(9, 9, 9, 9));

    #[test]
    fn lifetimes_are_kept_within_bounds() {
        let (mut cache, now) = (NameCache::default(), Instant::now());
        for (name, addresses, told, kept) in [
            ("zero.test", &[IP][..], 0, 5),
            ("minute.test", &[IP], 60, 60),
            ("week.test", &[IP], 604_800, 300),
            ("none.test", &[], 3600, 5),
        ] {
            cache.put(now, name, addresses, Duration::from_secs(told));
            let almost = now + Duration::from_secs(kept) - Duration::from_millis(1);
            assert_eq!(cache.get(almost, name).as_deref(), Some(addresses), "{name}");
            assert_eq!(cache.get(almost + Duration::from_millis(1), name), None, "{name}");
        }
    }

    #[test]
    fn a_full_cache_gives_up_what_ends_first() {
        let (mut cache, now) = (NameCache::default(), Instant::now());
        cache.put(now, "short.test", &[IP], Duration::from_secs(10));
        for n in 0..MAX {
            cache.put(now, &format!("{n}.test"), &[IP], Duration::from_secs(60));
        }
        assert_eq!(cache.0.len(), MAX);
        assert_eq!(cache.get(now, "short.test"), None);
        assert!(cache.get(now, "0.test").is_some());
    }
}
