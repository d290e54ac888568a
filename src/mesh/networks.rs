//! In which networks UDP was found blocked, and the dials by streams.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::PoisonError,
    time::Instant,
};

use super::{Mesh, dial::Dialled};
use crate::{
    carrier::DialError,
    identity::NodeName,
    underlay::{Carrier, address_towards, present_address, unspecified},
};

/// Networks remembered: those of a laptop's weeks. The one not seen for longest is forgotten.
const MAX_NETWORKS: usize = 16;

/// Where UDP was found blocked. A network is known by this machine's address in it, so two may be taken for
/// one: UDP then lacks its head start there, or has it in vain.
#[derive(Debug, Default)]
pub(super) struct Networks {
    present: Option<IpAddr>,
    /// The one seen last is the last.
    blocked: Vec<IpAddr>,
}

impl Networks {
    /// Takes what the last process wrote down. It is no more than a hint: UDP is dialled all the same.
    pub(super) fn remember(&mut self, blocked: &[IpAddr]) {
        blocked.iter().for_each(|ip| self.add(*ip));
    }

    /// What is to be written down.
    pub(super) fn blocked(&self) -> Vec<IpAddr> {
        self.blocked.clone()
    }

    /// This machine is at `ip` now. Returns whether UDP was found blocked there.
    pub(super) fn enter(&mut self, ip: Option<IpAddr>) -> bool {
        self.present = ip;
        ip.is_some_and(|ip| self.blocked.contains(&ip))
    }

    /// Takes note whether UDP is blocked in the present network.
    pub(super) fn found(&mut self, blocked: bool) {
        let Some(present) = self.present else { return };
        if blocked {
            self.add(present);
        } else {
            self.blocked.retain(|ip| *ip != present);
        }
    }

    fn add(&mut self, ip: IpAddr) {
        self.blocked.retain(|known| *known != ip);
        self.blocked.push(ip);
        if self.blocked.len() > MAX_NETWORKS {
            self.blocked.remove(0);
        }
    }
}

/// Whether packets of a UDP socket at `from` can leave this machine to `to`: its family is that of the
/// socket, and there is a route.
pub(super) fn reaches(from: IpAddr, to: IpAddr) -> bool {
    let (from, to) = (from.to_canonical(), to.to_canonical());
    // A socket at the IPv6 wildcard address serves both families.
    let from = if from == IpAddr::V6(Ipv6Addr::UNSPECIFIED) { unspecified(to) } else { from };
    address_towards(from, to).is_some()
}

impl Mesh {
    /// Looks in which network this machine is, if it matters.
    pub(super) fn enter_network(&self) {
        if self.streams.is_none() {
            return;
        }
        let mut networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        let blocked = networks.enter(present_address());
        drop(networks);
        self.members().set_udp_blocked(blocked);
    }

    /// A link to a member stands: does UDP pass here?
    pub(super) fn note_carrier(&self, carrier: Carrier, we_dialled: bool) {
        if self.streams.is_none() {
            return;
        }
        let by_udp = || self.links.all().iter().any(|link| link.carrier() == Carrier::Udp);
        let blocked = match carrier {
            Carrier::Udp => false,
            Carrier::Tls if we_dialled && !by_udp() => true,
            // Others may dial streams, and UDP may be blocked at the other end.
            Carrier::Tls => return,
        };
        let mut networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        networks.found(blocked);
        drop(networks);
        self.members().set_udp_blocked(blocked);
    }

    /// Dials a member by a stream, and makes the link on it.
    pub(super) async fn dial_stream(&self, name: NodeName, address: SocketAddr) -> Option<Dialled> {
        let began = tokio::time::Instant::now().into_std();
        let stream = self.streams.as_ref()?.dial(address).await.inspect_err(|error| match error {
            DialError::Confined(_) => {
                if let Some(more) = self.dial_log(began, "no stream") {
                    tracing::warn!(%name, %address, %error, more, "no stream");
                }
            }
            _ => tracing::debug!(%name, %address, %error, "no stream"),
        });
        let stream = stream.ok()?;
        if self.answers(&name, began) {
            tracing::debug!(%name, "no stream needed: the link answers");
            return None;
        }
        let mut dialled = self.dial_at(name, stream.virtual_address()).await?;
        dialled.stream = Some(stream);
        Some(dialled)
    }

    /// Whether the member has a link that was made, or on which something came, since `began`.
    pub(super) fn answers(&self, name: &NodeName, began: Instant) -> bool {
        let link = self.links.get(name);
        let heard = self.routing().heard(name);
        link.is_some_and(|link| {
            link.since().into_std() >= began || heard.is_some_and(|heard| heard >= began)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: u8) -> Option<IpAddr> {
        Some([192, 0, 2, host].into())
    }

    #[test]
    fn a_network_where_udp_was_blocked_is_known_again() {
        let mut networks = Networks::default();
        assert!(!networks.enter(at(1)));
        networks.found(true);
        assert!(!networks.enter(at(2)) && !networks.enter(None));
        assert!(networks.enter(at(1)));
        let mut next_process = Networks::default();
        next_process.remember(&networks.blocked());
        assert!(next_process.enter(at(1)) && !next_process.enter(at(2)));
        networks.found(false);
        assert!(!networks.enter(at(1)) && networks.blocked().is_empty());
    }

    #[test]
    fn a_socket_reaches_addresses_of_its_family_that_have_a_route() {
        let reaches = |from: &str, to: &str| reaches(from.parse().unwrap(), to.parse().unwrap());
        for from in ["0.0.0.0", "::", "127.0.0.1", "::ffff:127.0.0.1"] {
            assert!(reaches(from, "127.0.0.1") && reaches(from, "::ffff:127.0.0.1"), "{from}");
        }
        for (from, to) in [("0.0.0.0", "::1"), ("127.0.0.1", "2001:db8::1"), ("::1", "127.0.0.1")] {
            assert!(!reaches(from, to), "{from} {to}");
        }
    }

    #[test]
    fn sixteen_networks_are_remembered() {
        let mut networks = Networks::default();
        for host in 0..40 {
            networks.enter(at(host));
            networks.found(true);
        }
        assert_eq!(networks.blocked().len(), MAX_NETWORKS);
        assert!(networks.enter(at(39)) && networks.enter(at(24)) && !networks.enter(at(23)));
        let all: Vec<_> = (0..=255).filter_map(at).collect();
        networks.remember(&all);
        assert_eq!(networks.blocked(), all[240..]);
    }
}
