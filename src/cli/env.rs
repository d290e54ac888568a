//! `ronproxy env`

use std::net::SocketAddr;

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::{CliError, folder::Folder, output::print};

/// Print variables that send a shell's programs through the proxy: eval "$(ronproxy env)"
#[derive(Debug, Args)]
pub(super) struct Env {
    /// The shell's language
    #[arg(long, value_enum, default_value = "sh")]
    shell: Shell,
}

/// How a variable is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shell {
    /// sh, bash, zsh, dash
    Sh,
    /// fish
    Fish,
    /// csh, tcsh
    Csh,
}

impl Env {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        print(variables(self.shell, proxy(folder).await?))
    }
}

/// Where the proxy is: the running node knows it, otherwise the configuration says it.
async fn proxy(folder: &Folder) -> Result<SocketAddr, CliError> {
    let none = || {
        CliError::say(
            "this node has no local proxy; set `enabled = true` under [entry] in config.toml",
        )
    };
    if let Ok(status) = folder.client().get("/status").await {
        let proxy = status.get("proxy").and_then(Value::as_str);
        return proxy.and_then(|proxy| proxy.parse().ok()).ok_or_else(none);
    }
    let entry = folder.config()?.entry;
    if !entry.enabled {
        return Err(none());
    }
    if entry.listen.port() == 0 {
        return Err(CliError::say(
            "the system will choose the proxy's port; start the node with `ronproxy run` first",
        ));
    }
    Ok(entry.listen)
}

fn variables(shell: Shell, proxy: SocketAddr) -> String {
    // A wildcard is no place to connect to.
    let proxy = match (proxy.ip().is_unspecified(), proxy.is_ipv4()) {
        (true, true) => SocketAddr::from(([127, 0, 0, 1], proxy.port())),
        (true, false) => SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], proxy.port())),
        (false, _) => proxy,
    };
    // Names are resolved at the exit: socks5h. Programs differ in the case they read.
    let (socks, http) = (format!("socks5h://{proxy}"), format!("http://{proxy}"));
    let values = [
        ("ALL_PROXY", &socks),
        ("all_proxy", &socks),
        ("HTTP_PROXY", &http),
        ("http_proxy", &http),
        ("HTTPS_PROXY", &http),
        ("https_proxy", &http),
    ];
    let lines = values.map(|(name, value)| match shell {
        Shell::Sh => format!("export {name}={value}"),
        Shell::Fish => format!("set -gx {name} {value};"),
        Shell::Csh => format!("setenv {name} {value};"),
    });
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shell_gets_its_own_words_and_a_wildcard_becomes_loopback() {
        let proxy = "0.0.0.0:1080".parse().unwrap();
        let line = |shell| variables(shell, proxy).lines().next().unwrap().to_owned();
        assert_eq!(line(Shell::Sh), "export ALL_PROXY=socks5h://127.0.0.1:1080");
        assert_eq!(line(Shell::Fish), "set -gx ALL_PROXY socks5h://127.0.0.1:1080;");
        assert_eq!(line(Shell::Csh), "setenv ALL_PROXY socks5h://127.0.0.1:1080;");
    }
}
