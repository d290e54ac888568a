//! `ronproxy browser`

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use clap::Args;

use super::{CliError, completions, env::running_proxy, folder::Folder};
use crate::identity::NodeName;

/// Start a browser, with a profile of its own, whose connections all go through the running node
///
/// Unlike with a PAC file the proxy is fixed: when the node is not there, pages fail. The profile is in the node's
/// folder of state. Loopback addresses of this machine stay outside.
#[derive(Debug, Args)]
pub(super) struct Browser {
    /// The page to begin with
    url: Option<String>,
    /// The browser: Chromium, Firefox or one like them; default the first of these in PATH
    #[arg(long, value_name = "PROGRAM")]
    browser: Option<PathBuf>,
    /// Leave at this exit, by the port under [[entry.port]] that stands for it
    #[arg(long, value_name = "NODE", add = completions::exits())]
    exit: Option<NodeName>,
    /// Further arguments for the browser
    #[arg(last = true, value_name = "ARGUMENT")]
    arguments: Vec<OsString>,
}

/// Browsers, by the names of their programs.
const KNOWN: [&str; 9] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "brave-browser",
    "microsoft-edge",
    "firefox",
    "firefox-esr",
    "librewolf",
];

/// The settings of a Firefox that uses the proxy only, also for names, and for calls in pages (WebRTC).
const FIREFOX: [(&str, &str); 9] = [
    ("network.proxy.type", "1"),
    ("network.proxy.socks_remote_dns", "true"),
    ("network.proxy.socks_version", "5"),
    ("network.proxy.failover_direct", "false"),
    ("network.proxy.no_proxies_on", "\"localhost, 127.0.0.1, ::1\""),
    ("network.dns.disablePrefetch", "true"),
    ("network.trr.mode", "5"),
    ("media.peerconnection.ice.proxy_only", "true"),
    ("browser.shell.checkDefaultBrowser", "false"),
];

impl Browser {
    pub(super) async fn run(self, folder: &Folder) -> Result<(), CliError> {
        let proxy = self.proxy(folder).await?;
        let program = match &self.browser {
            Some(program) => program.clone(),
            None => in_path().ok_or_else(|| {
                CliError::say(
                    "no Chromium or Firefox is in PATH; install one, or name it with --browser",
                )
            })?,
        };
        let name = program.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
        let firefox = name.contains("firefox") || name.contains("librewolf");
        let kind = if firefox { "firefox" } else { "chromium" };
        let profile = folder.dir.state_folder().join("browser").join(kind);
        let failed = |error| CliError::say(format!("cannot write {}: {error}", profile.display()));
        fs::create_dir_all(&profile).map_err(failed)?;
        let mut command = Command::new(&program);
        if firefox {
            fs::write(profile.join("user.js"), firefox_settings(proxy)).map_err(failed)?;
            command.args(["--no-remote", "--profile"]).arg(&profile);
        } else {
            command.args(chromium_options(proxy, &profile));
        }
        command.args(&self.arguments).args(&self.url);
        let status = command.status().map_err(|error| {
            CliError::say(format!(
                "cannot start {}: {error}; name another browser with --browser",
                program.display()
            ))
        })?;
        if status.success() {
            return Ok(());
        }
        Err(CliError::say(format!("{} ended with {status}", program.display())))
    }

    /// The proxy's port, of the exit that is asked for.
    async fn proxy(&self, folder: &Folder) -> Result<SocketAddr, CliError> {
        if !folder.is_running().await {
            let run = folder.command("run");
            return Err(CliError::say(format!("the node is not running; start it: {run}")));
        }
        let main = running_proxy(folder).await?;
        let Some(exit) = &self.exit else { return Ok(main) };
        let ports = folder.config()?.entry.ports;
        let port = ports.iter().find(|port| port.exit.as_ref() == Some(exit));
        port.map(|port| port.listen).ok_or_else(|| {
            CliError::say(format!(
                "no port stands for {exit}, and a browser cannot name an exit itself; add [[entry.port]] with \
                 exit = \"{exit}\" to config.toml, and restart the node"
            ))
        })
    }
}

/// The first known browser in PATH.
fn in_path() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let folders: Vec<_> = env::split_paths(&path).collect();
    let found =
        |name: &&str| folders.iter().map(|folder| folder.join(name)).find(|at| at.is_file());
    KNOWN.iter().find_map(found)
}

/// An HTTP proxy for everything. Names are looked up nowhere else, and pages open no UDP of their own.
fn chromium_options(proxy: SocketAddr, profile: &Path) -> Vec<OsString> {
    let mut folder = OsString::from("--user-data-dir=");
    folder.push(profile);
    vec![
        folder,
        format!("--proxy-server=http://{proxy}").into(),
        format!(
            "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE {} , EXCLUDE localhost",
            proxy.ip()
        )
        .into(),
        "--force-webrtc-ip-handling-policy=disable_non_proxied_udp".into(),
        "--disable-quic".into(),
        "--no-first-run".into(),
        "--no-default-browser-check".into(),
    ]
}

fn firefox_settings(proxy: SocketAddr) -> String {
    let mut text = String::from("// Written by `ronproxy browser` at each start.\n");
    let mut set = |key: &str, value: &str| {
        text.push_str(&format!("user_pref(\"{key}\", {value});\n"));
    };
    for kind in ["http", "ssl", "socks"] {
        set(&format!("network.proxy.{kind}"), &format!("\"{}\"", proxy.ip()));
        set(&format!("network.proxy.{kind}_port"), &proxy.port().to_string());
    }
    FIREFOX.iter().for_each(|(key, value)| set(key, value));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_has_the_proxy_for_everything_and_a_profile_of_its_own() {
        let proxy = "127.0.0.1:1080".parse().unwrap();
        let options = chromium_options(proxy, Path::new("/p"));
        let has = |option: &str| options.iter().any(|given| given == option);
        assert!(has("--user-data-dir=/p") && has("--proxy-server=http://127.0.0.1:1080"));
        let settings = firefox_settings(proxy);
        for line in [
            "user_pref(\"network.proxy.type\", 1);\n",
            "user_pref(\"network.proxy.ssl\", \"127.0.0.1\");\n",
            "user_pref(\"network.proxy.ssl_port\", 1080);\n",
            "user_pref(\"network.proxy.failover_direct\", false);\n",
        ] {
            assert!(settings.contains(line), "{settings}");
        }
    }
}
