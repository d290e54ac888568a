//! What happens when: the entries of the queue, and what travels between nodes.

use std::{cmp::Ordering, time::Instant};

use ronproxy::internals::{
    emulator::Event,
    identity::NodeName,
    overlay::{
        budget::EXCHANGE_BYTES,
        linkstate::{Flood, Version},
        monitor::Probe,
        sharing::SharedLink,
    },
    wire,
};

use crate::control::Generation;

/// One of the three messages of an exchange on the wire, with its share of two acknowledgements.
const PROBE_BYTES: usize = 110;
// From both ends, and 8/9 of an interval after the one before.
const _: () = assert!(PROBE_BYTES as u64 * 3 * 9 / 8 / 2 == EXCHANGE_BYTES - 1);
/// What carries a notice: IP, UDP, QUIC, a share of an acknowledgement.
const NOTICE_OVERHEAD: usize = 90;
/// What travels between two nodes.
#[derive(Debug, Clone)]
pub(crate) enum Message {
    Probe(Probe),
    Advert(Flood),
    Digest(Vec<(NodeName, Version)>),
    Shared(Vec<SharedLink>),
}

pub(crate) enum What {
    Wake(usize),
    Arrive {
        from: usize,
        to: usize,
        cuts: u32,
        message: Message,
        generation: Generation,
        attempt: u32,
    },
    Send {
        from: usize,
        to: usize,
        message: Message,
        generation: Generation,
        attempt: u32,
    },
    Dial(usize, usize),
    Stand(usize, usize),
    Look(usize, usize, Generation),
    Change(Event),
}

/// Ordered by time, then by the order of creation.
pub(crate) struct Entry(pub(crate) Instant, pub(crate) u64, pub(crate) What);

/// What a node sent and received, in bytes on the wire.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spent {
    pub(crate) probes: usize,
    pub(crate) notices: usize,
}

impl Message {
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Probe(_) => PROBE_BYTES,
            Self::Advert(flood) => wire::encode(flood).len() + NOTICE_OVERHEAD,
            Self::Digest(digest) => wire::encode(digest).len() + NOTICE_OVERHEAD,
            Self::Shared(links) => wire::encode(links).len() + NOTICE_OVERHEAD,
        }
    }
}

impl Spent {
    pub(crate) fn add(&mut self, message: &Message, bytes: usize) {
        match message {
            Message::Probe(_) => self.probes += bytes,
            Message::Advert(_) | Message::Digest(_) | Message::Shared(_) => self.notices += bytes,
        }
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}
