//! Changes of an Internet at set times, as data.

use std::{net::IpAddr, time::Duration};

use tokio::time::Instant;

use super::{internet::Internet, link::LinkModel};

/// A change and its time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Event {
    /// Time since the scenario began.
    pub at: Duration,
    /// What changes.
    pub change: Change,
}

/// A change of an [`Internet`]; each is the method of the same name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Change {
    /// See [`Internet::set`].
    Set {
        /// The sender.
        from: IpAddr,
        /// The receiver.
        to: IpAddr,
        /// The new model.
        model: LinkModel,
    },
    /// See [`Internet::set_both`].
    SetBoth {
        /// One host.
        a: IpAddr,
        /// The other.
        b: IpAddr,
        /// The new model of both directions.
        model: LinkModel,
    },
    /// See [`Internet::cut`].
    Cut {
        /// One host.
        a: IpAddr,
        /// The other.
        b: IpAddr,
    },
    /// See [`Internet::cut_one_way`].
    CutOneWay {
        /// The sender.
        from: IpAddr,
        /// The receiver.
        to: IpAddr,
    },
    /// See [`Internet::heal`].
    Heal {
        /// One host.
        a: IpAddr,
        /// The other.
        b: IpAddr,
    },
    /// See [`Internet::heal_one_way`].
    HealOneWay {
        /// The sender.
        from: IpAddr,
        /// The receiver.
        to: IpAddr,
    },
    /// See [`Internet::move_host`].
    MoveHost {
        /// The address before.
        old: IpAddr,
        /// The address after.
        new: IpAddr,
    },
    /// See [`Internet::nat`].
    Nat {
        /// The host behind the NAT.
        host: IpAddr,
        /// The NAT's outside address.
        outside: IpAddr,
    },
    /// See [`Internet::rebind_nat`].
    RebindNat {
        /// The host behind the NAT.
        host: IpAddr,
    },
}

impl Change {
    /// An event: this change at this time since the scenario began.
    #[must_use]
    pub const fn at(self, at: Duration) -> Event {
        Event { at, change: self }
    }

    /// Makes the change now.
    pub fn apply(&self, internet: &Internet) {
        match *self {
            Self::Set { from, to, model } => internet.set(from, to, model),
            Self::SetBoth { a, b, model } => internet.set_both(a, b, model),
            Self::Cut { a, b } => internet.cut(a, b),
            Self::CutOneWay { from, to } => internet.cut_one_way(from, to),
            Self::Heal { a, b } => internet.heal(a, b),
            Self::HealOneWay { from, to } => internet.heal_one_way(from, to),
            Self::MoveHost { old, new } => internet.move_host(old, new),
            Self::Nat { host, outside } => internet.nat(host, outside),
            Self::RebindNat { host } => internet.rebind_nat(host),
        }
    }
}

/// Plays the events from now on, in the order of their times (and of the list, if equal).
///
/// Returns after the last one. Dropping the future stops the scenario where it is.
pub async fn play(internet: Internet, mut events: Vec<Event>) {
    events.sort_by_key(|event| event.at);
    let start = Instant::now();
    for event in events {
        tokio::time::sleep_until(start + event.at).await;
        tracing::debug!(at = ?event.at, change = ?event.change, "the emulated Internet changes");
        event.change.apply(&internet);
    }
}
