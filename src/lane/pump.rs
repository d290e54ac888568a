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
//! A RESET_STREAM discards the bytes that are still under way. Some destinations answer and reset at once:
//! a server that closes while bytes of an upload are unread does. A RESET_STREAM would lose that answer, so
//! STOP_SENDING carries the number of bytes to wait for (see `broken`).
//!
//! Back-pressure is end to end. The pump reads from TCP only as much as the flow's window has room for. The far
//! end raises that window when its own TCP connection takes bytes (see `window`).

use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use noq::{SendStream, VarInt, WriteError};
use tokio::{
    io::{
        AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf as InsideRead, WriteHalf as InsideWrite,
    },
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    time::timeout,
};

use super::{
    broken::{self, FarEnd},
    inflow::Inflow,
    open_lane::Streams,
    read_buffers::Reader,
    windows::FlowPort,
};
use crate::{
    flow::{Carried, FlowIo, FlowLimits, HalfClosed, Spliced, reset_on_close},
    transport::code,
};

/// Bytes of the first read from TCP, which may wait for QUIC in every flow at once: a keystroke, or a request.
/// With it, 2,048 flows of an entry hold 4 MiB at the exit.
const SMALL: usize = 2 * 1024;

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
    Streams { send, mut recv, port }: Streams,
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
        let stream = (&mut sides.send, &port);
        let taken = tcp_to_stream(read_half, stream, preread, direction, &far_end).await?;
        half.set(carried.activity());
        Ok(taken)
    };
    let to_tcp = async {
        let stream = (&mut recv, &port);
        let written = stream_to_tcp(stream, write_half, direction, &far_end).await?;
        half.set(carried.activity());
        Ok(written)
    };
    // A reset ends both directions at once: the other one may be idle and would never learn of it.
    let both = async { tokio::try_join!(from_tcp, to_tcp) };
    let both = tokio::select! {
        biased;
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
            broken::tell(&mut sides.send, &mut recv.arriving, received).await;
            Err(error)
        }
        Err(Broken::Other(error)) => Err(error),
    };
    sides.complete = result.is_ok();
    if sides.finished {
        port.end(&sides.send);
    }
    Spliced { sent, received, result }
}

/// Carries bytes between a service inside this process and a stream, as in the table above. An error of
/// the service's reading side resets the stream, and one of its writing side stops it.
pub(super) async fn pump_inside(
    io: Box<dyn FlowIo>,
    Streams { mut send, mut recv, port }: Streams,
    (carried, limits): (&Carried, &FlowLimits),
) -> Spliced {
    let half = HalfClosed::default();
    let (read_half, write_half) = tokio::io::split(io);
    let from_inside = async {
        inside_to_stream(read_half, (&mut send, &port), carried).await?;
        half.set(carried.activity());
        Ok(())
    };
    let to_inside = async {
        stream_to_inside((&mut recv, &port), write_half, carried).await?;
        half.set(carried.activity());
        Ok(())
    };
    let both = async { tokio::try_join!(from_inside, to_inside).map(drop) };
    let result: io::Result<()> = tokio::select! {
        biased;
        result = both => result,
        end = limits.overdue(carried.activity(), &half) => Err(end.into()),
    };
    if result.is_err() {
        // A stream that has ended already needs no reset.
        let _ = send.reset(VarInt::from_u32(code::FLOW_RESET));
    } else {
        port.end(&send);
    }
    let (sent, received) = carried.bytes();
    Spliced { sent, received, result }
}

async fn inside_to_stream(
    mut io: InsideRead<Box<dyn FlowIo>>,
    (send, port): (&mut SendStream, &FlowPort),
    carried: &Carried,
) -> io::Result<()> {
    loop {
        let room = room(send, port, |held| carried.hold_client(held)).await?;
        let mut buffer = BytesMut::new();
        let mut limited = (&mut buffer).limit(room);
        let read = io.read_buf(&mut limited).await?;
        if read == 0 {
            // The stream may have been stopped meanwhile; then there is nothing left to finish.
            let _ = send.finish();
            return Ok(());
        }
        carried.add_received(read);
        write(send, port, buffer.freeze()).await?;
    }
}

async fn stream_to_inside(
    (recv, port): (&mut Inflow, &FlowPort),
    mut io: InsideWrite<Box<dyn FlowIo>>,
    carried: &Carried,
) -> io::Result<()> {
    let told = |written| {
        carried.hold_destination(written == 0);
        if written > 0 {
            carried.add_sent(written);
        }
    };
    match deliver((&mut *recv, port), &mut io, &FarEnd::new(), told).await {
        Delivered::All => io.shutdown().await,
        // It takes no more. Reading from it says whether its answer is complete.
        Delivered::Refused(_) => {
            // A stream that has ended needs no stop.
            let _ = recv.arriving.stop(VarInt::from_u32(code::FLOW_RESET));
            Ok(())
        }
        Delivered::Broken(error) => Err(error),
    }
}

/// How carrying bytes from a stream to their reader ended.
enum Delivered {
    /// The reader has all.
    All,
    /// The reader takes no more.
    Refused(io::Error),
    /// The stream broke, or the far end broke the rules.
    Broken(io::Error),
}

/// Carries bytes from a stream to their reader until both have ended. Tells `told` how many bytes each write took; 0:
/// it takes none now.
///
/// The stream is read as fast as bytes arrive: those that wait for the reader are bounded by the flow's
/// window, and hold up no other flow of the lane.
async fn deliver(
    (recv, port): (&mut Inflow, &FlowPort),
    io: &mut (impl AsyncWrite + Unpin),
    far_end: &FarEnd,
    told: impl Fn(usize),
) -> Delivered {
    let Inflow { arriving, backlog } = recv;
    let (mut delivered, mut end) = (0, far_end.watch());
    while !(arriving.has_ended() && backlog.is_empty()) {
        tokio::select! {
            biased;
            written = poll_fn(|cx| {
                let polled = backlog.poll_write(cx, io);
                if polled.is_pending() {
                    told(0);
                }
                polled
            }), if !backlog.is_empty() => {
                match written {
                    Ok(written) => {
                        told(written);
                        delivered += written as u64;
                        port.took(written);
                    }
                    Err(error) => return Delivered::Refused(error),
                }
            }
            read = arriving.read(), if !arriving.has_ended() => match read {
                Ok(arrived) => backlog.append(arrived),
                Err(error) => return Delivered::Broken(error),
            },
            error = broken::broke_at(&mut end, delivered) => return Delivered::Broken(error),
        }
    }
    Delivered::All
}

/// Waits until bytes may be sent, and says how many at most. Tells `hold` whether the far end takes no more
/// meanwhile.
async fn room(
    send: &SendStream,
    port: &FlowPort,
    hold: impl Fn(bool),
) -> Result<usize, WriteError> {
    if let Some(room) = port.room() {
        return Ok(room);
    }
    hold(true);
    tokio::select! {
        biased;
        room = port.has_room() => {
            hold(false);
            Ok(room)
        }
        // Otherwise the lane has ended, and there is room to learn that by writing.
        Ok(Some(code)) = send.stopped() => Err(WriteError::Stopped(code)),
    }
}

/// Writes bytes for which there is room.
async fn write(send: &mut SendStream, port: &FlowPort, bytes: Bytes) -> Result<(), WriteError> {
    let len = bytes.len();
    port.writes(len);
    port.prioritise(send, len);
    {
        let mut writing = pin!(send.write_chunk(bytes));
        let mut blocked = false;
        poll_fn(|cx| {
            let polled = writing.as_mut().poll(cx);
            if polled.is_pending() && !blocked {
                blocked = true;
                port.blocked();
            }
            polled
        })
        .await?;
    }
    port.sent(len);
    Ok(())
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

    /// The TCP side took this many bytes; 0: it takes none now.
    fn took(self, bytes: usize) {
        match self.tcp_is {
            TcpIs::Client => self.carried.hold_client(bytes == 0),
            TcpIs::Destination => self.carried.hold_destination(bytes == 0),
        }
        match self.tcp_is {
            _ if bytes == 0 => {}
            TcpIs::Client => self.carried.add_received(bytes),
            TcpIs::Destination => self.carried.add_sent(bytes),
        }
    }

    /// Records whether the far end takes no more bytes from TCP.
    fn hold_far_end(self, held: bool) {
        match self.tcp_is {
            TcpIs::Client => self.carried.hold_destination(held),
            TcpIs::Destination => self.carried.hold_client(held),
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

/// A failure that ends both directions at once.
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
        let drained = async { tokio::io::copy(&mut self.tcp, &mut tokio::io::sink()).await };
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
    (send, port): (&mut SendStream, &FlowPort),
    preread: Bytes,
    direction: Direction<'_>,
    far_end: &FarEnd,
) -> Result<Taken, Broken> {
    match copy_to_stream(&tcp, (send, port), preread, direction).await {
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
    (send, port): (&mut SendStream, &FlowPort),
    mut preread: Bytes,
    direction: Direction<'_>,
) -> Result<(), CopyError> {
    while !preread.is_empty() {
        let room = room(send, port, |held| direction.hold_far_end(held)).await?;
        let part = preread.split_to(room.min(preread.len()));
        direction.count_from_tcp(part.len());
        write(send, port, part).await?;
    }
    let stopped = send.stopped();
    tokio::pin!(stopped);
    let mut reader = port.reader();
    loop {
        let readable = async {
            tokio::select! {
                biased;
                ready = tcp.readable() => ready.map_err(CopyError::Tcp),
                // Otherwise the lane has ended; writing to it tells.
                Ok(Some(code)) = &mut stopped => Err(CopyError::Stopped(code)),
            }
        };
        reader.wait(readable).await?;
        // A keystroke does not wait for a turn behind bulk flows.
        let room = reader.wait(room(send, port, |held| direction.hold_far_end(held))).await?;
        let mut size = room.min(SMALL);
        while size > 0 {
            let turn = if size > SMALL { port.turn().await } else { None };
            let chunk = match try_read(tcp, size, (&mut reader, port.kept())) {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(CopyError::Tcp(error)),
            };
            match chunk.len() {
                0 if direction.was_reset.load(Ordering::Relaxed) => {
                    return Err(CopyError::Tcp(io::ErrorKind::ConnectionReset.into()));
                }
                0 => return Ok(()),
                read => direction.count_from_tcp(read),
            }
            reader.wait(write(send, port, chunk)).await?;
            // Others have theirs before this flow's next one.
            drop(turn);
            size = port.room().unwrap_or(0);
        }
    }
}

/// At most `size` of the bytes that wait in a TCP connection. No bytes mean that it has ended. A large read takes a
/// buffer of the lane, which keeps no more than `kept` bytes of them.
fn try_read(
    tcp: &ReadHalf<'_>,
    size: usize,
    (reader, kept): (&mut Reader<'_>, usize),
) -> io::Result<Bytes> {
    if size <= SMALL {
        let mut small = [0; SMALL];
        let read = tcp.try_read(&mut small[..size])?;
        return Ok(Bytes::copy_from_slice(&small[..read]));
    }
    reader.fill(kept, |buffer| tcp.try_read_buf(&mut buffer.limit(size)))
}

/// The outer error is the stream's and ends the flow. The inner one is that TCP takes no more,
/// while it may still have bytes to deliver.
async fn stream_to_tcp(
    (recv, port): (&mut Inflow, &FlowPort),
    mut tcp: WriteHalf<'_>,
    direction: Direction<'_>,
    far_end: &FarEnd,
) -> Result<io::Result<()>, Broken> {
    match deliver((&mut *recv, port), &mut tcp, far_end, |bytes| direction.took(bytes)).await {
        Delivered::All => Ok(tcp.shutdown().await),
        Delivered::Refused(error) => {
            match direction.tcp_is {
                TcpIs::Client => {
                    let _ = recv.arriving.stop(VarInt::from_u32(code::FLOW_RESET));
                }
                // Reading ends soon as well, and then says how. A broken pipe is not a broken
                // answer: the destination had ended it in order before.
                TcpIs::Destination => {
                    let reset = error.kind() != io::ErrorKind::BrokenPipe;
                    direction.was_reset.store(reset, Ordering::Relaxed);
                }
            }
            Ok(Err(error))
        }
        Delivered::Broken(error) => Err(Broken::Other(error)),
    }
}
