//! Address translation, as a home router does it. PURE.
//!
//! In RFC 4787's words: endpoint-independent mapping (one outside port per inside socket, whoever
//! it talks to) with address- and port-dependent filtering (only those it has sent to may answer).
//! Mappings do not time out; [`Nats::rebind`] forgets them.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

/// The first mapped port; outside the range that sockets take by themselves.
const FIRST_PORT: u16 = 20_000;

/// All NATs of the world.
#[derive(Debug)]
pub(super) struct Nats {
    /// Host behind a NAT → the NAT's outside address.
    outside: HashMap<IpAddr, IpAddr>,
    /// Inside socket → its mapping.
    mappings: HashMap<SocketAddr, Mapping>,
    /// Outside address and port → inside socket.
    inside: HashMap<SocketAddr, SocketAddr>,
    next_port: u16,
}

#[derive(Debug)]
struct Mapping {
    outside: SocketAddr,
    /// Whom the inside socket has sent to.
    may_answer: HashSet<SocketAddr>,
}

impl Default for Nats {
    fn default() -> Self {
        Self {
            outside: HashMap::new(),
            mappings: HashMap::new(),
            inside: HashMap::new(),
            next_port: FIRST_PORT,
        }
    }
}

impl Nats {
    /// Puts the host behind this outside address, without mappings.
    pub(super) fn place(&mut self, host: IpAddr, outside: IpAddr) {
        self.rebind(host);
        self.outside.insert(host, outside);
    }

    /// Takes the host out from behind its NAT.
    pub(super) fn remove(&mut self, host: IpAddr) {
        self.rebind(host);
        self.outside.remove(&host);
    }

    /// Forgets the host's mappings: its next packets get new ports.
    pub(super) fn rebind(&mut self, host: IpAddr) {
        let (mappings, inside) = (&mut self.mappings, &mut self.inside);
        mappings.retain(|socket, mapping| {
            let keep = socket.ip() != host;
            if !keep {
                inside.remove(&mapping.outside);
            }
            keep
        });
    }

    /// The host has a new inside address behind the same NAT.
    pub(super) fn rename(&mut self, old: IpAddr, new: IpAddr) {
        self.rebind(old);
        if let Some(outside) = self.outside.remove(&old) {
            self.outside.insert(new, outside);
        }
    }

    /// The source that the destination will see.
    pub(super) fn translate_source(&mut self, from: SocketAddr, to: SocketAddr) -> SocketAddr {
        let Some(&outside) = self.outside.get(&from.ip()) else { return from };
        if self.outside.get(&to.ip()) == Some(&outside) {
            return from;
        }
        if !self.mappings.contains_key(&from) {
            let address = SocketAddr::new(outside, self.take_port(outside));
            self.inside.insert(address, from);
            self.mappings.insert(from, Mapping { outside: address, may_answer: HashSet::new() });
        }
        self.mappings.get_mut(&from).map_or(from, |mapping| {
            mapping.may_answer.insert(to);
            mapping.outside
        })
    }

    /// The socket that the packet reaches; `None` if a NAT keeps it out.
    ///
    /// `from` is the sender's own address, `seen` what [`Self::translate_source`] made of it.
    pub(super) fn translate_destination(
        &self,
        from: SocketAddr,
        seen: SocketAddr,
        to: SocketAddr,
    ) -> Option<SocketAddr> {
        if let Some(outside) = self.outside.get(&to.ip()) {
            let same_site = from.ip() == to.ip() || self.outside.get(&from.ip()) == Some(outside);
            return same_site.then_some(to);
        }
        if !self.outside.values().any(|&outside| outside == to.ip()) {
            return Some(to);
        }
        let inside = self.inside.get(&to)?;
        self.mappings.get(inside)?.may_answer.contains(&seen).then_some(*inside)
    }

    /// The next free port of this outside address, in a fixed order; a long-used port comes last.
    fn take_port(&mut self, outside: IpAddr) -> u16 {
        for _ in 0..=u16::MAX {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(FIRST_PORT);
            if !self.inside.contains_key(&SocketAddr::new(outside, port)) {
                return port;
            }
        }
        self.next_port
    }
}
