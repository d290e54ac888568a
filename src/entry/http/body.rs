//! Reading messages off a byte stream, and writing bodies onto one.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{
    MAX_HTTP_HEAD,
    fields::Fields,
    framing::Length,
    head::{self, BadHead, Reading},
};

/// Room for one read: what a socket holds on a fast path. It exists only while bytes are moving.
const READ: usize = 32 * 1024;

/// Longest line of a chunk or trailer: a chunk's size and extensions, which are rare.
const MAX_CHUNK_LINE: usize = 4 * 1024;

/// Fields that no trailer may carry: framing, addressing and connection are settled by then
/// (RFC 9110, §6.5.1).
const NO_TRAILERS: [&str; 9] = [
    "content-length",
    "transfer-encoding",
    "host",
    "connection",
    "trailer",
    "te",
    "upgrade",
    "proxy-authorization",
    "authorization",
];

/// A byte stream and what was read from it ahead.
#[derive(Debug)]
pub(super) struct Buffered<R> {
    io: R,
    buffer: BytesMut,
}

/// Why no head came.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoHead {
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("the connection ended within the head")]
    Cut,
    #[error("the head exceeds {MAX_HTTP_HEAD} bytes")]
    TooLong,
}

/// Why a body came to no end.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoBody {
    #[error("the connection broke in the middle of the body: {0}")]
    Io(#[from] io::Error),
    #[error("the connection ended in the middle of the body")]
    Cut,
    #[error("the body has a wrong chunk: {0}")]
    Chunk(&'static str),
    #[error("the body's trailer section is wrong: it {0}")]
    Trailers(#[from] BadHead),
}

/// A part of a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Data(Bytes),
    Trailers(Fields),
}

/// Reads one body.
#[derive(Debug)]
pub(super) struct BodyReader {
    state: State,
    reading: Reading,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// So many bytes remain.
    Left(u64),
    UntilClose,
    ChunkLine,
    /// So many bytes of the chunk remain.
    Chunk(u64),
    ChunkEnd,
    Trailers,
    Done,
}

impl<R: AsyncRead + Unpin> Buffered<R> {
    pub(super) fn new(io: R) -> Self {
        Self { io, buffer: BytesMut::new() }
    }

    pub(super) fn get_ref(&self) -> &R {
        &self.io
    }

    pub(super) fn get_mut(&mut self) -> &mut R {
        &mut self.io
    }

    /// The stream and what was read ahead.
    pub(super) fn into_parts(self) -> (R, Bytes) {
        (self.io, self.buffer.freeze())
    }

    /// Whether bytes were read ahead.
    pub(super) fn has_more(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Reads more; 0 at the end. Safe to cancel.
    async fn fill(&mut self) -> io::Result<usize> {
        self.buffer.reserve(READ);
        self.io.read_buf(&mut self.buffer).await
    }

    /// Waits until a byte of the next message is there; `false` at the end. Safe to cancel.
    ///
    /// An idle connection holds no buffer meanwhile.
    pub(super) async fn starts(&mut self) -> io::Result<bool> {
        loop {
            self.buffer.advance(head::blank(&self.buffer));
            if self.has_more() {
                return Ok(true);
            }
            self.buffer = BytesMut::new();
            let mut first = [0; 1024];
            let read = self.io.read(&mut first).await?;
            if read == 0 {
                return Ok(false);
            }
            self.buffer.extend_from_slice(&first[..read]);
        }
    }

    /// Reads a head with its empty line; `None` when the stream ended before it. Safe to cancel.
    pub(super) async fn head(&mut self) -> Result<Option<Bytes>, NoHead> {
        let mut seen = 0;
        loop {
            if let Some(end) = head::end(&self.buffer, seen) {
                if end > MAX_HTTP_HEAD {
                    return Err(NoHead::TooLong);
                }
                return Ok(Some(self.buffer.split_to(end).freeze()));
            }
            if self.buffer.len() > MAX_HTTP_HEAD {
                return Err(NoHead::TooLong);
            }
            seen = self.buffer.len();
            if self.fill().await? == 0 {
                let nothing = head::blank(&self.buffer) == self.buffer.len();
                return if nothing { Ok(None) } else { Err(NoHead::Cut) };
            }
        }
    }

    /// Reads a line with its end.
    async fn line(&mut self) -> Result<Bytes, NoBody> {
        loop {
            match self.buffer.iter().take(MAX_CHUNK_LINE).position(|&byte| byte == b'\n') {
                Some(end) => return Ok(self.buffer.split_to(end + 1).freeze()),
                None if self.buffer.len() >= MAX_CHUNK_LINE => {
                    return Err(NoBody::Chunk("one of its lines is too long"));
                }
                None => self.more().await?,
            }
        }
    }

    async fn more(&mut self) -> Result<(), NoBody> {
        if self.fill().await? == 0 { Err(NoBody::Cut) } else { Ok(()) }
    }
}

impl BodyReader {
    pub(super) fn new(length: Length, reading: Reading) -> Self {
        let state = match length {
            Length::Exactly(0) => State::Done,
            Length::Exactly(length) => State::Left(length),
            Length::Chunked => State::ChunkLine,
            Length::UntilClose => State::UntilClose,
        };
        Self { state, reading }
    }

    /// The next piece; `None` at the body's end.
    pub(super) async fn next<R: AsyncRead + Unpin>(
        &mut self,
        from: &mut Buffered<R>,
    ) -> Result<Option<Piece>, NoBody> {
        loop {
            match self.state {
                State::Done => return Ok(None),
                State::UntilClose => {
                    if !from.has_more() && from.fill().await? == 0 {
                        self.state = State::Done;
                        return Ok(None);
                    }
                    return Ok(Some(Piece::Data(from.buffer.split().freeze())));
                }
                State::Left(left) => {
                    let (data, left) = take(from, left).await?;
                    self.state = if left == 0 { State::Done } else { State::Left(left) };
                    return Ok(Some(Piece::Data(data)));
                }
                State::Chunk(left) => {
                    let (data, left) = take(from, left).await?;
                    self.state = if left == 0 { State::ChunkEnd } else { State::Chunk(left) };
                    return Ok(Some(Piece::Data(data)));
                }
                State::ChunkEnd => {
                    let line = from.line().await?;
                    if !self.content(&line)?.is_empty() {
                        return Err(NoBody::Chunk("it is longer than it says"));
                    }
                    self.state = State::ChunkLine;
                }
                State::ChunkLine => {
                    let line = from.line().await?;
                    self.state = match size(self.content(&line)?)? {
                        0 => State::Trailers,
                        size => State::Chunk(size),
                    };
                }
                State::Trailers => {
                    let trailers = self.trailers(from).await?;
                    self.state = State::Done;
                    if trailers.len() > 0 {
                        return Ok(Some(Piece::Trailers(trailers)));
                    }
                }
            }
        }
    }

    /// A line without its end, which in a request must be CR and LF.
    fn content<'a>(&self, line: &'a [u8]) -> Result<&'a [u8], NoBody> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        match line.strip_suffix(b"\r") {
            Some(content) => Ok(content),
            None if self.reading == Reading::Lenient => Ok(line),
            None => Err(NoBody::Chunk("one of its lines does not end with CR and LF")),
        }
    }

    async fn trailers<R: AsyncRead + Unpin>(
        &self,
        from: &mut Buffered<R>,
    ) -> Result<Fields, NoBody> {
        let mut bytes = Vec::new();
        loop {
            let line = from.line().await?;
            let content = self.content(&line)?;
            bytes.extend_from_slice(content);
            bytes.extend_from_slice(b"\r\n");
            if content.is_empty() {
                break;
            }
            if bytes.len() > MAX_HTTP_HEAD {
                return Err(NoBody::Chunk("its trailer section is too long"));
            }
        }
        let mut trailers = head::trailers(&bytes, self.reading)?;
        NO_TRAILERS.iter().for_each(|name| trailers.remove(name));
        Ok(trailers)
    }
}

/// Up to `left` bytes that are there, and how many remain.
async fn take<R: AsyncRead + Unpin>(
    from: &mut Buffered<R>,
    left: u64,
) -> Result<(Bytes, u64), NoBody> {
    if !from.has_more() {
        from.more().await?;
    }
    let there = from.buffer.len();
    let taken = usize::try_from(left).map_or(there, |left| left.min(there));
    Ok((from.buffer.split_to(taken).freeze(), left - taken as u64))
}

/// The size that a chunk's first line says; extensions are left out.
fn size(line: &[u8]) -> Result<u64, NoBody> {
    let digits = line.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii_end();
    let text = std::str::from_utf8(digits).unwrap_or_default();
    let hex = text.len() <= 15 && !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    if !hex || line.iter().any(|&byte| byte.is_ascii_control() && byte != b'\t') {
        return Err(NoBody::Chunk("its size is no hexadecimal number"));
    }
    u64::from_str_radix(text, 16).map_err(|_| NoBody::Chunk("its size is no hexadecimal number"))
}

/// Writes one body.
#[derive(Debug)]
pub(super) struct BodyWriter {
    /// Written together with the next bytes: the head, while its body is not there yet.
    before: Bytes,
    chunked: bool,
}

impl BodyWriter {
    /// A writer that begins with `head`.
    pub(super) fn new(head: Vec<u8>, chunked: bool) -> Self {
        Self { before: head.into(), chunked }
    }

    /// Writes what is held back.
    pub(super) async fn flush<W: AsyncWrite + Unpin>(&mut self, to: &mut W) -> io::Result<()> {
        to.write_all_buf(&mut self.before).await?;
        to.flush().await
    }

    pub(super) async fn write<W: AsyncWrite + Unpin>(
        &mut self,
        piece: Piece,
        to: &mut W,
    ) -> io::Result<()> {
        match piece {
            Piece::Data(data) if self.chunked => {
                let line = Bytes::from(format!("{:x}\r\n", data.len()));
                let chunk = (&mut self.before).chain(line).chain(data);
                to.write_all_buf(&mut chunk.chain(&b"\r\n"[..])).await
            }
            Piece::Data(data) => to.write_all_buf(&mut (&mut self.before).chain(data)).await,
            Piece::Trailers(trailers) if self.chunked => {
                self.chunked = false;
                let mut end = b"0\r\n".to_vec();
                trailers.write(&mut end);
                to.write_all_buf(&mut (&mut self.before).chain(&end[..])).await
            }
            // Without chunks there is no place for them (RFC 9110, §6.5).
            Piece::Trailers(_) => Ok(()),
        }
    }

    /// Writes the body's end.
    pub(super) async fn finish<W: AsyncWrite + Unpin>(mut self, to: &mut W) -> io::Result<()> {
        let end: &[u8] = if self.chunked { b"0\r\n\r\n" } else { b"" };
        to.write_all_buf(&mut (&mut self.before).chain(end)).await?;
        to.flush().await
    }
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
