//! The two processes.

use std::io;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    signal::unix::{Signal, SignalKind, signal},
};

use super::{
    Answer, Clerk, Program,
    child::{ChildProcess, WORKER_TIMEOUT},
    message::{Asked, MAX_QUESTION, read_frame, write_frame},
};
use crate::identity::{AuthorityError, JoinRefusal, UnixTime};

/// Why a signer process ended before its input did.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The authority cannot be opened.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The channel, or the system.
    #[error("the signer's channel failed: {0}; it is started by `ronproxy run`, not by hand")]
    Channel(#[from] io::Error),
}

/// Passes questions from standard input to a worker, which is started again when it ends.
///
/// # Errors
/// When the channel to the node is broken.
pub async fn keep(worker: Program) -> Result<(), ServeError> {
    let _ignored = ignore_signals()?;
    let worker = ChildProcess::new(worker.start()?, Some(WORKER_TIMEOUT));
    let unavailable = Answer::Refused(JoinRefusal::Unavailable).encode();
    let (mut input, mut output) = (tokio::io::stdin(), tokio::io::stdout());
    while let Some(question) = read_frame(&mut input, MAX_QUESTION).await? {
        let answer = worker.ask(question).await;
        write_frame(&mut output, answer.as_deref().unwrap_or(&unavailable)).await?;
    }
    Ok(())
}

/// Answers questions from standard input.
///
/// # Errors
/// When the channel is broken.
pub async fn work(mut clerk: Clerk) -> Result<(), ServeError> {
    let _ignored = ignore_signals()?;
    converse(&mut clerk, &mut tokio::io::stdin(), &mut tokio::io::stdout()).await?;
    Ok(())
}

async fn converse(
    clerk: &mut Clerk,
    input: &mut (impl AsyncRead + Unpin),
    output: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    while let Some(bytes) = read_frame(input, MAX_QUESTION).await? {
        let now = UnixTime::now();
        let answer = match Asked::decode(&bytes) {
            // The asker has already got a refusal. A redemption now would waste its invitation.
            Some(asked) if asked.is_late(now) => Answer::Refused(JoinRefusal::Unavailable),
            Some(asked) => clerk.answer(&asked.question, now),
            None => {
                tracing::warn!(bytes = bytes.len(), "a question on the channel is unreadable");
                Answer::Refused(JoinRefusal::Internal)
            }
        };
        write_frame(output, &answer.encode()).await?;
    }
    Ok(())
}

/// Keeps this process' memory out of core dumps, and from other processes of the same user.
///
/// # Errors
/// The system's.
pub fn hide_memory() -> Result<(), ServeError> {
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(io::Error::from)?;
    Ok(())
}

/// The signer ignores signals to the whole process group, such as Ctrl-C or a service's stop: it
/// ends when the node ends.
fn ignore_signals() -> io::Result<[Signal; 3]> {
    Ok([
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
    ])
}

#[cfg(test)]
mod tests {
    use super::{super::Question, *};
    use crate::identity::{LIFETIME, test_support::Overlay};

    /// What the worker answers to these bytes, and whether it went on to their end.
    async fn converse_with(input: &[u8]) -> (Vec<Answer>, bool) {
        let overlay = Overlay::new();
        let mut clerk = Clerk::open(&overlay.dir, LIFETIME).unwrap();
        let mut output = Vec::new();
        let done = converse(&mut clerk, &mut &*input, &mut output).await.is_ok();
        let (mut answers, mut rest) = (Vec::new(), &output[..]);
        while let Some(bytes) = read_frame(&mut rest, usize::MAX).await.unwrap() {
            answers.push(Answer::decode(&bytes).unwrap());
        }
        (answers, done)
    }

    fn frame(bytes: &[u8]) -> Vec<u8> {
        [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
    }

    #[tokio::test]
    async fn garbage_is_refused_like_late_questions_and_the_rest_answered() {
        let ask = |at| {
            let asked = Asked { at, question: Question::AnyOpen };
            frame(&asked.encode().unwrap())
        };
        let now = UnixTime::now().as_secs();
        let input = [frame(b"\xff\xff"), ask(now), ask(now - 60)].concat();
        let (answers, done) = converse_with(&input).await;
        let expected = [
            Answer::Refused(JoinRefusal::Internal),
            Answer::AnyOpen(false),
            Answer::Refused(JoinRefusal::Unavailable),
        ];
        assert_eq!((answers.as_slice(), done), (&expected[..], true));
    }

    #[tokio::test]
    async fn a_frame_beyond_the_cap_or_cut_off_ends_the_worker() {
        for input in [&frame(&[0; MAX_QUESTION + 1])[..], &[0, 0, 0, 9, 1], &[0xff; 64]] {
            let (answers, done) = converse_with(input).await;
            assert!(answers.is_empty() && !done);
        }
    }
}
