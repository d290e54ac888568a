//! Streams whose other end is a pipe, in virtual time.

use std::{
    net::SocketAddr,
    pin::Pin,
    task::{Context, Waker},
};

use noq::{UdpSender, udp::Transmit};
use tokio::{io::DuplexStream, task::JoinHandle, time::Instant};

use super::*;
use crate::underlay::{DropReason, LabelSocket, no_udp};

/// A stream, the other end of its pipe, and a sender of the node's socket.
struct Bench {
    switch: Arc<Switch>,
    end: Arc<StreamEnd>,
    far: DuplexStream,
    sender: Pin<Box<dyn UdpSender>>,
    pump: JoinHandle<()>,
}

/// Bytes that the pipe takes while nobody reads.
const PIPE: usize = 4096;

impl Bench {
    fn new() -> Self {
        Self::on(Side::Listener { came: BytesMut::new() })
    }

    fn on(side: Side) -> Self {
        let switch = Arc::<Switch>::default();
        let socket = LabelSocket::new(no_udp(), switch.clone());
        let peer: SocketAddr = "192.0.2.1:443".parse().unwrap();
        let end = switch.streams().open(peer).unwrap();
        let (near, far) = tokio::io::duplex(PIPE);
        let pump = run(near, switch.clone(), end.clone(), side);
        let sender = noq::AsyncUdpSocket::create_sender(&socket);
        Self { pump: tokio::spawn(pump), switch, end, far, sender }
    }

    /// Sends one packet; false if the sender has to wait.
    fn send(&mut self, bytes: usize) -> bool {
        let contents = &vec![7; bytes];
        let destination = self.end.virtual_address();
        let transmit =
            Transmit { destination, ecn: None, contents, segment_size: None, src_ip: None };
        let mut cx = Context::from_waker(Waker::noop());
        self.sender.as_mut().poll_send(&transmit, &mut cx).is_ready()
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        let drops = self.switch.drops();
        drops.into_iter().find(|(other, _)| *other == reason).unwrap().1
    }

    /// How long until the stream has ended.
    async fn ended(self) -> Duration {
        let began = Instant::now();
        self.pump.await.unwrap();
        assert_eq!(self.switch.streams().count(), 0);
        assert!(self.end.ended().is_cancelled());
        began.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn half_a_frame_holds_a_stream_for_20_s_and_a_bad_length_for_none() {
    let mut half = Bench::new();
    half.far.write_all(&[0, 100, 1, 2, 3]).await.unwrap();
    assert_eq!(half.ended().await, UNUSED_FOR);
    for bad in [[0, 0], [0xff, 0xff]] {
        let mut bench = Bench::new();
        bench.far.write_all(&bad).await.unwrap();
        assert_eq!(bench.ended().await, Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn a_dialler_knocks_at_once_and_skips_the_settings_of_http2() {
    const SETTINGS: [u8; 15] = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 8];
    let dialler = |h2| Bench::on(Side::Dialler { knock: [7; KNOCK_LEN], h2 });
    let mut bench = dialler(true);
    let mut knock = [0; KNOCK_LEN];
    bench.far.read_exact(&mut knock).await.unwrap();
    assert_eq!(knock, [7; KNOCK_LEN]);
    for byte in SETTINGS {
        bench.far.write_all(&[byte]).await.unwrap();
        sleep(Duration::from_millis(1)).await;
    }
    // A frame, and something else.
    bench.far.write_all(&[0, 1, 9]).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert!(!bench.pump.is_finished());
    bench.far.write_all(&[0, 0]).await.unwrap();
    assert_eq!(bench.ended().await, Duration::ZERO);

    for (h2, other) in [(true, *b"HTTP/1.1 400 OK"), (false, SETTINGS)] {
        let mut bench = dialler(h2);
        bench.far.write_all(&other).await.unwrap();
        assert_eq!(bench.ended().await, Duration::ZERO, "{h2}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_lives_as_long_as_its_link_and_ends_with_tcp() {
    let bench = Bench::new();
    let hold = bench.end.hold();
    sleep(Duration::from_secs(3600)).await;
    assert!(!bench.pump.is_finished());
    drop(hold);
    assert_eq!(bench.ended().await, LINGER);
    let bench = Bench::new();
    let _hold = bench.end.hold();
    let (pump, end) = (bench.pump, bench.end);
    drop(bench.far);
    pump.await.unwrap();
    assert!(end.ended().is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn packets_that_tcp_does_not_take_are_dropped_after_50_ms() {
    let mut bench = Bench::new();
    let _hold = bench.end.hold();
    // The pipe takes the first ones, and the next chunk waits to be written.
    assert!(bench.send(PIPE));
    sleep(Duration::from_millis(1)).await;
    for _ in 0..20 {
        assert!(bench.send(1000));
    }
    sleep(Duration::from_millis(20)).await;
    assert!(!bench.send(1000), "own senders wait");
    assert_eq!(bench.dropped(DropReason::StreamStalled), 0);
    sleep(Duration::from_millis(40)).await;
    assert_eq!(bench.dropped(DropReason::StreamStalled), 20);
    assert!(bench.send(1000), "and go on with fresh packets");
    // What was begun is written whole, and then what is fresh.
    let mut came = vec![0; PIPE + 2 + 1002];
    bench.far.read_exact(&mut came).await.unwrap();
    assert_eq!(came[PIPE + 2..PIPE + 4], 1000u16.to_be_bytes());
}

#[tokio::test(start_paused = true)]
async fn packets_to_a_stream_that_is_gone_or_too_long_for_one_are_counted() {
    let mut bench = Bench::new();
    assert!(bench.send(9000));
    assert_eq!(bench.dropped(DropReason::Oversized), 1);
    bench.switch.streams().close(&bench.end);
    assert!(bench.send(1000));
    assert_eq!(bench.dropped(DropReason::NoRoute), 1);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_stream_keeps_its_rate_under_loss_where_the_kernel_allows_it() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    // Else the system's default may be BBR already.
    SockRef::from(&tcp).set_tcp_congestion(b"reno").unwrap();
    tune(&tcp);
    let allowed = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";
    let allowed = std::fs::read_to_string(allowed).unwrap();
    let algorithm = SockRef::from(&tcp).tcp_congestion().unwrap();
    let algorithm = String::from_utf8_lossy(&algorithm).trim_end_matches('\0').to_owned();
    // Where no program may choose it, the connection keeps what it has and works.
    let may = allowed.split_whitespace().any(|allowed| allowed == "bbr");
    assert!(algorithm == "bbr" || !may, "{algorithm} of {allowed}");
}
