//! The two processes.

use std::{io, os::fd::AsFd as _};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
    signal::unix::{Signal, SignalKind, signal},
};

use super::{
    Answer, Clerk, Program,
    child::{ChildProcess, Started, WORKER_TIMEOUT},
    message::{Asked, MAX_QUESTION, START_A_SPARE, read_frame, write_frame},
    spare::{attach, hand_over},
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

/// Passes questions from the channel to a worker, which is started again when it ends, and starts a
/// spare of itself when it is told to.
///
/// It starts the worker at the first question: a spare has none, so one process has the key.
///
/// # Errors
/// When the channel to the node is broken, or the worker cannot be started.
pub(crate) async fn keep(worker: Program, spare: Program) -> Result<(), ServeError> {
    let _ignored = ignore_signals()?;
    // Standard output is the same socket.
    let node = attach(io::stdin().as_fd().try_clone_to_owned()?.into())?;
    Ok(unless_gone(pass_on(node, worker, spare).await)?)
}

/// The asker may end at any time, also in the middle of an answer.
fn unless_gone(done: io::Result<()>) -> io::Result<()> {
    done.or_else(|error| match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Ok(()),
        _ => Err(error),
    })
}

async fn pass_on(mut node: UnixStream, worker: Program, spare: Program) -> io::Result<()> {
    let unavailable = Answer::Refused(JoinRefusal::Unavailable).encode();
    let mut running = None;
    while let Some(question) = read_frame(&mut node, MAX_QUESTION).await? {
        let worker = match &running {
            Some(worker) => worker,
            None => running.insert(ChildProcess::new(worker.clone().start()?, WORKER_TIMEOUT)),
        };
        if question == START_A_SPARE {
            let spare = spare.clone().start().map(Started::give_away);
            let spare = spare.inspect_err(
                |error| tracing::warn!(%error, "the spare signer process did not start"),
            );
            hand_over(&node, spare.ok().as_ref()).await?;
            continue;
        }
        let answer = worker.ask(question).await;
        write_frame(&mut node, answer.as_deref().unwrap_or(&unavailable)).await?;
    }
    Ok(())
}

/// Answers questions from standard input.
///
/// # Errors
/// When the channel is broken.
pub(crate) async fn work(mut clerk: Clerk) -> Result<(), ServeError> {
    let _ignored = ignore_signals()?;
    let done = converse(&mut clerk, &mut tokio::io::stdin(), &mut tokio::io::stdout()).await;
    Ok(unless_gone(done)?)
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
pub(crate) fn hide_memory() -> Result<(), ServeError> {
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
            let asked = Asked { at, question: Question::Open };
            frame(&asked.encode().unwrap())
        };
        let now = UnixTime::now().as_secs();
        let input = [frame(b"\xff\xff"), ask(now), ask(now - 60)].concat();
        let (answers, done) = converse_with(&input).await;
        let expected = [
            Answer::Refused(JoinRefusal::Internal),
            Answer::Open(Vec::new()),
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
