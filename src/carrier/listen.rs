//! Accepting streams, among the connections of strangers.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::BytesMut;
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use super::{
    knock::KnockKey,
    page,
    pump::{self, Side},
    strangers::Strangers,
    tls,
    visitor::Visitor,
};
use crate::{identity::Fingerprint, underlay::Switch};

/// How long TLS may take, as web servers allow.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long HTTP is spoken with a stranger at most, silence included.
const PAGE_TIMEOUT: Duration = Duration::from_secs(60);

/// The pause after a failed `accept`, which mostly says that files are used up.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts TCP connections, as the HTTPS server that it seems to be.
pub struct StreamListener {
    tcp: TcpListener,
    gate: Arc<Gate>,
}

struct Gate {
    switch: Arc<Switch>,
    key: KnockKey,
    tls: Arc<ServerConfig>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    strangers: Strangers,
    /// Ends the connection of a ticket.
    under_way: BTreeMap<u64, CancellationToken>,
}

/// A place among the strangers; dropping it makes room for another.
struct Ticket {
    gate: Arc<Gate>,
    number: u64,
    gave_way: CancellationToken,
}

impl StreamListener {
    /// A listener on `tcp` for the overlay with this authority, whose streams belong to the socket of
    /// `switch`.
    ///
    /// # Errors
    /// When no certificate can be made, or outside a runtime.
    pub fn new(
        tcp: std::net::TcpListener,
        switch: Arc<Switch>,
        authority: Fingerprint,
    ) -> io::Result<Self> {
        tcp.set_nonblocking(true)?;
        let tcp = TcpListener::from_std(tcp)?;
        let tls = Arc::new(tls::server().map_err(io::Error::other)?);
        let key = KnockKey::of(authority);
        Ok(Self { tcp, gate: Arc::new(Gate { switch, key, tls, state: Mutex::default() }) })
    }

    /// Accepts connections until it is dropped.
    pub async fn run(self) {
        loop {
            match self.tcp.accept().await {
                Ok((tcp, peer)) => {
                    if let Some(ticket) = self.gate.admit(peer) {
                        tokio::spawn(ticket.serve(tcp, peer));
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "no TCP connection accepted");
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

impl Gate {
    fn admit(self: &Arc<Self>, peer: SocketAddr) -> Option<Ticket> {
        let mut state = self.lock();
        let admitted = state.strangers.admit(Instant::now().into_std(), peer.ip())?;
        if let Some(other) = admitted.instead_of.and_then(|other| state.under_way.remove(&other)) {
            other.cancel();
        }
        let (number, gave_way) = (admitted.ticket, CancellationToken::new());
        state.under_way.insert(number, gave_way.clone());
        Some(Ticket { gate: self.clone(), number, gave_way })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// Serves the connection; the place is free when a link stands on its stream, or it ends.
    async fn serve(self, tcp: TcpStream, peer: SocketAddr) {
        let knocked = self.gave_way.run_until_cancelled(self.answer(tcp)).await.flatten();
        let Some((session, came)) = knocked else { return };
        let streams = self.gate.switch.streams();
        let Some(end) = streams.open(peer) else { return };
        let switch = self.gate.switch.clone();
        tokio::spawn(pump::run(session, switch, end.clone(), Side::Listener { came }));
        tokio::select! {
            biased;
            () = end.is_used() => {}
            () = end.ended().cancelled() => {}
            () = self.gave_way.cancelled() => streams.close(&end),
        }
    }

    /// Answers a connection. One that has knocked is returned, with what came behind the knock.
    async fn answer(&self, tcp: TcpStream) -> Option<(TlsStream<TcpStream>, BytesMut)> {
        pump::tune(&tcp);
        let acceptor = TlsAcceptor::from(self.gate.tls.clone());
        let session = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(tcp)).await.ok()?.ok()?;
        let mut visitor = Visitor::new(session, &self.gate.key);
        // It has knocked, ends in time, or has been served as well as a stranger can be.
        let _ = timeout(PAGE_TIMEOUT, page::serve(&mut visitor)).await;
        visitor.member()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.strangers.leave(self.number);
        state.under_way.remove(&self.number);
    }
}
