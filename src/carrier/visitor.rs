//! A session at the listener of which it is not known yet whether a member or a browser has come.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use super::{
    knock::{Judged, KNOCK_LEN, KnockKey, judge},
    tls,
};

/// A session that the web server serves from its beginning, so that a stranger sees no difference. The server is shown
/// nothing of a knock: its connection seems to have ended.
pub(super) struct Visitor {
    session: TlsStream<TcpStream>,
    /// The knock of a member; `None` if this session has none.
    due: Option<[u8; KNOCK_LEN]>,
    /// What came before it was clear who it is, and has not been read yet.
    came: BytesMut,
    judged: Judged,
}

impl Visitor {
    pub(super) fn new(session: TlsStream<TcpStream>, key: &KnockKey) -> Self {
        let due = tls::session_of(session.get_ref().1).map(|exported| key.knock(&exported));
        let judged = if due.is_some() { Judged::Beginning } else { Judged::Other };
        Self { session, due, came: BytesMut::new(), judged }
    }

    /// Whether HTTP/2 was agreed.
    pub(super) fn speaks_h2(&self) -> bool {
        tls::speaks_h2(self.session.get_ref().1)
    }

    /// The session and what came behind the knock, if this is a member.
    pub(super) fn member(mut self) -> Option<(TlsStream<TcpStream>, BytesMut)> {
        (self.judged == Judged::Knock).then(|| (self.session, self.came.split_off(KNOCK_LEN)))
    }

    /// Reads once, by the room in `buf`, to find out who it is.
    fn poll_judge(
        &mut self,
        cx: &mut Context<'_>,
        due: &[u8; KNOCK_LEN],
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.session).poll_read(cx, buf))?;
        let new = &buf.filled()[before..];
        self.came.extend_from_slice(new);
        // An end is that of a stranger.
        self.judged = if new.is_empty() { Judged::Other } else { judge(due, &self.came) };
        buf.set_filled(before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Visitor {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match (self.judged, self.due) {
                (Judged::Knock, _) => return Poll::Ready(Ok(())),
                (Judged::Beginning, Some(due)) => ready!(self.poll_judge(cx, &due, buf))?,
                _ if self.came.is_empty() => {
                    return Pin::new(&mut self.session).poll_read(cx, buf);
                }
                _ => {
                    let len = self.came.len().min(buf.remaining());
                    buf.put_slice(&self.came[..len]);
                    self.came.advance(len);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

/// What the web server writes goes to strangers, and to a member until its knock is there.
impl AsyncWrite for Visitor {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.judged == Judged::Knock {
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut self.session).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.session).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.judged == Judged::Knock {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.session).poll_shutdown(cx)
    }
}
