//! `ronproxy invite`

use std::{net::SocketAddr, time::Duration};

use clap::Args;

use super::{
    CliError,
    folder::Folder,
    output::{note, print, print_json},
    units,
};
use crate::{
    config::Config,
    identity::{
        Attributes, AuthorityError, Granted, Invitation, NodeIdentity, NodeName,
        PendingInvitations, Roles, Token, UnixTime,
    },
};

/// Print one line with which another node can join, once
#[derive(Debug, Args)]
pub(super) struct Invite {
    /// The new node's name: a-z, 0-9 and '-'
    #[arg(long)]
    name: NodeName,
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
    /// When the invitation ends
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = units::parse_duration)]
    expires: Duration,
    /// Print facts as JSON
    #[arg(long)]
    json: bool,
}

impl Invite {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        let authority = folder.authority()?;
        let inviter = NodeIdentity::load(&folder.dir)?;
        let addresses = reachable(&folder.config()?)?;
        let now = UnixTime::now();
        if authority.is_taken(&self.name, now)? {
            return Err(AuthorityError::NameTaken(self.name).into());
        }
        let token = Token::from_random(rand::random());
        let invitation = Invitation {
            addresses,
            authority: inviter.name().clone(),
            fingerprint: authority.fingerprint(),
            token: token.clone(),
            name: self.name.clone(),
            expires: now.as_secs() + self.expires.as_secs(),
        };
        let line = invitation.to_line()?;
        let attributes = Attributes {
            name: self.name,
            roles: Roles { relay: self.relay, exit: self.exit },
            groups: self.groups,
            serves: self.serves,
        };
        let granted = Granted { attributes, expires: invitation.expires };
        PendingInvitations::new(&folder.dir).add(&token, &granted, now)?;
        report(folder, &invitation, &line, self.json).await
    }
}

async fn report(
    folder: &Folder,
    invitation: &Invitation,
    line: &str,
    json: bool,
) -> Result<(), CliError> {
    let running = folder.is_running().await;
    if json {
        return print_json(&serde_json::json!({
            "invitation": line,
            "name": invitation.name,
            "addresses": invitation.addresses,
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
    if invitation.addresses.iter().all(|address| address.ip().is_loopback()) {
        note("The line leads to a loopback address, so it can be used on this machine only.");
    }
    Ok(())
}

/// The addresses at which a joiner reaches this node.
fn reachable(config: &Config) -> Result<Vec<SocketAddr>, CliError> {
    let node = &config.node;
    if !node.advertise.is_empty() {
        return Ok(node.advertise.clone());
    }
    if node.listen.ip().is_unspecified() || node.listen.port() == 0 {
        return Err(CliError::say(format!(
            "the node listens on {}, which tells nobody where it is; \
             set `advertise` under [node] in config.toml to an address and port that others can reach",
            node.listen
        )));
    }
    Ok(vec![node.listen])
}
