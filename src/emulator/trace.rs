//! A digest of the packets on an emulated Internet, to compare two runs. PURE.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use super::seed::fold;

/// FNV-1a over the packets' times, addresses and sizes.
#[derive(Debug, Default)]
pub(super) struct Trace {
    /// When the first packet was sent.
    start: Option<Instant>,
    digest: u64,
}

impl Trace {
    pub(super) fn note(&mut self, now: Instant, from: SocketAddr, to: SocketAddr, len: usize) {
        let start = *self.start.get_or_insert(now);
        self.fold(&now.saturating_duration_since(start).as_nanos().to_le_bytes());
        for address in [from, to] {
            match address.ip() {
                IpAddr::V4(ip) => self.fold(&ip.octets()),
                IpAddr::V6(ip) => self.fold(&ip.octets()),
            }
            self.fold(&address.port().to_le_bytes());
        }
        self.fold(&len.to_le_bytes());
    }

    fn fold(&mut self, bytes: &[u8]) {
        self.digest = fold(self.digest, bytes);
    }

    pub(super) const fn digest(&self) -> u64 {
        self.digest
    }
}
