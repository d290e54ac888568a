//! A sender that proves its address and then leaves every handshake where it is. Its own memory is not
//! counted.

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
use ronproxy::internals::{emulator::Internet, identity::server_name};
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
    /// A sender at this address, and whom it bothers. It forgets all but the last `waiting` handshakes.
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
        let begun =
            own(|| self.endpoint.connect(now, self.client.clone(), self.to, &self.name).unwrap());
        let (handle, mut connection) = begun;
        self.transmit(&mut connection).await;
        own(|| {
            self.begun.insert(handle, connection);
            self.order.push_back(handle);
            if self.order.len() > self.waiting {
                self.order.pop_front().and_then(|oldest| self.begun.remove(&oldest));
            }
        });
    }

    async fn answer(&mut self, packet: Vec<u8>) {
        let now = Instant::now().into_std();
        let from = FourTuple::new(self.to, None);
        let answered = own(|| {
            let event = self.endpoint.handle(now, from, None, packet[..].into(), &mut Vec::new());
            let Some(DatagramEvent::ConnectionEvent(handle, event)) = event else { return None };
            let mut connection = self.begun.remove(&handle)?;
            let asks_for_proof = packet[0] & 0xf0 == 0xf0;
            asks_for_proof.then(|| {
                connection.handle_event(event);
                connection
            })
        });
        if let Some(mut connection) = answered {
            self.transmit(&mut connection).await;
            own(|| drop(connection));
        }
    }

    async fn transmit(&mut self, connection: &mut Connection) {
        // Ahead of time: the connection would pace itself.
        let (now, mut packet) = ((Instant::now() + PACED).into_std(), Vec::new());
        let transmit = own(|| connection.poll_transmit(now, NonZeroUsize::MIN, &mut packet));
        if transmit.is_none() {
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

/// What the sender itself does: no cost of the attack.
fn own<T>(work: impl FnOnce() -> T) -> T {
    let mut done = None;
    allocation_counter::opt_out(|| done = Some(work()));
    done.unwrap()
}
