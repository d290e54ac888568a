//! A stranger that proves its address and then leaves every handshake where it is.

use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    io::IoSliceMut,
    net::SocketAddr,
    num::NonZeroUsize,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use noq::{
    AsyncUdpSocket, UdpSender,
    udp::{RecvMeta, Transmit},
};
use noq_proto::{ClientConfig, Connection, ConnectionHandle, DatagramEvent, Endpoint, FourTuple};
use ronproxy::{emulator::Internet, identity::server_name};
use tokio::time::Instant;

/// A connection's pacing lets the next packet go within this time.
const PACED: Duration = Duration::from_millis(50);

/// One socket, and the handshakes that wait for the answer to their first packet.
pub(crate) struct Staller {
    socket: Box<dyn AsyncUdpSocket>,
    sender: Pin<Box<dyn UdpSender>>,
    endpoint: Endpoint,
    begun: HashMap<ConnectionHandle, Connection>,
    order: VecDeque<ConnectionHandle>,
    client: ClientConfig,
    to: SocketAddr,
    name: String,
    waiting: usize,
}

impl Staller {
    /// A stranger at this address, and whom it bothers. It forgets all but the last `waiting` handshakes:
    /// the test counts memory.
    pub(crate) fn new(
        internet: &Internet,
        address: SocketAddr,
        client: ClientConfig,
        (to, name): (SocketAddr, &str),
        waiting: usize,
    ) -> Self {
        let socket = internet.attach(address);
        let sender = socket.create_sender();
        let mut config = noq_proto::EndpointConfig::default();
        config.grease_quic_bit(false);
        let endpoint = Endpoint::new(Arc::new(config), None, false);
        let (begun, order) = (HashMap::new(), VecDeque::new());
        let name = server_name(&name.parse().unwrap());
        Self { socket, sender, endpoint, begun, order, client, to, name, waiting }
    }

    /// Begins a handshake in each `every` until `end`; answers a request to prove the address
    /// (RETRY), and nothing else.
    pub(crate) async fn run(mut self, end: Instant, every: Duration) {
        let mut tick = tokio::time::interval(every);
        while Instant::now() < end {
            tick.tick().await;
            self.begin().await;
            while let Some(packet) = self.receive().await {
                self.answer(packet).await;
            }
        }
    }

    async fn begin(&mut self) {
        let now = Instant::now().into_std();
        let begun = self.endpoint.connect(now, self.client.clone(), self.to, &self.name);
        let (handle, mut connection) = begun.unwrap();
        self.transmit(&mut connection).await;
        self.begun.insert(handle, connection);
        self.order.push_back(handle);
        if self.order.len() > self.waiting {
            self.order.pop_front().and_then(|oldest| self.begun.remove(&oldest));
        }
    }

    async fn answer(&mut self, packet: Vec<u8>) {
        let now = Instant::now().into_std();
        let from = FourTuple::new(self.to, None);
        let event = self.endpoint.handle(now, from, None, packet[..].into(), &mut Vec::new());
        let Some(DatagramEvent::ConnectionEvent(handle, event)) = event else { return };
        let Some(mut connection) = self.begun.remove(&handle) else { return };
        if packet[0] & 0xf0 == 0xf0 {
            connection.handle_event(event);
            self.transmit(&mut connection).await;
        }
    }

    async fn transmit(&mut self, connection: &mut Connection) {
        // Ahead of time: the connection would pace itself.
        let (now, mut packet) = ((Instant::now() + PACED).into_std(), Vec::new());
        if connection.poll_transmit(now, NonZeroUsize::MIN, &mut packet).is_none() {
            return;
        }
        let transmit = Transmit {
            destination: self.to,
            ecn: None,
            contents: &packet,
            segment_size: None,
            src_ip: None,
        };
        poll_fn(|cx| self.sender.as_mut().poll_send(&transmit, cx)).await.unwrap();
    }

    /// The next packet that has arrived, if one has.
    async fn receive(&mut self) -> Option<Vec<u8>> {
        let (mut buffer, mut meta) = (vec![0; 2_048], [RecvMeta::default()]);
        let received = poll_fn(|cx| {
            let mut slices = [IoSliceMut::new(&mut buffer)];
            match self.socket.poll_recv(cx, &mut slices, &mut meta) {
                Poll::Ready(received) => Poll::Ready(received.is_ok()),
                Poll::Pending => Poll::Ready(false),
            }
        });
        if !received.await {
            return None;
        }
        buffer.truncate(meta[0].len);
        Some(buffer)
    }
}
