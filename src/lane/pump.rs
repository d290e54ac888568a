//! Carries bytes between a TCP connection and a QUIC stream, both ways, until both have ended.
//!
//! | TCP side | stream side |
//! |---|---|
//! | end of input (FIN) | FIN |
//! | reset by the client, or any read error there | RESET_STREAM |
//! | reset by the destination, or any read error there | STOP_SENDING with the number of bytes before it |
//! | the client takes no more | STOP_SENDING |
//! | shutdown of the write half | FIN received |
//! | RST | RESET_STREAM received, all bytes before a broken end taken, or the lane is lost |
//!
//! A RESET_STREAM discards what is still under way. A destination that answers and resets at once (a
//! server that closes with unread bytes of an upload does) would lose its answer by it, so its end is
//! told by number (see `broken`).
//!
//! Back-pressure is end to end: nothing is read from one side before the other has taken what was
//! read before, and the stream's window bounds what is in between.

use std::{
    io::{self, IoSlice},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use noq::{RecvStream, SendStream, VarInt, WriteError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf as InsideRead, WriteHalf as InsideWrite},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    time::timeout,
};

use super::broken::{self, FarEnd};
use crate::{
    flow::{Carried, FlowIo, FlowLimits, HalfClosed, Spliced, reset_on_close},
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

/// How long a client may go on sending after its flow ended while it was still sending: as long as for a
/// refused one. A close with unread bytes resets the connection, and the reset may overtake the answer.
const LINGER: Duration = Duration::from_secs(1);

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
    let far_end = FarEnd::new();
    let mut sides = Sides { tcp, send, complete: false, finished: false };
    let (read_half, write_half) = sides.tcp.split();
    let direction = Direction { tcp_is, carried, was_reset: &AtomicBool::new(false) };
    let from_tcp = async {
        let taken = tcp_to_stream(read_half, &mut sides.send, preread, direction, &far_end).await?;
        half.set(carried.activity());
        Ok(taken)
    };
    let to_tcp = async {
        let written = stream_to_tcp(&mut recv, write_half, direction, &far_end).await?;
        half.set(carried.activity());
        Ok(written)
    };
    // A reset ends both directions at once: the other one may be idle and would never learn of it.
    let both = async { tokio::try_join!(from_tcp, to_tcp) };
    let both = tokio::select! {
        both = both => both,
        end = limits.overdue(carried.activity(), &half) => Err(Broken::Other(end.into())),
    };
    let (sent, received) = carried.bytes();
    let result = match both {
        Ok((taken, written)) => {
            // A stream that has ended must not be reset: its last bytes may still be under way.
            sides.finished = taken == Taken::All;
            if taken == Taken::UntilStopped && tcp_is == TcpIs::Client && written.is_ok() {
                sides.drain().await;
            }
            written
        }
        Err(Broken::Destination(error)) => {
            broken::tell(&mut sides.send, &mut recv, received).await;
            Err(error)
        }
        Err(Broken::Other(error)) => Err(error),
    };
    sides.complete = result.is_ok();
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

/// Which side the TCP connection of a flow is, and what its two directions share.
#[derive(Clone, Copy)]
struct Direction<'a> {
    tcp_is: TcpIs,
    carried: &'a Carried,
    /// Whether a write found that the peer reset the connection. The system tells that once, and a
    /// read then sees an orderly end.
    was_reset: &'a AtomicBool,
}

impl Direction<'_> {
    fn count_from_tcp(self, bytes: usize) {
        match self.tcp_is {
            TcpIs::Client => self.carried.add_sent(bytes),
            TcpIs::Destination => self.carried.add_received(bytes),
        }
    }

    fn count_to_tcp(self, bytes: usize) {
        match self.tcp_is {
            TcpIs::Client => self.carried.add_received(bytes),
            TcpIs::Destination => self.carried.add_sent(bytes),
        }
    }
}

/// How much of the TCP side's bytes the stream has taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// All, and their end.
    All,
    /// Those before the far end said that it takes no more.
    UntilStopped,
}

/// What ends both directions at once.
enum Broken {
    /// Reading from the destination failed; what it sent before may still be under way.
    Destination(io::Error),
    /// Anything else.
    Other(io::Error),
}

/// Both sides of a flow; reset when dropped before the flow is complete.
struct Sides {
    tcp: TcpStream,
    send: SendStream,
    complete: bool,
    /// Whether `send` has ended in order.
    finished: bool,
}

impl Sides {
    /// Reads what the client still sends, so that closing does not reset its connection.
    async fn drain(&mut self) {
        let mut rest = vec![0; READ_BUFFER];
        let drained = async { while self.tcp.read(&mut rest).await.is_ok_and(|read| read > 0) {} };
        // A client that goes on sending is reset, as its destination would do.
        let _ = timeout(LINGER, drained).await;
    }
}

impl Drop for Sides {
    fn drop(&mut self) {
        if self.complete {
            return;
        }
        if !self.finished {
            // A stream that was reset already needs no further reset.
            let _ = self.send.reset(VarInt::from_u32(code::FLOW_RESET));
        }
        reset_on_close(&self.tcp);
    }
}

async fn tcp_to_stream(
    tcp: ReadHalf<'_>,
    send: &mut SendStream,
    preread: Bytes,
    direction: Direction<'_>,
    far_end: &FarEnd,
) -> Result<Taken, Broken> {
    match copy_to_stream(&tcp, send, preread, direction).await {
        Ok(()) => {
            // The stream may have been stopped meanwhile; then there is nothing left to finish.
            let _ = send.finish();
            Ok(Taken::All)
        }
        Err(CopyError::Tcp(error)) => match direction.tcp_is {
            TcpIs::Destination => Err(Broken::Destination(error)),
            TcpIs::Client => {
                let _ = send.reset(VarInt::from_u32(code::FLOW_RESET));
                Err(Broken::Other(error))
            }
        },
        // The far end's application takes no more. Its answer may still be under way.
        Err(CopyError::Stopped(code)) => {
            far_end.stopped(code);
            Ok(Taken::UntilStopped)
        }
        Err(CopyError::Stream(error)) => Err(Broken::Other(error.into())),
    }
}

enum CopyError {
    Tcp(io::Error),
    /// With the code of STOP_SENDING.
    Stopped(VarInt),
    Stream(WriteError),
}

impl From<WriteError> for CopyError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(code) => Self::Stopped(code),
            other => Self::Stream(other),
        }
    }
}

async fn copy_to_stream(
    tcp: &ReadHalf<'_>,
    send: &mut SendStream,
    preread: Bytes,
    direction: Direction<'_>,
) -> Result<(), CopyError> {
    if !preread.is_empty() {
        direction.count_from_tcp(preread.len());
        send.write_chunk(preread).await?;
    }
    let stopped = send.stopped();
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            biased;
            ready = tcp.readable() => ready.map_err(CopyError::Tcp)?,
            // Otherwise the lane has ended; writing to it tells.
            Ok(Some(code)) = &mut stopped => return Err(CopyError::Stopped(code)),
        }
        let mut buffer = BytesMut::with_capacity(READ_BUFFER);
        loop {
            match tcp.try_read_buf(&mut buffer) {
                Ok(0) if direction.was_reset.load(Ordering::Relaxed) => {
                    return Err(CopyError::Tcp(io::ErrorKind::ConnectionReset.into()));
                }
                Ok(0) => return Ok(()),
                Ok(read) => {
                    direction.count_from_tcp(read);
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
    direction: Direction<'_>,
    far_end: &FarEnd,
) -> Result<io::Result<()>, Broken> {
    let mut chunks: Option<Box<[Bytes]>> = None;
    let (mut taken, mut end) = (0, far_end.watch());
    loop {
        let room = chunks.get_or_insert_with(|| vec![Bytes::new(); CHUNKS].into_boxed_slice());
        let read = tokio::select! {
            biased;
            read = recv.read_many_chunks(room) => read,
            error = broken::broke_at(&mut end, taken) => return Err(Broken::Other(error)),
        };
        match read {
            Ok(Some(filled)) => {
                let bytes = room[..filled].iter().map(Bytes::len).sum();
                direction.count_to_tcp(bytes);
                taken += bytes as u64;
                if let Err(error) = write_chunks(&mut tcp, &mut room[..filled]).await {
                    match direction.tcp_is {
                        TcpIs::Client => {
                            let _ = recv.stop(VarInt::from_u32(code::FLOW_RESET));
                        }
                        // Reading ends soon as well, and then says how. A broken pipe is not a
                        // broken answer: the destination had ended it in order before.
                        TcpIs::Destination => {
                            let reset = error.kind() != io::ErrorKind::BrokenPipe;
                            direction.was_reset.store(reset, Ordering::Relaxed);
                        }
                    }
                    return Ok(Err(error));
                }
            }
            Ok(None) => return Ok(tcp.shutdown().await),
            Err(error) => return Err(Broken::Other(error.into())),
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
