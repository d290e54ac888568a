//! A lane made of the bare QUIC state machine: one loop that receives a batch, runs the connection, and sends up to
//! 64 KiB of packets in each call. No tasks, no labels, no routes. So it shows what a driver of our own could reach.

use std::{
    io::{ErrorKind, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    num::NonZeroUsize,
    os::fd::AsFd as _,
    path::Path,
    sync::Arc,
    time::Instant,
};

use bytes::BytesMut;
use noq::udp::{self, BATCH_SIZE, RecvMeta, UdpSocketState};
use noq_proto::{
    Connection, ConnectionHandle, DatagramEvent, EcnCodepoint, Endpoint, EndpointConfig, Event,
    FourTuple, Transmit, VarInt,
};
use ronproxy::internals::{
    flow::Hint,
    identity::{Clock, Credentials, NodeDir, NodeName, server_name},
    transport::{LANE_SEND_WINDOW, LaneClient, LaneOptions, LaneServer, RerouteMark},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Socket, Type};

/// The same as of a node's socket.
const SOCKET_BUFFER: usize = 4 << 20;

/// The longest UDP payload over IPv4, and so the longest batch of one call.
const MAX_PAYLOAD: usize = 65_507;

/// Packets that may wait behind a lost one.
const MOST_PIECES: u64 = 1_000;

/// Calls in a row, before something is received.
const CALLS: usize = 4;

/// One end of the lane: the state machine, and the socket.
pub(super) struct Bare {
    socket: UdpSocket,
    state: UdpSocketState,
    endpoint: Endpoint,
    lane: Option<(ConnectionHandle, Connection)>,
    buffers: Vec<Box<[u8]>>,
    /// The packets of one call, and how they are to leave if the socket had no room.
    batch: Vec<u8>,
    unsent: Option<Transmit>,
    segments: NonZeroUsize,
    packet: u16,
}

impl Bare {
    /// The entry's end, with the credentials and the parameters of a lane to the exit.
    pub(super) fn connect(dir: &Path, at: SocketAddr, exit: SocketAddr, packet: u16) -> Self {
        let (credentials, options) = member(dir, packet);
        let peer: NodeName = "exit".parse().unwrap();
        let mark = Arc::new(RerouteMark::new(Arc::default()));
        let client = LaneClient::new(&credentials, options).unwrap();
        let config = client.config(&peer, &mark, &Hint::Latency, None, packet);
        let mut bare = Self::new(at, None, packet);
        let name = server_name(&peer);
        let (handle, conn) = bare.endpoint.connect(Instant::now(), config, exit, &name).unwrap();
        bare.begin(handle, conn);
        bare
    }

    /// The exit's end. It accepts the entry's lane.
    pub(super) fn accept(dir: &Path, at: SocketAddr, packet: u16) -> Self {
        let (credentials, options) = member(dir, packet);
        let mark = Arc::new(RerouteMark::new(Arc::default()));
        let server = LaneServer::new(&credentials, options).unwrap();
        let entry: NodeName = "entry".parse().unwrap();
        let config = server.config(&entry, &mark, &Hint::Latency, packet);
        Self::new(at, Some(Arc::new(config)), packet)
    }

    fn new(at: SocketAddr, server: Option<Arc<noq_proto::ServerConfig>>, packet: u16) -> Self {
        let socket = Socket::new(Domain::for_address(at), Type::DGRAM, None).unwrap();
        socket.set_recv_buffer_size(SOCKET_BUFFER).unwrap();
        socket.set_send_buffer_size(SOCKET_BUFFER).unwrap();
        socket.bind(&at.into()).unwrap();
        let socket = UdpSocket::from(socket);
        let state = UdpSocketState::new((&socket).into()).unwrap();
        let most = NonZeroUsize::new(MAX_PAYLOAD / usize::from(packet)).unwrap();
        let segments = state.max_gso_segments().min(most);
        Self {
            socket,
            state,
            endpoint: Endpoint::new(Arc::new(EndpointConfig::default()), server, true),
            lane: None,
            buffers: (0..BATCH_SIZE).map(|_| vec![0; 1 << 16].into_boxed_slice()).collect(),
            batch: Vec::new(),
            unsent: None,
            segments,
            packet,
        }
    }

    /// The windows are those that the entry's memory allows a lane alone, or less: behind a lost packet, the state
    /// machine keeps no more than 1,024 pieces of a stream.
    fn begin(&mut self, handle: ConnectionHandle, mut conn: Connection) {
        let window = LANE_SEND_WINDOW.min(MOST_PIECES * u64::from(self.packet));
        conn.set_receive_window(VarInt::from_u64(window).unwrap());
        conn.set_send_window(window);
        self.lane = Some((handle, conn));
    }

    /// The connection, once there is one.
    pub(super) fn conn(&mut self) -> Option<&mut Connection> {
        self.lane.as_mut().map(|(_, conn)| conn)
    }

    /// Receives a batch, and handles it and the timers. Whether anything came.
    pub(super) fn receive(&mut self) -> bool {
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let mut buffers = std::mem::take(&mut self.buffers);
        let mut each = buffers.iter_mut();
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(each.next().unwrap()));
        let received = self.state.recv((&self.socket).into(), &mut slices, &mut metas);
        let now = Instant::now();
        let count = match received {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => panic!("cannot receive: {error}"),
        };
        for (meta, buffer) in metas.iter().zip(&buffers).take(count) {
            let mut bytes = BytesMut::from(&buffer[..meta.len]);
            while !bytes.is_empty() {
                let packet = bytes.split_to(meta.stride.min(bytes.len()));
                self.handle(now, meta, packet);
            }
        }
        self.buffers = buffers;
        self.run(now);
        count > 0
    }

    fn handle(&mut self, now: Instant, meta: &RecvMeta, packet: BytesMut) {
        let path = FourTuple::new(meta.addr, meta.dst_ip);
        let ecn = meta.ecn.and_then(|ecn| EcnCodepoint::from_bits(ecn as u8));
        let mut answer = Vec::new();
        match self.endpoint.handle(now, path, ecn, packet, &mut answer) {
            Some(DatagramEvent::ConnectionEvent(_, event)) => {
                if let Some(conn) = self.conn() {
                    conn.handle_event(event);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                let accepted = self.endpoint.accept(incoming, now, &mut answer, None);
                let (handle, conn) = accepted.map_err(|error| error.cause).unwrap();
                self.begin(handle, conn);
            }
            Some(DatagramEvent::Response(_)) | None => {}
        }
    }

    /// Timers, and what the connection and its endpoint tell each other.
    fn run(&mut self, now: Instant) {
        let Some((handle, conn)) = &mut self.lane else { return };
        if conn.poll_timeout().is_some_and(|at| at <= now) {
            conn.handle_timeout(now);
        }
        while let Some(event) = conn.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(*handle, event) {
                conn.handle_event(event);
            }
        }
        while let Some(event) = conn.poll() {
            if let Event::ConnectionLost { reason } = event {
                panic!("the lane is lost: {reason}");
            }
        }
    }

    /// Sends what the connection has. Whether anything left.
    pub(super) fn send(&mut self) -> bool {
        let Some((_, conn)) = &mut self.lane else { return false };
        let now = Instant::now();
        for call in 0..CALLS {
            let transmit = self.unsent.take().or_else(|| {
                self.batch.clear();
                conn.poll_transmit(now, self.segments, &mut self.batch)
            });
            let Some(transmit) = transmit else { return call > 0 };
            let packets = udp::Transmit {
                destination: transmit.destination,
                ecn: transmit.ecn.and_then(|ecn| udp::EcnCodepoint::from_bits(ecn as u8)),
                contents: &self.batch[..transmit.size],
                segment_size: transmit.segment_size,
                src_ip: transmit.src_ip,
            };
            match self.state.try_send((&self.socket).into(), &packets) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.unsent = Some(transmit);
                    return call > 0;
                }
                // QUIC's probe for a packet size that the path does not take.
                Err(error) => assert!(udp::is_msg_size_err(&error), "cannot send: {error}"),
                Ok(()) => {}
            }
        }
        true
    }

    /// Waits until something comes, a timer is due, or one of `others` is ready.
    pub(super) fn wait<'a>(&'a self, mut others: Vec<PollFd<'a>>) {
        let room = if self.unsent.is_some() { PollFlags::OUT } else { PollFlags::empty() };
        others.push(PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN | room));
        let due = self.lane.as_ref().and_then(|(_, conn)| conn.poll_timeout());
        let until = due.map(|at| at.saturating_duration_since(Instant::now()));
        let until = until.map(|until| Timespec::try_from(until).unwrap());
        poll(&mut others, until.as_ref()).unwrap();
    }
}

fn member(dir: &Path, packet: u16) -> (Credentials, LaneOptions) {
    let credentials = Credentials::load(&NodeDir::at(dir), Clock::system()).unwrap();
    (credentials, LaneOptions { max_packet: packet, ..LaneOptions::default() })
}
