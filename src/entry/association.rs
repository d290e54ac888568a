//! UDP ASSOCIATE: the UDP socket of one client, for as long as its TCP connection lasts.
//!
//! The client's first datagram fixes its address. It has to come from the IP address of the TCP
//! connection, from the port that the request names if it names one, and on this machine from a socket
//! of a user that is served.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use socket2::SockRef;
use tokio::{
    io::AsyncReadExt,
    net::{TcpStream, UdpSocket},
};
use tracing::{debug, info};

use super::{
    options::Options,
    session::{Borrowed, Session},
    socks_datagram::{MAX_FRAMED, framed, parse},
};
use crate::flow::{
    AssociationRequest, Carried, DatagramDrop, DatagramDrops, DatagramSink, Refusal, Target,
};

/// What the kernel may keep of a client's datagrams, in bytes, as at the exit. The system may allow less.
const SOCKET_BUFFER: usize = 512 << 10;

/// Sources that are asked for their user before one is served. Only other users cause more than one.
const MAX_ASKED: u32 = 64;

/// Errors in a row after which a socket is given up.
const MAX_ERRORS: u32 = 64;

/// A socket that waits for its client.
pub(super) struct Association {
    socket: Arc<UdpSocket>,
    /// The address that clients send to.
    pub(super) bound: SocketAddr,
    expected: Expected,
    options: Options,
}

/// From where the client will send. Pure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Expected {
    client: SocketAddr,
    /// The port that the request names.
    port: Option<u16>,
}

/// The request names another machine's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the client at {client} asks for datagrams from {named}, another address; set its UDP source to 0.0.0.0"
)]
pub(super) struct OtherAddress {
    client: SocketAddr,
    named: SocketAddr,
}

/// Why no socket can be had for a client.
#[derive(Debug, thiserror::Error)]
pub(super) enum AssociateError {
    #[error(transparent)]
    OtherAddress(#[from] OtherAddress),
    #[error("no UDP socket: {0}")]
    Socket(#[from] io::Error),
}

impl Expected {
    /// What a client at `client` says of its datagrams: unspecified parts are not known yet.
    fn of(client: SocketAddr, named: SocketAddr) -> Result<Self, OtherAddress> {
        let ip = named.ip().to_canonical();
        if !ip.is_unspecified() && ip != client.ip().to_canonical() {
            return Err(OtherAddress { client, named });
        }
        Ok(Self { client, port: Some(named.port()).filter(|port| *port != 0) })
    }

    fn is(&self, from: SocketAddr) -> bool {
        from.ip().to_canonical() == self.client.ip().to_canonical()
            && self.port.is_none_or(|port| port == from.port())
    }
}

impl Association {
    /// Binds a socket on the address that the client has reached.
    pub(super) fn bind(
        session: &Session,
        named: SocketAddr,
        options: Options,
    ) -> Result<Self, AssociateError> {
        let expected = Expected::of(session.client, named)?;
        let socket = std::net::UdpSocket::bind((session.local.ip().to_canonical(), 0))?;
        socket.set_nonblocking(true)?;
        // The system bounds both; with less, bursts are lost sooner.
        let _ = SockRef::from(&socket).set_recv_buffer_size(SOCKET_BUFFER);
        let _ = SockRef::from(&socket).set_send_buffer_size(SOCKET_BUFFER);
        let socket = Arc::new(UdpSocket::from_std(socket)?);
        Ok(Self { bound: socket.local_addr()?, socket, expected, options })
    }

    /// Carries datagrams until the client closes `tcp`, an exit refuses them, or the entry stops.
    pub(super) async fn serve(self, tcp: &TcpStream, session: &Session) {
        let Options { exit, hint, user } = session.with_port(self.options);
        let dialer = session.shared.dialer.clone();
        let drops = dialer.datagram_drops();
        let client = Arc::new(Client {
            socket: self.socket.clone(),
            source: OnceLock::new(),
            drops: drops.clone(),
            carried: Arc::default(),
        });
        session.activity.add(&client.carried);
        let request = AssociationRequest { hint, exit, user, client: session.client };
        let flows = dialer.associate(request, client.clone());
        info!(client = %session.client, "association open");
        let source = Source { expected: self.expected, bound: self.bound, asked: 0 };
        tokio::select! {
            biased;
            () = ended(tcp) => info!(client = %session.client, "association closed"),
            () = session.shared.stop.cancelled() => {}
            refusal = flows.refusal() => {
                info!(client = %session.client, reason = refusal.kind.name(), "association refused");
            }
            () = receive(&client, source, session, &*flows) => {
                debug!(client = %session.client, "the association's UDP socket failed");
            }
        }
    }
}

/// Waits until the client ends its connection. What it writes means nothing.
async fn ended(tcp: &TcpStream) {
    let (mut tcp, mut ignored) = (Borrowed(tcp), [0; 256]);
    while let Ok(1..) = tcp.read(&mut ignored).await {}
}

/// The client's end.
struct Client {
    socket: Arc<UdpSocket>,
    /// The client's address, when it is known.
    source: OnceLock<SocketAddr>,
    drops: Arc<DatagramDrops>,
    carried: Arc<Carried>,
}

/// Finds out who the client is.
struct Source {
    expected: Expected,
    bound: SocketAddr,
    asked: u32,
}

impl Source {
    /// Whether a datagram from this address may be the client's first one.
    async fn admits(&mut self, from: SocketAddr, session: &Session) -> Result<(), DatagramDrop> {
        if !self.expected.is(from) {
            return Err(DatagramDrop::WrongSource);
        }
        self.asked += 1;
        match session.shared.gate.serves_datagrams(from, self.bound).await {
            true => Ok(()),
            false => Err(DatagramDrop::OtherUser),
        }
    }
}

/// Takes the client's datagrams until the socket fails or too many others send.
async fn receive(
    client: &Client,
    mut source: Source,
    session: &Session,
    flows: &dyn crate::flow::Association,
) {
    let (mut buffer, mut errors) = (vec![0; MAX_FRAMED + 1], 0);
    while errors < MAX_ERRORS && source.asked < MAX_ASKED {
        let (length, from) = match client.socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                errors += 1;
                debug!(%error, "an association's socket has an error");
                continue;
            }
        };
        errors = 0;
        let parsed = parse(&buffer[..length]);
        let admitted = match (client.source.get(), parsed) {
            (Some(known), parsed) if *known == from => parsed,
            (Some(_), _) => Err(DatagramDrop::WrongSource),
            // Only what can be read makes its sender the client.
            (None, Err(reason)) => Err(reason),
            (None, Ok(parsed)) => source.admits(from, session).await.map(|()| parsed),
        };
        match admitted {
            Ok((target, payload)) => {
                let _ = client.source.set(from);
                client.carried.add_sent(payload.len());
                flows.deliver(&target, payload);
            }
            Err(reason) => client.drops.count(reason),
        }
    }
}

impl DatagramSink for Client {
    fn deliver(&self, peer: &Target, payload: &[u8]) {
        let Some(source) = self.source.get() else {
            return self.drops.count(DatagramDrop::Unsolicited);
        };
        let Some(bytes) = framed(peer, payload) else {
            return self.drops.count(DatagramDrop::Malformed);
        };
        // As at the exit, the socket itself is asked whether it has room.
        match SockRef::from(&*self.socket).send_to(&bytes, &(*source).into()) {
            Ok(_) => self.carried.add_received(payload.len()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.drops.count(DatagramDrop::SocketFull);
            }
            Err(error) => {
                debug!(%error, "a datagram cannot be sent to the client");
                self.drops.count(DatagramDrop::Unreachable);
            }
        }
    }

    fn refused(&self, _: &Target, _: Refusal) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_sends_from_where_it_said() {
        let client: SocketAddr = "127.0.0.1:4000".parse().unwrap();
        for (named, from, is) in [
            ("0.0.0.0:0", "127.0.0.1:9", true),
            ("[::]:0", "127.0.0.1:9", true),
            ("0.0.0.0:0", "127.0.0.2:9", false),
            ("0.0.0.0:9", "127.0.0.1:9", true),
            ("0.0.0.0:9", "127.0.0.1:10", false),
            ("127.0.0.1:9", "[::ffff:127.0.0.1]:9", true),
            ("127.0.0.1:0", "127.0.0.1:77", true),
        ] {
            let expected = Expected::of(client, named.parse().unwrap()).unwrap();
            assert_eq!(expected.is(from.parse().unwrap()), is, "{named} {from}");
        }
        let error = Expected::of(client, "192.0.2.1:9".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("0.0.0.0"), "{error}");
    }
}
