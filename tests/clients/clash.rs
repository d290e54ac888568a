//! Programs that were made for Clash: what their requests get.

use std::{net::SocketAddr, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message},
};

use crate::{
    overlay::{PATIENCE, Running, Site, configure, json, must, wait_for},
    tools::resident,
    web,
};

/// An overlay of `hub` and `leaf`, and the leaf's controller.
struct Stage {
    site: Site,
    _hub: Running,
    leaf: Running,
    token: String,
}

impl Stage {
    fn new(origins: &str) -> Self {
        let site = Site::new();
        let hub = Running::start(&site.hub(), &[]);
        let dir = site.join("leaf");
        configure(&dir, "#clash_origins = [\"http://127.0.0.1:8080\"]", origins);
        let leaf = Running::start(&dir, &[]);
        wait_for("the link", || json(&dir, &["links"])[0]["up"] == true);
        let token = must(&dir, &["open", "--token"]).trim().to_owned();
        Self { site, _hub: hub, leaf, token }
    }

    fn at(&self) -> SocketAddr {
        self.leaf.dashboard()
    }

    /// Sends a request with these header lines and this body; returns the head and the body.
    async fn send(&self, request: &str, headers: &str, body: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.at()).await.unwrap();
        let (host, length) = (self.at(), body.len());
        let head = format!(
            "{request} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n"
        );
        stream.write_all(format!("{head}{headers}\r\n{body}").as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    /// What the owner's program gets: the status and the facts.
    async fn ask(&self, request: &str, body: &str) -> (u16, Value) {
        let bearer = format!("Authorization: Bearer {}\r\n", self.token);
        let (head, body) = self.send(request, &bearer, body).await;
        (status(&head), serde_json::from_str(&body).unwrap_or_default())
    }

    async fn socket(&self, path: &str) -> WebSocketStream<TcpStream> {
        self.try_socket(path).await.unwrap()
    }

    /// A reader with a small window that takes no message.
    async fn stalled(&self, path: &str) -> WebSocketStream<TcpStream> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let stream = socket.connect(self.at()).await.unwrap();
        let url = format!("ws://{}{path}{}", self.at(), self.token);
        client_async(url, stream).await.unwrap().0
    }

    /// A reader more, or the status of its refusal.
    async fn try_socket(&self, path: &str) -> Result<WebSocketStream<TcpStream>, u16> {
        let stream = TcpStream::connect(self.at()).await.unwrap();
        let url = format!("ws://{}{path}{}", self.at(), self.token);
        match client_async(url, stream).await {
            Err(tungstenite::Error::Http(refused)) => Err(refused.status().as_u16()),
            other => Ok(other.unwrap().0),
        }
    }
}

fn status(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

/// The next message that `wanted` holds for.
async fn next(socket: &mut WebSocketStream<TcpStream>, wanted: impl Fn(&Value) -> bool) -> Value {
    let found = async {
        loop {
            let message = socket.next().await.unwrap().unwrap();
            let Message::Text(text) = message else { continue };
            let value: Value = serde_json::from_str(&text).unwrap();
            if wanted(&value) {
                return value;
            }
        }
    };
    timeout(PATIENCE, found).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_made_for_clash_show_and_switch_the_exit() {
    let stage = Stage::new("");
    let (code, version) = stage.ask("GET /version", "").await;
    assert!(code == 200 && version["version"].is_string(), "{version}");
    let (_, configs) = stage.ask("GET /configs", "").await;
    assert_eq!(configs["mixed-port"], stage.leaf.proxy().port());
    let (_, all) = stage.ask("GET /proxies", "").await;
    assert_eq!(all["proxies"]["Exit"]["all"], json!(["Auto", "hub"]), "{all}");
    assert_eq!(all["proxies"]["hub"]["alive"], true);
    let (code, _) = stage.ask("PUT /proxies/Exit", r#"{"name":"hub"}"#).await;
    assert_eq!(code, 204);
    assert_eq!(stage.ask("GET /proxies/Exit", "").await.1["now"], "hub");
    let steered = json(&stage.site.dir("leaf"), &["why", "a.test"]);
    assert_eq!(steered["exits"][0]["exit"], "hub", "{steered}");
    let (code, delay) =
        stage.ask("GET /proxies/hub/delay?timeout=5000&url=http%3A%2F%2Fa", "").await;
    assert!(code == 200 && delay["delay"].as_u64().unwrap() >= 1, "{delay}");
    assert_eq!(stage.ask("PUT /proxies/Exit", r#"{"name":"Auto"}"#).await.0, 204);
    assert_eq!(stage.ask("GET /proxies/Exit", "").await.1["now"], "Auto");
    for (request, body, code) in [
        ("PUT /proxies/Exit", r#"{"name":"nosuch"}"#, 400),
        ("PUT /proxies/Exit", r#"{"name":"leaf"}"#, 400),
        ("PUT /proxies/Exit", "{", 400),
        ("PUT /proxies/hub", r#"{"name":"hub"}"#, 400),
        ("PUT /proxies/Exit", &"x".repeat(100_000), 400),
        ("GET /proxies/nosuch", "", 404),
        ("GET /proxies/nosuch/delay", "", 404),
        ("PATCH /configs", r#"{"mode":"global"}"#, 405),
        ("DELETE /connections", "", 405),
        ("GET /logs?level=loud", "", 400),
    ] {
        let (given, said) = stage.ask(request, body).await;
        assert_eq!(given, code, "{request} {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_traffic_and_logs_are_followed_over_a_websocket() {
    let stage = Stage::new("");
    let mut connections = stage.socket("/connections?interval=500&token=").await;
    let mut traffic = stage.socket("/traffic?token=").await;
    let mut logs = stage.socket("/logs?level=info&token=").await;
    let proxy = stage.leaf.proxy();
    let (flow, server) = tokio::task::spawn_blocking(move || {
        let server = web::serve();
        web::fetch(proxy, server).unwrap();
        (web::tunnel(proxy, server).unwrap(), server)
    })
    .await
    .unwrap();
    let opened =
        next(&mut logs, |log| log["payload"].as_str().unwrap().contains("open after")).await;
    assert_eq!(opened["type"], "info");
    next(&mut traffic, |traffic| traffic["down"].as_u64().unwrap() > 0).await;
    let port = server.port().to_string();
    let shown = |all: &Value| {
        let flows = all["connections"].as_array().unwrap();
        flows.iter().any(|flow| flow["metadata"]["destinationPort"] == *port)
    };
    let all = next(&mut connections, shown).await;
    let facts = &all["connections"][0];
    assert_eq!(facts["chains"], json!(["hub", "direct", "Exit"]), "{facts}");
    assert_eq!(facts["metadata"]["destinationIP"], "127.0.0.1");
    assert!(facts["start"].as_str().unwrap().ends_with('Z'));
    assert!(all["downloadTotal"].as_u64().unwrap() > 0);
    // Closing it there closes it.
    let closed = format!("DELETE /connections/{}", facts["id"].as_str().unwrap());
    assert_eq!(stage.ask(&closed, "").await.0, 204);
    next(&mut connections, |all| !shown(all)).await;
    drop(flow);
    // A ping is answered, and a close is.
    logs.send(Message::Ping("a".into())).await.unwrap();
    logs.close(None).await.unwrap();
    let mut heard = Vec::new();
    while let Ok(Some(Ok(message))) = timeout(PATIENCE, logs.next()).await {
        heard.push(message);
    }
    assert!(heard.contains(&Message::Pong("a".into())), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_without_a_websocket_is_a_line_of_json_a_second() {
    let stage = Stage::new("");
    let mut stream = TcpStream::connect(stage.at()).await.unwrap();
    let request = format!(
        "GET /traffic HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\r\n",
        stage.at(),
        stage.token
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut said = String::new();
    let began = Instant::now();
    while said.matches("\"up\":").count() < 3 {
        let mut piece = [0; 4096];
        let len = timeout(PATIENCE, stream.read(&mut piece)).await.unwrap().unwrap();
        assert!(len > 0, "{said}");
        said.push_str(&String::from_utf8_lossy(&piece[..len]));
    }
    assert!(began.elapsed() >= Duration::from_secs(1), "two of three wait for a second");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_needs_the_token_and_has_room_for_few_readers() {
    let stage = Stage::new("");
    let socket = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                  Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for path in ["/proxies", "/connections", "/traffic", "/logs?token=wrong", "/configs"] {
        for headers in ["", "Authorization: Bearer wrong\r\n", socket] {
            let (head, body) = stage.send(&format!("GET {path}"), headers, "").await;
            assert_eq!(status(&head), 401, "{path} {headers}");
            assert!(!body.contains("hub"), "{body}");
        }
    }
    // Only a WebSocket, which a browser gives no header, may show the token in its address.
    let in_query = format!("GET /proxies?token={}", stage.token);
    assert_eq!(status(&stage.send(&in_query, "", "").await.0), 401);
    let put = stage.send("PUT /proxies/Exit", "", r#"{"name":"hub"}"#).await;
    assert_eq!(status(&put.0), 401);
    let mut readers = Vec::new();
    for _ in 0..32 {
        readers.push(stage.socket("/traffic?token=").await);
    }
    let refused = stage.try_socket("/traffic?token=").await;
    assert_eq!(refused.err(), Some(503), "a 33rd reader is served");
    drop(readers);
    // Their places are free once the node sees that they are gone.
    let began = Instant::now();
    loop {
        let (code, _) = stage.ask("GET /logs?level=loud", "").await;
        assert_eq!(code, 400, "a wrong question takes no place");
        if stage.try_socket("/traffic?token=").await.is_ok() {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "no place becomes free");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_an_allowed_origin_uses_the_controller_and_nothing_else() {
    let stage = Stage::new("clash_origins = [\"http://yacd.example\"]");
    let page = "Origin: http://yacd.example\r\nSec-Fetch-Site: cross-site\r\n";
    let token = format!("{page}Authorization: Bearer {}\r\n", stage.token);
    let (head, _) = stage.send("OPTIONS /proxies/Exit", page, "").await;
    assert_eq!(status(&head), 200);
    let head = head.to_lowercase();
    assert!(head.contains("access-control-allow-origin: http://yacd.example"), "{head}");
    assert!(head.contains("access-control-allow-headers: authorization"), "{head}");
    let (head, body) = stage.send("GET /proxies", &token, "").await;
    assert!(status(&head) == 200 && body.contains("hub"), "{head}");
    assert!(head.to_lowercase().contains("access-control-allow-origin: http://yacd.example"));
    for (request, headers) in
        [("GET /proxies", page), ("GET /api/v1/status", &token), ("GET /", &token)]
    {
        let (head, body) = stage.send(request, headers, "").await;
        assert!([401, 403].contains(&status(&head)), "{request}: {head}");
        assert!(!body.contains("hub"), "{body}");
    }
    // Pages at another port of this machine have this machine's cookies.
    let link = must(&stage.site.dir("leaf"), &["open"]);
    let path = link.trim().split_once(&stage.at().to_string()).unwrap().1.to_owned();
    let (head, _) = stage.send(&format!("GET {path}"), "", "").await;
    let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
    let cookie = cookie.split(';').next().unwrap();
    let with_cookie = format!("{page}Cookie: {cookie}\r\n");
    assert_eq!(status(&stage.send("GET /proxies", &with_cookie, "").await.0), 401);
    let other = "Origin: http://evil.example\r\n";
    let bearer = format!("{other}Authorization: Bearer {}\r\n", stage.token);
    let (head, _) = stage.send("GET /proxies", &bearer, "").await;
    assert!(status(&head) == 403 && !head.to_lowercase().contains("access-control"), "{head}");
}

/// Flows whose listing has some 150 kB.
const FLOWS: usize = 300;

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_stall_are_left_and_cost_the_node_little() {
    let stage = Stage::new("");
    let (proxy, server) = (stage.leaf.proxy(), web::serve());
    let open = move || (0..FLOWS).map(|_| web::tunnel(proxy, server).unwrap()).collect::<Vec<_>>();
    let flows = tokio::task::spawn_blocking(open).await.unwrap();
    let (_, listed) = stage.ask("GET /connections", "").await;
    assert_eq!(listed["connections"].as_array().unwrap().len(), FLOWS);
    let before = resident(stage.leaf.pid());
    // One follows the log, which is told of a thousand refusals: the system keeps so few for it.
    let mut stalled = Vec::new();
    for path in std::iter::repeat_n("/connections?interval=500&token=", 31).chain(["/logs?token="])
    {
        stalled.push(stage.stalled(path).await);
    }
    let refused = stage.try_socket("/traffic?token=").await;
    assert_eq!(refused.err(), Some(503), "all places are taken");
    let refuse =
        move || (0..1000).for_each(|_| drop(web::tunnel(proxy, ([127, 0, 0, 1], 1).into())));
    tokio::task::spawn_blocking(refuse).await.unwrap();
    let (began, mut readers, mut slowest) = (Instant::now(), Vec::new(), Duration::ZERO);
    let mut grown = 0;
    while readers.len() < 31 {
        match stage.try_socket("/traffic?token=").await {
            Ok(reader) => readers.push(reader),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
        let asked = Instant::now();
        assert_eq!(stage.ask("GET /version", "").await.0, 200);
        slowest = slowest.max(asked.elapsed());
        grown = grown.max(resident(stage.leaf.pid()).saturating_sub(before));
        assert!(began.elapsed() < 2 * PATIENCE, "{} of 31 places are free", readers.len());
    }
    println!(
        "31 stalled readers are left after {:?}: {} KiB more at most, another request took {slowest:?}",
        began.elapsed(),
        grown / 1024
    );
    assert!(grown < 64 << 20, "{grown}");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    let mut log = stalled.pop().unwrap();
    next(&mut log, |line| line["type"] == "error").await;
    drop((stalled, flows));
}
