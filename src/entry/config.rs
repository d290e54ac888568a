//! What the configuration file says about the entry, and the entry's fixed bounds.

use std::{fmt, net::SocketAddr, time::Duration};

use serde::{Deserialize, Deserializer, de::Error as _};

use crate::{flow::Hint, identity::NodeName, quantity::listen_address};

/// How long a client may take to say what it wants: from accept to a complete SOCKS request, or
/// for one HTTP request head (which also bounds how long an HTTP connection may sit idle).
///
/// Local clients need milliseconds; ten seconds also covers a suspended one and a person at telnet.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest list of users, so that a check stays a short loop.
const MAX_LISTED: usize = 256;

/// The most further ports: some exits with some hints. Each is a socket.
const MAX_PORTS: usize = 16;

/// Longest user name or password, in bytes: one length byte in RFC 1929.
const MAX_CREDENTIAL: usize = 255;

/// The entry's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Whether this node has an entry at all. Default: `true`.
    pub enabled: bool,
    /// Where the proxy listens. Default: `127.0.0.1:1080`. An address that is not loopback needs
    /// [`users`](Self::users). Port 0 lets the system choose.
    #[serde(deserialize_with = "listen_address")]
    pub listen: SocketAddr,
    /// Further ports, each with an exit and a hint of its own, for programs that send no user name. At most 16.
    /// Default: none.
    #[serde(rename = "port")]
    pub ports: Vec<Port>,
    /// Who may use the proxy. Empty (the default): everyone who can reach the listen address.
    pub users: Vec<User>,
    /// Which users of this machine may use the proxy over loopback. Default: the one who runs the
    /// node, and root. Only Linux tells users apart; elsewhere all of them may.
    pub local_users: LocalUsers,
    /// How many client connections are served at once; further ones wait, unaccepted, in the
    /// system's backlog. Default: 4096, at least 1. Each costs one file descriptor and, idle,
    /// about 20 KiB.
    pub max_connections: usize,
    /// Where this node's dashboard is, to which pages about failures lead. The running node knows it.
    #[serde(skip)]
    pub dashboard: Option<SocketAddr>,
}

/// A further port of the proxy.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Where it listens, as [`Config::listen`].
    #[serde(deserialize_with = "listen_address")]
    pub listen: SocketAddr,
    /// The exit of its flows, unless the client names one. Default, which is `None`: what the rules say.
    pub exit: Option<NodeName>,
    /// The hint of its flows, unless the client names one. Default, which is `None`: what the rules say.
    pub hint: Option<Hint>,
}

/// Which users of this machine may use the proxy over loopback.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LocalUsers {
    /// The user that runs the node, and root. The default.
    #[default]
    Own,
    /// Everyone.
    All,
    /// These, by name or uid, beside the own user and root. At most 256.
    Listed(Vec<String>),
}

/// Somebody who may use the proxy.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The name: 1 to 255 bytes, without `:` (HTTP) and `+` (it separates options).
    pub name: String,
    /// The password: 1 to 255 bytes. Never shown.
    pub password: String,
}

/// The configuration cannot be used; each message says what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A proxy that is open to a network.
    #[error(
        "the entry would listen on {0}, which other machines can reach, without asking for a password; \
         listen on 127.0.0.1 or add [[entry.users]] with a name and a password"
    )]
    Open(SocketAddr),
    /// A user's name is not usable.
    #[error("{0:?} is no user name; use 1 to 255 bytes without ':' and '+'")]
    UserName(String),
    /// A user's password is not usable.
    #[error("the password of user {0:?} must have 1 to 255 bytes")]
    Password(String),
    /// Two users with one name.
    #[error("user {0:?} is listed twice; keep one of them")]
    DuplicateUser(String),
    /// More ports than anybody has exits and hints.
    #[error("{0} ports under [[entry.port]] are too many; keep at most {MAX_PORTS}")]
    TooManyPorts(usize),
    /// No connection would ever be served.
    #[error("max_connections is 0; set it to at least 1, or set enabled = false")]
    NoConnections,
}

impl<'de> Deserialize<'de> for LocalUsers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Word(String),
            List(Vec<UserName>),
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum UserName {
            Uid(u32),
            Name(String),
        }
        const FORM: &str =
            "write local_users = \"own\", \"all\", or a list such as [\"ann\", 1001]";
        match Written::deserialize(deserializer).map_err(|_| D::Error::custom(FORM))? {
            Written::Word(word) if word == "own" => Ok(Self::Own),
            Written::Word(word) if word == "all" => Ok(Self::All),
            Written::List(users) if users.len() <= MAX_LISTED => {
                let name = |user| match user {
                    UserName::Uid(uid) => uid.to_string(),
                    UserName::Name(name) => name,
                };
                Ok(Self::Listed(users.into_iter().map(name).collect()))
            }
            Written::List(_) => Err(D::Error::custom(format!("name at most {MAX_LISTED} users"))),
            Written::Word(_) => Err(D::Error::custom(FORM)),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: SocketAddr::from(([127, 0, 0, 1], 1080)),
            ports: Vec::new(),
            users: Vec::new(),
            local_users: LocalUsers::Own,
            max_connections: 4096,
            dashboard: None,
        }
    }
}

impl Config {
    /// Where the proxy listens: the main address first.
    pub fn all(&self) -> impl Iterator<Item = SocketAddr> {
        std::iter::once(self.listen).chain(self.ports.iter().map(|port| port.listen))
    }

    /// Checks what no single field can tell.
    ///
    /// # Errors
    /// When the entry would be an open proxy, a user is unusable, or nobody could connect.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.ports.len() > MAX_PORTS {
            return Err(ConfigError::TooManyPorts(self.ports.len()));
        }
        let open = self.all().find(|listen| !listen.ip().to_canonical().is_loopback());
        if let Some(open) = open.filter(|_| self.users.is_empty()) {
            return Err(ConfigError::Open(open));
        }
        if self.max_connections == 0 {
            return Err(ConfigError::NoConnections);
        }
        for (index, user) in self.users.iter().enumerate() {
            user.check()?;
            if self.users[..index].iter().any(|earlier| earlier.name == user.name) {
                return Err(ConfigError::DuplicateUser(user.name.clone()));
            }
        }
        Ok(())
    }
}

impl User {
    fn check(&self) -> Result<(), ConfigError> {
        let sized = |text: &str| (1..=MAX_CREDENTIAL).contains(&text.len());
        if !sized(&self.name) || self.name.contains([':', '+']) {
            return Err(ConfigError::UserName(self.name.chars().take(64).collect()));
        }
        if !sized(&self.password) {
            return Err(ConfigError::Password(self.name.clone()));
        }
        Ok(())
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<LocalUsers, toml::de::Error> {
        #[derive(Debug, Deserialize)]
        struct Section {
            local_users: LocalUsers,
        }
        toml::from_str::<Section>(text).map(|section| section.local_users)
    }

    #[test]
    fn at_most_sixteen_ports_are_opened_and_none_to_a_network() {
        let port = |listen: &str| Port { listen: listen.parse().unwrap(), exit: None, hint: None };
        let with = |ports| Config { ports, ..Config::default() }.check();
        assert_eq!(with(vec![port("127.0.0.1:0"); MAX_PORTS]), Ok(()));
        assert_eq!(with(vec![port("127.0.0.1:0"); 17]), Err(ConfigError::TooManyPorts(17)));
        let open = port("0.0.0.0:1");
        assert_eq!(with(vec![open.clone()]), Err(ConfigError::Open(open.listen)));
    }

    #[test]
    fn the_switch_is_own_all_or_a_list() {
        assert_eq!(read("local_users = \"own\"").unwrap(), LocalUsers::Own);
        assert_eq!(read("local_users = \"all\"").unwrap(), LocalUsers::All);
        let listed = LocalUsers::Listed(vec!["ann".to_owned(), "1001".to_owned()]);
        assert_eq!(read("local_users = [\"ann\", 1001]").unwrap(), listed);
        for wrong in ["\"none\"", "3", "[true]", "[-1]"] {
            let error = read(&format!("local_users = {wrong}")).unwrap_err().to_string();
            assert!(error.contains("\"own\", \"all\", or a list"), "{wrong}: {error}");
        }
        let many = vec!["1"; MAX_LISTED + 1].join(",");
        assert!(read(&format!("local_users = [{many}]")).is_err());
    }

    fn user(name: &str, password: &str) -> User {
        User { name: name.to_owned(), password: password.to_owned() }
    }

    #[test]
    fn an_empty_table_is_the_documented_default() {
        let config: Config = toml::from_str("").unwrap();
        assert_eq!(config, Config::default());
        config.check().unwrap();
    }

    #[test]
    fn an_unknown_key_is_refused() {
        assert!(toml::from_str::<Config>("max_conections = 3").is_err());
        assert!(toml::from_str::<Config>("[[users]]\nname='a'\npassword='b'\nadmin=true").is_err());
    }

    #[test]
    fn an_address_that_others_can_reach_needs_users() {
        for (listen, open) in [
            ("127.0.0.1:1", false),
            ("127.9.9.9:1", false),
            ("[::1]:1", false),
            ("[::ffff:127.0.0.1]:1", false),
            ("0.0.0.0:1", true),
            ("[::]:1", true),
            ("192.0.2.1:1", true),
        ] {
            let mut config = Config { listen: listen.parse().unwrap(), ..Config::default() };
            assert_eq!(config.check().is_err(), open, "{listen}");
            config.users = vec![user("ann", "secret")];
            assert_eq!(config.check(), Ok(()), "{listen}");
        }
        let error = Config { listen: ([0; 4], 1).into(), ..Config::default() }.check().unwrap_err();
        assert!(error.to_string().contains("[[entry.users]]"), "{error}");
    }

    #[test]
    fn unusable_users_and_limits_are_refused() {
        let long = "x".repeat(256);
        for users in [
            vec![user("", "p")],
            vec![user("a:b", "p")],
            vec![user("a+b", "p")],
            vec![user(&long, "p")],
            vec![user("a", "")],
            vec![user("a", &long)],
            vec![user("a", "1"), user("a", "2")],
        ] {
            assert!(Config { users, ..Config::default() }.check().is_err());
        }
        assert!(Config { max_connections: 0, ..Config::default() }.check().is_err());
    }

    #[test]
    fn a_password_is_never_printed() {
        let config = Config { users: vec![user("ann", "hunter2")], ..Config::default() };
        assert!(!format!("{config:?}").contains("hunter2"));
        assert!(format!("{config:?}").contains("ann"));
    }
}
