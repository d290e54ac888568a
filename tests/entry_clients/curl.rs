//! The real curl.

use std::net::SocketAddr;

use ronproxy::internals::flow::Ingress;
use tokio::process::Command;

use crate::support::{Proxy, mirror};

/// Runs curl; `None` when this machine has none.
async fn curl(arguments: &[&str]) -> Option<(bool, String)> {
    let mut command = Command::new("curl");
    // The machine's own settings must not matter.
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(name);
    }
    let common = ["-q", "-sS", "--max-time", "20", "--noproxy", ""];
    match command.args(common).args(arguments).output().await {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            Some((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
        }
        Err(_) => {
            println!("skipped: curl not found");
            None
        }
    }
}

#[tokio::test]
async fn curl_fetches_a_page_over_every_protocol() {
    let (proxy, origin) = (Proxy::start().await, mirror().await);
    let by_address = format!("http://{origin}/page");
    let by_name = format!("http://origin.test:{}/page", origin.port());
    for (arguments, url, ingress) in [
        (vec!["--proxy", "socks5"], &by_address, Ingress::Socks5),
        (vec!["--proxy", "socks5h"], &by_name, Ingress::Socks5),
        (vec!["--proxy", "socks4"], &by_address, Ingress::Socks4),
        (vec!["--proxy", "socks4a"], &by_name, Ingress::Socks4),
        (vec!["--proxy", "http"], &by_name, Ingress::HttpForward),
        (vec!["--proxytunnel", "--proxy", "http"], &by_name, Ingress::HttpConnect),
    ] {
        let mut arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        let scheme = arguments.pop().unwrap();
        arguments.push(format!("{scheme}://{}", proxy.addr));
        arguments.extend(["-X".into(), "POST".into(), "-d".into(), "body".into(), url.clone()]);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let Some((success, text)) = curl(&arguments).await else { return };
        assert!(success && text.contains("POST /page HTTP/1.1"), "{arguments:?}: {text}");
        assert!(text.ends_with("body"), "{arguments:?}: {text}");
        assert_eq!(proxy.last_dialed().ingress, ingress, "{arguments:?}");
    }
}

#[tokio::test]
async fn curl_chooses_exit_and_hint_by_user_name() {
    let (proxy, origin) = (Proxy::start().await, mirror().await);
    let url = format!("http://{origin}/");
    for scheme in ["socks5", "socks5h", "socks4a", "http"] {
        let via = format!("{scheme}://exit=mit,hint=loss@{}", proxy.addr);
        let Some((success, text)) = curl(&["--proxy", &via, &url]).await else { return };
        assert!(success, "{scheme}: {text}");
        let request = proxy.last_dialed();
        assert_eq!(request.exit.unwrap().as_str(), "mit", "{scheme}");
        assert_eq!(request.hint.unwrap().to_string(), "loss", "{scheme}");
    }
}

#[tokio::test]
async fn curl_needs_the_right_password_when_users_are_configured() {
    let (proxy, origin) = (Proxy::with_users().await, mirror().await);
    let url = format!("http://{origin}/");
    let fetch = |scheme: &'static str, user: &'static str, addr: SocketAddr| {
        let (via, url) = (format!("{scheme}://{user}{addr}"), url.clone());
        async move { curl(&["--fail", "--proxy", &via, &url]).await }
    };
    for (scheme, user, admitted) in [
        ("socks5h", "ann:one@", true),
        ("socks5h", "ann+exit=mit:one@", true),
        ("socks5h", "ann:two@", false),
        ("socks5h", "", false),
        ("socks4a", "ann@", false),
        ("http", "ann:one@", true),
        ("http", "ann:two@", false),
        ("http", "", false),
    ] {
        let Some((success, text)) = fetch(scheme, user, proxy.addr).await else { return };
        assert_eq!(success, admitted, "{scheme}://{user}: {text}");
    }
}
