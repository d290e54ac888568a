//! `ronproxy members`

use std::collections::BTreeMap;

use clap::Args;
use rustls::pki_types::CertificateDer;
use serde::Serialize;
use serde_json::Value;

use super::{
    CliError,
    folder::Folder,
    output::{Table, entries, note},
    show::Show,
    units,
};
use crate::{
    identity::{
        Authority, Issued, NodeIdentity, NodeName, Peer, RevocationList, Roles, Serial, UnixTime,
    },
    node::Written,
};

/// Show the members of the overlay: at its authority all that were ever certified and are on record
#[derive(Debug, Args)]
pub(super) struct Members {
    #[command(flatten)]
    show: Show,
}

/// The listed facts about a member.
#[derive(Debug, Serialize)]
struct Member {
    name: NodeName,
    state: State,
    /// This and the rest is in the certificate: `None` if this node has not seen it.
    exit: Option<bool>,
    relay: Option<bool>,
    groups: Option<Vec<String>>,
    serves: Option<Vec<String>>,
    serial: Option<String>,
    expires: Option<u64>,
    revoked: Option<u64>,
    /// When a link to it was up last, or, at the authority, when it got its certificate. 0: now, or it
    /// is this node.
    seen_seconds_ago: Option<u64>,
}

/// The state of its newest certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Valid,
    Expired,
    Revoked,
    /// This node has not seen it.
    Unknown,
}

impl Members {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        folder.bring_up_to_date()?;
        if !folder.is_running().await {
            note("No node is running here, so SEEN does not count links.");
        }
        self.show
            .run(async || all(folder).await, |all, columns| table(all, UnixTime::now(), columns))
            .await
    }
}

/// All members that are known here.
async fn all(folder: &Folder) -> Result<Vec<Member>, CliError> {
    let now = UnixTime::now();
    let own = NodeIdentity::load(&folder.dir)?;
    let mut all = match folder.dir.has_authority() {
        true => certified(folder, own.revoked(), now)?,
        false => known(folder, &own, now),
    };
    let running = folder.client().get("/links").await.ok();
    for member in all.values_mut() {
        let linked = running.as_ref().and_then(|links| {
            if member.name == *own.name() { Some(0) } else { seen(links, &member.name) }
        });
        member.seen_seconds_ago = linked.or(member.seen_seconds_ago);
    }
    Ok(all.into_values().collect())
}

/// Every name on the authority's record, with its newest certificate.
fn certified(
    folder: &Folder,
    list: &RevocationList,
    now: UnixTime,
) -> Result<BTreeMap<NodeName, Member>, CliError> {
    let records = Authority::records(&folder.dir)?;
    for error in &records.damaged {
        note(error);
    }
    Ok(newest(records.issued)
        .into_iter()
        .map(|(name, (serial, issued))| (name, on_record(serial, issued, list, now)))
        .collect())
}

/// Of each name the certificate that ends last; one that is not revoked before one that is.
fn newest(issued: Vec<(Serial, Issued)>) -> BTreeMap<NodeName, (Serial, Issued)> {
    let mut newest: BTreeMap<NodeName, (Serial, Issued)> = BTreeMap::new();
    let rank = |issued: &Issued| (issued.revoked.is_none(), issued.not_after);
    for (serial, issued) in issued {
        let name = issued.attributes.name.clone();
        match newest.get(&name) {
            Some((_, known)) if rank(known) >= rank(&issued) => {}
            _ => drop(newest.insert(name, (serial, issued))),
        }
    }
    newest
}

fn on_record(serial: Serial, issued: Issued, list: &RevocationList, now: UnixTime) -> Member {
    let state = match issued.revoked {
        Some(_) => State::Revoked,
        // After the restore of a backup the list may know more than the record.
        None if list.lists(serial) => State::Revoked,
        None if issued.not_after <= now.as_secs() => State::Expired,
        None => State::Valid,
    };
    let Roles { relay, exit } = issued.attributes.roles;
    Member {
        name: issued.attributes.name,
        state,
        exit: Some(exit),
        relay: Some(relay),
        groups: Some(issued.attributes.groups),
        serves: Some(issued.attributes.serves),
        serial: Some(serial.to_string()),
        expires: Some(issued.not_after),
        revoked: issued.revoked,
        // Then it asked for a certificate. A record of an older version does not say when.
        seen_seconds_ago: (issued.issued > 0).then(|| now.as_secs().saturating_sub(issued.issued)),
    }
}

/// The members that a node without the authority knows: itself, and those with a record, with their
/// last known certificates.
fn known(folder: &Folder, own: &NodeIdentity, now: UnixTime) -> BTreeMap<NodeName, Member> {
    let written = Written::load(&folder.dir);
    let named = written.bootstrap.into_iter().map(|member| member.name);
    let named = named.chain(written.records.iter().map(|record| record.name.clone()));
    let mut all: BTreeMap<_, _> = named.map(|name| (name.clone(), heard_of(name))).collect();
    for record in written.records {
        if let Ok(peer) = Peer::from_certificate(&CertificateDer::from(record.certificate)) {
            all.insert(peer.name.clone(), seen_certificate(&peer, own.revoked(), now));
        }
    }
    all.insert(own.name().clone(), seen_certificate(own.peer(), own.revoked(), now));
    all
}

fn heard_of(name: NodeName) -> Member {
    Member {
        name,
        state: State::Unknown,
        exit: None,
        relay: None,
        groups: None,
        serves: None,
        serial: None,
        expires: None,
        revoked: None,
        seen_seconds_ago: None,
    }
}

fn seen_certificate(peer: &Peer, list: &RevocationList, now: UnixTime) -> Member {
    let state = match (list.contains(peer), peer.expires <= now) {
        (true, _) => State::Revoked,
        (false, true) => State::Expired,
        (false, false) => State::Valid,
    };
    Member {
        state,
        exit: Some(peer.roles.exit),
        relay: Some(peer.roles.relay),
        groups: Some(peer.groups.clone()),
        serves: Some(peer.serves.clone()),
        serial: Some(peer.serial.to_string()),
        expires: Some(peer.expires.as_secs()),
        ..heard_of(peer.name.clone())
    }
}

/// How long ago the running node had a link that was up.
fn seen(links: &Value, name: &NodeName) -> Option<u64> {
    let link = entries(links).iter().find(|link| link["peer"] == name.as_str())?;
    if super::links::is(link, "up") { Some(0) } else { link["since_seconds"].as_u64() }
}

fn table(members: &[Member], now: UnixTime, columns: Option<usize>) -> String {
    let heads = ["NAME", "STATE", "ROLES", "GROUPS", "ENDS", "SEEN", "SERIAL"];
    let mut table = Table::new(&heads);
    for member in members {
        let state = match (member.state, member.revoked) {
            (State::Valid, _) => "valid".to_owned(),
            (State::Expired, _) => "expired".to_owned(),
            (State::Revoked, Some(at)) => format!("revoked {}", units::date(at)),
            (State::Revoked, None) => "revoked".to_owned(),
            (State::Unknown, _) => "-".to_owned(),
        };
        let left = member.expires.and_then(|at| at.checked_sub(now.as_secs()));
        let roles = member.exit.zip(member.relay).map(|(exit, relay)| Roles { relay, exit });
        let seen = member.seen_seconds_ago.map(|ago| match ago {
            0 => "now".to_owned(),
            ago => format!("{} ago", units::span(ago)),
        });
        table.row([
            member.name.to_string(),
            state,
            roles.map_or_else(|| "-".to_owned(), units::roles),
            member.groups.as_deref().map_or_else(|| "-".to_owned(), units::words),
            left.map_or_else(|| "-".to_owned(), |left| format!("in {}", units::span(left))),
            seen.unwrap_or_else(|| "-".to_owned()),
            member.serial.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table.within(columns)
}
