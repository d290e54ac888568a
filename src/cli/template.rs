//! Fills the commented default configuration with what the command line says.

use std::net::SocketAddr;

use crate::config::Config;

/// What differs from the defaults in a new configuration.
#[derive(Debug, Default)]
pub(super) struct Template<'a> {
    /// Where the UDP socket listens.
    pub(super) listen: Option<SocketAddr>,
    /// The addresses at which others reach the node.
    pub(super) advertise: &'a [SocketAddr],
    /// Whether the exit is on.
    pub(super) exit: bool,
}

impl Template<'_> {
    /// The commented file with these values.
    pub(super) fn text(&self) -> String {
        let mut section = "";
        let mut text = String::new();
        for line in Config::default_text().lines() {
            if line.starts_with('[') {
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
        let advertise = ["192.0.2.1:7".parse().unwrap(), "[2001:db8::1]:7".parse().unwrap()];
        let template = Template { listen: Some(listen), advertise: &advertise, exit: true };
        let mut expected = Config::default();
        expected.node.listen = listen;
        expected.node.advertise = advertise.to_vec();
        expected.exit.enabled = true;
        assert_eq!(Config::parse(&template.text()).unwrap(), expected);
    }
}
