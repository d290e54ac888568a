//! Bytes that mean nothing, on every port.

use std::{
    net::{SocketAddr, UdpSocket},
    path::Path,
    thread::sleep,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{
    bytes::Stream,
    overlay::{Site, json, wait_for},
    tools::{LIMIT, wait_until_idle},
    web,
};

/// Datagrams of each kind at first, and how many of a kind must have been counted.
const DATAGRAMS: u64 = 1_000;

/// Datagrams sent before the node is given the time to read them.
const BURST: u64 = 50;

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_on_the_proxy_port_is_answered_or_closed_and_harms_nobody() {
    let site = Site::new();
    let (_exit, entry) = site.pair(&[]);
    let page = web::serve();
    let noise: Vec<u8> = Stream::of(1024 * 1024).flatten().collect();
    let socks5 = [&[5, 1, 0, 5, 1, 0, 3, 255][..], &[b'a'; 255], &[0, 80]].concat();
    let long_head =
        format!("GET http://127.0.0.1:1/ HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1024 * 1024));
    let many = format!("GET http://127.0.0.1:1/ HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(10_000));
    let mut inputs: Vec<Vec<u8>> = vec![
        noise.clone(),
        socks5.clone(),
        [&[4, 1, 0, 80, 0, 0, 0, 1][..], &[b'u'; 100_000]].concat(),
        [&[4, 1, 0, 80, 0, 0, 0, 1, 0][..], &[b'n'; 100_000]].concat(),
        long_head.into_bytes(),
        many.into_bytes(),
        b"CONNECT :::::::: HTTP/1.1\r\n\r\n".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"POST http://127.0.0.1:1/ HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n".to_vec(),
        b"POST http://127.0.0.1:1/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n"
            .to_vec(),
        vec![5, 0],
        vec![5, 1, 0, 5, 9, 0, 1],
        vec![5, 1, 0, 5, 1, 0, 77],
        vec![0x16, 3, 1, 2, 0, 1],
    ];
    inputs.extend((0..=255).map(|first| [&[first][..], &noise[..64]].concat()));
    inputs.extend((1..socks5.len()).step_by(7).map(|len| socks5[..len].to_vec()));
    let mut talks = tokio::task::JoinSet::new();
    for input in inputs {
        talks.spawn(until_closed(entry.proxy(), input));
    }
    timeout(LIMIT, talks.join_all()).await.expect("the proxy hangs");
    assert_eq!(web::fetch(entry.proxy(), page).unwrap(), web::PAGE);
    wait_until_idle(&site.dir("leaf"), &site.dir("hub"));
}

#[test]
fn nonsense_on_the_udp_ports_is_dropped_and_counted_and_harms_nobody() {
    let site = Site::new();
    let (exit, entry) = site.pair(&[]);
    let page = web::serve();
    let _flow = web::tunnel(entry.proxy(), page).unwrap();
    for (node, dir) in [(&exit, site.dir("hub")), (&entry, site.dir("leaf"))] {
        flood(node.listen(), DATAGRAMS);
        for reason in ["unknown-label", "unclassified"] {
            wait_for(reason, || {
                // A busy machine loses some before the node can count them.
                flood(node.listen(), BURST);
                dropped(&dir, reason) >= DATAGRAMS
            });
        }
        let status = json(&dir, &["status"]);
        assert_eq!((&status["links_up"], &status["stopping"]), (&1.into(), &false.into()));
    }
    assert_eq!(web::fetch(entry.proxy(), page).unwrap(), web::PAGE);
    assert_eq!(json(&site.dir("leaf"), &["flows"]).as_array().unwrap().len(), 1);
}

#[derive(Clone, Copy)]
enum Kind {
    /// A label that nobody granted.
    Label,
    /// Below 0x40, but no kind of ours.
    Unclassified,
    /// A long header of QUIC.
    Initial,
    /// A short header of QUIC.
    Short,
    /// As large as UDP can carry.
    Oversized,
    /// Nothing but the first bytes.
    Truncated,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::Label,
        Self::Unclassified,
        Self::Initial,
        Self::Short,
        Self::Oversized,
        Self::Truncated,
    ];

    fn datagram(self, number: u64, noise: &[u8]) -> Vec<u8> {
        let place = usize::try_from(number % 30_000).unwrap();
        let noise = &noise[place..];
        let number = number.to_be_bytes();
        match self {
            Self::Label => [&[1][..], &noise[..7], &number, &noise[..1200]].concat(),
            Self::Unclassified => [&[2 + number[7] % 62], &noise[..1200]].concat(),
            // Version 1, connection ids of 8 bytes, no token.
            Self::Initial => {
                let head = [0xc0 | number[7] & 0x0f, 0, 0, 0, 1, 8];
                [&head[..], &number, &[8], &number, &[0, 0x44, 0x80], &noise[..1179]].concat()
            }
            Self::Short => [&[0x40 | number[7] & 0x3f], &noise[..1200]].concat(),
            Self::Oversized => [&[number[7]], &noise[..65_506]].concat(),
            Self::Truncated => [&[1], &noise[..usize::from(number[7] % 9)]].concat(),
        }
    }
}

/// Sends `count` datagrams of each kind.
fn flood(node: SocketAddr, count: u64) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let noise: Vec<u8> = Stream::of(100_000).flatten().collect();
    for kind in Kind::ALL {
        for number in 0..count {
            // The system may refuse one while its buffers are full.
            let _ = socket.send_to(&kind.datagram(number, &noise), node);
            if number % BURST == 0 {
                sleep(Duration::from_millis(1));
            }
        }
    }
}

fn dropped(dir: &Path, reason: &str) -> u64 {
    let status = json(dir, &["status"]);
    let reasons = status["dropped"].as_array().unwrap();
    let found = reasons.iter().find(|entry| entry[0] == reason);
    found.map_or(0, |entry| entry[1].as_u64().unwrap())
}

/// Sends `input` and its end, and waits for the proxy to close.
async fn until_closed(proxy: SocketAddr, input: Vec<u8>) {
    let stream = TcpStream::connect(proxy).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let writing = async {
        // The proxy may close before it has read all.
        let _ = write.write_all(&input).await;
        let _ = write.shutdown().await;
    };
    let mut answer = Vec::new();
    let (_, read) = tokio::join!(writing, read.read_to_end(&mut answer));
    // A reset is an end too.
    let _ = read;
}
