//! What passes between this node and its members, tried because a person asks.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};

use super::{Mesh, members::MemberFacts, networks::reaches};
use crate::{
    carrier::DialError,
    eyeballs::interleave,
    identity::{NodeName, peer_of, server_name},
    link::Link,
    transport::code,
    underlay::{Carrier, address_towards, unspecified},
    wire::{
        link::{LinkRefusal, Reached, Reply, Request},
        reach::{streams_of, udp_of},
    },
};

/// Members that are tried: enough to see what a network lets pass, and few packets.
const MOST_TRIED: usize = 16;

/// Addresses of a member that are tried, by UDP and by TCP each.
const ADDRESSES: usize = 2;

/// How long each try may take: a handshake with one packet lost. All are made at once, so that the answer
/// is there within the 5 s that a command waits.
const PATIENCE: Duration = Duration::from_millis(2500);

/// What was found of a member; `None`: it could not be tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReachFacts {
    /// The member.
    pub peer: NodeName,
    /// What the link to it goes over: `udp` or `tls`; `None`: there is none.
    pub carrier: Option<String>,
    /// Whether UDP passes to it and back.
    pub udp: Option<bool>,
    /// The round trips that UDP lost, in percent: by the probes of a link over it, or when it was measured beside the
    /// link in the last 11 min.
    pub udp_loss_percent: Option<f64>,
    /// Whether TLS on TCP passes to it; `None` too where it accepts none.
    pub tcp: Option<bool>,
    /// Why TCP could not be tried, or did not pass.
    pub tcp_problem: Option<String>,
    /// Where it sees this node's UDP packets come from.
    pub sees_us: Option<SocketAddr>,
    /// Where they leave this machine.
    pub leaves_from: Option<SocketAddr>,
    /// Whether it reached this node by UDP from a port from which it had never sent.
    pub reached_by_udp: Option<bool>,
    /// Whether it reached this node by TLS on TCP.
    pub reached_by_tcp: Option<bool>,
    /// The longest IP packet that was seen to pass to it, in bytes.
    pub packet_bytes: Option<u16>,
}

impl Mesh {
    /// Tries what passes between this node and its members, at most 16, those with a link first. `None`: it
    /// is being done already.
    pub async fn reach_facts(&self) -> Option<Vec<ReachFacts>> {
        let _turn = self.reaching.try_lock().ok()?;
        let mut members = self.known_members();
        members.sort_by_key(|member| self.links.get(&member.name).is_none());
        let tried = members.into_iter().take(MOST_TRIED).map(|member| self.try_member(member));
        Some(join_all(tried).await)
    }

    async fn try_member(&self, member: MemberFacts) -> ReachFacts {
        let link = self.links.get(&member.name);
        let by_udp = link.as_ref().filter(|link| link.carrier() == Carrier::Udp);
        let (udp, (tcp, tcp_problem), reached) = tokio::join!(
            self.try_udp(&member, by_udp.is_some()),
            self.try_streams(&member, link.as_ref()),
            async { self.ask_reach(link.as_deref()?).await },
        );
        let reached = reached.unwrap_or_default();
        let far = by_udp.and_then(|link| link.real_address());
        ReachFacts {
            carrier: link.as_ref().map(|link| link.carrier().name().to_owned()),
            udp,
            udp_loss_percent: self.udp_loss_percent(&member.name, by_udp.is_some()),
            tcp,
            tcp_problem,
            sees_us: by_udp.and_then(|link| link.seen()),
            leaves_from: far.and_then(|far| self.leaves_from(far.ip())),
            reached_by_udp: reached.udp,
            reached_by_tcp: reached.tcp,
            packet_bytes: by_udp.zip(far).and_then(|(link, far)| ip_bytes(link, far.ip())),
            peer: member.name,
        }
    }

    /// Whether a probe of the link over UDP is answered; without one whether a handshake is.
    async fn try_udp(&self, member: &MemberFacts, linked: bool) -> Option<bool> {
        if linked {
            return Some(self.ping(&member.name).await.is_ok());
        }
        let addresses = to_try(udp_of(&member.addresses).collect());
        if addresses.is_empty() || !self.members().uses_udp() {
            return None;
        }
        let tries = addresses.into_iter().map(|address| self.handshake(&member.name, address));
        Some(join_all(tries).await.contains(&true))
    }

    /// The round trips that UDP to it lost, in percent, as far as that was measured. `linked`: the link goes over it.
    fn udp_loss_percent(&self, name: &NodeName, linked: bool) -> Option<f64> {
        if linked {
            let metrics = self.routing().measured(Instant::now().into_std(), name, false)?;
            return Some(metrics.round_trip_loss().fraction() * 100.0);
        }
        let other = self.other_carrier(name)?;
        (other.carrier == Carrier::Udp.name()).then_some(other.loss_percent)
    }

    /// Whether a member is reached by streams, as [`Self::try_stream`] says it.
    async fn try_streams(&self, member: &MemberFacts, link: Option<&Arc<Link>>) -> Tried {
        // A link that the member dialled does not show that this node's own dials pass.
        let dialled = link.is_some_and(|link| link.carrier() == Carrier::Tls && link.we_dialled());
        if dialled && !self.members().is_path_down(&member.name) {
            return (Some(true), None);
        }
        let addresses = to_try(streams_of(&member.addresses));
        let tries = addresses.into_iter().map(|address| self.try_stream(&member.name, address));
        of_all(join_all(tries).await)
    }

    /// Whether a member is reached by a stream to `address`; `None`: it cannot be tried; and what is wrong.
    async fn try_stream(&self, name: &NodeName, address: SocketAddr) -> Tried {
        let Some(streams) = &self.streams else { return (None, None) };
        let dialled = async {
            let stream = streams.dial(address).await?;
            Ok(self.handshake(name, stream.virtual_address()).await)
        };
        match timeout(PATIENCE, dialled).await {
            Ok(Ok(true)) => (Some(true), None),
            Ok(Ok(false)) => (Some(false), Some(format!("{address} answers, but is not {name}"))),
            Ok(Err(error @ (DialError::Confined(_) | DialError::TooMany))) => {
                (None, Some(error.to_string()))
            }
            Ok(Err(error)) => (Some(false), Some(error.to_string())),
            Err(_) => (Some(false), Some(format!("no answer at {address}"))),
        }
    }

    /// Whether `name` answers at `address`. The connection ends with the handshake and becomes no link.
    async fn handshake(&self, name: &NodeName, address: SocketAddr) -> bool {
        let client = self.client_for(name);
        let Ok(connecting) = self.endpoint.connect_with(client, address, &server_name(name)) else {
            return false;
        };
        let Ok(Ok(conn)) = timeout(PATIENCE, connecting).await else { return false };
        conn.close(code::DONE.into(), b"it was a try");
        peer_of(&conn).is_ok_and(|peer| peer.name == *name)
    }

    /// How a neighbour reaches this node when asked to.
    async fn ask_reach(&self, link: &Link) -> Option<Reached> {
        match link.request(&Request::Reach).await {
            Ok(Reply::Reached(reached)) => Some(reached),
            _ => None,
        }
    }

    /// Tries to reach the neighbour on `link`, which asks for it, where the link shows that it is.
    pub(super) async fn answer_reach(&self, link: &Link) -> Result<Reply, LinkRefusal> {
        let now = Instant::now().into_std();
        if !link.conduct().with_budget(|budget| budget.take_reach(now)) {
            return Err(LinkRefusal::Full("it was tried just now".to_owned()));
        }
        let (name, at) = (&link.peer().name, link.real_address());
        let told = self.members().get(name).map(|member| member.addresses.clone());
        let told = told.unwrap_or_default();
        let udp = async {
            let ours = self.endpoint.local_addr().ok()?.ip();
            let ours = if ours.is_unspecified() { unspecified(at?.ip()) } else { ours };
            link.reaches(ours, &udp_of(&told).collect::<Vec<_>>()).await
        };
        let mut streams = streams_of(&told).into_iter();
        let stream = streams.find(|told| at.is_some_and(|at| at.ip() == told.ip()));
        let tcp = async { self.try_stream(name, stream?).await.0 };
        let (udp, tcp) = tokio::join!(udp, tcp);
        Ok(Reply::Reached(Reached { udp, tcp }))
    }

    /// From where packets to `far` leave this machine.
    fn leaves_from(&self, far: IpAddr) -> Option<SocketAddr> {
        let ours = self.endpoint.local_addr().ok()?;
        let from = if ours.ip().is_unspecified() { unspecified(far) } else { ours.ip() };
        Some(SocketAddr::new(address_towards(from, far)?, ours.port()))
    }
}

/// Whether a stream reaches a member; `None`: it cannot be tried; and what is wrong.
type Tried = (Option<bool>, Option<String>);

/// The addresses of a member that are tried: one of each family if it has both. Those to which this machine has no
/// route come last, so that their failures do not hide that of another.
pub(crate) fn to_try(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    routed_first(addresses, |ip| reaches(unspecified(ip), ip))
}

fn routed_first(
    mut addresses: Vec<SocketAddr>,
    routed: impl Fn(IpAddr) -> bool,
) -> Vec<SocketAddr> {
    addresses.sort_by_key(|address| !routed(address.ip()));
    let mut addresses = interleave(&addresses);
    addresses.truncate(ADDRESSES);
    addresses
}

/// What tries at several addresses show together: one that succeeds suffices, otherwise the first that failed is told.
fn of_all(tries: Vec<Tried>) -> Tried {
    let wanted = [Some(true), Some(false), None];
    let first = wanted.iter().find_map(|wanted| tries.iter().find(|(found, _)| found == wanted));
    first.cloned().unwrap_or_default()
}

/// The length of the IP packets of QUIC's present size: 8 bytes for UDP, and 20 (IPv4) or 40 for IP.
fn ip_bytes(link: &Link, far: IpAddr) -> Option<u16> {
    let header = if far.is_ipv4() { 28 } else { 48 };
    link.packet_bytes().map(|bytes| bytes + header)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn one_tcp_address_of_each_family_is_tried_and_one_with_a_route_first() {
        let (one, two, six) = ("192.0.2.1:443", "192.0.2.2:443", "[2001:db8::1]:443");
        for (told, routed, tried) in [
            (&[][..], &[][..], &[][..]),
            (&[one], &[], &[one]),
            (&[six, one, two], &[one, two, six], &[six, one]),
            (&[six, one, two], &[one, two], &[one, six]),
            (&[one, two, six], &[one, two, six], &[one, six]),
            (&[one, two], &[two], &[two, one]),
        ] {
            let routed = addresses(routed);
            let has_route = |ip| routed.iter().any(|address| address.ip() == ip);
            assert_eq!(routed_first(addresses(told), has_route), addresses(tried), "{told:?}");
        }
    }

    #[test]
    fn one_tcp_address_that_answers_suffices_and_the_first_failure_is_told() {
        let failed = |why: &str| (Some(false), Some(why.to_owned()));
        let untried = (None, Some("too many streams".to_owned()));
        assert_eq!(of_all(Vec::new()), (None, None));
        assert_eq!(of_all(vec![failed("one"), (Some(true), None)]), (Some(true), None));
        assert_eq!(of_all(vec![failed("one"), failed("two")]), failed("one"));
        assert_eq!(of_all(vec![untried.clone(), failed("two")]), failed("two"));
        assert_eq!(of_all(vec![untried.clone()]), untried);
    }
}
