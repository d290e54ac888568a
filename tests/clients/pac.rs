//! PAC files as a browser evaluates them.

use std::path::Path;

use crate::{
    browser::chromium,
    cdp::Page,
    overlay::{Running, Site, configure, free_tcp, free_udp, json, must, wait_for},
    server::{PAGE_SAW, Server},
    tools::{have, text},
};

/// Waits until `leaf` is linked with all others.
fn linked(leaf: &Path, others: usize) {
    wait_for("the links", || {
        let links = json(leaf, &["links"]);
        let up = links.as_array().unwrap().iter().filter(|link| link["up"] == true);
        up.count() == others
    });
}

/// A leaf, whose port at the address stands for `campus`, in an overlay whose exit `campus` serves a domain and two
/// networks, and whose exit `hub` serves everything.
fn site() -> (Site, [Running; 3], String) {
    let site = Site::new();
    // Exits refuse flows to the domain, so that no test asks a name server.
    let refuse = |dir: &Path| {
        configure(dir, "deny = []", "deny = [{ domain = [\"served.test\"] }]");
    };
    let hub = site.hub();
    refuse(&hub);
    let hub = Running::start(&hub, &[]);
    let options = ["--exit", "--serves", "served.test", "--serves", "198.51.100.0/22"];
    let options = [&["invite", "--name", "campus"][..], &options, &["--serves", "2001:db8::/33"]];
    let line = must(&site.dir("hub"), &options.concat());
    let campus = site.join_by(line.trim(), "campus", &["--listen", &free_udp().to_string()]);
    configure(&campus, "enabled = false", "enabled = true");
    refuse(&campus);
    let campus = Running::start(&campus, &[]);
    let dir = site.join("leaf");
    let (port, file) = (free_tcp(), dir.join("config.toml"));
    let before = std::fs::read_to_string(&file).unwrap();
    let ports = format!("[[entry.port]]\nlisten = \"{port}\"\nexit = \"campus\"\n");
    std::fs::write(file, before + &ports).unwrap();
    let leaf = Running::start(&dir, &[]);
    linked(&dir, 2);
    (site, [hub, campus, leaf], port.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_sends_only_what_exits_serve_through_the_proxy() {
    if !have("chromium") {
        return;
    }
    let (site, [_hub, _campus, leaf], _) = site();
    let load = async |name: &str| {
        // A page of this machine, which the browser finds itself.
        let server = Server::start().await;
        let mut command = chromium(site.dir(&format!("chromium-{name}")).to_str().unwrap());
        command.arg(format!("--proxy-pac-url=http://{}/proxy.pac?only=served", leaf.proxy()));
        command.arg("--host-resolver-rules=MAP *.test 127.0.0.1");
        command.args(["--dump-dom", &format!("http://{name}:{}/page", server.address.port())]);
        (text(command).await, server.requests())
    };
    for name in ["elsewhere.test", "notserved.test"] {
        let (page, _) = load(name).await;
        assert!(page.contains(PAGE_SAW), "{name}: {page}");
    }
    // The exits refuse, and the page is the proxy's.
    let (page, requests) = load("wiki.served.test").await;
    assert!(page.contains("<footer>ronproxy") && page.contains("policy"), "{page}");
    assert_eq!(requests, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn javascript_finds_served_names_and_networks_in_the_pac_file() {
    if !have("chromium") {
        return;
    }
    let (site, [_hub, _campus, leaf], port) = site();
    let proxy = leaf.proxy().to_string();
    let mut page = Page::open(&site.dir("profile"), (800, 600), false).await;
    let (through, by_port) = (format!("PROXY {proxy}"), format!("PROXY {port}"));
    let (served, direct) = (through.as_str(), "DIRECT");
    for (query, host, way) in [
        ("?only=served", "served.test", served),
        ("?only=served", "wiki.served.test", served),
        ("?only=served", "WIKI.Served.Test.", served),
        ("?only=served", "notserved.test", direct),
        ("?only=served", "test", direct),
        ("?only=served", "served.test.example.org", direct),
        ("?only=served", "198.51.100.7", served),
        ("?only=served", "198.51.103.255", served),
        ("?only=served", "198.51.104.0", direct),
        ("?only=served", "[2001:db8::1]", served),
        ("?only=served", "2001:db8:7fff::", served),
        ("?only=served", "[2001:db8:8000::1]", direct),
        ("?only=served", "[::]", direct),
        ("?only=served", "localhost", direct),
        ("?only=served", "a.localhost", direct),
        ("?only=served", "127.0.0.1", direct),
        ("?only=served", "[::1]", direct),
        ("?only=served&exit=campus", "served.test", &by_port),
        ("?exit=campus", "example.org", &by_port),
        ("?exit=campus", "localhost", direct),
        ("", "example.org", served),
        ("", "localhost", direct),
    ] {
        // The page of the proxy, so that the file has its origin.
        page.go(&format!("http://{proxy}/")).await;
        page.until("document.title === 'ronproxy'").await;
        // Browsers give a PAC file this function (the star is the only sign that the file uses).
        let expression = format!(
            "fetch('/proxy.pac{query}').then(got => got.text()).then(file => new Function('shExpMatch', \
             file + '; return FindProxyForURL')((host, like) => host.endsWith(like.slice(1)))('http://x/', '{host}'))"
        );
        assert_eq!(page.eval(&expression).await, way, "{query} {host}");
    }
    // Pages of others do not learn what the overlay serves.
    page.go("data:text/html,<title>other</title>").await;
    page.until("document.title === 'other'").await;
    let script = format!(
        "new Promise(done => {{ const script = document.createElement('script'); \
         script.onerror = () => done('blocked'); script.onload = () => done('loaded'); \
         script.src = 'http://{proxy}/proxy.pac?only=served'; document.head.append(script); }})"
    );
    assert_eq!(page.eval(&script).await, "blocked");
}
