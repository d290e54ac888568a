//! Carries bytes between a TCP connection and a QUIC stream, both ways, until both have ended.
//!
//! | TCP side | stream side |
//! |---|---|
//! | end of input (FIN) | FIN |
//! | reset, or any read error | RESET_STREAM |
//! | write fails | STOP_SENDING |
//! | shutdown of the write half | FIN received |
//! | RST | RESET_STREAM received, or the lane is lost |
//!
//! Back-pressure is end to end: nothing is read from one side before the other has taken what was
//! read before, and the stream's window bounds what is in between.

use std::{
    io::{self, IoSlice},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use noq::{RecvStream, SendStream, VarInt, WriteError};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf as InsideRead, WriteHalf as InsideWrite},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
};

use crate::{
    flow::{Carried, FlowIo, FlowLimits, HalfClosed, Spliced},
    transport::code,
};

/// Room for one read from TCP. Large reads cost fewer system calls; the buffer exists only while
/// bytes are moving, so an idle flow holds none.
const READ_BUFFER: usize = 64 * 1024;

/// Reads below this are copied out, so that a keystroke does not pin a whole buffer until it is
/// acknowledged.
const COPY_BELOW: usize = READ_BUFFER / 4;

/// Packets' worth of stream data written to TCP in one vectored call.
const CHUNKS: usize = 64;

/// Which way bytes count as "sent by the client".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TcpIs {
    /// The TCP side is the client: this is the entry.
    Client,
    /// The TCP side is the destination: this is the exit.
    Destination,
}

/// Carries bytes both ways until both directions have ended.
///
/// Dropping the future resets both sides: neither must take a broken flow for a complete one.
pub(super) async fn pump(
    tcp: TcpStream,
    (send, mut recv): (SendStream, RecvStream),
    preread: Bytes,
    tcp_is: TcpIs,
    (carried, limits): (&Carried, &FlowLimits),
) -> Spliced {
    let half = HalfClosed::default();
    let mut sides = Sides { tcp, send, complete: false };
    let (read_half, write_half) = sides.tcp.split();
    let from_tcp = async {
        tcp_to_stream(read_half, &mut sides.send, preread, tcp_is, carried).await?;
        half.set(carried.activity());
        Ok(())
    };
    let to_tcp = async {
        let written = stream_to_tcp(&mut recv, write_half, tcp_is, carried).await?;
        half.set(carried.activity());
        Ok(written)
    };
    // A reset ends both directions at once: the other one may be idle and would never learn of it.
    let both = async { tokio::try_join!(from_tcp, to_tcp).and_then(|((), written)| written) };
    let result = tokio::select! {
        result = both => result,
        end = limits.overdue(carried.activity(), &half) => Err(end.into()),
    };
    sides.complete = result.is_ok();
    let (sent, received) = carried.bytes();
    Spliced { sent, received, result }
}

/// Carries bytes between a service inside this process and a stream; the service's side of the
/// table above, without resets.
pub(super) async fn pump_inside(
    io: Box<dyn FlowIo>,
    (mut send, mut recv): (SendStream, RecvStream),
    (carried, limits): (&Carried, &FlowLimits),
) -> Spliced {
    let half = HalfClosed::default();
    let (read_half, write_half) = tokio::io::split(io);
    let from_inside = async {
        inside_to_stream(read_half, &mut send, carried).await?;
        half.set(carried.activity());
        Ok(())
    };
    let to_inside = async {
        stream_to_inside(&mut recv, write_half, carried).await?;
        half.set(carried.activity());
        Ok(())
    };
    let both = async { tokio::try_join!(from_inside, to_inside).map(drop) };
    let result: io::Result<()> = tokio::select! {
        result = both => result,
        end = limits.overdue(carried.activity(), &half) => Err(end.into()),
    };
    if result.is_err() {
        // A stream that has ended already needs no reset.
        let _ = send.reset(VarInt::from_u32(code::FLOW_RESET));
    }
    let (sent, received) = carried.bytes();
    Spliced { sent, received, result }
}

async fn inside_to_stream(
    mut io: InsideRead<Box<dyn FlowIo>>,
    send: &mut SendStream,
    carried: &Carried,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ_BUFFER);
        let read = io.read_buf(&mut buffer).await?;
        if read == 0 {
            // The stream may have been stopped meanwhile; then there is nothing left to finish.
            let _ = send.finish();
            return Ok(());
        }
        carried.add_received(read);
        send.write_chunk(buffer.split().freeze()).await?;
    }
}

async fn stream_to_inside(
    recv: &mut RecvStream,
    mut io: InsideWrite<Box<dyn FlowIo>>,
    carried: &Carried,
) -> io::Result<()> {
    let mut chunks = vec![Bytes::new(); CHUNKS].into_boxed_slice();
    while let Some(filled) = recv.read_many_chunks(&mut chunks).await? {
        for chunk in &mut chunks[..filled] {
            let bytes = std::mem::take(chunk);
            carried.add_sent(bytes.len());
            io.write_all(&bytes).await?;
        }
    }
    io.shutdown().await
}

/// Both sides of a flow; reset when dropped before the flow is complete.
struct Sides {
    tcp: TcpStream,
    send: SendStream,
    complete: bool,
}

impl Drop for Sides {
    fn drop(&mut self) {
        if self.complete {
            return;
        }
        // A stream that has ended already needs no reset.
        let _ = self.send.reset(VarInt::from_u32(code::FLOW_RESET));
        if let Err(error) = SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO)) {
            tracing::debug!(%error, "cannot reset the TCP connection; closing it");
        }
    }
}

async fn tcp_to_stream(
    tcp: ReadHalf<'_>,
    send: &mut SendStream,
    preread: Bytes,
    tcp_is: TcpIs,
    carried: &Carried,
) -> io::Result<()> {
    let count = |bytes| match tcp_is {
        TcpIs::Client => carried.add_sent(bytes),
        TcpIs::Destination => carried.add_received(bytes),
    };
    let copied = copy_to_stream(&tcp, send, preread, &count).await;
    match copied {
        Ok(()) => {
            // The stream may have been stopped meanwhile; then there is nothing left to finish.
            let _ = send.finish();
            Ok(())
        }
        Err(CopyError::Tcp(error)) => {
            let _ = send.reset(VarInt::from_u32(code::FLOW_RESET));
            Err(error)
        }
        // The far end's application takes no more. Its answer may still be under way.
        Err(CopyError::Stopped) => Ok(()),
        Err(CopyError::Stream(error)) => Err(error.into()),
    }
}

enum CopyError {
    Tcp(io::Error),
    Stopped,
    Stream(WriteError),
}

impl From<WriteError> for CopyError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(_) => Self::Stopped,
            other => Self::Stream(other),
        }
    }
}

async fn copy_to_stream(
    tcp: &ReadHalf<'_>,
    send: &mut SendStream,
    preread: Bytes,
    count: &(impl Fn(usize) + Sync),
) -> Result<(), CopyError> {
    if !preread.is_empty() {
        count(preread.len());
        send.write_chunk(preread).await?;
    }
    let stopped = send.stopped();
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            biased;
            ready = tcp.readable() => ready.map_err(CopyError::Tcp)?,
            _ = &mut stopped => return Err(CopyError::Stopped),
        }
        let mut buffer = BytesMut::with_capacity(READ_BUFFER);
        loop {
            match tcp.try_read_buf(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => {
                    count(read);
                    let chunk = if read < COPY_BELOW {
                        let copy = Bytes::copy_from_slice(&buffer);
                        buffer.clear();
                        copy
                    } else {
                        buffer.split().freeze()
                    };
                    send.write_chunk(chunk).await?;
                    buffer.reserve(READ_BUFFER);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(CopyError::Tcp(error)),
            }
        }
    }
}

/// The outer error is the stream's and ends the flow. The inner one is that TCP takes no more,
/// while it may still have bytes to deliver.
async fn stream_to_tcp(
    recv: &mut RecvStream,
    mut tcp: WriteHalf<'_>,
    tcp_is: TcpIs,
    carried: &Carried,
) -> io::Result<io::Result<()>> {
    let mut chunks: Option<Box<[Bytes]>> = None;
    loop {
        let room = chunks.get_or_insert_with(|| vec![Bytes::new(); CHUNKS].into_boxed_slice());
        match recv.read_many_chunks(room).await {
            Ok(Some(filled)) => {
                let bytes = room[..filled].iter().map(Bytes::len).sum();
                match tcp_is {
                    TcpIs::Client => carried.add_received(bytes),
                    TcpIs::Destination => carried.add_sent(bytes),
                }
                if let Err(error) = write_chunks(&mut tcp, &mut room[..filled]).await {
                    let _ = recv.stop(VarInt::from_u32(code::FLOW_RESET));
                    return Ok(Err(error));
                }
            }
            Ok(None) => return Ok(tcp.shutdown().await),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Writes all of `chunks`, leaving them empty.
async fn write_chunks(tcp: &mut WriteHalf<'_>, chunks: &mut [Bytes]) -> io::Result<()> {
    let mut first = 0;
    while first < chunks.len() {
        let mut slices = [IoSlice::new(&[]); CHUNKS];
        for (slice, chunk) in slices.iter_mut().zip(&chunks[first..]) {
            *slice = IoSlice::new(chunk);
        }
        let mut written = tcp.write_vectored(&slices[..chunks.len() - first]).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while first < chunks.len() && written >= chunks[first].len() {
            written -= chunks[first].len();
            chunks[first] = Bytes::new();
            first += 1;
        }
        if let Some(chunk) = chunks.get_mut(first) {
            chunk.advance(written);
        }
    }
    Ok(())
}
