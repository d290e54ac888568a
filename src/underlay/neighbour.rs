//! Where a neighbour is now.

use std::{
    fmt,
    net::SocketAddr,
    sync::{PoisonError, RwLock},
};

use crate::identity::NodeName;

/// A neighbour's name and the address its link uses at present.
///
/// The link, and every label and slot that leads to the neighbour, share this. The link updates the
/// address when the neighbour moves, so all of them use the new address at once.
pub struct Neighbour {
    name: NodeName,
    address: RwLock<Option<SocketAddr>>,
}

impl Neighbour {
    /// A neighbour; `None` while its address is not known.
    #[must_use]
    pub fn new(name: NodeName, address: Option<SocketAddr>) -> Self {
        Self { name, address: RwLock::new(address) }
    }

    /// The neighbour's name.
    #[must_use]
    pub fn name(&self) -> &NodeName {
        &self.name
    }

    /// Its current address; `None` while no link to it exists.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        *self.address.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records where the neighbour is now.
    pub fn set_address(&self, address: Option<SocketAddr>) {
        *self.address.write().unwrap_or_else(PoisonError::into_inner) = address;
    }
}

impl fmt::Debug for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{:?}", self.name, self.address())
    }
}
