//! Fills the commented default configuration with what the command line says.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use clap::Args;

use crate::{config::Config, flow::Target, quantity::parse_listen};

/// What differs from the defaults in a new configuration.
#[derive(Debug, Default)]
pub(super) struct Template<'a> {
    /// Where the UDP socket listens.
    pub(super) listen: Option<SocketAddr>,
    /// The addresses and names at which others reach the node.
    pub(super) advertise: &'a [Target],
    /// The local proxy: where it listens, if that differs.
    pub(super) proxy: ProxyOptions,
    /// Whether the exit is on.
    pub(super) exit: bool,
}

/// What `init` and `join` say of the local proxy.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(super) struct ProxyOptions {
    /// Where the local proxy will listen [default: 127.0.0.1:1080]
    #[arg(long, value_name = "IP:PORT", value_parser = parse_loopback)]
    proxy: Option<SocketAddr>,
    /// Have no local proxy: the node only works for others
    #[arg(long, conflicts_with = "proxy")]
    no_entry: bool,
}

/// An address of this machine alone: others would need users, which the configuration has.
fn parse_loopback(text: &str) -> Result<SocketAddr, String> {
    let listen = parse_listen(text)?;
    if listen.ip().to_canonical().is_loopback() {
        return Ok(listen);
    }
    Err(format!(
        "other machines could use a proxy at {listen}; set `listen` under [entry] in config.toml afterwards, with \
         [[entry.users]]"
    ))
}

/// Where the UDP socket of a new node listens: on all addresses of this machine, of both families where it has both.
pub(super) fn default_listen() -> SocketAddr {
    const PORT: u16 = 4600;
    // A kernel without IPv6 has no such sockets. Addresses may come later.
    let has_ipv6 = std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok();
    if has_ipv6 {
        (Ipv6Addr::UNSPECIFIED, PORT).into()
    } else {
        (Ipv4Addr::UNSPECIFIED, PORT).into()
    }
}

impl Template<'_> {
    /// The commented file with these values.
    pub(super) fn text(&self) -> String {
        let mut section = "";
        let mut text = String::new();
        for line in Config::default_text().lines() {
            // Those of examples too: their keys are not the section's before.
            if line.trim_start_matches('#').starts_with('[') {
                section = line;
            }
            text.push_str(&self.line(section, line).unwrap_or_else(|| line.to_owned()));
            text.push('\n');
        }
        text
    }

    fn line(&self, section: &str, line: &str) -> Option<String> {
        let key = line.trim_start_matches('#').split([' ', '=']).next()?;
        match (section, key) {
            ("[node]", "listen") => Some(format!("listen = \"{}\"", self.listen?)),
            ("[node]", "advertise") if !self.advertise.is_empty() => {
                let all: Vec<_> = self.advertise.iter().map(|a| format!("\"{a}\"")).collect();
                Some(format!("advertise = [{}]", all.join(", ")))
            }
            ("[entry]", "enabled") if self.proxy.no_entry => Some("enabled = false".to_owned()),
            ("[entry]", "listen") => Some(format!("listen = \"{}\"", self.proxy.proxy?)),
            ("[exit]", "enabled") if self.exit => Some("enabled = true".to_owned()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_values_it_is_the_default() {
        let text = Template::default().text();
        assert_eq!(text, Config::default_text());
    }

    #[test]
    fn every_value_arrives_and_nothing_else_changes() {
        let listen = "127.0.0.1:7".parse().unwrap();
        let advertise = ["192.0.2.1:7", "[2001:db8::1]:7", "mit.example.org:7"];
        let advertise = advertise.map(|text| text.parse().unwrap());
        let proxy = ProxyOptions { proxy: Some("127.0.0.1:9".parse().unwrap()), no_entry: false };
        let template = Template { listen: Some(listen), advertise: &advertise, proxy, exit: true };
        let mut expected = Config::default();
        expected.node.listen = listen;
        expected.node.advertise = advertise.to_vec();
        expected.entry.listen = "127.0.0.1:9".parse().unwrap();
        expected.exit.enabled = true;
        assert_eq!(Config::parse(&template.text()).unwrap(), expected);
        let proxy = ProxyOptions { proxy: None, no_entry: true };
        let mut expected = Config::default();
        expected.entry.enabled = false;
        let template = Template { proxy, ..Template::default() };
        assert_eq!(Config::parse(&template.text()).unwrap(), expected);
    }

    #[test]
    fn a_proxy_for_other_machines_is_no_option() {
        assert_eq!(parse_loopback("localhost:9"), Ok("127.0.0.1:9".parse().unwrap()));
        assert!(parse_loopback("[::1]:9").is_ok());
        for open in ["0.0.0.0:1080", "[::]:1080", "192.0.2.1:1080"] {
            assert!(parse_loopback(open).unwrap_err().contains("users"), "{open}");
        }
    }
}
