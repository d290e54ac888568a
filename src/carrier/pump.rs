//! Moving packets between a stream's queues and its TLS session.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Buf as _, BytesMut};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, sleep_until},
};

use super::{
    knock::KNOCK_LEN,
    preface::{NoPreface, preface_in},
};
use crate::{
    underlay::{StreamEnd, Switch},
    wire::frame::{self, BadLength},
};

/// Unsent bytes that the kernel takes for a connection. They cannot be dropped any more, so there are few:
/// 30 ms at 2 Mbit/s. Sent bytes that wait for their acknowledgement are not counted.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 8 << 10;

/// The kernel ends a connection that acknowledges nothing for so long. Lanes and links have left it long
/// before; TCP itself would try for 15 minutes.
#[cfg(target_os = "linux")]
const USER_TIMEOUT: Duration = Duration::from_secs(5);

/// Rest after which the kernel asks whether the other end is still there, and how often. QUIC inside is
/// silent for up to 20 s.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(5));

/// Bytes read in one call.
const READ: usize = 32 << 10;

/// While TCP takes nothing, how often to look for packets that have waited too long.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How long a stream lives that no link uses: a joiner has its answer within 10 s, and a link
/// stands within 10 s.
const UNUSED_FOR: Duration = Duration::from_secs(20);

/// How long the last packets of a link may take to leave.
const LINGER: Duration = Duration::from_millis(300);

/// Which end of a stream this is.
pub(super) enum Side {
    /// It sends a knock, and skips the settings that a server of HTTP/2 says first.
    Dialler { knock: [u8; KNOCK_LEN], h2: bool },
    /// It has read the knock and what came behind it.
    #[cfg(any(test, feature = "proxy"))]
    Listener { came: BytesMut },
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum PumpError {
    /// TCP or TLS.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The other end speaks another protocol.
    #[error("the other end speaks another protocol: {0}")]
    Frames(#[from] BadLength),
    /// So does this.
    #[error("the other end speaks another protocol: {0}")]
    Preface(#[from] NoPreface),
    /// Nobody needs the stream.
    #[error("no link uses it")]
    Unused,
    /// The node closed it.
    #[error("closed")]
    Closed,
}

/// Prepares a TCP connection: no delay, little that waits in the kernel, and a congestion control that keeps
/// its rate under random loss where the kernel lets a program choose it
/// (`net.ipv4.tcp_allowed_congestion_control`).
pub(super) fn tune(tcp: &TcpStream) {
    let socket = SockRef::from(tcp);
    let (rest, every) = KEEP_ALIVE;
    let keep_alive = TcpKeepalive::new().with_time(rest).with_interval(every);
    let mut set = vec![
        ("TCP_NODELAY", tcp.set_nodelay(true)),
        ("SO_KEEPALIVE", socket.set_tcp_keepalive(&keep_alive)),
    ];
    #[cfg(target_os = "linux")]
    set.extend([
        ("TCP_NOTSENT_LOWAT", socket.set_tcp_notsent_lowat(UNSENT)),
        ("TCP_CONGESTION", socket.set_tcp_congestion(b"bbr")),
        ("TCP_USER_TIMEOUT", socket.set_tcp_user_timeout(Some(USER_TIMEOUT))),
    ]);
    for (option, done) in set {
        if let Err(error) = done {
            tracing::debug!(option, %error, "a TCP socket option could not be set");
        }
    }
}

/// Moves packets until the stream ends.
pub(super) async fn run<S: AsyncRead + AsyncWrite>(
    session: S,
    switch: Arc<Switch>,
    end: Arc<StreamEnd>,
    side: Side,
) {
    let (read, write) = tokio::io::split(session);
    let (first, came, h2) = match side {
        Side::Dialler { knock, h2 } => (knock.to_vec(), BytesMut::new(), h2),
        #[cfg(any(test, feature = "proxy"))]
        Side::Listener { came } => (Vec::new(), came, false),
    };
    let ended = tokio::select! {
        biased;
        () = end.ended().cancelled() => Err(PumpError::Closed),
        ended = receive(read, &switch, &end, (came, h2)) => ended,
        ended = send(write, &switch, &end, first) => ended,
        ended = unneeded(&end) => ended,
    };
    switch.streams().close(&end);
    let reason = ended.err().map_or_else(|| "the other end".to_owned(), |error| error.to_string());
    tracing::debug!(peer = %end.peer(), reason, "stream ended");
}

/// Ends when no link uses the stream any more, or none has come to use it.
async fn unneeded(end: &StreamEnd) -> Result<(), PumpError> {
    tokio::select! {
        biased;
        () = end.is_used() => {}
        () = sleep(UNUSED_FOR) => return Err(PumpError::Unused),
    }
    end.is_left().await;
    sleep(LINGER).await;
    Err(PumpError::Unused)
}

async fn receive(
    mut session: impl AsyncRead + Unpin,
    switch: &Switch,
    end: &StreamEnd,
    (mut came, mut has_preface): (BytesMut, bool),
) -> Result<(), PumpError> {
    while has_preface {
        if let Some(len) = preface_in(&came)? {
            came.advance(len);
            has_preface = false;
        } else if session.read_buf(&mut came).await? == 0 {
            return Ok(());
        }
    }
    loop {
        let whole = frame::whole(&came)?;
        if whole > 0 {
            switch.streams().arrived(end, came.split_to(whole).freeze()).await;
        }
        came.reserve(READ);
        if session.read_buf(&mut came).await? == 0 {
            return Ok(());
        }
    }
}

async fn send(
    mut session: impl AsyncWrite + Unpin,
    switch: &Switch,
    end: &StreamEnd,
    first: Vec<u8>,
) -> Result<(), PumpError> {
    write(&mut session, switch, end, &first).await?;
    loop {
        let frames = end.next().await;
        write(&mut session, switch, end, &frames).await?;
    }
}

/// Writes bytes until the kernel has them; meanwhile drops packets that have waited too long.
async fn write(
    session: &mut (impl AsyncWrite + Unpin),
    switch: &Switch,
    end: &StreamEnd,
    bytes: &[u8],
) -> Result<(), PumpError> {
    let writing = async {
        session.write_all(bytes).await?;
        session.flush().await
    };
    tokio::pin!(writing);
    loop {
        let look = tidy(switch, end);
        tokio::select! {
            biased;
            written = &mut writing => {
                written?;
                tidy(switch, end);
                return Ok(());
            }
            () = sleep_until(look.into()) => {}
        }
    }
}

/// Drops packets that have waited too long; says when to look again.
fn tidy(switch: &Switch, end: &StreamEnd) -> Instant {
    let (dropped, deadline) = end.tidy();
    switch.count_stalled(dropped);
    let soon = tokio::time::Instant::now().into_std() + LOOK_EVERY;
    deadline.map_or(soon, |deadline| deadline.min(soon))
}

#[cfg(test)]
#[path = "pump_tests.rs"]
mod tests;
