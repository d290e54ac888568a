//! `ronproxy init`

use std::net::SocketAddr;

use clap::Args;

use super::{
    CliError,
    folder::Folder,
    output::{note, print, print_json},
    template::{ProxyOptions, Template, default_listen},
};
use crate::{
    config::parse_reachable,
    flow::Target,
    identity::{
        Actor, Attributes, Authority, Deed, NodeFile, NodeIdentity, NodeKey, NodeName, Roles,
        UnixTime,
    },
    node::members::reachable,
    quantity::parse_listen,
};

/// Make a new overlay: its authority and its first node
#[derive(Debug, Args)]
pub(super) struct Init {
    /// The first node's name: a-z, 0-9 and '-'
    #[arg(long)]
    name: NodeName,
    /// Where its UDP socket listens [default: [::]:4600, or 0.0.0.0:4600 on a system without IPv6]
    #[arg(long, value_name = "IP:PORT", value_parser = parse_listen)]
    listen: Option<SocketAddr>,
    /// An address or DNS name at which other nodes reach it, if that is not where it listens (repeatable)
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_reachable)]
    advertise: Vec<Target>,
    #[command(flatten)]
    proxy: ProxyOptions,
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
        let listen = self.listen.unwrap_or_else(default_listen);
        let template = Template {
            listen: Some(listen),
            advertise: &self.advertise,
            proxy: self.proxy,
            exit: self.exit,
        };
        // The identity comes last: with it the node is there.
        folder.dir.write_default_config(&template.text())?;
        identity.save(&folder.dir)?;
        self.report(folder, &authority, listen)
    }

    fn report(
        &self,
        folder: &Folder,
        authority: &Authority,
        listen: SocketAddr,
    ) -> Result<(), CliError> {
        let config = folder.dir.path(NodeFile::Config);
        if self.json {
            return print_json(&serde_json::json!({
                "name": self.name,
                "config": config,
                "authority": authority.fingerprint().to_string(),
                "listen": listen,
            }));
        }
        print(format_args!("The overlay and its first node, {}, are made.", self.name))?;
        print(format_args!("  configuration  {}", config.display()))?;
        print(format_args!("  start it       {}", folder.command("run")))?;
        print(format_args!("  invite others  {}", folder.command("invite --name NAME")))?;
        if self.advertise.is_empty() && reachable(listen).is_empty() {
            note(
                "This machine has no public address. Before you invite others, set `advertise` under [node] to an \
                 address or a DNS name, and a port, at which they reach it.",
            );
        }
        note(format_args!(
            "Keep a backup elsewhere, as this machine alone can invite and renew: {}",
            folder.command("backup FILE")
        ));
        Ok(())
    }
}
