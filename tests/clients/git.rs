//! The real git, over HTTP.

use std::path::Path;

use tokio::process::Command;

use crate::{
    bytes::{MIB, Stream},
    overlay::Site,
    server::Server,
    tools::{client, have, text},
};

#[tokio::test(flavor = "multi_thread")]
async fn git_clones_over_http_through_the_proxy() {
    if !have("git") {
        return;
    }
    let site = Site::new();
    let (_exit, entry) = site.pair(&[]);
    let origin = site.dir("origin");
    std::fs::create_dir(&origin).unwrap();
    let big: Vec<u8> = Stream::of(MIB).flatten().collect();
    std::fs::write(origin.join("big"), &big).unwrap();
    text(git(&origin, &["init", "-q", "-b", "main"])).await;
    text(git(&origin, &["add", "."])).await;
    text(git(&origin, &["commit", "-q", "-m", "one"])).await;
    text(git(&origin, &["update-server-info"])).await;
    let head = text(git(&origin, &["rev-parse", "HEAD"])).await;
    let server = Server::of_files(origin).await;
    for scheme in ["http", "socks5h"] {
        let clone = site.dir(scheme);
        let proxy = format!("http.proxy={scheme}://{}", entry.proxy());
        let url = server.url("/.git");
        let folder = clone.to_str().unwrap();
        text(git(Path::new("/"), &["-c", &proxy, "clone", "-q", &url, folder])).await;
        assert_eq!(text(git(&clone, &["rev-parse", "HEAD"])).await, head, "{scheme}");
        assert!(std::fs::read(clone.join("big")).unwrap() == big, "{scheme}");
    }
}

/// git in `folder`, as a person without settings.
fn git(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = client("git");
    command.current_dir(folder).args(arguments);
    for (name, value) in [
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("GIT_AUTHOR_NAME", "Ann"),
        ("GIT_AUTHOR_EMAIL", "ann@example.org"),
        ("GIT_COMMITTER_NAME", "Ann"),
        ("GIT_COMMITTER_EMAIL", "ann@example.org"),
    ] {
        command.env(name, value);
    }
    command
}
