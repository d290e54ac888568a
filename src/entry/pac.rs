//! The proxy auto-configuration file a browser may be pointed at. PURE.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;

use crate::{flow::Host, identity::NodeName};

/// The media type of a PAC file.
pub(super) const CONTENT_TYPE: &str = "application/x-ns-proxy-autoconfig";

/// This machine's own names.
const THIS_MACHINE: &str = r#"host === "localhost" || host === "[::1]" || host === "::1" ||
      shExpMatch(host, "*.localhost") || /^127\.\d+\.\d+\.\d+$/.test(host)"#;

/// An address as text of bits behind its family, so that a network is a prefix of its addresses. `null` of a name. It
/// resolves nothing. A browser writes an address in the shortest form, without dots in one of IPv6.
const BITS: &str = r#"
function bits(host) {
  function binary(number, digits) {
    var text = number.toString(2);
    while (text.length < digits) { text = "0" + text; }
    return text;
  }
  var text = "", index, parts = host.split(".");
  if (/^\d+\.\d+\.\d+\.\d+$/.test(host)) {
    for (index = 0; index < 4; index++) { text += binary(Number(parts[index]), 8); }
    return "4" + text;
  }
  host = host.replace(/^\[|\]$/g, "");
  if (host.indexOf(":") < 0) { return null; }
  var sides = host.split("::");
  var before = sides[0] ? sides[0].split(":") : [], after = sides[1] ? sides[1].split(":") : [];
  while (sides.length > 1 && before.length + after.length < 8) { before.push("0"); }
  parts = before.concat(after);
  for (index = 0; index < parts.length; index++) { text += binary(parseInt(parts[index], 16), 16); }
  return "6" + text;
}
"#;

/// What goes through the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Scope {
    /// Everything but this machine.
    #[default]
    Everything,
    /// What exits serve by their certificates.
    Served,
}

/// What a query asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Wish {
    /// What is to go through the proxy.
    pub(super) scope: Scope,
    /// The exit by which it is to leave the overlay.
    pub(super) exit: Option<NodeName>,
}

/// The query asks for nothing that there is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "The query of /proxy.pac may have only=served and exit=NODE, each once, as in /proxy.pac?only=served&exit=mit."
)]
pub(super) struct BadQuery;

impl Wish {
    /// Reads what follows the `?`.
    pub(super) fn parse(query: &str) -> Result<Self, BadQuery> {
        let mut wish = Self::default();
        for part in query.split('&').filter(|_| !query.is_empty()) {
            match part.split_once('=') {
                Some(("only", "served")) if wish.scope == Scope::Everything => {
                    wish.scope = Scope::Served;
                }
                Some(("exit", name)) if wish.exit.is_none() => {
                    wish.exit = Some(name.parse().map_err(|_| BadQuery)?);
                }
                _ => return Err(BadQuery),
            }
        }
        Ok(wish)
    }
}

/// A PAC file that sends everything but this machine's own names through the proxy.
///
/// It fails closed: there is no `; DIRECT` after the proxy, so a browser whose proxy has stopped
/// shows an error and does not silently go around it.
pub(super) fn everything(proxy: SocketAddr) -> String {
    format!(
        r#"// Everything but this machine itself goes through ronproxy, or fails.
function FindProxyForURL(url, host) {{
  if ({THIS_MACHINE}) {{
    return "DIRECT";
  }}
  return "PROXY {proxy}";
}}
"#
    )
}

/// A PAC file that sends these domains, with all names below them, and networks through the proxy, and nothing else.
///
/// What goes through the proxy fails closed as in [`everything`].
pub(super) fn served(proxy: SocketAddr, served: &[String]) -> String {
    let (mut domains, mut networks) = (String::new(), String::new());
    for pattern in served {
        if let Ok(net) = pattern.parse::<IpNet>() {
            let _ = write!(networks, "\"{}\", ", network_bits(net));
        } else if let Ok(Host::Name(name)) = pattern.trim_start_matches("*.").parse() {
            let _ = write!(domains, "\"{name}\", ");
        }
    }
    let (domains, networks) = (domains.trim_end_matches(", "), networks.trim_end_matches(", "));
    format!(
        r#"// What exits serve goes through ronproxy, or fails. Everything else does not.
var domains = [{domains}];
var networks = [{networks}];
{BITS}
function FindProxyForURL(url, host) {{
  host = host.toLowerCase().replace(/\.$/, "");
  if ({THIS_MACHINE}) {{
    return "DIRECT";
  }}
  var index, at, address = bits(host);
  for (index = 0; address === null && index < domains.length; index++) {{
    at = host.length - domains[index].length;
    if (host === domains[index] || at > 0 && host.slice(at - 1) === "." + domains[index]) {{
      return "PROXY {proxy}";
    }}
  }}
  for (index = 0; address !== null && index < networks.length; index++) {{
    if (address.indexOf(networks[index]) === 0) {{
      return "PROXY {proxy}";
    }}
  }}
  return "DIRECT";
}}
"#
    )
}

/// What `bits` in the PAC file makes of the addresses of a network has this prefix.
fn network_bits(net: IpNet) -> String {
    let (family, bits) = match net.network() {
        IpAddr::V4(ip) => ('4', format!("{:032b}", ip.to_bits())),
        IpAddr::V6(ip) => ('6', format!("{:0128b}", ip.to_bits())),
    };
    format!("{family}{}", &bits[..usize::from(net.prefix_len())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_goes_around_the_proxy() {
        let text = everything(([127, 0, 0, 1], 1080).into());
        assert!(text.contains(r#"return "PROXY 127.0.0.1:1080";"#), "{text}");
        assert_eq!(text.matches("DIRECT").count(), 1, "{text}");
        assert!(everything("[::1]:8".parse().unwrap()).contains("PROXY [::1]:8"));
    }

    #[test]
    fn served_domains_and_networks_are_in_the_file() {
        let patterns = ["mit.edu", "192.0.2.0/24", "2001:db8::/32", "bad\"name", "::/0"];
        let text = served(([127, 0, 0, 1], 1080).into(), &patterns.map(str::to_owned));
        assert!(text.contains(r#"var domains = ["mit.edu"];"#), "{text}");
        let networks = "var networks = [\"4110000000000000000000010\", \"600100000000000010000110110111000\", \"6\"];";
        assert!(text.contains(networks), "{text}");
        assert!(!text.contains("bad"), "{text}");
    }

    #[test]
    fn a_query_names_a_scope_and_an_exit_once_each() {
        let mit: NodeName = "mit".parse().unwrap();
        let wish = |scope, exit: Option<&NodeName>| Ok(Wish { scope, exit: exit.cloned() });
        for (query, read) in [
            ("", wish(Scope::Everything, None)),
            ("only=served", wish(Scope::Served, None)),
            ("exit=mit", wish(Scope::Everything, Some(&mit))),
            ("exit=mit&only=served", wish(Scope::Served, Some(&mit))),
        ] {
            assert_eq!(Wish::parse(query), read, "{query}");
        }
        for query in
            ["only=all", "only", "&", "exit=", "exit=%6dit", "exit=a&exit=b", "x=1", "only=served&"]
        {
            assert_eq!(Wish::parse(query), Err(BadQuery), "{query}");
        }
        assert_eq!(Wish::parse("only=served&only=served"), Err(BadQuery));
    }
}
