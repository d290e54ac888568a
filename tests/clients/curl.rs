//! The real curl: every protocol, large transfers both ways, many at once.

use std::process::Stdio;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
    time::timeout,
};

use crate::{
    bytes::{Checksum, MIB, Stream},
    overlay::Site,
    server::Server,
    tools::{LIMIT, curl, have, heavy, text, wait_until_idle},
};

#[tokio::test(flavor = "multi_thread")]
async fn curl_reaches_http_and_https_servers_over_every_protocol() {
    if !have("curl") {
        return;
    }
    let site = Site::new();
    let (_exit, entry) = site.pair(&[]);
    let plain = Server::start().await;
    let (tls, certificate) = Server::with_tls().await;
    let trusted = site.dir("server.pem");
    std::fs::write(&trusted, certificate).unwrap();
    let expected = Stream::of(100_000).checksum();
    let by_name = format!("http://localhost:{}/bytes/100000", plain.address.port());
    let by_address = plain.url("/bytes/100000");
    let encrypted = format!("https://{}/bytes/100000", tls.address);
    for (scheme, options, url) in [
        ("socks5", &[][..], &by_address),
        ("socks5h", &[], &by_name),
        ("socks4a", &[], &by_name),
        ("http", &[], &by_name),
        ("http", &["--proxytunnel"], &by_name),
        ("socks5h", &[], &encrypted),
        ("socks4a", &[], &encrypted),
        ("http", &[], &encrypted),
    ] {
        let mut command = curl(&format!("{scheme}://{}", entry.proxy()));
        command.args(options).arg("--cacert").arg(&trusted).arg(url);
        assert_eq!(received(command).await, (100_000, expected.clone()), "{scheme} {url}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_downloads_and_uploads_arrive_unchanged() {
    if !have("curl") {
        return;
    }
    let len = if heavy() { 256 * MIB } else { 24 * MIB };
    let site = Site::new();
    let (_exit, entry) = site.pair(&[]);
    let server = Server::start().await;
    let expected = Stream::of(len).checksum();
    for scheme in ["socks5h", "http"] {
        let proxy = format!("{scheme}://{}", entry.proxy());
        let mut download = curl(&proxy);
        download.arg(server.url(&format!("/bytes/{len}")));
        assert_eq!(received(download).await, (len, expected.clone()), "{scheme} download");
        let mut upload = curl(&proxy);
        upload.args(["--upload-file", "-", &server.url("/upload")]);
        assert_eq!(sent(upload, len).await, expected, "{scheme} upload");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_parallel_downloads_all_arrive() {
    if !have("curl") {
        return;
    }
    let len = if heavy() { MIB } else { MIB / 8 };
    let site = Site::new();
    let (_exit, entry) = site.pair(&[]);
    let server = Server::start().await;
    let expected = Stream::of(len).checksum();
    for scheme in ["socks5h", "http"] {
        let mut command = curl(&format!("{scheme}://{}", entry.proxy()));
        command.args(["--parallel", "--parallel-immediate", "--parallel-max", "200"]);
        let files = site.dir(scheme);
        command.arg("--create-dirs").arg("--output").arg(files.join("#1"));
        command.arg(server.url(&format!("/bytes/{len}?[1-200]")));
        text(command).await;
        for number in 1..=200 {
            let mut checksum = Checksum::new();
            checksum.add(&std::fs::read(files.join(number.to_string())).unwrap());
            assert_eq!(checksum.hex(), expected, "{scheme}, download {number}");
        }
    }
    wait_until_idle(&site.dir("leaf"), &site.dir("hub"));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_a_row_share_a_connection() {
    if !have("curl") {
        return;
    }
    let site = Site::new();
    let (_exit, entry) = site.pair(&[]);
    for scheme in ["socks5h", "http"] {
        let server = Server::start().await;
        let mut command = curl(&format!("{scheme}://{}", entry.proxy()));
        let urls = server.url("/bytes/[1-20]");
        command.args(["--write-out", "%{num_connects}\n", "--output", "/dev/null", &urls]);
        let connects = text(command).await;
        let connects: u32 = connects.lines().map(|line| line.parse::<u32>().unwrap()).sum();
        assert_eq!((connects, server.requests()), (1, 20), "{scheme}");
        assert_eq!(server.connections(), 1, "{scheme}");
    }
}

/// Runs curl to its end; returns the length and the checksum of what it received.
async fn received(mut command: Command) -> (usize, String) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    let (mut len, mut checksum, mut buffer) = (0, Checksum::new(), vec![0; 256 * 1024]);
    let reading = async {
        loop {
            match output.read(&mut buffer).await.unwrap() {
                0 => break child.wait().await.unwrap(),
                read => {
                    len += read;
                    checksum.add(&buffer[..read]);
                }
            }
        }
    };
    let status = timeout(LIMIT, reading).await.expect("a download hangs");
    assert!(status.success(), "{command:?}: {status}");
    (len, checksum.hex())
}

/// Gives curl `len` bytes to send; returns what the server answers.
async fn sent(mut command: Command, len: usize) -> String {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let writing = async {
        for block in Stream::of(len) {
            input.write_all(&block).await.unwrap();
        }
        drop(input);
        child.wait_with_output().await.unwrap()
    };
    let output = timeout(LIMIT, writing).await.expect("an upload hangs");
    assert!(output.status.success(), "{command:?}: {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}
