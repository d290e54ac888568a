//! Messages on the channel to the signer: a length of four bytes, then postcard.

use std::{io, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::invite::InviteRefusal;
use crate::identity::{
    Actor, Certified, JoinRefusal, JoinRequest, MAX_JOIN_REPLY, MAX_JOIN_REQUEST, NodeName,
    Renewed, Token, UnixTime, Welcome,
};

/// The largest question: a join request and its source address.
pub(super) const MAX_QUESTION: usize = MAX_JOIN_REQUEST + 64;

/// The largest answer: a welcome without members.
pub(super) const MAX_ANSWER: usize = MAX_JOIN_REPLY;

/// The question that tells a keeper to start a spare one: the empty one. The answer is one byte, and the
/// spare's channel comes along with it.
pub(super) const START_A_SPARE: &[u8] = &[];

/// What the node asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// A joiner wants to redeem its invitation.
    Join(JoinRequest, Actor),
    /// A node wants its next certificate for the key of this signing request (PKCS#10, DER).
    Renew(Vec<u8>, Actor),
    /// Which invitations are open?
    Open,
    /// The dashboard invites an entry of this name, with this token.
    Invite(Token, NodeName),
    /// Who is a member, by the record?
    Members,
}

/// What the signer answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The joiner is a member. The node adds the members that it knows.
    Welcome(Welcome),
    /// The node's next certificate.
    Renewed(Renewed),
    /// The SHA-256 of the token of each open invitation.
    Open(Vec<[u8; 32]>),
    /// No, and why.
    Refused(JoinRefusal),
    /// The invitation is on record.
    Invited(NewInvitation),
    /// It is not, and why.
    NotInvited(InviteRefusal),
    /// The members by their newest certificates, and how many more there are.
    Members(Vec<Certified>, u32),
}

/// An invitation that the dashboard gave out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewInvitation {
    /// Its identifier.
    pub id: String,
    /// When it ends, in seconds since 1970.
    pub expires: u64,
}

/// How long an asker waits: a joiner waits for 10 s for its reply.
pub(super) const PATIENCE: Duration = Duration::from_secs(8);

/// A question, and when it was asked by the machine's clock, in seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Asked {
    pub(super) at: u64,
    pub(super) question: Question,
}

impl Asked {
    /// Whether the asker has given up.
    pub(super) fn is_late(&self, now: UnixTime) -> bool {
        now.as_secs().saturating_sub(self.at) >= PATIENCE.as_secs()
    }

    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        postcard::to_stdvec(self).ok().filter(|bytes| bytes.len() <= MAX_QUESTION)
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        whole(postcard::take_from_bytes(bytes))
    }
}

impl Answer {
    /// The members; those in excess of what an answer holds are counted, the ones whose certificates ended first
    /// of all.
    pub(super) fn members(mut all: Vec<Certified>) -> Self {
        // The rest of the answer: its number, and the two counts.
        let mut room = MAX_ANSWER - 16;
        all.sort_by_key(|member| {
            let gone = member.listed || member.revoked.is_some();
            (gone, std::cmp::Reverse(member.expires))
        });
        let fits = all.iter().take_while(|member| {
            let size = postcard::to_stdvec(member).map_or(usize::MAX, |bytes| bytes.len());
            let fits = size <= room;
            room = room.saturating_sub(size);
            fits
        });
        let fits = fits.count();
        let left_out = u32::try_from(all.len() - fits).unwrap_or(u32::MAX);
        all.truncate(fits);
        Self::Members(all, left_out)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let bytes = postcard::to_stdvec(self).ok().filter(|bytes| bytes.len() <= MAX_ANSWER);
        // Two bytes: the number of the answer and that of the refusal.
        bytes.unwrap_or_else(|| {
            tracing::error!("an answer is too long for the channel");
            postcard::to_stdvec(&Self::Refused(JoinRefusal::Internal)).unwrap_or_default()
        })
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        whole(postcard::take_from_bytes(bytes))
    }
}

fn whole<T>(read: postcard::Result<(T, &[u8])>) -> Option<T> {
    match read {
        Ok((message, [])) => Some(message),
        _ => None,
    }
}

/// Reads one frame of at most `cap` bytes; `None` at the end of the channel between two frames.
pub(super) async fn read_frame(
    from: &mut (impl AsyncRead + Unpin),
    cap: usize,
) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    if from.read(&mut length[..1]).await? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut length[1..]).await?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > cap {
        let why = format!("a frame of {length} bytes, where {cap} are the most");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).await?;
    Ok(Some(bytes))
}

/// Writes one frame.
pub(super) async fn write_frame(
    to: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    to.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    to.flush().await
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[tokio::test]
    async fn frames_beyond_their_cap_are_refused_unread() {
        let read = |bytes: &'static [u8], cap| async move { read_frame(&mut &*bytes, cap).await };
        assert_eq!(read(b"\0\0\0\x02ab", 2).await.unwrap().unwrap(), b"ab");
        assert!(read(b"", 2).await.unwrap().is_none());
        assert!(read(b"\0\0\0\x03abc", 2).await.is_err());
        assert!(read(b"\xff\xff\xff\xff", usize::MAX - 1).await.is_err());
        assert!(read(b"\0\0", 2).await.is_err());
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = Asked::decode(&bytes);
            let _ = Answer::decode(&bytes);
        }
    }
}
