//! Hands the channel of one process to another, as a file descriptor.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{fd::AsFd as _, unix::net::UnixStream as Channel},
};

use rustix::{
    io::{FdFlags, fcntl_setfd},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
};
use tokio::{io::Interest, net::UnixStream};

/// Sends one byte, and with it the channel, unless there is none.
pub(super) async fn hand_over(to: &UnixStream, channel: Option<&Channel>) -> io::Result<()> {
    let descriptors = channel.map(|channel| [channel.as_fd()]);
    to.async_io(Interest::WRITABLE, || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if let Some(descriptors) = &descriptors {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        sendmsg(to, &[IoSlice::new(&[0])], &mut control, SendFlags::empty())?;
        Ok(())
    })
    .await
}

/// Receives that byte; `None`: without a channel.
pub(super) async fn take_over(from: &UnixStream) -> io::Result<Option<UnixStream>> {
    let received = from.async_io(Interest::READABLE, || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let got =
            recvmsg(from, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::empty())?;
        if got.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let descriptors = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        Ok(descriptors.flatten().next())
    });
    let Some(channel) = received.await? else { return Ok(None) };
    fcntl_setfd(&channel, FdFlags::CLOEXEC)?;
    attach(channel.into()).map(Some)
}

/// A channel for this runtime.
pub(super) fn attach(channel: Channel) -> io::Result<UnixStream> {
    channel.set_nonblocking(true)?;
    UnixStream::from_std(channel)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_channel_that_was_handed_over_works_at_its_new_holder() {
        let (one, other) = UnixStream::pair().unwrap();
        let (near, far) = Channel::pair().unwrap();
        hand_over(&one, Some(&far)).await.unwrap();
        drop(far);
        let mut far = take_over(&other).await.unwrap().unwrap();
        attach(near).unwrap().write_all(b"x").await.unwrap();
        assert_eq!(far.read_u8().await.unwrap(), b'x');
    }

    #[tokio::test]
    async fn no_channel_and_no_answer_are_told_apart() {
        let (one, other) = UnixStream::pair().unwrap();
        hand_over(&one, None).await.unwrap();
        assert!(take_over(&other).await.unwrap().is_none());
        drop(one);
        assert_eq!(take_over(&other).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
