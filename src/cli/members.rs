//! `ronproxy members`

use std::collections::BTreeMap;

use clap::Args;
use serde::Deserialize;

use super::{
    CliError,
    folder::Folder,
    output::{Table, note},
    show::Show,
    units,
};
use crate::{
    admin::{Member, MemberState},
    identity::{Authority, NodeIdentity, NodeName, RevocationList, UnixTime},
    node::{
        Written,
        members::{known, on_record},
    },
};

/// Show the members of the overlay: at its authority all that were ever certified and are on record
#[derive(Debug, Args)]
pub(super) struct Members {
    #[command(flatten)]
    show: Show,
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

/// What SEEN needs of a link, so that a node of another version serves, too.
#[derive(Debug, Deserialize)]
struct LinkFacts {
    peer: NodeName,
    up: bool,
    since_seconds: Option<u64>,
}

/// All members that are known here.
async fn all(folder: &Folder) -> Result<Vec<Member>, CliError> {
    let now = UnixTime::now();
    let own = NodeIdentity::load(&folder.dir)?;
    let mut all = match folder.dir.has_authority() {
        true => certified(folder, own.revoked(), now)?,
        false => {
            let written = Written::load(&folder.dir);
            known((written.bootstrap, written.records), &own, now)
        }
    };
    let running: Option<Vec<LinkFacts>> = folder.client().get("/links").await.ok();
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
    let newest = records.newest(|serial| list.lists(serial)).into_iter();
    Ok(newest.map(|newest| (newest.attributes.name.clone(), on_record(newest, now))).collect())
}

/// How long ago the running node had a link that was up.
fn seen(links: &[LinkFacts], name: &NodeName) -> Option<u64> {
    let link = links.iter().find(|link| link.peer == *name)?;
    if link.up { Some(0) } else { link.since_seconds }
}

fn table(members: &[Member], now: UnixTime, columns: Option<usize>) -> String {
    let heads = ["NAME", "STATE", "ROLES", "GROUPS", "ENDS", "SEEN", "SERIAL"];
    let mut table = Table::new(&heads);
    for member in members {
        let state = match (member.state, member.revoked) {
            (MemberState::Valid, _) => "valid".to_owned(),
            (MemberState::Expired, _) => "expired".to_owned(),
            (MemberState::Revoked, Some(at)) => format!("revoked {}", units::date(at)),
            (MemberState::Revoked, None) => "revoked".to_owned(),
            (MemberState::Unknown, _) => "-".to_owned(),
        };
        let left = member.expires.and_then(|at| at.checked_sub(now.as_secs()));
        let seen = member.seen_seconds_ago.map(|ago| match ago {
            0 => "now".to_owned(),
            ago => format!("{} ago", units::span(ago)),
        });
        table.row([
            member.name.to_string(),
            state,
            member.roles().map_or_else(|| "-".to_owned(), units::roles),
            member.groups.as_deref().map_or_else(|| "-".to_owned(), units::words),
            left.map_or_else(|| "-".to_owned(), |left| format!("in {}", units::span(left))),
            seen.unwrap_or_else(|| "-".to_owned()),
            member.serial.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table.within(columns)
}
