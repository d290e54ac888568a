//! Servers that answer before they have heard everything, or break off; clients that end their side
//! early, or send names that nobody asked for.

use std::{net::SocketAddr, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{
    overlay::Site,
    sockets,
    tools::{LIMIT, client, curl, finish, have, text},
    web,
};

/// How often each race is run.
const ROUNDS: usize = 8;

/// Sends a body with `http.client`, which reads the answer only when all is sent.
const UPLOAD: &str = "import http.client, sys\n\
    c = http.client.HTTPConnection(sys.argv[1], timeout=60)\n\
    c.request('POST', sys.argv[2], body=b'x' * 4000000)\n\
    r = c.getresponse()\n\
    print(r.status, r.read().decode())\n";

/// Reads the page through a SOCKS proxy as Java does: it offers the login name.
const JAVA: &str = "import java.io.*; import java.net.*;\n\
    public class Fetch { public static void main(String[] a) throws Exception {\n\
      Socket s = new Socket(new Proxy(Proxy.Type.SOCKS, new InetSocketAddress(a[0], Integer.parseInt(a[1]))));\n\
      s.connect(new InetSocketAddress(a[2], Integer.parseInt(a[3])));\n\
      s.getOutputStream().write(\"GET / HTTP/1.0\\r\\n\\r\\n\".getBytes());\n\
      System.out.write(s.getInputStream().readAllBytes()); System.out.flush(); } }\n";

/// A server that reads a request's head, answers with `answer` and closes, with the rest unread; that
/// resets the connection if the client still sends, and always if `reset`.
async fn hasty(answer: &'static str, reset: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.windows(4).any(|four| four == b"\r\n\r\n") {
                    if tcp.read_buf(&mut head).await.is_ok_and(|read| read == 0) {
                        return;
                    }
                }
                let _ = tcp.write_all(answer.as_bytes()).await;
                if reset {
                    tcp.set_zero_linger().unwrap();
                }
            });
        }
    });
    address
}

/// What `stream` gives until its end, and whether that was a reset.
async fn rest(stream: &mut TcpStream) -> (String, bool) {
    let mut got = Vec::new();
    let end = timeout(LIMIT, stream.read_to_end(&mut got)).await.expect("a hang");
    (String::from_utf8(got).unwrap(), end.is_err())
}

const TOO_LARGE: &str = "HTTP/1.1 413 Too Large\r\nContent-Length: 7\r\n\r\nenough!";

#[tokio::test(flavor = "multi_thread")]
async fn an_early_answer_arrives_while_the_client_uploads() {
    let site = Site::new();
    let (_exit, entry) = site.pair(&[]);
    let server = hasty(TOO_LARGE, false).await;
    let url = format!("http://{server}/upload");
    for round in 0..ROUNDS {
        if have("python3") {
            let mut python = client("python3");
            python.args(["-c", UPLOAD, &entry.proxy().to_string(), &url]);
            assert_eq!(text(python).await, "413 enough!\n", "{round}");
        }
        if have("curl") {
            let mut command = client("curl");
            command.args([
                "-q",
                "-sS",
                "--noproxy",
                "",
                "--data-binary",
                "@-",
                "--expect100-timeout",
                "0",
            ]);
            command.args(["--write-out", " %{http_code}", "--proxy"]);
            command.args([&format!("http://{}", entry.proxy()), &url]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().unwrap();
            let mut stdin = child.stdin.take().unwrap();
            // curl stops reading when it has its answer.
            let _ = stdin.write_all(&vec![b'x'; 4_000_000]).await;
            drop(stdin);
            let output = timeout(LIMIT, child.wait_with_output()).await.unwrap().unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            assert!(said.starts_with("enough! 413"), "{round}: {said}");
        }
    }
    // The same over a tunnel, where the server's own reset is all there is.
    for round in 0..ROUNDS {
        let (mut read, mut write) =
            sockets::tunnel(entry.proxy(), server).await.unwrap().into_split();
        let sending = async {
            let _ = write.write_all(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n").await;
            for _ in 0..40 {
                if write.write_all(&[b'x'; 100_000]).await.is_err() {
                    break;
                }
            }
        };
        let mut got = Vec::new();
        let (_, _) = timeout(LIMIT, async { tokio::join!(sending, read.read_to_end(&mut got)) })
            .await
            .expect("a hang");
        assert_eq!(String::from_utf8(got).unwrap(), TOO_LARGE, "{round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_before_a_servers_break_arrive_and_so_does_the_break() {
    let site = Site::new();
    let (_exit, entry) = site.pair(&[]);
    let part = "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 100\r\n\r\n0123456789";
    for reset in [false, true] {
        let server = hasty(part, reset).await;
        let request = format!("GET http://{server}/ HTTP/1.1\r\nHost: x\r\n\r\n");
        for round in 0..ROUNDS * 2 {
            let mut stream = TcpStream::connect(entry.proxy()).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            assert_eq!(rest(&mut stream).await.0, part, "HTTP, reset {reset}, round {round}");
            let mut stream = sockets::tunnel(entry.proxy(), server).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            let expected = (part.to_owned(), reset);
            assert_eq!(rest(&mut stream).await, expected, "SOCKS, reset {reset}, round {round}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_ends_its_side_is_answered_and_a_gone_one_costs_none() {
    let site = Site::new();
    let (_exit, entry) = site.pair(&[]);
    let page = web::serve();
    let request = format!("GET http://{page}/ HTTP/1.0\r\n\r\n");
    for _ in 0..ROUNDS {
        let mut stream = TcpStream::connect(entry.proxy()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        assert!(rest(&mut stream).await.0.ends_with(web::PAGE));
    }
    if have("nc") {
        let mut nc = client("nc");
        let address = entry.proxy();
        nc.args(["-N", &address.ip().to_string(), &address.port().to_string()]);
        nc.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = nc.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(request.as_bytes()).await.unwrap();
        drop(stdin);
        let output = timeout(LIMIT, child.wait_with_output()).await.unwrap().unwrap();
        assert!(String::from_utf8(output.stdout).unwrap().ends_with(web::PAGE));
    }
    let (silent, open) = sockets::silent().await;
    let mut gone = TcpStream::connect(entry.proxy()).await.unwrap();
    gone.write_all(format!("GET http://{silent}/ HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let opened = || open.load(std::sync::atomic::Ordering::Relaxed);
    crate::overlay::wait_for("the flow", || opened() == 1);
    gone.set_zero_linger().unwrap();
    drop(gone);
    crate::overlay::wait_for("the flow's end", || opened() == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_offer_a_user_name_are_served_without_users() {
    let site = Site::new();
    let (_exit, entry) = site.pair(&[]);
    let page = web::serve();
    let proxy = entry.proxy();
    if have("curl") {
        for scheme in ["socks5", "socks5h", "socks4", "socks4a", "http"] {
            for user in ["ann", "ann:secret", "a%3Db:x", "J%F6rg:%FF", "random-7f3a:0"] {
                let mut command = curl(&format!("{scheme}://{user}@{proxy}"));
                command.arg(format!("http://{page}/"));
                assert_eq!(text(command).await, web::PAGE, "{scheme}://{user}");
            }
        }
    }
    if have("java") && finish_ok(&["java", "--version"]).await {
        let source = site.dir("Fetch.java");
        std::fs::write(&source, JAVA).unwrap();
        let mut java = client("java");
        java.arg(&source).args([proxy.ip().to_string(), proxy.port().to_string()]);
        java.args([page.ip().to_string(), page.port().to_string()]);
        assert!(text(java).await.ends_with(web::PAGE));
    }
}

/// Whether the program runs at all: a stub of a package that is not installed does not.
async fn finish_ok(arguments: &[&str]) -> bool {
    let mut command = client(arguments[0]);
    command.args(&arguments[1..]);
    finish(command).await.status.success()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_answer_is_waited_for_longer_than_a_handshake() {
    let site = Site::new();
    let (_exit, entry) = site.pair(&[]);
    let slow = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = slow.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut tcp, _) = slow.accept().await.unwrap();
        tokio::time::sleep(Duration::from_secs(12)).await;
        tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate").await.unwrap();
        let _ = tcp.read(&mut [0; 1024]).await;
    });
    let mut stream = TcpStream::connect(entry.proxy()).await.unwrap();
    let request = format!("GET http://{address}/ HTTP/1.0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    assert!(rest(&mut stream).await.0.ends_with("late"));
}
