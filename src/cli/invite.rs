//! `ronproxy invite`

use std::time::Duration;

use clap::Args;

use super::{
    CliError,
    folder::Folder,
    output::{Table, columns, note, print, print_json},
    units,
};
use crate::{
    config::parse_reachable,
    flow::Target,
    identity::{
        Actor, Attributes, AuditLog, AuthorityError, Deed, Granted, Invitation, InvitationState,
        Invited, NodeIdentity, NodeName, PendingInvitations, Roles, Token, UnixTime,
    },
    node::members::places,
    wire::reach::udp_of,
};

/// Print one line with which another node can join, once; list invitations, or take them back
#[derive(Debug, Args)]
pub(super) struct Invite {
    /// The new node's name: a-z, 0-9 and '-'
    #[arg(long, required_unless_present_any = ["list", "cancel"], conflicts_with_all = ["list", "cancel"])]
    name: Option<NodeName>,
    /// Let it open connections for other nodes
    #[arg(long)]
    exit: bool,
    /// Let it forward for other nodes
    #[arg(long)]
    relay: bool,
    /// A group it belongs to, for policies (repeatable)
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// A domain or network that it serves as an exit (repeatable)
    #[arg(long, value_name = "DOMAIN")]
    serves: Vec<String>,
    /// Where the new node reaches this one, instead of what the configuration says (repeatable)
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_reachable)]
    advertise: Vec<Target>,
    /// When the invitation ends
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = units::parse_duration)]
    expires: Duration,
    /// List the invitations given out, also those used, cancelled or expired within a day
    #[arg(long)]
    list: bool,
    /// Take back the open invitations of a name, or the one with this identifier (see --list)
    #[arg(long, value_name = "NAME|ID", conflicts_with = "list")]
    cancel: Option<String>,
    /// Print facts as JSON
    #[arg(long)]
    json: bool,
}

impl Invite {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        folder.expect_authority()?;
        let now = UnixTime::now();
        match (&self.name, &self.cancel) {
            (Some(name), _) => self.invite(folder, name.clone(), now).await,
            (None, Some(which)) => cancel(folder, which, self.json, now),
            (None, None) => list(folder, self.json, now),
        }
    }

    async fn invite(&self, folder: &Folder, name: NodeName, now: UnixTime) -> Result<(), CliError> {
        let authority = folder.authority()?;
        let inviter = NodeIdentity::load(&folder.dir)?;
        let config = folder.config()?;
        let (addresses, names) = places(&config.node, &self.advertise).map_err(CliError::say)?;
        if authority.is_taken(&name, now)? {
            return Err(AuthorityError::NameTaken(name).into());
        }
        let token = Token::from_random(rand::random());
        let invitation = Invitation {
            addresses,
            names,
            authority: inviter.name().clone(),
            fingerprint: authority.fingerprint(),
            token: token.clone(),
            name: name.clone(),
            expires: now.as_secs() + self.expires.as_secs(),
        };
        let line = invitation.to_line()?;
        let attributes = Attributes {
            name: name.clone(),
            roles: Roles { relay: self.relay, exit: self.exit },
            groups: self.groups.clone(),
            serves: self.serves.clone(),
        };
        let granted = Granted { attributes, expires: invitation.expires, by_dashboard: false };
        let invitations = PendingInvitations::new(&folder.dir);
        let id = invitations.add(&token, &granted, now)?;
        let log = AuditLog::new(&folder.dir);
        let logged = log.record(Deed::Invite, &name, Some(id.clone()), Actor::this_user(), now);
        if let Err(error) = logged {
            // Nobody has its line, and nobody could see who gave it out.
            invitations.withdraw(&token)?;
            return Err(error.into());
        }
        report(folder, &invitation, &id, &line, self.json).await
    }
}

async fn report(
    folder: &Folder,
    invitation: &Invitation,
    id: &str,
    line: &str,
    json: bool,
) -> Result<(), CliError> {
    let running = folder.is_running().await;
    if json {
        return print_json(&serde_json::json!({
            "invitation": line,
            "id": id,
            "name": invitation.name,
            "addresses": invitation.addresses,
            "names": invitation.names.iter().map(Target::to_string).collect::<Vec<_>>(),
            "expires": invitation.expires,
            "running": running,
        }));
    }
    print(line)?;
    note("On the new node, run `ronproxy join -` and paste the line.");
    if !running {
        let run = folder.command("run");
        note(format_args!("No node is running here; it has to when the line is used: {run}"));
    }
    let mut addresses = udp_of(&invitation.addresses);
    if invitation.names.is_empty() && addresses.all(|address| address.ip().is_loopback()) {
        note("The line leads to a loopback address, so it can be used on this machine only.");
    }
    Ok(())
}

fn cancel(folder: &Folder, which: &str, json: bool, now: UnixTime) -> Result<(), CliError> {
    let cancelled = PendingInvitations::new(&folder.dir).cancel(which, now)?;
    log_cancelled(folder, &cancelled, now)?;
    if json {
        return print_json(&cancelled.iter().map(facts).collect::<Vec<_>>());
    }
    print_cancelled(&cancelled)
}

/// Takes back all open invitations of `name`.
pub(super) fn cancel_all_of(
    folder: &Folder,
    name: &NodeName,
    now: UnixTime,
) -> Result<Vec<Invited>, CliError> {
    let cancelled = PendingInvitations::new(&folder.dir).cancel_all_of(name, now)?;
    log_cancelled(folder, &cancelled, now)?;
    Ok(cancelled)
}

fn log_cancelled(folder: &Folder, cancelled: &[Invited], now: UnixTime) -> Result<(), CliError> {
    let log = AuditLog::new(&folder.dir);
    for invited in cancelled {
        let (name, id) = (&invited.granted.attributes.name, invited.id.clone());
        log.record(Deed::Cancel, name, Some(id), Actor::this_user(), now)?;
    }
    Ok(())
}

/// Says which invitations have been taken back.
pub(super) fn print_cancelled(cancelled: &[Invited]) -> Result<(), CliError> {
    for invited in cancelled {
        let name = &invited.granted.attributes.name;
        print(format_args!("The invitation {} of {name} is cancelled.", invited.id))?;
    }
    Ok(())
}

fn list(folder: &Folder, json: bool, now: UnixTime) -> Result<(), CliError> {
    let records = PendingInvitations::new(&folder.dir).list(now)?;
    for error in &records.damaged {
        note(error);
    }
    if json {
        return print_json(&records.invited.iter().map(facts).collect::<Vec<_>>());
    }
    if records.invited.is_empty() {
        return print("No invitation is open.");
    }
    let mut table = Table::new(&["NAME", "ID", "STATE", "ENDS", "ROLES", "GROUPS", "SERVES"]);
    for invited in &records.invited {
        let attributes = &invited.granted.attributes;
        let left = invited.granted.expires.saturating_sub(now.as_secs());
        let open = invited.state == InvitationState::Open;
        table.row([
            attributes.name.to_string(),
            invited.id.clone(),
            invited.state.to_string(),
            if open { format!("in {}", units::span(left)) } else { "-".to_owned() },
            units::roles(attributes.roles),
            units::words(&attributes.groups),
            units::words(&attributes.serves),
        ]);
    }
    print(table.within(columns()))
}

fn facts(invited: &Invited) -> serde_json::Value {
    let attributes = &invited.granted.attributes;
    serde_json::json!({
        "name": attributes.name,
        "id": invited.id,
        "state": invited.state,
        "expires": invited.granted.expires,
        "exit": attributes.roles.exit,
        "relay": attributes.roles.relay,
        "groups": attributes.groups,
        "serves": attributes.serves,
    })
}
