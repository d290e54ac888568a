//! A real browser: headless Chromium.

use tokio::process::Command;

use crate::{
    cdp::Page,
    overlay::{Site, wait_for},
    server::{PAGE_SAW, Server},
    tools::{client, finish, have, text},
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

#[tokio::test(flavor = "multi_thread")]
async fn ronproxy_browser_starts_one_that_fails_without_the_node() {
    if !have("chromium") {
        return;
    }
    let site = Site::new();
    let (exit, entry) = site.pair(&[]);
    let server = Server::behind(exit.pid()).await;
    let dir = site.dir("leaf");
    let browser = |port: u16| {
        let mut command = client(env!("CARGO_BIN_EXE_ronproxy"));
        command.arg("--dir").arg(&dir).args(["browser", "--browser", "chromium"]);
        let url = format!("http://localhost:{port}/page");
        command.args([&url, "--", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]);
        command.args(["--disable-dev-shm-usage", "--proxy-bypass-list=<-loopback>"]);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        command
    };
    let page = text(browser(server.address.port())).await;
    assert!(page.contains(PAGE_SAW), "{page}");
    assert_eq!(server.strangers(), 0, "it went around the proxy");
    assert!(dir.join("state/browser/chromium").is_dir());

    drop(entry);
    let before = server.requests();
    let failed = finish(browser(server.address.port())).await;
    let said = String::from_utf8_lossy(&failed.stderr);
    assert!(!failed.status.success() && said.contains("is not running"), "{said}");
    assert_eq!(server.requests(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_runs_reaches_nothing_when_the_node_stops() {
    if !have("chromium") {
        return;
    }
    let site = Site::new();
    let (exit, entry) = site.pair(&[]);
    let (server, other) = (Server::behind(exit.pid()).await, Server::start().await);
    let dir = site.dir("leaf");
    let mut command = client(env!("CARGO_BIN_EXE_ronproxy"));
    command.arg("--dir").arg(&dir).args(["browser", "--browser", "chromium", "about:blank", "--"]);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
    command.args(["--proxy-bypass-list=<-loopback>", "--remote-debugging-port=0"]);
    let started = command.process_group(0).spawn().unwrap();
    let _group = Group(started.id().unwrap());
    let mut page = Page::of(started, &dir.join("state/browser/chromium")).await;
    page.go(&format!("http://localhost:{}/page", server.address.port())).await;
    page.until(&format!("document.body?.innerText.includes('{PAGE_SAW}')")).await;
    // The page, five images, the WebSocket and the report.
    wait_for("the report", || server.requests() >= 8);
    assert_eq!(server.strangers(), 0, "it went around the proxy");

    drop(entry);
    let reached = || (server.connections(), server.requests(), other.connections());
    let before = reached();
    let failed = "fetch('/bytes/5', { cache: 'no-store' }).then(() => false, () => true)";
    assert_eq!(page.eval(failed).await, true, "a script of the page reached the server");
    let port = other.address.port();
    for url in [server.url("/page"), other.url("/page"), format!("http://localhost:{port}/page")] {
        let error = page.try_to_go(&url).await;
        assert_eq!(error.as_deref(), Some("net::ERR_PROXY_CONNECTION_FAILED"), "{url}");
    }
    assert_eq!(reached(), before, "it went around the proxy");
}

/// A process and those that it started, which end with this.
struct Group(u32);

impl Drop for Group {
    fn drop(&mut self) {
        let group = format!("-{}", self.0);
        let _ = std::process::Command::new("kill").args(["-KILL", "--", &group]).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn firefox_loads_a_page_by_the_proxy_and_fails_without_the_node() {
    let Some(firefox) = ["firefox", "firefox-esr"].into_iter().find(|name| have(name)) else {
        return;
    };
    let site = Site::new();
    let (exit, entry) = site.pair(&[]);
    let dir = site.dir("leaf");
    let profile = dir.join("state/browser/firefox");
    std::fs::create_dir_all(&profile).unwrap();
    // It never proxies loopback addresses by itself. 127.0.0.2 is not among the exceptions of `ronproxy browser`.
    let hijack = "user_pref(\"network.proxy.allow_hijacking_localhost\", true);\n";
    std::fs::write(profile.join("prefs.js"), hijack).unwrap();
    let server = Server::behind_at("127.0.0.2", exit.pid()).await;
    let picture = site.dir("page.png");
    let browser = || {
        let mut command = client(env!("CARGO_BIN_EXE_ronproxy"));
        command.arg("--dir").arg(&dir).args(["browser", "--browser", firefox]);
        command.args([&server.url("/page"), "--", "--headless", "--screenshot"]).arg(&picture);
        // Its cache, and what else it writes.
        command.env("HOME", site.dir("home"));
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        command
    };
    std::fs::create_dir_all(site.dir("home")).unwrap();
    let said = finish(browser()).await;
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    // The page, five images and the WebSocket at least.
    assert!(server.requests() >= 7 && picture.is_file(), "{} requests", server.requests());
    assert_eq!(server.strangers(), 0, "it went around the proxy");

    drop(entry);
    let before = server.requests();
    let failed = finish(browser()).await;
    let said = String::from_utf8_lossy(&failed.stderr);
    assert!(!failed.status.success() && said.contains("is not running"), "{said}");
    assert_eq!(server.requests(), before);
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
