//! Programs that ask for too much.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::{
    datagrams,
    overlay::wait_for,
    server::Server,
    stage::{Stage, WEB},
    tools::{have, text},
};

/// Opens all connections at once, sends a number on each, and waits for its echo.
const MANY: &str = r#"
import asyncio, resource, sys
name, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
async def one(number):
    reader, writer = await asyncio.open_connection(name, port)
    writer.write(b"%08d" % number)
    assert await reader.readexactly(8) == b"%08d" % number
    writer.close()
async def all():
    await asyncio.gather(*[one(number) for number in range(count)])
asyncio.run(asyncio.wait_for(all(), 100))
print("served", count)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_than_fit_at_once_are_all_served_in_the_end() {
    let Some(stage) = Stage::set() else { return };
    if !have("python3") {
        return;
    }
    let port = echo().await.to_string();
    let count = "2300";
    let many = stage.exec(&[], &["python3", "-c", MANY, WEB, &port, count]);
    assert_eq!(text(many).await.trim(), format!("served {count}"));
    wait_for("the end of all flows", || stage.status("flows") == "0");
}

/// A server that sends back what it gets.
async fn echo() -> u16 {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener: TcpListener = socket.listen(4_096).unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut number = [0; 8];
                let _ = tcp.read_exact(&mut number).await;
                // So that connections are open side by side.
                tokio::time::sleep(Duration::from_millis(300)).await;
                let _ = tcp.write_all(&number).await;
            });
        }
    });
    port
}

/// Sends datagrams of these lengths; the last one must come back.
const DATAGRAMS: &str = r#"
import socket, sys
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.settimeout(20)
udp.connect((sys.argv[1], int(sys.argv[2])))
for length in map(int, sys.argv[3:]):
    udp.send(b"x" * length)
print(len(udp.recv(65536)))
"#;

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_that_are_too_long_are_counted_and_others_pass() {
    let Some(stage) = Stage::set() else { return };
    if !have("python3") {
        return;
    }
    let port = datagrams::serve(|bytes, _| Some(bytes.to_vec())).to_string();
    let send = ["python3", "-c", DATAGRAMS, WEB, &port, "2001", "60000", "2000"];
    assert_eq!(text(stage.exec(&[], &send)).await.trim(), "2000");
    assert!(stage.status("dropped_datagrams").contains("[\"too-large\",2]"));
}

/// Writes random bytes and spoilt packets into the interface, and then fetches a page.
const GARBAGE: &str = r#"
import random, socket, sys, urllib.request
random.seed(7)
raw = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
for number in range(3000):
    protocol = random.choice([0x0800, 0x86dd, 0x0806])
    first = {0x0800: 0x45, 0x86dd: 0x60, 0x0806: 0}[protocol]
    packet = bytearray(random.randbytes(random.randrange(1, 200)))
    packet[0] = first
    if len(packet) > 40:
        packet[9 if first == 0x45 else 6] = random.choice([6, 17])
        at, length = (2, len(packet)) if first == 0x45 else (4, len(packet) - 40)
        packet[at:at + 2] = length.to_bytes(2, "big")
    try:
        raw.sendto(packet, ("ronproxy0", protocol))
    except OSError:
        pass
print(len(urllib.request.urlopen(sys.argv[1]).read()))
"#;

#[tokio::test(flavor = "multi_thread")]
async fn garbage_in_the_interface_harms_no_connection() {
    let Some(stage) = Stage::set() else { return };
    if !have("python3") {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root writes raw packets inside");
        return;
    }
    let server = Server::start().await;
    let page = format!("http://{WEB}:{}/bytes/50000", server.address.port());
    let said = text(stage.exec(&[], &["python3", "-c", GARBAGE, &page])).await;
    assert_eq!(said.trim(), "50000");
}
