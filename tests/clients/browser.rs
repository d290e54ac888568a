//! A real browser: headless Chromium.

use tokio::process::Command;

use crate::{
    overlay::Site,
    server::{PAGE_SAW, Server},
    tools::{client, have, text},
};

#[tokio::test(flavor = "multi_thread")]
async fn chromium_loads_a_page_and_a_websocket_over_both_protocols() {
    if !have("chromium") {
        return;
    }
    let site = Site::new();
    let (exit, entry) = site.pair(&[]);
    for scheme in ["socks5", "http"] {
        let server = Server::behind(exit.pid()).await;
        let profile = site.dir(&format!("chromium-{scheme}"));
        let mut command = chromium(profile.to_str().unwrap());
        command.arg(format!("--proxy-server={scheme}://{}", entry.proxy()));
        // A name, which the exit resolves.
        let url = format!("http://localhost:{}/page", server.address.port());
        command.args(["--dump-dom", &url]);
        let page = text(command).await;
        assert!(page.contains(PAGE_SAW), "{scheme}: {page}");
        // The page, five images, the WebSocket and the report.
        assert!(server.requests() >= 8, "{scheme}: {} requests", server.requests());
        assert_eq!(server.strangers(), 0, "{scheme}: Chromium went around the proxy");
    }
}

/// Chromium without habits of its own: a new profile, and no connections but the page's.
pub fn chromium(profile: &str) -> Command {
    let mut command = client("chromium");
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        // By default loopback is never proxied.
        "--proxy-bypass-list=<-loopback>",
    ]);
    command.arg(format!("--user-data-dir={profile}"));
    command
}
