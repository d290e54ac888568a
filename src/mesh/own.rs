//! Where this node can be dialled, and addresses that name servers gave.

use std::net::SocketAddr;

use super::{
    Mesh,
    address::{AddressRefusal, OwnKinds},
};
use crate::{
    identity::NodeName, overlay::linkstate::MAX_ADDRESSES, underlay::own_addresses,
    wire::reach::stream_mark,
};

impl Mesh {
    /// Where others can dial this node from now on, as far as it knows by itself. It tells them if that is
    /// news, which is returned.
    pub fn set_own_addresses(&self, addresses: &[SocketAddr]) -> bool {
        if *self.configured.get() == addresses {
            return false;
        }
        self.configured.set(addresses.to_vec());
        self.tell_addresses();
        true
    }

    /// Checks an address that a name server gave, for this node itself or for the authority's: it may be of the
    /// Internet, or of a kind that this machine has itself. What a name server says adds no kind.
    ///
    /// # Errors
    /// Why it is not used.
    pub fn check_named(&self, address: SocketAddr) -> Result<(), AddressRefusal> {
        let machine = match self.bound {
            Some(ip) if ip.is_unspecified() => own_addresses(ip),
            bound => bound.into_iter().collect(),
        };
        machine.into_iter().fold(self.own_kinds(), OwnKinds::with).check(address)
    }

    /// A name of this member leads to these addresses now: it is dialled there, too.
    pub fn named(&self, name: &NodeName, addresses: &[SocketAddr]) {
        self.members().named(tokio::time::Instant::now().into_std(), name, addresses);
        self.dial_news.notify_one();
    }

    /// Whether there is a link to this member whose path is not down.
    #[must_use]
    pub fn reaches(&self, name: &NodeName) -> bool {
        self.links.get(name).is_some() && !self.members().is_path_down(name)
    }

    /// Advertises where this node can be dialled now.
    pub(super) fn tell_addresses(&self) {
        let outside = self.outside_addresses();
        self.routing().set_addresses(self.addresses(&outside));
        self.news.notify_one();
    }

    /// Where this node can be dialled: as it knows by itself, where others see it, and the port of its streams.
    pub(super) fn addresses(&self, outside: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut addresses = (*self.configured.get()).clone();
        let mark = self.stream_port.map(stream_mark);
        let news = outside.iter().filter(|outside| !addresses.contains(outside));
        let news: Vec<_> = news.copied().collect();
        addresses.truncate(MAX_ADDRESSES - news.len() - mark.iter().count());
        addresses.extend(news);
        addresses.extend(mark);
        addresses
    }

    /// The kinds of addresses that this node has itself.
    pub(super) fn own_kinds(&self) -> OwnKinds {
        let (configured, outside) = (self.configured.get(), self.outside_addresses());
        let own = configured.iter().chain(&outside).map(|address| address.ip());
        own.fold(OwnKinds::default(), OwnKinds::with)
    }
}
