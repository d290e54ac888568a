//! `ronproxy init`

use std::net::SocketAddr;

use clap::Args;

use super::{
    CliError,
    folder::Folder,
    output::{note, print, print_json},
    template::Template,
};
use crate::identity::{
    Actor, Attributes, Authority, Deed, NodeFile, NodeIdentity, NodeKey, NodeName, Roles, UnixTime,
};
use crate::quantity::parse_listen;

/// Make a new overlay: its authority and its first node
#[derive(Debug, Args)]
pub(super) struct Init {
    /// The first node's name: a-z, 0-9 and '-'
    #[arg(long)]
    name: NodeName,
    /// Where its UDP socket listens
    #[arg(long, value_name = "IP:PORT", value_parser = parse_listen)]
    listen: SocketAddr,
    /// An address at which other nodes reach it, if that is not where it listens (repeatable)
    #[arg(long, value_name = "IP:PORT", value_parser = parse_listen)]
    advertise: Vec<SocketAddr>,
    /// Let it open connections for other nodes
    #[arg(long)]
    exit: bool,
    /// Do not let it forward for other nodes
    #[arg(long)]
    no_relay: bool,
    /// Print facts as JSON
    #[arg(long)]
    json: bool,
}

impl Init {
    pub(super) fn run(self, folder: &Folder) -> Result<(), CliError> {
        folder.begin()?;
        let now = UnixTime::now();
        let authority = Authority::create(&folder.dir, now)?;
        let attributes = Attributes {
            roles: Roles { relay: !self.no_relay, exit: self.exit },
            ..Attributes::entry(self.name.clone())
        };
        let key = NodeKey::generate()?;
        let by = (Deed::Issue, Actor::this_user());
        let chain = authority.issue(&key.signing_request()?, &attributes, by, now)?;
        let identity = NodeIdentity::new(&key, chain, authority.revocations()?.der())?;
        let template =
            Template { listen: Some(self.listen), advertise: &self.advertise, exit: self.exit };
        // The identity comes last: with it the node is there.
        folder.dir.write_default_config(&template.text())?;
        identity.save(&folder.dir)?;
        self.report(folder, &authority)
    }

    fn report(&self, folder: &Folder, authority: &Authority) -> Result<(), CliError> {
        let config = folder.dir.path(NodeFile::Config);
        if self.json {
            return print_json(&serde_json::json!({
                "name": self.name,
                "config": config,
                "authority": authority.fingerprint().to_string(),
                "listen": self.listen,
            }));
        }
        print(format_args!("The overlay and its first node, {}, are made.", self.name))?;
        print(format_args!("  configuration  {}", config.display()))?;
        print(format_args!("  start it       {}", folder.command("run")))?;
        print(format_args!("  invite others  {}", folder.command("invite --name NAME")))?;
        if self.listen.ip().is_unspecified() && self.advertise.is_empty() {
            note(
                "Before you invite others, set `advertise` under [node] to an address they can reach.",
            );
        }
        note(format_args!(
            "Keep a backup elsewhere, as this machine alone can invite and renew: {}",
            folder.command("backup FILE")
        ));
        Ok(())
    }
}
