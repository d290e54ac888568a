//! A pipe inside the process that tells an orderly end from a broken one.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};

/// One end of a pipe. When it is dropped before it was shut down, the other end reads what was written, and
/// then an error: it never takes a part for the whole.
pub(crate) struct PipeEnd {
    io: DuplexStream,
    /// Whether this end was shut down, and the other one.
    ended: Arc<AtomicBool>,
    far_ended: Arc<AtomicBool>,
}

/// Both ends of a pipe that holds `capacity` bytes each way.
pub(super) fn pipe(capacity: usize) -> (PipeEnd, PipeEnd) {
    let (near, far) = duplex(capacity);
    let (a, b) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let other = PipeEnd { io: far, ended: b.clone(), far_ended: a.clone() };
    (PipeEnd { io: near, ended: a, far_ended: b }, other)
}

impl AsyncRead for PipeEnd {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.io).poll_read(cx, buf);
        let at_end = buf.filled().len() == before && buf.remaining() > 0;
        match polled {
            Poll::Ready(Ok(())) if at_end && !this.far_ended.load(Ordering::Acquire) => {
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
            polled => polled,
        }
    }
}

impl AsyncWrite for PipeEnd {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.ended.store(true, Ordering::Release);
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_pipe_ends_in_order_only_after_a_shutdown() {
        for orderly in [true, false] {
            let (mut near, mut far) = pipe(8);
            near.write_all(b"part").await.unwrap();
            if orderly {
                near.shutdown().await.unwrap();
            }
            drop(near);
            let mut read = Vec::new();
            let end = far.read_to_end(&mut read).await;
            assert_eq!((read.as_slice(), end.is_ok()), (&b"part"[..], orderly));
            assert_eq!(far.write_all(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        }
    }
}
