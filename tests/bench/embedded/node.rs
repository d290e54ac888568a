//! The other processes of the benchmark: each is a node by the library's interface.

use std::{io::BufRead as _, path::Path, time::Duration};

use ronproxy::{Conduit, Node};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, sleep, timeout},
};

/// The first argument of such a process; its role and folder follow.
pub(crate) const CHILD: &str = "--node";

/// What both clients ask the server, and how much they read at once.
pub(crate) const REQUEST: &[u8] = b"GET /big HTTP/1.0\r\nHost: bench\r\n\r\n";
pub(crate) const BUFFER: usize = 256 << 10;

/// The packets: bytes, how many a second, for how long.
pub(crate) const PACKET: usize = 200;
const RATE: u32 = 200_000;
const SECONDS: u32 = 5;

const PATIENCE: Duration = Duration::from_secs(20);

/// Runs until its input ends, or until it is killed.
pub(crate) fn run(role: &str, dir: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (role, dir) = (role.to_owned(), dir.to_owned());
    // In a task, as programs do it, and not in the main thread, which is none of the runtime's workers.
    let task = runtime.spawn(async move {
        let node = start(&role, Path::new(&dir)).await;
        match &*role {
            "send" => send(&node).await,
            "receive" => receive(&node).await,
            "stream" => stream(&node).await,
            _ => {
                println!("ready");
                node.stopped().await;
            }
        }
    });
    runtime.block_on(task).unwrap();
}

async fn start(role: &str, dir: &Path) -> Node {
    let config = match role {
        "receive" => "[exit]\nenabled = true\nallow = []",
        _ => "[entry]\nlisten = \"127.0.0.1:0\"\n[[rule]]\nexit = \"exit\"\ndirect = true",
    };
    let config = if role == "send" { "" } else { config };
    let file = std::fs::read_to_string(dir.join("config.toml")).unwrap();
    let listen = file.lines().find_map(|line| line.strip_prefix("listen = ")).unwrap();
    let node = Node::open(dir).config(config).listen(listen.trim_matches('"').parse().unwrap());
    #[cfg(feature = "proxy")]
    let node = node.proxy(role == "stream");
    let node = node.start().await.unwrap();
    timeout(PATIENCE, node.ready()).await.expect("no link").unwrap();
    node
}

/// The next order, which another process writes.
async fn order() -> Option<String> {
    let read = || std::io::stdin().lock().lines().next().map(Result::unwrap);
    tokio::task::spawn_blocking(read).await.unwrap()
}

/// Downloads from the servers that it is told.
async fn stream(node: &Node) {
    println!("ready");
    println!("{}", node.proxy_addr().unwrap());
    while let Some(server) = order().await {
        let start = Instant::now();
        let mut stream = node.connect(server.as_str()).await.unwrap();
        stream.write_all(REQUEST).await.unwrap();
        let (mut buffer, mut bytes) = (vec![0; BUFFER], 0);
        loop {
            match stream.read(&mut buffer).await.unwrap() {
                0 => break,
                read => bytes += read,
            }
        }
        println!("{bytes} {}", start.elapsed().as_secs_f64());
    }
}

async fn send(node: &Node) {
    let sender = node.conduit("media").unwrap();
    // Until a packet finds its receiver.
    let begun = async {
        while node.flows().first().is_none_or(|flow| flow.route.is_none()) {
            let _ = sender.send("receiver", b"");
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, begun).await.expect("no flow to the receiver");
    sleep(Duration::from_secs(1)).await;
    println!("ready");
    while order().await.is_some() {
        let (all, payload) = (RATE * SECONDS, [7; PACKET]);
        let (start, mut sent, mut full) = (Instant::now(), 0, 0);
        while sent < all {
            let due = start.elapsed().as_secs_f64() * f64::from(RATE);
            while sent < all && f64::from(sent) < due {
                // A full lane is tried again when it had time to send.
                if sender.send("receiver", &payload).is_err() {
                    full += 1;
                    break;
                }
                sent += 1;
            }
            sleep(Duration::from_millis(1)).await;
        }
        let seconds = start.elapsed().as_secs_f64();
        println!("sent {sent} in {seconds:.2} s; the lane was full {full} times");
        sleep(Duration::from_secs(1)).await;
        for _ in 0..20 {
            let _ = sender.send("receiver", b"end");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn receive(node: &Node) {
    let mut conduit = node.conduit("media").unwrap();
    println!("ready");
    while order().await.is_some() {
        println!("{}", received(&mut conduit).await);
    }
}

/// Takes packets until one says that they end.
async fn received(conduit: &mut Conduit) -> String {
    let (mut received, mut first, mut last) = (0_u32, None, None);
    loop {
        let packet = timeout(PATIENCE, conduit.recv()).await.expect("no packet comes").unwrap();
        match packet.bytes() {
            // Of the start, and of the round before.
            b"" => {}
            b"end" if received == 0 => {}
            b"end" => break,
            _ => {
                received += 1;
                last = Some(Instant::now());
                first = first.or(last);
            }
        }
    }
    let seconds = last.zip(first).map_or(0.0, |(last, first)| (last - first).as_secs_f64());
    let rate = f64::from(received) / seconds;
    let dropped = conduit.counts().dropped;
    format!("received {received} in {seconds:.2} s, {rate:.0} a second: {dropped:?}")
}
