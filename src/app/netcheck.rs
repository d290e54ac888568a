//! The content of `netcheck`: what this machine's network lets pass, as members see it.

use std::{collections::BTreeSet, net::SocketAddr};

use serde::{Deserialize, Serialize};

use super::{NodeView, router_port::RouterPort};
use crate::mesh::ReachFacts;

/// What stands between this node's UDP socket and its members. The words are those of RFC 4787.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nat {
    /// None: packets come from where they leave this machine.
    None,
    /// A NAT with one outside address for all destinations.
    EndpointIndependent,
    /// A NAT with another outside address or port for each destination.
    EndpointDependent,
    /// A NAT, of which only one member tells.
    Unknown,
}

/// What the network of this machine lets pass; `None`: nothing tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetReport {
    /// Whether UDP passes to a member and back.
    pub udp: Option<bool>,
    /// Whether TLS on TCP passes to a member that accepts it.
    pub tcp: Option<bool>,
    /// The kind of NAT.
    pub nat: Option<Nat>,
    /// Where members see this node's UDP packets come from.
    pub outside: BTreeSet<SocketAddr>,
    /// Where the router of this network passes packets on to this node, because the node asked for it.
    pub router_port: Option<SocketAddr>,
    /// Why it does not, if it was asked.
    pub router_problem: Option<String>,
    /// Whether somebody to whom this node never sent reaches it by UDP.
    pub reachable_by_udp: Option<bool>,
    /// Whether a member reaches this node by TLS on TCP.
    pub reachable_by_tcp: Option<bool>,
    /// The longest IP packet that passes to all members with a link over UDP, in bytes.
    pub packet_bytes: Option<u16>,
    /// What was found of each member that was tried.
    pub members: Vec<ReachFacts>,
}

impl NodeView {
    /// Tries what passes between this node and its members. It sends some packets to each of them, and takes at
    /// most 5 s.
    ///
    /// # Errors
    /// While it is being done already.
    pub async fn netcheck(&self) -> Result<NetReport, &'static str> {
        let tried = self.mesh.reach_facts().await;
        let members = tried.ok_or("the network is being checked already; ask again in a moment")?;
        Ok(NetReport::of(members, &self.router_port.borrow()))
    }
}

impl NetReport {
    fn of(members: Vec<ReachFacts>, router: &RouterPort) -> Self {
        let seen = members.iter().filter_map(|member| member.sees_us.zip(member.leaves_from));
        Self {
            udp: any(members.iter().map(|member| member.udp)),
            tcp: any(members.iter().map(|member| member.tcp)),
            nat: nat(&seen.collect::<Vec<_>>()),
            outside: members.iter().filter_map(|member| member.sees_us).collect(),
            router_port: router.address(),
            router_problem: router.problem(),
            reachable_by_udp: any(members.iter().map(|member| member.reached_by_udp)),
            reachable_by_tcp: any(members.iter().map(|member| member.reached_by_tcp)),
            packet_bytes: members.iter().filter_map(|member| member.packet_bytes).min(),
            members,
        }
    }
}

/// Whether one of those that could be tried succeeded.
fn any(tries: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    tries.flatten().reduce(|one, other| one || other)
}

/// The kind of NAT, by where each member sees this node and from where packets leave to it. Members of the same
/// network see the node without its NAT, so they say nothing of it.
fn nat(seen: &[(SocketAddr, SocketAddr)]) -> Option<Nat> {
    let translated: Vec<_> = seen.iter().filter(|(seen, ours)| seen != ours).collect();
    let outside: BTreeSet<_> = translated.iter().map(|(seen, _)| seen).collect();
    match (translated.len(), outside.len()) {
        (0, _) if seen.is_empty() => None,
        (0, _) => Some(Nat::None),
        (1, _) => Some(Nat::Unknown),
        (_, 1) => Some(Nat::EndpointIndependent),
        _ => Some(Nat::EndpointDependent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    #[test]
    fn the_kind_of_nat_follows_from_where_members_see_the_node() {
        let ours = at("10.0.0.7:4600");
        let kind =
            |seen: &[&str]| nat(&seen.iter().map(|seen| (at(seen), ours)).collect::<Vec<_>>());
        let (home, there, other) = ("10.0.0.7:4600", "192.0.2.1:4600", "192.0.2.1:4601");
        for (seen, expected) in [
            (&[][..], None),
            (&[home], Some(Nat::None)),
            (&[home, home], Some(Nat::None)),
            (&[there], Some(Nat::Unknown)),
            (&[home, there], Some(Nat::Unknown)),
            (&[there, home, there], Some(Nat::EndpointIndependent)),
            (&[there, other], Some(Nat::EndpointDependent)),
            (&[there, other, there], Some(Nat::EndpointDependent)),
        ] {
            assert_eq!(kind(seen), expected, "{seen:?}");
        }
    }

    #[test]
    fn one_member_that_answers_shows_that_it_passes() {
        assert_eq!(any([None, Some(false), Some(true)].into_iter()), Some(true));
        assert_eq!(any([None, Some(false)].into_iter()), Some(false));
        assert_eq!(any([None].into_iter()), None);
    }
}
