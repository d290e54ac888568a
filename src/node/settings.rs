//! From the folder and its configuration to a node.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use noq::AsyncUdpSocket;
use tokio::sync::watch;

use super::written::Written;
use crate::{
    app::{ExitDoor, JoinDesk, NodeSettings, OwnAddresses},
    carrier::{StreamSettings, bind_streams},
    chance::Chance,
    config::{self, Config},
    exit::{Exit, SystemResolver},
    flow::Target,
    identity::{Clock, Credentials, IdentityError, NodeDir},
    lane::LaneBudget,
    mesh::{Probing, RelayConfig},
    overlay::units::Bitrate,
    quantity::span,
    signer::AuthorityClient,
    underlay::{PathMtu, bind_udp, no_udp},
};

/// What the node shows others and judges them by. It renews its certificate by itself while it
/// runs, also one that has ended.
pub(crate) fn credentials(dir: &NodeDir) -> Result<Credentials, IdentityError> {
    let credentials = Credentials::load(dir, Clock::system())?;
    let (peer, now) = (credentials.peer(), credentials.now());
    if now < peer.starts {
        let behind = span(peer.starts.as_secs() - now.as_secs());
        tracing::warn!(
            "this machine's clock is at least {behind} behind the authority's: the node's own \
             certificate is not valid yet; set the clock, best by NTP"
        );
    }
    if let Some(late) = now.as_secs().checked_sub(peer.expires.as_secs()) {
        let late = span(late);
        tracing::warn!(
            "the certificate of {} ended {late} ago by this machine's clock; \
             the node asks the authority for the next one and has no links until then",
            peer.name
        );
    }
    if credentials.is_revoked(&peer) {
        tracing::warn!("{} was revoked: no other node accepts it", peer.name);
    }
    Ok(credentials)
}

/// The node's sockets towards other nodes.
pub(crate) struct Sockets {
    /// Of UDP.
    pub(crate) udp: Box<dyn AsyncUdpSocket>,
    /// Where that really is: the port may have been 0.
    pub(crate) listen: SocketAddr,
    /// Of streams.
    pub(crate) streams: StreamSettings,
}

/// A socket cannot be had.
pub(crate) struct NoSocket {
    /// `UDP` or `TCP`.
    #[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "only the command line says it"))]
    pub(crate) protocol: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) error: io::Error,
}

/// Opens the sockets of a node.
pub(crate) fn open_sockets(node: &config::Node) -> Result<Sockets, NoSocket> {
    let failed = |protocol, address| move |error| NoSocket { protocol, address, error };
    let (udp, listen) = if node.udp {
        let udp = bind_udp(node.listen).map_err(failed("UDP", node.listen))?;
        let listen = udp.local_addr().map_err(failed("UDP", node.listen))?;
        (udp, listen)
    } else {
        (no_udp(), node.listen)
    };
    let bound = |address| {
        let listener = bind_streams(address)?;
        Ok((listener.local_addr()?, listener))
    };
    let listener = node.stream_listen.map(|at| bound(at).map_err(failed("TCP", at)));
    let (at, listener) = listener.transpose()?.unzip();
    let (port, dial) = (node.told_stream_port(at), node.stream_dial);
    let proxy = node.stream_proxy().filter(|_| dial);
    let streams = StreamSettings { listener, port, dial, proxy, udp: node.udp };
    Ok(Sockets { udp, listen, streams })
}

/// Everything that the node is started with beside its sockets; `authority` asks the process with its
/// key, at the authority.
pub(crate) fn node(
    dir: &NodeDir,
    config: Config,
    credentials: Credentials,
    (listen, streams): (SocketAddr, StreamSettings),
    authority: Option<AuthorityClient>,
) -> (NodeSettings, Arc<Exit>) {
    if let Some(contact) = credentials.authority() {
        let written: Vec<_> = config.node.authority.iter().filter_map(Target::address).collect();
        credentials.seen_at(&contact.name, &written);
    }
    let own = OwnAddresses {
        listen,
        advertise: watch::Sender::new(config.node.advertise),
        authority: config.node.authority,
        map_port: config.node.map_port && config.node.udp,
        resolver: Arc::new(SystemResolver::new()),
    };
    let desk = authority.map(|authority| JoinDesk::new(authority, credentials.clone()));
    let mut exit = config.exit;
    if exit.enabled && !credentials.peer().roles.exit {
        tracing::warn!("[exit] is enabled, but the certificate does not grant it; it stays off");
        exit.enabled = false;
    }
    let members = Written::load(dir);
    let memory =
        LaneBudget { per_peer: exit.memory_per_entry.bytes(), in_all: exit.memory.bytes() };
    let enabled = exit.enabled;
    let exit = Arc::new(Exit::new(exit, Arc::new(SystemResolver::new())));
    let settings = NodeSettings {
        exit: enabled,
        addresses: own.at_first(),
        own: Some(own),
        bound: Some(listen.ip()),
        streams,
        bootstrap: members.bootstrap,
        records: members.records,
        blocked: members.blocked,
        entry: config.entry.enabled.then_some(config.entry),
        rules: config.rules,
        acceptor: Arc::new(ExitDoor(exit.clone())),
        relay: RelayConfig {
            enabled: config.relay.enabled,
            rate_limit: config.relay.rate_limit.map(|rate| rate.bits_per_second() / 8),
        },
        policy: config.policy,
        probing: Probing {
            budget: Bitrate::from_bps(config.probe.budget.bits_per_second()),
            share_with: config.probe.share_with,
        },
        lane: config.lane.into(),
        path_mtu: PathMtu::Kernel,
        flow: config.flow.into(),
        memory,
        entry_memory: LaneBudget::OPENED,
        desk,
        credentials,
        chance: Chance::default(),
    };
    (settings, exit)
}

/// How long open flows may go on after a node was told to stop, unless `--drain` says otherwise:
/// what a page or an API call needs, and well under systemd's 90 s.
pub(crate) const DRAIN: Duration = Duration::from_secs(10);
