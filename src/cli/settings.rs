//! From the folder and its configuration to a node.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use super::{CliError, folder::Folder, members, units};
use crate::{
    app::{ExitDoor, JoinDesk, NodeSettings},
    config::Config,
    exit::{Exit, SystemResolver},
    identity::{Authority, NodeIdentity, PendingInvitations, UnixTime, needs_renewal},
    mesh::RelayConfig,
    overlay::units::Bitrate,
};

/// The node's identity. The authority's own node renews its certificate here; other nodes do not renew
/// yet: they are invited anew.
pub(super) fn identity(folder: &Folder, now: UnixTime) -> Result<NodeIdentity, CliError> {
    let identity = NodeIdentity::load(&folder.dir)?;
    let peer = identity.peer();
    let left = peer.expires.as_secs().checked_sub(now.as_secs());
    if folder.dir.has_authority() && needs_renewal(peer, now) {
        let authority = Authority::load(&folder.dir)?;
        let request = identity.signing_request()?;
        let renewed = identity.renewed(authority.renew(&request, now)?)?;
        renewed.save(&folder.dir)?;
        tracing::info!("this node's certificate is renewed");
        return Ok(renewed);
    }
    match left {
        Some(left) => {
            if needs_renewal(peer, now) {
                tracing::warn!(left = units::span(left), "this node's certificate ends soon");
            }
            Ok(identity)
        }
        None => Err(CliError::say(format!(
            "the certificate of {} has expired; ask for an invitation, move this folder away, and join again \
             (if it should be valid, this machine's clock is wrong)",
            peer.name
        ))),
    }
}

/// Everything that the node is started with; `listen` is where its UDP socket really is.
pub(super) fn node(
    folder: &Folder,
    config: Config,
    identity: NodeIdentity,
    listen: SocketAddr,
) -> Result<NodeSettings, CliError> {
    let desk = if folder.dir.has_authority() {
        let authority = Authority::load(&folder.dir)?;
        Some(JoinDesk::new(authority, PendingInvitations::new(&folder.dir)))
    } else {
        None
    };
    let mut exit = config.exit;
    if exit.enabled && !identity.peer().roles.exit {
        tracing::warn!("[exit] is enabled, but the certificate does not grant it; it stays off");
        exit.enabled = false;
    }
    Ok(NodeSettings {
        exit: exit.enabled,
        addresses: addresses(&config.node.advertise, listen),
        members: members::load(&folder.dir),
        entry: config.entry.enabled.then_some(config.entry),
        rules: config.rules,
        acceptor: Arc::new(ExitDoor(Exit::new(exit, Arc::new(SystemResolver::new())))),
        relay: RelayConfig {
            enabled: config.relay.enabled,
            rate_limit: config.relay.rate_limit.map(|rate| rate.bits_per_second() / 8),
        },
        policy: config.policy,
        probe_budget: Bitrate::from_bps(config.probe.budget.bits_per_second()),
        lane: config.lane.into(),
        desk,
        identity,
    })
}

/// What the node tells others about where it is.
fn addresses(advertise: &[SocketAddr], listen: SocketAddr) -> Vec<SocketAddr> {
    if !advertise.is_empty() {
        return advertise.to_vec();
    }
    if !listen.ip().is_unspecified() {
        return vec![listen];
    }
    outgoing_address().map(|ip| SocketAddr::new(ip, listen.port())).into_iter().collect()
}

/// The address of the interface that leads to the Internet. Connecting a UDP socket asks the
/// routing table and sends nothing; the destination is of those set aside for documentation
/// (RFC 5737).
fn outgoing_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_loopback())
}

/// How long open flows may go on after a node was told to stop, unless `--drain` says otherwise:
/// what a page or an API call needs, and well under systemd's 90 s.
pub(super) const DRAIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_advertised_goes_before_where_the_socket_is() {
        let listen = "127.0.0.1:9".parse().unwrap();
        let outside = "192.0.2.1:7".parse().unwrap();
        assert_eq!(addresses(&[outside], listen), [outside]);
        assert_eq!(addresses(&[], listen), [listen]);
        for told in addresses(&[], "0.0.0.0:9".parse().unwrap()) {
            assert!(!told.ip().is_unspecified() && told.port() == 9);
        }
    }
}
