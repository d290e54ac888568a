//! Clients that pause: paused players, `less`.

use std::time::{Duration, Instant};

use tokio::{
    io::AsyncReadExt as _,
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{
    overlay::Site,
    sockets::{ask_echo, echo, source, tunnel},
    tools::{LIMIT, resident},
};

const MIB: usize = 1 << 20;

/// Downloads whose clients pause.
const PAUSED: usize = 200;

/// What each of them reads before: its flow has a large window then.
const READ: usize = 2 * MIB;

/// What the entry may hold of the paused downloads, of the 256 MiB that it keeps for its lanes to one exit.
const ENTRY_MEMORY: usize = 190 * MIB;

/// The exit's budget for an entry, and what the process needs itself for so many flows.
const EXIT_MEMORY: usize = 64 * MIB;

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_paused_downloads_slow_nothing_else() {
    rlimit::increase_nofile_limit(8192).unwrap();
    let site = Site::new();
    let (exit, entry) = site.pair(&[]);
    let (proxy, echo) = (entry.proxy(), echo().await);
    let mut keys = tunnel(proxy, echo).await.unwrap();
    ask_echo(&mut keys, "warm").await.unwrap();
    let before = [&exit, &entry].map(|node| resident(node.pid()));
    let (endless, _) = source(1 << 30).await;
    let mut paused = Vec::new();
    for _ in 0..PAUSED {
        let mut stream = tunnel(proxy, endless).await.unwrap();
        read(&mut stream, READ).await;
        paused.push(stream);
    }
    sleep(Duration::from_secs(3)).await;
    let grown: Vec<usize> = [&exit, &entry]
        .into_iter()
        .zip(before)
        .map(|(node, before)| resident(node.pid()).saturating_sub(before))
        .collect();
    let mut slowest_key = Duration::ZERO;
    for _ in 0..50 {
        let start = Instant::now();
        ask_echo(&mut keys, "x").await.unwrap();
        slowest_key = slowest_key.max(start.elapsed());
        sleep(Duration::from_millis(20)).await;
    }
    let start = Instant::now();
    let mut new = tunnel(proxy, echo).await.unwrap();
    ask_echo(&mut new, "new").await.unwrap();
    let new_flow = start.elapsed();
    let (ten, _) = source(10 * MIB).await;
    let start = Instant::now();
    read(&mut tunnel(proxy, ten).await.unwrap(), 10 * MIB).await;
    let download = start.elapsed();
    println!(
        "{PAUSED} paused downloads: exit +{} MiB, entry +{} MiB, slowest key {slowest_key:?}, \
         new flow {new_flow:?}, 10 MiB in {download:?}",
        grown[0] / MIB,
        grown[1] / MIB
    );
    assert!(grown[0] < EXIT_MEMORY && grown[1] < ENTRY_MEMORY, "{grown:?}");
    assert!(slowest_key < Duration::from_millis(500), "{slowest_key:?}");
    assert!(new_flow < Duration::from_millis(500), "{new_flow:?}");
    assert!(download < Duration::from_secs(5), "{download:?}");
    // They go on where they paused.
    for stream in paused.iter_mut().take(5) {
        read(stream, 4 * READ).await;
    }
}

/// Reads so many bytes.
async fn read(stream: &mut TcpStream, len: usize) {
    let (mut buffer, mut left) = (vec![0; 64 * 1024], len);
    while left > 0 {
        let most = left.min(buffer.len());
        let got = timeout(LIMIT, stream.read(&mut buffer[..most])).await.expect("a stall").unwrap();
        assert!(got > 0, "the stream ended {left} bytes early");
        left -= got;
    }
}
