//! Who is a member, as this node knows it, and the invitation of another one where it is the authority.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use rustls::pki_types::CertificateDer;
use tokio::{sync::Mutex, time::Instant};

use crate::{
    admin::{Invited, Member, MemberState, Membership, NotInvited},
    app::{Node, NodeView},
    config,
    flow::{BoxFuture, Target},
    identity::{
        Certified, Credentials, Fingerprint, Invitation, MAX_ADDRESSES, MemberInfo, NodeIdentity,
        NodeName, Peer, RevocationList, Token, UnixTime,
    },
    mesh::{MemberRecord, is_public},
    signer::{AuthorityClient, InviteRefusal},
    underlay::own_addresses,
    wire::reach::stream_mark,
};

/// How long the signer's answer about members is shown. Pages ask each some seconds, and many may be open.
const FRESH: Duration = Duration::from_secs(2);

/// The authority of this node's overlay, which is here.
pub(crate) struct Here {
    /// The process with its key.
    pub(crate) authority: AuthorityClient,
    /// What the configuration said of this node when it started; what it advertises may have changed.
    pub(crate) node: config::Node,
}

/// The authority at work for the dashboard.
struct Desk {
    here: Here,
    view: NodeView,
    credentials: Credentials,
    /// The last answer. Whoever asks while a question is under way waits for its answer.
    members: Mutex<Option<(Instant, Vec<Certified>)>>,
    /// One invitation at a time, so that a flood of them leaves joiners and renewals their places at the signer.
    inviting: Mutex<()>,
}

/// What a running node shows of members, and does.
pub(crate) fn membership(node: &Node, here: Option<Here>) -> Membership {
    let (view, credentials) = (node.view(), node.credentials().clone());
    let desk = here.map(|here| {
        let (view, credentials) = (view.clone(), credentials.clone());
        let (members, inviting) = Default::default();
        Arc::new(Desk { here, view, credentials, members, inviting })
    });
    let invites = desk.clone();
    Membership {
        members: Arc::new(move || -> BoxFuture<'static, _> {
            let (view, credentials, desk) = (view.clone(), credentials.clone(), desk.clone());
            Box::pin(async move {
                let now = credentials.now();
                match desk {
                    Some(desk) => {
                        Ok(desk.members().await?.into_iter().map(|m| on_record(m, now)).collect())
                    }
                    None => Ok(of_view(&view, &credentials.identity(), now)),
                }
            })
        }),
        invite: Arc::new(move |name| -> BoxFuture<'static, _> {
            let desk = invites.clone();
            Box::pin(async move {
                match desk {
                    Some(desk) => desk.invite(name).await,
                    None => Err(NotInvited::Forbidden(format!(
                        "this node has not the overlay's authority, so it cannot invite; at the node that has it, \
                         run `ronproxy invite --name {name}`"
                    ))),
                }
            })
        }),
    }
}

impl Desk {
    async fn members(&self) -> Result<Vec<Certified>, String> {
        let mut last = self.members.lock().await;
        if let Some((at, members)) = &*last
            && at.elapsed() < FRESH
        {
            return Ok(members.clone());
        }
        let (members, left_out) =
            self.here.authority.members().await.map_err(|error| error.to_string())?;
        if left_out > 0 {
            tracing::warn!(left_out, "the list of members is cut; `ronproxy members` shows all");
        }
        *last = Some((Instant::now(), members.clone()));
        Ok(members)
    }

    async fn invite(&self, name: NodeName) -> Result<Invited, NotInvited> {
        let node = config::Node { advertise: self.view.advertised(), ..self.here.node.clone() };
        let (addresses, names) = places(&node, &[]).map_err(NotInvited::Impossible)?;
        let _turn = self.inviting.lock().await;
        let token = Token::from_random(rand::random());
        let new = self.here.authority.invite(token.clone(), name.clone()).await;
        let new = new.map_err(|refusal| match refusal {
            InviteRefusal::NotAllowed(_) => NotInvited::Forbidden(refusal.to_string()),
            refusal => NotInvited::Impossible(refusal.to_string()),
        })?;
        let identity = self.credentials.identity();
        let invitation = Invitation {
            addresses: addresses.clone(),
            names: names.clone(),
            authority: identity.name().clone(),
            fingerprint: Fingerprint::of(identity.authority()),
            token,
            name: name.clone(),
            expires: new.expires,
        };
        let line =
            invitation.to_line().map_err(|error| NotInvited::Impossible(error.to_string()))?;
        tracing::info!(%name, id = new.id, "the dashboard invited a node");
        Ok(Invited {
            invitation: line,
            id: new.id,
            name,
            addresses,
            names: names.iter().map(Target::to_string).collect(),
            expires: new.expires,
        })
    }
}

fn of_view(view: &NodeView, own: &NodeIdentity, now: UnixTime) -> Vec<Member> {
    known(view.written_members(), own, now).into_values().collect()
}

/// A member on the authority's record.
pub(crate) fn on_record(certified: Certified, now: UnixTime) -> Member {
    let Certified { attributes, serial, issued, expires, revoked, listed } = certified;
    let state = match revoked {
        Some(_) => MemberState::Revoked,
        None if listed => MemberState::Revoked,
        None if expires <= now.as_secs() => MemberState::Expired,
        None => MemberState::Valid,
    };
    Member {
        state,
        exit: Some(attributes.roles.exit),
        relay: Some(attributes.roles.relay),
        groups: Some(attributes.groups),
        serves: Some(attributes.serves),
        serial: Some(serial),
        expires: Some(expires),
        revoked,
        // Then it asked for a certificate. A record of an older version does not say when.
        seen_seconds_ago: (issued > 0).then(|| now.as_secs().saturating_sub(issued)),
        ..Member::named(attributes.name)
    }
}

/// The members that a node without the authority knows: itself, and those with a record, with their
/// last known certificates.
pub(crate) fn known(
    (bootstrap, records): (Vec<MemberInfo>, Vec<MemberRecord>),
    own: &NodeIdentity,
    now: UnixTime,
) -> BTreeMap<NodeName, Member> {
    let named = bootstrap.into_iter().map(|member| member.name);
    let named = named.chain(records.iter().map(|record| record.name.clone()));
    let mut all: BTreeMap<_, _> = named.map(|name| (name.clone(), Member::named(name))).collect();
    for record in records {
        if let Ok(peer) = Peer::from_certificate(&CertificateDer::from(record.certificate)) {
            all.insert(peer.name.clone(), of_certificate(&peer, own.revoked(), now));
        }
    }
    all.insert(own.name().clone(), of_certificate(own.peer(), own.revoked(), now));
    all
}

fn of_certificate(peer: &Peer, list: &RevocationList, now: UnixTime) -> Member {
    let state = match (list.contains(peer), peer.expires <= now) {
        (true, _) => MemberState::Revoked,
        (false, true) => MemberState::Expired,
        (false, false) => MemberState::Valid,
    };
    Member {
        state,
        exit: Some(peer.roles.exit),
        relay: Some(peer.roles.relay),
        groups: Some(peer.groups.clone()),
        serves: Some(peer.serves.clone()),
        serial: Some(peer.serial.to_string()),
        expires: Some(peer.expires.as_secs()),
        ..Member::named(peer.name.clone())
    }
}

/// The addresses and the names at which a joiner reaches this node: those of `instead`, if there are any.
///
/// # Errors
/// When neither these nor the configuration say where it is.
pub(crate) fn places(node: &config::Node, instead: &[Target]) -> Result<Places, String> {
    let mark = node.told_stream_port(node.stream_listen).map(stream_mark);
    let mut all = instead.to_vec();
    if all.is_empty() {
        all.clone_from(&node.advertise);
    }
    if all.is_empty() {
        all = reachable(node.listen).into_iter().map(Target::from).collect();
    }
    if all.is_empty() {
        return Err(nowhere(node.listen));
    }
    all.truncate(MAX_ADDRESSES - mark.iter().count());
    let (addresses, names): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|place| place.address().is_some());
    let addresses = addresses.iter().filter_map(Target::address).chain(mark);
    Ok((addresses.collect(), names))
}

/// Addresses and names.
pub(crate) type Places = (Vec<SocketAddr>, Vec<Target>);

/// Where others reach a node that listens at `listen`, as far as this machine can tell: at a wildcard address, the
/// public addresses of this machine.
pub(crate) fn reachable(listen: SocketAddr) -> Vec<SocketAddr> {
    match (listen.port(), listen.ip()) {
        (0, _) => Vec::new(),
        (port, ip) if ip.is_unspecified() => {
            let own = own_addresses(ip).into_iter().filter(|ip| is_public(*ip));
            own.map(|ip| SocketAddr::new(ip, port)).collect()
        }
        _ => vec![listen],
    }
}

fn nowhere(listen: SocketAddr) -> String {
    let own = own_addresses(listen.ip()).into_iter();
    let private = own.map(|ip| SocketAddr::new(ip, listen.port())).find(|own| own.port() != 0);
    let within = private.map_or_else(String::new, |private| {
        format!(", or add `--advertise {private}` for a machine within this network")
    });
    format!(
        "the node listens on {listen}, which tells nobody where it is; set `advertise` under [node] in config.toml \
         to an address or a DNS name, and a port, that others can reach{within}"
    )
}
