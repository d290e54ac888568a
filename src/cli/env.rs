//! `ronproxy env`

use std::{collections::BTreeMap, net::SocketAddr};

use clap::{Args, ValueEnum};
use serde::Deserialize;

use super::{
    CliError,
    folder::{Folder, quoted},
    output::{note, print},
};

/// Print variables that send a shell's programs through the proxy: eval "$(ronproxy env)"
///
/// This machine's own names and addresses stay outside (NO_PROXY), beside those that are there already. The variable
/// RONPROXY_ENV_BEFORE remembers what the shell had, for --unset.
#[derive(Debug, Args)]
pub(super) struct Env {
    /// The shell's language
    #[arg(long, value_enum, default_value = "sh")]
    shell: Shell,
    /// Give the shell back what it had before
    #[arg(long)]
    unset: bool,
}

/// Destinations that no program of this machine asks the exit for, in all forms that programs
/// understand.
const STAYS: [&str; 5] = ["localhost", "127.0.0.1", "127.0.0.0/8", "::1", ".local"];

/// The variables that are set: programs differ in the case they read.
const NAMES: [&str; 8] = [
    "ALL_PROXY",
    "all_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "NO_PROXY",
    "no_proxy",
];

/// Remembers in the shell which of these variables there were before, as a form has its fields.
const BEFORE: &str = "RONPROXY_ENV_BEFORE";

/// The text of [`BEFORE`] where there were none: PowerShell takes away a variable that is empty.
const NOTHING: &str = "nothing";

/// Those of these variables that there are.
type Variables = BTreeMap<&'static str, String>;

/// How a variable is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shell {
    /// sh, bash, zsh, dash
    Sh,
    /// fish
    Fish,
    /// csh, tcsh
    Csh,
    /// PowerShell
    Powershell,
    /// Nushell: `ronproxy env --shell nu | save -f proxy.nu; source proxy.nu`
    Nu,
}

impl Shell {
    /// The line that sets a variable, or takes it away.
    fn line(self, name: &str, value: Option<&str>) -> String {
        match (self, value) {
            (Self::Sh, Some(value)) => format!("export {name}={}", quoted(value)),
            (Self::Sh, None) => format!("unset {name}"),
            // There a backslash has a meaning in quotes, too.
            (Self::Fish, Some(value)) => {
                format!("set -gx {name} {};", quoted(&value.replace('\\', r"\\")))
            }
            (Self::Fish, None) => format!("set -e {name};"),
            // There `!` is of the history in quotes, too.
            (Self::Csh, Some(value)) => {
                format!("setenv {name} {};", quoted(value).replace('!', r"\!"))
            }
            (Self::Csh, None) => format!("unsetenv {name};"),
            (Self::Powershell, Some(value)) => {
                format!("$env:{name} = '{}'", value.replace('\'', "''"))
            }
            (Self::Powershell, None) => {
                format!("Remove-Item -ErrorAction Ignore Env:{name}")
            }
            (Self::Nu, Some(value)) => format!("$env.{name} = {value:?}"),
            (Self::Nu, None) => format!("hide-env --ignore-errors {name}"),
        }
    }
}

impl Env {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        let now = NAMES.into_iter().filter_map(|name| Some((name, std::env::var(name).ok()?)));
        let (now, remembered) = (now.collect(), std::env::var(BEFORE).ok());
        if !self.unset {
            return print(set(self.shell, proxy(folder).await?, &now, remembered));
        }
        match remembered {
            Some(remembered) => print(taken_back(self.shell, &now, &remembered)),
            None => {
                note(
                    "ronproxy: nothing to take back; `ronproxy env` has set nothing in this shell",
                );
                Ok(())
            }
        }
    }
}

/// Where the proxy is: the running node knows it, otherwise the configuration says it.
async fn proxy(folder: &Folder) -> Result<SocketAddr, CliError> {
    if folder.is_running().await {
        return running_proxy(folder).await;
    }
    let entry = folder.config()?.entry;
    if !entry.enabled {
        return Err(no_proxy());
    }
    if entry.listen.port() == 0 {
        return Err(CliError::say(
            "the system will choose the proxy's port; start the node with `ronproxy run` first",
        ));
    }
    Ok(entry.listen)
}

/// What is needed of the status, so that a node of another version serves, too.
#[derive(Debug, Deserialize)]
struct ProxyOf {
    proxy: Option<SocketAddr>,
}

/// Where the running node's proxy is.
pub(super) async fn running_proxy(folder: &Folder) -> Result<SocketAddr, CliError> {
    let ProxyOf { proxy } = folder.client().get("/status").await?;
    proxy.ok_or_else(no_proxy)
}

fn no_proxy() -> CliError {
    CliError::say("this node has no local proxy; set `enabled = true` under [entry] in config.toml")
}

/// The lines that set the variables for `proxy`. What an earlier call remembered in this shell stays: it is the user's own.
fn set(shell: Shell, proxy: SocketAddr, now: &Variables, remembered: Option<String>) -> String {
    let (socks, http) = urls(proxy);
    let outside = outside(now).join(",");
    let value = |name: &str| match name {
        "ALL_PROXY" | "all_proxy" => &socks,
        "NO_PROXY" | "no_proxy" => &outside,
        _ => &http,
    };
    let before = remembered.unwrap_or_else(|| encoded(now));
    let values = NAMES.into_iter().map(|name| (name, Some(value(name).clone())));
    lines(shell, values.chain([(BEFORE, Some(before))]))
}

/// The lines that give back what was remembered. What the user has added since to NO_PROXY stays.
fn taken_back(shell: Shell, now: &Variables, remembered: &str) -> String {
    let mut values = decoded(remembered);
    let known = outside(&values).into_iter().map(str::to_owned).collect::<Vec<_>>();
    for name in ["NO_PROXY", "no_proxy"] {
        for added in entries(now, name).filter(|entry| !known.iter().any(|known| known == entry)) {
            let own = values.entry(name).or_default();
            own.push_str(if own.is_empty() { "" } else { "," });
            own.push_str(added);
        }
    }
    let values = NAMES.into_iter().map(|name| (name, values.remove(name)));
    lines(shell, values.chain([(BEFORE, None)]))
}

/// What stays outside: what the user says, in both spellings, and this machine; each once.
fn outside(variables: &Variables) -> Vec<&str> {
    let own = entries(variables, "NO_PROXY").chain(entries(variables, "no_proxy"));
    let mut all = Vec::new();
    for entry in own.chain(STAYS) {
        if !all.contains(&entry) {
            all.push(entry);
        }
    }
    all
}

/// The entries of a list.
fn entries<'a>(variables: &'a Variables, name: &str) -> impl Iterator<Item = &'a str> {
    let list = variables.get(name).map(String::as_str).unwrap_or_default();
    list.split(',').map(str::trim).filter(|entry| !entry.is_empty())
}

fn encoded(variables: &Variables) -> String {
    if variables.is_empty() {
        return NOTHING.to_owned();
    }
    form_urlencoded::Serializer::new(String::new()).extend_pairs(variables).finish()
}

fn decoded(remembered: &str) -> Variables {
    let fields = form_urlencoded::parse(remembered.as_bytes());
    let known = fields.filter_map(|(name, value)| {
        Some((NAMES.into_iter().find(|known| *known == name)?, value.into_owned()))
    });
    known.collect()
}

/// A line for each variable, in the shell's language.
fn lines<'a>(shell: Shell, values: impl Iterator<Item = (&'a str, Option<String>)>) -> String {
    let lines = values.map(|(name, value)| shell.line(name, value.as_deref()));
    lines.collect::<Vec<_>>().join("\n")
}

/// The proxy for SOCKS and for HTTP. Names are resolved at the exit: socks5h.
fn urls(proxy: SocketAddr) -> (String, String) {
    // A wildcard is no place to connect to.
    let proxy = match (proxy.ip().is_unspecified(), proxy.is_ipv4()) {
        (true, true) => SocketAddr::from(([127, 0, 0, 1], proxy.port())),
        (true, false) => SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], proxy.port())),
        (false, _) => proxy,
    };
    (format!("socks5h://{proxy}"), format!("http://{proxy}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(proxy: &str) -> SocketAddr {
        proxy.parse().unwrap()
    }

    fn of(variables: &[(&'static str, &str)]) -> Variables {
        variables.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
    }

    /// What a shell of the language of `sh` has after these lines.
    fn after(lines: &str, mut has: Variables) -> (Variables, Option<String>) {
        let mut remembered = None;
        for line in lines.lines() {
            let (name, value) = match line.strip_prefix("export ") {
                Some(set) => set.split_once('=').unwrap(),
                None => (line.strip_prefix("unset ").unwrap(), ""),
            };
            let set = line.starts_with("export ").then(|| value.trim_matches('\'').to_owned());
            match (NAMES.into_iter().find(|known| *known == name), set) {
                (None, set) => remembered = set,
                (Some(name), Some(set)) => drop(has.insert(name, set)),
                (Some(name), None) => drop(has.remove(name)),
            }
        }
        (has, remembered)
    }

    #[test]
    fn each_shell_gets_its_own_words_and_a_wildcard_becomes_loopback() {
        let all = |shell| set(shell, at("0.0.0.0:1080"), &Variables::new(), None);
        let line = |shell| all(shell).lines().next().unwrap().to_owned();
        assert_eq!(line(Shell::Sh), "export ALL_PROXY=socks5h://127.0.0.1:1080");
        assert_eq!(line(Shell::Fish), "set -gx ALL_PROXY socks5h://127.0.0.1:1080;");
        assert_eq!(line(Shell::Csh), "setenv ALL_PROXY socks5h://127.0.0.1:1080;");
        assert_eq!(line(Shell::Powershell), "$env:ALL_PROXY = 'socks5h://127.0.0.1:1080'");
        assert_eq!(line(Shell::Nu), "$env.ALL_PROXY = \"socks5h://127.0.0.1:1080\"");
        assert!(all(Shell::Powershell).ends_with("$env:RONPROXY_ENV_BEFORE = 'nothing'"));
    }

    #[test]
    fn exceptions_of_both_spellings_are_kept_once() {
        let own = of(&[("NO_PROXY", ".lab, *.corp,localhost"), ("no_proxy", "*.corp,192.0.2.1")]);
        let (has, remembered) =
            after(&set(Shell::Sh, at("127.0.0.1:1080"), &own, None), own.clone());
        let all = ".lab,*.corp,localhost,192.0.2.1,127.0.0.1,127.0.0.0/8,::1,.local";
        assert_eq!((&*has["NO_PROXY"], &*has["no_proxy"]), (all, all));
        let again = set(Shell::Sh, at("127.0.0.1:1080"), &has, remembered.clone());
        assert_eq!(after(&again, has.clone()), (has, remembered));
    }

    #[test]
    fn what_the_shell_had_comes_back_with_what_was_added_since() {
        for own in [
            of(&[]),
            of(&[
                ("HTTPS_PROXY", "http://ann:a&b=c%20+d@corp:1"),
                ("http_proxy", ""),
                ("NO_PROXY", "localhost,a"),
            ]),
            of(&[("no_proxy", "localhost"), ("ALL_PROXY", "socks5://corp:2")]),
        ] {
            let (mut has, remembered) =
                after(&set(Shell::Sh, at("127.0.0.1:1080"), &own, None), own.clone());
            let remembered = remembered.unwrap();
            let back = taken_back(Shell::Sh, &has, &remembered);
            assert_eq!(after(&back, has.clone()), (own.clone(), None));

            has.get_mut("no_proxy").unwrap().push_str(",added,.lab");
            let (back, _) = after(&taken_back(Shell::Sh, &has, &remembered), has);
            let expected =
                if own.contains_key("no_proxy") { "localhost,added,.lab" } else { "added,.lab" };
            assert_eq!(back["no_proxy"], expected);
        }
    }
}
