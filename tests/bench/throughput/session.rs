//! The processes of the bare lane: an entry that takes TCP connections one at a time, and an exit that connects each
//! to the web server, or sends bytes of its own.

use std::{
    collections::VecDeque,
    io::{ErrorKind, IoSlice, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    path::Path,
};

use bytes::Bytes;
use noq_proto::{Connection, Dir, ReadError, StreamId, WriteError};
use rustix::{
    buffer::spare_capacity,
    event::{PollFd, PollFlags},
};

use super::bare::Bare;

/// A request for so many bytes of the exit's own, which the entry discards.
pub(super) const OWN_BYTES: &str = "/bare/";

/// Bytes read from TCP at once, and written to a stream at once.
const BLOCK: usize = 256 << 10;

/// Bytes for TCP that wait, at most.
const BACKLOG: usize = 1 << 20;

/// Chunks that one call writes.
const CHUNKS: usize = 64;

/// The first argument of these processes.
pub(super) const ENTRY: &str = "bare-entry";
pub(super) const EXIT: &str = "bare-exit";

/// Runs one of them for ever.
pub(super) fn run(role: &str, arguments: &[String]) {
    let [dir, at, to, proxy, packet] = arguments else { panic!("{arguments:?}") };
    let (dir, packet) = (Path::new(dir), packet.parse().unwrap());
    let [at, to, proxy]: [SocketAddr; 3] = [at, to, proxy].map(|address| address.parse().unwrap());
    if role == ENTRY {
        let listener = TcpListener::bind(proxy).unwrap();
        listener.set_nonblocking(true).unwrap();
        entry(Bare::connect(dir, at, to, packet), &listener)
    } else {
        exit(Bare::accept(dir, at, packet), to)
    }
}

fn entry(mut bare: Bare, listener: &TcpListener) {
    let mut session: Option<Session> = None;
    loop {
        let mut progress = bare.receive();
        if let Some(conn) = bare.conn() {
            if session.is_none()
                && !conn.is_handshaking()
                && let Ok((tcp, _)) = listener.accept()
                && let Some(stream) = conn.streams().open(Dir::Bi)
            {
                session = Some(Session::new(stream, Some(tcp)));
            }
            progress |= session.as_mut().is_some_and(|session| session.turn(conn, true));
        }
        progress |= bare.send();
        session = session.filter(|session| !session.has_ended());
        if !progress {
            let accepts = PollFd::new(listener, PollFlags::IN);
            let waits = session.as_ref().map_or(vec![accepts], Session::waits);
            bare.wait(waits);
        }
    }
}

fn exit(mut bare: Bare, server: SocketAddr) {
    let mut session: Option<Session> = None;
    loop {
        let mut progress = bare.receive();
        if let Some(conn) = bare.conn() {
            if session.is_none()
                && let Some(stream) = conn.streams().accept(Dir::Bi)
            {
                session = Some(Session::new(stream, None));
            }
            if let Some(session) = &mut session {
                progress |= session.turn(conn, false);
                session.connect(server);
            }
        }
        progress |= bare.send();
        session = session.filter(|session| !session.has_ended());
        if !progress {
            bare.wait(session.as_ref().map_or(Vec::new(), Session::waits));
        }
    }
}

/// One stream, and the TCP connection beside it.
struct Session {
    stream: StreamId,
    tcp: Option<TcpStream>,
    /// Bytes for the stream: read from TCP, or of the exit's own.
    outgoing: Bytes,
    own: usize,
    block: Bytes,
    /// Bytes for TCP.
    backlog: VecDeque<Bytes>,
    waiting: usize,
    discards: bool,
    tcp_ended: bool,
    stream_ended: bool,
    finished: bool,
}

impl Session {
    fn new(stream: StreamId, tcp: Option<TcpStream>) -> Self {
        if let Some(tcp) = &tcp {
            tcp.set_nonblocking(true).unwrap();
            tcp.set_nodelay(true).unwrap();
        }
        Self {
            stream,
            tcp,
            outgoing: Bytes::new(),
            own: 0,
            block: Bytes::from(vec![0; BLOCK]),
            backlog: VecDeque::new(),
            waiting: 0,
            discards: false,
            tcp_ended: false,
            stream_ended: false,
            finished: false,
        }
    }

    fn has_ended(&self) -> bool {
        self.finished && self.stream_ended && self.backlog.is_empty()
    }

    /// At the exit, when the request has come: connects to the server, or begins with bytes of its own.
    fn connect(&mut self, server: SocketAddr) {
        if self.tcp.is_some() || self.own > 0 || self.tcp_ended {
            return;
        }
        let Some(request) = self.backlog.front() else { return };
        if let Some(bytes) = own_bytes(request) {
            (self.own, self.tcp_ended) = (bytes, true);
            self.backlog.clear();
            return;
        }
        let session = Self::new(self.stream, Some(TcpStream::connect(server).unwrap()));
        self.tcp = session.tcp;
    }

    /// Moves bytes both ways. Whether any moved.
    fn turn(&mut self, conn: &mut Connection, at_entry: bool) -> bool {
        let mut progress = self.read_tcp();
        if at_entry && own_bytes(&self.outgoing).is_some() {
            self.discards = true;
        }
        progress |= self.write_stream(conn);
        progress |= self.read_stream(conn);
        progress | self.write_tcp()
    }

    fn read_tcp(&mut self) -> bool {
        let Some(tcp) = &self.tcp else { return false };
        if self.tcp_ended || !self.outgoing.is_empty() {
            return false;
        }
        let mut buffer = Vec::with_capacity(BLOCK);
        match rustix::io::read(tcp, spare_capacity(&mut buffer)) {
            Ok(0) => self.tcp_ended = true,
            Ok(_) => self.outgoing = buffer.into(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(_) => self.tcp_ended = true,
        }
        true
    }

    fn write_stream(&mut self, conn: &mut Connection) -> bool {
        if self.finished {
            return false;
        }
        let mut stream = conn.send_stream(self.stream);
        let mut written = 0;
        let sent = if self.own > 0 {
            let sent = stream.write(&self.block[..self.own.min(BLOCK)]);
            written = *sent.as_ref().unwrap_or(&0);
            self.own -= written;
            sent
        } else if self.outgoing.is_empty() {
            Ok(0)
        } else {
            let mut chunks = [std::mem::take(&mut self.outgoing)];
            let sent = stream.write_chunks(&mut &mut chunks[..]);
            [self.outgoing] = chunks;
            written = *sent.as_ref().unwrap_or(&0);
            sent
        };
        assert!(matches!(sent, Ok(_) | Err(WriteError::Blocked)), "{sent:?}");
        if self.tcp_ended && self.outgoing.is_empty() && self.own == 0 {
            stream.finish().unwrap();
            self.finished = true;
            return true;
        }
        written > 0
    }

    fn read_stream(&mut self, conn: &mut Connection) -> bool {
        if self.stream_ended || self.waiting >= BACKLOG {
            return false;
        }
        let mut stream = conn.recv_stream(self.stream);
        let Ok(mut chunks) = stream.read(true) else { return false };
        let mut progress = false;
        while self.waiting < BACKLOG {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) if !self.discards => {
                    self.waiting += chunk.bytes.len();
                    self.backlog.push_back(chunk.bytes);
                }
                Ok(Some(_)) => {}
                Ok(None) => {
                    self.stream_ended = true;
                    if self.discards {
                        let answer =
                            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
                        self.backlog.push_back(answer.into());
                    }
                    progress = true;
                    break;
                }
                Err(ReadError::Blocked) => break,
                Err(error) => panic!("{error}"),
            }
            progress = true;
        }
        let _ = chunks.finalize();
        progress
    }

    fn write_tcp(&mut self) -> bool {
        let Some(mut tcp) = self.tcp.as_ref() else { return false };
        let mut progress = false;
        while !self.backlog.is_empty() {
            let slices: Vec<_> =
                self.backlog.iter().take(CHUNKS).map(|chunk| IoSlice::new(chunk)).collect();
            let Ok(mut written) = tcp.write_vectored(&slices) else { return progress };
            progress = true;
            self.waiting = self.waiting.saturating_sub(written);
            while let Some(chunk) = self.backlog.front_mut()
                && written > 0
            {
                let part = chunk.split_to(written.min(chunk.len()));
                written -= part.len();
                if chunk.is_empty() {
                    self.backlog.pop_front();
                }
            }
        }
        if self.stream_ended {
            // A client that has closed already needs no end.
            let _ = tcp.shutdown(Shutdown::Write);
        }
        progress
    }

    /// What this waits for.
    fn waits(&self) -> Vec<PollFd<'_>> {
        let Some(tcp) = &self.tcp else { return Vec::new() };
        let mut events = PollFlags::empty();
        events.set(PollFlags::IN, !self.tcp_ended && self.outgoing.is_empty());
        events.set(PollFlags::OUT, !self.backlog.is_empty());
        if events.is_empty() {
            Vec::new()
        } else {
            vec![PollFd::from_borrowed_fd(tcp.as_fd(), events)]
        }
    }
}

/// How many bytes this HTTP request wants of the exit's own.
fn own_bytes(request: &[u8]) -> Option<usize> {
    let request = std::str::from_utf8(request.get(..64.min(request.len()))?).ok()?;
    let wanted = request.strip_prefix("GET ")?.strip_prefix(OWN_BYTES)?;
    wanted.split(' ').next()?.parse().ok()
}
