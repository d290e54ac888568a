//! Whether the names by which nodes are found lead where others can reach them, and whether the proxy has an address.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use futures_util::future::{join, join_all};
use tokio::net::lookup_host;

use super::Finding;
use crate::{
    carrier::HttpProxy,
    config::Config,
    exit::Resolver,
    flow::{Host, Target},
    identity::AuthorityContact,
    mesh::is_public,
};

/// What a name is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Others reach this node by it.
    Own,
    /// This node looks for the authority's node by it, as the configuration says.
    Written,
    /// The same, as the invitation said.
    Invited,
}

/// A name to look at: its text with the port, the name alone, and what it is for.
type Name<'a> = (&'a Target, &'a str, Use);

/// Looks at the names in the configuration, at those of the invitation, and at that of the proxy for streams. All at once, so that name servers that do
/// not answer hold it up once.
pub(super) async fn names(
    config: &Config,
    contact: Option<&AuthorityContact>,
    resolver: &dyn Resolver,
    by: Option<HttpProxy>,
) -> Vec<Finding> {
    let own = config.node.advertise.iter().map(|target| (target, Use::Own));
    let written = config.node.authority.iter().map(|target| (target, Use::Written));
    let invited = contact.into_iter().flat_map(|contact| &contact.names);
    let all = own.chain(written).chain(invited.map(|target| (target, Use::Invited)));
    let names = all.filter_map(|(target, of)| match &target.host {
        Host::Name(name) => Some((target, name.as_str(), of)),
        Host::Ip(_) => None,
    });
    let here = config.node.listen.ip().is_loopback();
    let look_ups = names.map(|name| async move {
        match resolver.resolve(name.1).await {
            Ok(ips) => found(name, &ips, here),
            Err(error) => lost(name, &error.at_this_node()),
        }
    });
    let (mut findings, proxy) = join(join_all(look_ups), proxy(by)).await;
    findings.extend(proxy);
    findings
}

/// Looks at the name of the proxy for streams by the system's own functions, as streams dial it: they know search
/// domains, mDNS and the rest of /etc/nsswitch.conf.
async fn proxy(by: Option<HttpProxy>) -> Option<Finding> {
    let target = by?.to_string();
    if target.parse::<SocketAddr>().is_ok() {
        return None;
    }
    let ips = lookup_host(&target).await.map(|all| all.map(|address| address.ip()).collect());
    Some(proxy_led(&target, ips))
}

/// The proxy's name with what the system found. A proxy may well be on this machine.
fn proxy_led(target: &str, ips: io::Result<Vec<IpAddr>>) -> Finding {
    match ips {
        Ok(ips) => Finding::good("name", leads(target, &ips)),
        Err(error) => Finding::bad(
            "name",
            format!("{target}, the proxy for links over TCP: {error}"),
            "ask who runs this network for its HTTP proxy, and correct `via_proxy` under [node], or HTTPS_PROXY",
        ),
    }
}

fn leads(target: &str, ips: &[IpAddr]) -> String {
    let all: Vec<_> = ips.iter().map(|ip| ip.to_canonical().to_string()).collect();
    format!("{target} leads to {}", all.join(", "))
}

/// A name that leads nowhere.
fn lost((target, _, of): Name<'_>, why: &str) -> Finding {
    match of {
        Use::Own => Finding::bad(
            "name",
            format!("{target}, at which this node tells others that it is: {why}"),
            "set the name's address at its name server, or correct `advertise` under [node] and reload the node",
        ),
        Use::Written => Finding::bad(
            "name",
            format!("{target}, at which the authority's node is looked for: {why}"),
            "ask who runs the authority for its name, and correct `authority` under [node]",
        ),
        // Nobody can take it out of the invitation.
        Use::Invited => Finding::note(
            "name",
            format!("{target}, the invitation's name of the authority's node: {why}"),
            "while there is a link to it nothing has to be done; else ask who runs it where it is, and write that under \
             [node] as `authority`",
        ),
    }
}

/// A name with these addresses. `here`: this node and others are all on this machine.
fn found((target, name, of): Name<'_>, ips: &[IpAddr], here: bool) -> Finding {
    let leads = leads(&target.to_string(), ips);
    let ips: Vec<_> = ips.iter().map(IpAddr::to_canonical).collect();
    let useless = |ip: &IpAddr| ip.is_loopback() || ip.is_unspecified();
    if !here && ips.iter().all(useless) {
        let found = format!("{leads}: only to this machine itself");
        let hosts = format!(
            "look for {name} in /etc/hosts, where a machine's own name often has such an address, and at its name server"
        );
        return match of {
            Use::Own => Finding::bad("name", format!("{found}, where nobody else finds it"), hosts),
            Use::Written | Use::Invited => Finding::note(
                "name",
                found,
                format!("if the authority's node is on another machine, {hosts}"),
            ),
        };
    }
    if of == Use::Own && !here && !ips.iter().any(|ip| is_public(*ip) && !useless(ip)) {
        return Finding::note(
            "name",
            format!("{leads}: only nodes of that private network reach it"),
            "if others are to reach this node, let the name lead to a public address, and forward the UDP port of \
             `listen` to this machine",
        );
    }
    Finding::good("name", leads)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{names as examine, *};
    use crate::{config::ViaProxy, exit::StaticResolver};

    async fn lines(written: &str, invited: &[&str]) -> Vec<String> {
        let table = [
            ("public.test", &["198.51.100.1", "10.0.0.1"][..]),
            ("private.test", &["10.0.0.1", "fd00::1"]),
            ("self.test", &["127.0.1.1", "::1"]),
        ];
        let table = table.map(|(name, ips)| {
            (name.to_owned(), ips.iter().map(|ip| ip.parse().unwrap()).collect())
        });
        let resolver = StaticResolver::new(HashMap::from(table));
        let names = invited.iter().map(|name| name.parse().unwrap()).collect();
        let contact =
            AuthorityContact { name: "hub".parse().unwrap(), addresses: Vec::new(), names };
        let config = Config::parse(written).unwrap();
        // Not that of the environment, which differs.
        let configured = config.node.via_proxy != ViaProxy::Environment;
        let proxy = configured.then(|| config.node.stream_proxy()).flatten();
        let found = examine(&config, Some(&contact), &resolver, proxy).await;
        found.iter().map(Finding::line).collect()
    }

    #[tokio::test]
    async fn names_that_lead_nowhere_or_nowhere_useful_are_named() {
        let written = "[node]\nadvertise = [\"gone.test:1\", \"self.test:1\", \"private.test:1\", \
                       \"public.test:1\", \"10.9.9.9:1\"]\nauthority = [\"gone.test:2\", \"self.test:2\", \
                       \"private.test:2\"]\n";
        let lines = lines(written, &["gone.test:3", "public.test:3"]).await;
        let expected = [
            ("FAIL", "gone.test:1, at which this node", "correct `advertise`"),
            ("FAIL", "self.test:1 leads to 127.0.1.1, ::1: only to this machine", "/etc/hosts"),
            ("ok  ", "private.test:1 leads to 10.0.0.1, fd00::1: only nodes", "public address"),
            ("ok  ", "public.test:1 leads to 198.51.100.1, 10.0.0.1", ""),
            ("FAIL", "gone.test:2, at which the authority's", "correct `authority`"),
            (
                "ok  ",
                "self.test:2 leads to 127.0.1.1, ::1: only to this machine",
                "another machine",
            ),
            ("ok  ", "private.test:2 leads to 10.0.0.1, fd00::1", ""),
            ("ok  ", "gone.test:3, the invitation's name", "write that under"),
            ("ok  ", "public.test:3 leads to 198.51.100.1", ""),
        ];
        assert_eq!(lines.len(), expected.len(), "{lines:#?}");
        for (line, (mark, found, advice)) in lines.iter().zip(expected) {
            let has = line.starts_with(mark) && line.contains(found) && line.contains(advice);
            assert!(has && line.contains('→') != advice.is_empty(), "{line}");
        }
    }

    #[tokio::test]
    async fn the_proxy_for_streams_is_looked_up_and_may_be_on_this_machine() {
        let at = |proxy: &str| format!("[node]\nvia_proxy = \"http://user:secret@{proxy}\"\n");
        // The table of the other names does not know it, but /etc/hosts does.
        let line = lines(&at("localhost:3128"), &[]).await.remove(0);
        assert!(line.starts_with("ok  ") && line.contains("localhost:3128 leads to "), "{line}");
        assert!(!line.contains('→') && !line.contains("secret"), "{line}");
        for ip in ["192.0.2.1:3128", "[2001:db8::1]:3128"] {
            assert_eq!(lines(&at(ip), &[]).await, [""; 0]);
        }
        let gone = proxy_led("gone.test:3128", Err(io::Error::other("no such name"))).line();
        assert!(gone.starts_with("FAIL") && gone.contains("gone.test:3128, the proxy"), "{gone}");
        assert!(gone.contains("no such name") && gone.contains("correct `via_proxy`"), "{gone}");
    }

    #[tokio::test]
    async fn an_overlay_on_one_machine_may_have_names_of_that_machine() {
        let written = "[node]\nlisten = \"127.0.0.1:4600\"\nadvertise = [\"self.test:4600\"]\n";
        let lines = lines(written, &[]).await;
        assert!(lines[0].starts_with("ok  ") && !lines[0].contains('→'), "{lines:?}");
    }
}
