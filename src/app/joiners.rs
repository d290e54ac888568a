//! How many strangers may be joining at once.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::admission::prefix;

/// Joiners at once: each takes some round trips, and one signature of the authority.
const MAX: usize = 4;

/// The joiners under way, by their address's prefix: one of each.
#[derive(Debug, Clone, Default)]
pub(super) struct Joiners(Arc<Mutex<Vec<[u8; 7]>>>);

/// A joiner's place; dropping it gives it back.
#[derive(Debug)]
pub(super) struct JoinerPlace {
    joiners: Joiners,
    prefix: [u8; 7],
}

impl Joiners {
    /// A place for a joiner from `ip`, if there is one.
    pub(super) fn admit(&self, ip: IpAddr) -> Option<JoinerPlace> {
        let prefix = prefix(ip);
        let mut under_way = self.lock();
        if under_way.len() >= MAX || under_way.contains(&prefix) {
            return None;
        }
        under_way.push(prefix);
        Some(JoinerPlace { joiners: self.clone(), prefix })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<[u8; 7]>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for JoinerPlace {
    fn drop(&mut self) {
        self.joiners.lock().retain(|other| *other != self.prefix);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_may_join_at_once_and_one_of_each_prefix() {
        let joiners = Joiners::default();
        let admit = |text: &str| joiners.admit(text.parse().unwrap());
        let first = admit("192.0.2.1").unwrap();
        assert!(admit("192.0.2.2").is_none());
        let others = ["198.51.100.1", "203.0.113.1", "2001:db8::1"].map(|ip| admit(ip).unwrap());
        assert!(admit("233.252.0.1").is_none());
        drop(first);
        assert!(admit("192.0.2.2").is_some());
        drop(others);
        assert!(joiners.lock().is_empty());
    }
}
