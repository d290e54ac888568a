//! Addresses that stand for names, so that the exit resolves them. PURE.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

/// Names that have an address. A browser with many pages uses some hundreds; 4,096 of the longest take 2 MiB.
const MOST: usize = 4_096;

/// The first address that stands for a name. 198.18.0.0/15 is for measurements (RFC 2544), so no server on the
/// Internet has such an address. The first 256 are the namespace's own.
const FIRST: u32 = u32::from_be_bytes([198, 18, 1, 0]);

/// So many addresses stand for names, up to 198.19.255.255.
const ADDRESSES: u32 = 2 * 65_536 - 256;

/// Names and the addresses that stand for them. The name that was used longest ago gives way to a new one. Its address
/// comes again only after all others, so a program that still has it is refused and not led to another name.
#[derive(Debug, Default)]
pub(super) struct Names {
    numbers: HashMap<Arc<str>, u32>,
    names: HashMap<u32, Entry>,
    next: u32,
    /// Counts uses.
    uses: u64,
}

#[derive(Debug)]
struct Entry {
    name: Arc<str>,
    last_use: u64,
}

impl Names {
    /// The address that stands for `name`.
    pub(super) fn address_of(&mut self, name: &str) -> Ipv4Addr {
        let number = match self.numbers.get(name) {
            Some(number) => *number,
            None => self.add(name),
        };
        self.touch(number);
        Ipv4Addr::from(FIRST + number)
    }

    /// The name for which `address` stands; `None` if it stands for none any more.
    pub(super) fn name_of(&mut self, address: IpAddr) -> Option<Arc<str>> {
        let number = number(address)?;
        self.touch(number);
        Some(self.names.get(&number)?.name.clone())
    }

    fn add(&mut self, name: &str) -> u32 {
        if self.names.len() >= MOST
            && let Some((oldest, _)) = self.names.iter().min_by_key(|(_, entry)| entry.last_use)
        {
            let oldest = *oldest;
            if let Some(entry) = self.names.remove(&oldest) {
                self.numbers.remove(&entry.name);
            }
        }
        while self.names.contains_key(&self.next) {
            self.next = (self.next + 1) % ADDRESSES;
        }
        let (number, name) = (self.next, Arc::<str>::from(name));
        self.next = (number + 1) % ADDRESSES;
        self.numbers.insert(name.clone(), number);
        self.names.insert(number, Entry { name, last_use: self.uses });
        number
    }

    fn touch(&mut self, number: u32) {
        self.uses += 1;
        if let Some(entry) = self.names.get_mut(&number) {
            entry.last_use = self.uses;
        }
    }
}

/// Whether `address` is one of those that stand for names.
pub(super) fn stands_for_a_name(address: IpAddr) -> bool {
    number(address).is_some()
}

fn number(address: IpAddr) -> Option<u32> {
    let IpAddr::V4(address) = address else { return None };
    u32::from(address).checked_sub(FIRST).filter(|number| *number < ADDRESSES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_address() {
        let mut names = Names::default();
        let (a, b) = (names.address_of("a.test"), names.address_of("b.test"));
        assert_eq!((a, b), (Ipv4Addr::new(198, 18, 1, 0), Ipv4Addr::new(198, 18, 1, 1)));
        assert_eq!(names.address_of("a.test"), a);
        assert_eq!(names.name_of(b.into()).as_deref(), Some("b.test"));
        for none in ["198.18.0.1", "198.18.1.2", "198.20.0.0", "192.0.2.1", "::1"] {
            assert_eq!(names.name_of(none.parse().unwrap()), None, "{none}");
        }
        assert!(stands_for_a_name(Ipv4Addr::new(198, 19, 255, 255).into()));
    }

    #[test]
    fn the_name_used_longest_ago_gives_way_and_its_address_rests() {
        let mut names = Names::default();
        let kept = names.address_of("kept.test");
        let lost = names.address_of("lost.test");
        for at in 0..MOST {
            names.address_of("kept.test");
            names.address_of(&format!("{at}.test"));
        }
        assert_eq!((names.names.len(), names.numbers.len()), (MOST, MOST));
        assert_eq!(names.name_of(lost.into()), None);
        assert_eq!(names.address_of("kept.test"), kept);
        assert_ne!(names.address_of("lost.test"), lost);
    }

    #[test]
    fn the_addresses_begin_again_after_the_last() {
        let mut names = Names { next: ADDRESSES - 1, ..Names::default() };
        let last = names.address_of("last.test");
        assert_eq!(last, Ipv4Addr::new(198, 19, 255, 255));
        assert_eq!(names.address_of("first.test"), Ipv4Addr::new(198, 18, 1, 0));
    }
}
