//! `ronproxy join`

use std::{
    io::{self, BufRead as _, BufReader, IsTerminal as _, Read as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use clap::Args;
use futures_util::future::join_all;
use noq::{Endpoint, EndpointConfig, TokioRuntime};

use super::{
    CliError,
    folder::Folder,
    output::{note, print, print_json},
    template::{ProxyOptions, Template, default_listen},
};
use crate::{
    app::{self, Way, few_of},
    carrier::{HttpProxy, StreamDialler},
    config::parse_reachable,
    exit::{Resolver, SystemResolver},
    flow::{Host, Target},
    identity::{
        AuthorityContact, Clock, Invitation, MAX_ADDRESSES, MemberInfo, NodeFile, NodeIdentity,
        NodeKey, Welcome,
    },
    node::Written,
    quantity::parse_listen,
    underlay::{LabelSocket, Switch, bind_udp},
    wire::reach::udp_of,
};

/// The longest standard input read: an invitation has under 3,400 characters.
const MAX_INPUT: u64 = 16 * 1024;

/// Join an overlay with the line that `ronproxy invite` printed there
#[derive(Debug, Args)]
pub(super) struct Join {
    /// The invitation, `ron1:…` or `ron2:…`; `-`: a line of standard input, where other users do not see it
    #[arg(default_value = "-")]
    line: String,
    /// Where the node's UDP socket will listen [default: [::]:4600, or 0.0.0.0:4600 on a system without IPv6]
    #[arg(long, value_name = "IP:PORT", value_parser = parse_listen)]
    listen: Option<SocketAddr>,
    /// An address or DNS name at which other nodes reach it, if that is not where it listens (repeatable)
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_reachable)]
    advertise: Vec<Target>,
    #[command(flatten)]
    proxy: ProxyOptions,
    /// Open connections for other nodes, if the invitation grants it
    #[arg(long)]
    exit: bool,
    /// Print facts as JSON
    #[arg(long)]
    json: bool,
}

impl Join {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        let line = if self.line == "-" {
            read_line()?
        } else {
            note(
                "Every user of this machine could see the invitation while this command ran; \
                 `ronproxy join -` reads it from standard input.",
            );
            self.line.clone()
        };
        // Its expiry is checked together with the clock, against the authority's clock if
        // necessary.
        let mut invitation: Invitation = line.parse()?;
        // Before the invitation is used up, and before anybody is asked.
        folder.begin()?;
        let key = NodeKey::generate()?;
        resolve(&mut invitation, &SystemResolver::new()).await?;
        let way = way(&invitation)?;
        let joined = app::join(&way, &invitation, &key, self.reachable(), &Clock::system()).await;
        way.endpoint.close(0u32.into(), b"");
        let (identity, welcome) = joined?;
        let template = Template {
            listen: Some(self.listen.unwrap_or_else(default_listen)),
            advertise: &self.advertise,
            proxy: self.proxy,
            exit: self.exit,
        };
        folder.dir.write_default_config(&template.text())?;
        let members = Written { bootstrap: known(&invitation, welcome), ..Written::default() };
        members.save(&folder.dir)?;
        let contact = AuthorityContact {
            name: invitation.authority.clone(),
            addresses: invitation.addresses.clone(),
            names: invitation.names.clone(),
        };
        contact.save(&folder.dir)?;
        identity.save(&folder.dir)?;
        self.report(folder, &identity, &invitation)
    }

    /// Where others will reach the new node.
    fn reachable(&self) -> Vec<SocketAddr> {
        let tells = |a: &SocketAddr| !a.ip().is_unspecified() && a.port() != 0;
        match (self.advertise.as_slice(), self.listen.filter(tells)) {
            ([], Some(listen)) => vec![listen],
            // Its names the node resolves itself, once it runs.
            (advertise, _) => advertise.iter().filter_map(Target::address).collect(),
        }
    }

    fn report(
        &self,
        folder: &Folder,
        identity: &NodeIdentity,
        invitation: &Invitation,
    ) -> Result<(), CliError> {
        let roles = identity.peer().roles;
        let config = folder.dir.path(NodeFile::Config);
        if self.json {
            return print_json(&serde_json::json!({
                "name": identity.name(),
                "authority": invitation.authority,
                "exit": roles.exit,
                "relay": roles.relay,
                "config": config,
            }));
        }
        let (name, authority) = (identity.name(), &invitation.authority);
        print(format_args!("This node is {name} in the overlay of {authority}."))?;
        print(format_args!("  configuration  {}", config.display()))?;
        print(format_args!("  start it       {}", folder.command("run")))?;
        match (roles.exit, self.exit) {
            (true, false) => {
                note("It may be an exit: set `enabled = true` under [exit] to be one.")
            }
            (false, true) => {
                note("The invitation does not let it be an exit; ask for one with --exit.")
            }
            _ => {}
        }
        Ok(())
    }
}

/// Puts the addresses of the invitation's names beside its other ones, 8 in all. A name that leads nowhere does no harm
/// while there are others.
async fn resolve(invitation: &mut Invitation, resolver: &dyn Resolver) -> Result<(), CliError> {
    let look_ups = invitation.names.iter().filter_map(|place| match &place.host {
        Host::Name(name) => Some(async { (place.port, resolver.resolve(name).await) }),
        Host::Ip(_) => None,
    });
    let mut failures = Vec::new();
    for (port, answer) in join_all(look_ups).await {
        match answer {
            Ok(ips) => {
                let few = few_of(&ips).into_iter();
                invitation.addresses.extend(few.map(|ip| SocketAddr::new(ip, port)));
            }
            Err(error) => failures.push(error.at_this_node()),
        }
    }
    invitation.addresses.truncate(MAX_ADDRESSES);
    if failures.is_empty() {
        return Ok(());
    }
    let failures = failures.join("; ");
    if udp_of(&invitation.addresses).next().is_none() {
        return Err(CliError::say(format!(
            "the invitation leads to a name only: {failures}; look at this machine's network and name servers, and \
             join again, the invitation is still good"
        )));
    }
    note(format_args!("{failures}; the other addresses of the invitation are tried."));
    Ok(())
}

/// The members that the authority names, and the authority itself at the addresses of the
/// invitation.
fn known(invitation: &Invitation, welcome: Welcome) -> Vec<MemberInfo> {
    let mut members = welcome.members;
    match members.iter_mut().find(|member| member.name == invitation.authority) {
        Some(member) if !member.addresses.is_empty() => {}
        Some(member) => member.addresses.clone_from(&invitation.addresses),
        None => members.push(MemberInfo {
            name: invitation.authority.clone(),
            addresses: invitation.addresses.clone(),
            key: None,
        }),
    }
    members
}

/// The first line that is not empty. At a terminal the end of the input never comes.
fn read_line() -> Result<String, CliError> {
    if io::stdin().is_terminal() {
        note("Paste the invitation (ron1:… or ron2:…) and press Enter:");
    }
    let input = BufReader::new(io::stdin().take(MAX_INPUT));
    let failed = |error: io::Error| {
        CliError::say(format!(
            "cannot read the invitation from standard input: {error}; pass it as one line of text"
        ))
    };
    for line in input.lines() {
        let line = line.map_err(failed)?;
        if !line.trim().is_empty() {
            return Ok(line);
        }
    }
    Ok(String::new())
}

/// A QUIC endpoint on any free port, for both families where the system has both, and streams.
fn way(invitation: &Invitation) -> Result<Way, CliError> {
    let any_v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let socket = bind_udp((Ipv6Addr::UNSPECIFIED, 0).into())
        .or_else(|_| bind_udp(any_v4))
        .map_err(|error| CliError::Udp(any_v4, error))?;
    let switch = Arc::<Switch>::default();
    let socket = Box::new(LabelSocket::new(socket, switch.clone()));
    let mut config = EndpointConfig::default();
    // As at every node, so that labelled packets and QUIC can be told apart.
    config.grease_quic_bit(false);
    let endpoint = Endpoint::new_with_abstract_socket(config, None, socket, Arc::new(TokioRuntime))
        .map_err(|error| CliError::Udp(any_v4, error))?;
    let proxy = HttpProxy::from_environment();
    let streams = StreamDialler::new(switch, invitation.fingerprint, proxy);
    let streams = Some(streams.map_err(|error| CliError::say(error.to_string()))?);
    Ok(Way { endpoint, streams })
}
