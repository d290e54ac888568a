//! Who is a member, and the invitation of another one.

use std::{net::SocketAddr, sync::Arc};

use qrcode::{Color, EcLevel, QrCode};
use serde::Serialize;

use crate::{app::NodeView, flow::BoxFuture, identity::NodeName, mesh::LinkFacts};

/// Who knows the members, and invites.
#[derive(Clone)]
pub(crate) struct Membership {
    /// The members that are known here; at the authority all on record.
    pub members: Arc<dyn Fn() -> BoxFuture<'static, Result<Vec<Member>, String>> + Send + Sync>,
    /// Invites an entry of this name.
    pub invite: Arc<Invite>,
}

type Invite = dyn Fn(NodeName) -> BoxFuture<'static, Result<Invited, NotInvited>> + Send + Sync;

/// The listed facts about a member.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Member {
    pub name: NodeName,
    pub state: MemberState,
    /// This and the rest is in the certificate: `None` if this node has not seen it.
    pub exit: Option<bool>,
    pub relay: Option<bool>,
    pub groups: Option<Vec<String>>,
    pub serves: Option<Vec<String>>,
    pub serial: Option<String>,
    pub expires: Option<u64>,
    pub revoked: Option<u64>,
    /// When a link to it was up last, or, at the authority, when it got its certificate. 0: now, or it
    /// is this node.
    pub seen_seconds_ago: Option<u64>,
}

/// The state of a member's newest certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum MemberState {
    Valid,
    Expired,
    Revoked,
    /// This node has not seen it.
    Unknown,
}

/// An invitation that was given out.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Invited {
    /// The line.
    pub invitation: String,
    /// Its identifier, as `invite --list` shows it.
    pub id: String,
    /// The new node's name.
    pub name: NodeName,
    /// Where the line leads.
    pub addresses: Vec<SocketAddr>,
    /// The same by names, which the joiner resolves.
    pub names: Vec<String>,
    /// When it ends, in seconds since 1970.
    pub expires: u64,
}

/// Why none was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotInvited {
    /// This node may not.
    Forbidden(String),
    /// It may, and it is not possible.
    Impossible(String),
}

/// The answer to `POST /invite`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Shown {
    #[serde(flatten)]
    invited: Invited,
    /// The line as a QR code; `None`: it is too long for one.
    qr: Option<Picture>,
}

/// A QR code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Picture {
    /// Its modules a side, without the quiet zone of 4.
    size: usize,
    /// The dark ones, as the path of an SVG.
    path: String,
}

impl Member {
    /// One of which only the name is known.
    pub(crate) fn named(name: NodeName) -> Self {
        Self {
            name,
            state: MemberState::Unknown,
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

    /// What it may do, if that is known.
    #[cfg(feature = "cli")]
    pub(crate) fn roles(&self) -> Option<crate::identity::Roles> {
        let both = self.exit.zip(self.relay);
        both.map(|(exit, relay)| crate::identity::Roles { relay, exit })
    }
}

/// The members by name, with the time since there was a link to each.
///
/// # Errors
/// When the record cannot be had now.
pub(super) async fn members(from: &Membership, view: &NodeView) -> Result<Vec<Member>, String> {
    let mut all = (from.members)().await?;
    // The authority sends those first whose certificates end last, so that they fit into its answer.
    all.sort_by(|one, other| one.name.cmp(&other.name));
    let links = view.link_facts();
    let seen = |link: &LinkFacts| if link.up { Some(0) } else { link.since_seconds };
    for member in &mut all {
        let link = links.iter().find(|link| link.peer == member.name);
        let linked = if member.name == *view.name() { Some(0) } else { link.and_then(seen) };
        member.seen_seconds_ago = linked.or(member.seen_seconds_ago);
    }
    Ok(all)
}

/// Invites the node that the question names.
///
/// # Errors
/// Says what to do instead.
pub(super) async fn invite(by: &Membership, asked: &str) -> Result<Shown, NotInvited> {
    let mut fields = form_urlencoded::parse(asked.as_bytes());
    let name = match (fields.next(), fields.next()) {
        (Some((field, value)), None) if field == "name" => value.parse::<NodeName>(),
        _ => return Err(impossible("name the new node and nothing else, as in /invite?name=utah")),
    };
    let name = name.map_err(|error| NotInvited::Impossible(error.to_string()))?;
    let invited = (by.invite)(name).await?;
    Ok(Shown { qr: picture(&invited.invitation), invited })
}

fn impossible(why: &str) -> NotInvited {
    NotInvited::Impossible(why.to_owned())
}

/// The text as a QR code. Phones read the least error correction from a screen, and it has the largest modules.
fn picture(text: &str) -> Option<Picture> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    let (size, modules) = (code.width(), code.to_colors());
    let mut path = String::new();
    for (y, row) in modules.chunks(size).enumerate() {
        let mut x = 0;
        for run in row.chunk_by(|one, other| one == other) {
            if run[0] == Color::Dark {
                path.push_str(&format!("M{x} {y}h{length}v1h-{length}z", length = run.len()));
            }
            x += run.len();
        }
    }
    Some(Picture { size, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_qr_code_reads_back_as_the_line() {
        for line in ["ron1:AA".to_owned(), format!("ron1:{}", "aZ_-0".repeat(120))] {
            let Picture { size, path } = picture(&line).unwrap();
            let mut dark = vec![false; size * size];
            for run in path.split('M').skip(1) {
                let numbers: Vec<usize> = run
                    .split(|c: char| !c.is_ascii_digit())
                    .filter_map(|n| n.parse().ok())
                    .collect();
                let [x, y, length, 1, _] = numbers[..] else { panic!("{run}") };
                dark[y * size + x..][..length].fill(true);
            }
            let grid = rqrr::SimpleGrid::from_func(size, |x, y| dark[y * size + x]);
            assert_eq!(rqrr::Grid::new(grid).decode().unwrap().1, line);
        }
        assert_eq!(picture(&"x".repeat(4000)), None);
    }

    #[tokio::test]
    async fn a_question_that_is_no_name_reaches_no_authority() {
        let asked = Membership {
            members: Arc::new(|| Box::pin(async { Ok(Vec::new()) })),
            invite: Arc::new(|_| panic!("it was asked")),
        };
        for (question, expected) in
            [("", "name the new node"), ("name=A%20B", "name"), ("name=a&exit=1", "nothing else")]
        {
            let Err(NotInvited::Impossible(said)) = invite(&asked, question).await else {
                panic!("{question}")
            };
            assert!(said.contains(expected), "{question}: {said}");
        }
    }
}
