//! `ronproxy env`

use std::net::SocketAddr;

use clap::{Args, ValueEnum};
use serde::Deserialize;

use super::{
    CliError,
    folder::{Folder, quoted},
    output::print,
};

/// Print variables that send a shell's programs through the proxy: eval "$(ronproxy env)"
///
/// This machine's own names and addresses stay outside (NO_PROXY), beside those that are there already.
#[derive(Debug, Args)]
pub(super) struct Env {
    /// The shell's language
    #[arg(long, value_enum, default_value = "sh")]
    shell: Shell,
    /// Take the variables back
    #[arg(long)]
    unset: bool,
}

/// Destinations that no program of this machine asks the exit for, in all forms that programs
/// understand.
const STAYS: [&str; 5] = ["localhost", "127.0.0.1", "127.0.0.0/8", "::1", ".local"];

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
            (Self::Fish, Some(value)) => format!("set -gx {name} {};", quoted(value)),
            (Self::Fish, None) => format!("set -e {name};"),
            (Self::Csh, Some(value)) => format!("setenv {name} {};", quoted(value)),
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
        let kept = std::env::var("NO_PROXY").or_else(|_| std::env::var("no_proxy"));
        let kept = kept.unwrap_or_default();
        let proxy = if self.unset { None } else { Some(proxy(folder).await?) };
        print(variables(self.shell, proxy, &kept))
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

/// The lines that set the variables for `proxy`, or take them away. `kept` is the user's own list of
/// what stays outside.
fn variables(shell: Shell, proxy: Option<SocketAddr>, kept: &str) -> String {
    let own = kept.split(',').map(str::trim).filter(|name| !name.is_empty());
    let own = own.filter(|name| !STAYS.contains(name));
    let outside: Vec<&str> = match proxy {
        Some(_) => own.chain(STAYS).collect(),
        None => own.collect(),
    };
    let outside = Some(outside.join(",")).filter(|outside| !outside.is_empty());
    let (socks, http) = proxy.map(urls).unzip();
    // Programs differ in the case they read.
    let values = [
        ("ALL_PROXY", &socks),
        ("all_proxy", &socks),
        ("HTTP_PROXY", &http),
        ("http_proxy", &http),
        ("HTTPS_PROXY", &http),
        ("https_proxy", &http),
        ("NO_PROXY", &outside),
        ("no_proxy", &outside),
    ];
    let mut values = values.to_vec();
    // Windows knows one case only, and the second line would take the first one back.
    if shell == Shell::Powershell {
        values.retain(|(name, _)| name.starts_with(char::is_uppercase));
    }
    let lines = values.into_iter().map(|(name, value)| shell.line(name, value.as_deref()));
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

    #[test]
    fn each_shell_gets_its_own_words_and_a_wildcard_becomes_loopback() {
        let proxy = Some("0.0.0.0:1080".parse().unwrap());
        let line = |shell| variables(shell, proxy, "").lines().next().unwrap().to_owned();
        assert_eq!(line(Shell::Sh), "export ALL_PROXY=socks5h://127.0.0.1:1080");
        assert_eq!(line(Shell::Fish), "set -gx ALL_PROXY socks5h://127.0.0.1:1080;");
        assert_eq!(line(Shell::Csh), "setenv ALL_PROXY socks5h://127.0.0.1:1080;");
        assert_eq!(line(Shell::Powershell), "$env:ALL_PROXY = 'socks5h://127.0.0.1:1080'");
        assert_eq!(line(Shell::Nu), "$env.ALL_PROXY = \"socks5h://127.0.0.1:1080\"");
    }

    #[test]
    fn the_users_own_exceptions_are_kept_and_come_back() {
        let outside = |proxy, kept: &str| {
            let lines = variables(Shell::Sh, proxy, kept);
            lines.lines().last().unwrap().to_owned()
        };
        let proxy = Some("127.0.0.1:1080".parse().unwrap());
        let set = "export no_proxy='.lab,*.corp,localhost,127.0.0.1,127.0.0.0/8,::1,.local'";
        assert_eq!(outside(proxy, ".lab, *.corp"), set);
        let kept = set.split('\'').nth(1).unwrap();
        assert_eq!(outside(proxy, kept), set);
        assert_eq!(outside(None, kept), "export no_proxy='.lab,*.corp'");
        assert_eq!(outside(None, "localhost"), "unset no_proxy");
    }
}
