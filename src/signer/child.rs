//! A process that is asked over a channel, and replaced when it ends.

use std::{
    io,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream as Channel, process::CommandExt as _},
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::{
    io::AsyncReadExt as _,
    net::UnixStream,
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};

use super::{
    message::{MAX_ANSWER, START_A_SPARE, read_frame, write_frame},
    spare::{attach, take_over},
};

/// Questions that wait for the one being answered. Joiners and renewing nodes are few, and each
/// waits for its own answer; more are refused at once.
const QUEUE: usize = 32;

/// An answer takes a few signatures and disk writes, about 20 ms on a slow disk. A worker that
/// needs much longer hangs, and is replaced. On an overloaded machine a new worker would be as
/// slow, so this is long.
pub(super) const WORKER_TIMEOUT: Duration = Duration::from_secs(20);

/// A keeper answers when its worker does, or when it has given the worker up.
pub(super) const KEEPER_TIMEOUT: Duration = Duration::from_secs(2 * WORKER_TIMEOUT.as_secs());

/// The pause before the first replacement. It doubles, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The longest pause: a folder that was repaired is used again within this time.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// After this time the next end of a process counts as its first.
const STEADY: Duration = Duration::from_secs(60);

/// How long a process may take to end after the end of its input.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// A program with its arguments.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    path: PathBuf,
    arguments: Vec<std::ffi::OsString>,
}

impl Program {
    /// This program, with other arguments.
    ///
    /// On Linux it is the running file itself, even if another version has taken its place.
    ///
    /// # Errors
    /// When the system does not say where it is.
    pub(crate) fn this(
        arguments: impl IntoIterator<Item = impl Into<std::ffi::OsString>>,
    ) -> io::Result<Self> {
        let path = if cfg!(target_os = "linux") {
            PathBuf::from("/proc/self/exe")
        } else {
            std::env::current_exe()?
        };
        Ok(Self { path, arguments: arguments.into_iter().map(Into::into).collect() })
    }

    /// Starts it; its standard input and output are its end of the channel. Needs no runtime.
    ///
    /// # Errors
    /// When the system cannot start it.
    pub(crate) fn start(self) -> io::Result<Started> {
        let (channel, far) = Channel::pair()?;
        let far = OwnedFd::from(far);
        let mut command = Command::new(&self.path);
        // `ps` shows this name.
        command.arg0("ronproxy").args(&self.arguments);
        command.stdin(far.try_clone()?).stdout(far).stderr(Stdio::inherit());
        let process = command.spawn()?;
        Ok(Started { program: self, process, channel, spare: None })
    }
}

/// A process that was started and not yet asked.
#[derive(Debug)]
pub struct Started {
    program: Program,
    process: Child,
    channel: Channel,
    /// Another one, which waits to take its place.
    spare: Option<Channel>,
}

/// The signer did not start a spare one.
#[derive(Debug, thiserror::Error)]
#[error(
    "the process that keeps the authority's key did not start its spare ({0}); the log says why; run this again"
)]
pub struct NoSpare(#[from] io::Error);

impl Started {
    /// The same, which has started a spare one. A node that confines itself waits for it before: if the process
    /// ended without one, nothing could take its place.
    ///
    /// # Errors
    /// When the process ends, or needs more than 40 s.
    pub async fn having_started_a_spare(self) -> Result<Self, NoSpare> {
        let Self { program, process, channel, .. } = self;
        let mut asked = attach(channel)?;
        let spare =
            timeout(KEEPER_TIMEOUT, spare_of(&mut asked)).await.map_err(io::Error::from)??;
        if spare.is_none() {
            tracing::warn!("the signer cannot start a spare process; it is asked again later");
        }
        let spare = spare.map(UnixStream::into_std).transpose()?;
        Ok(Self { program, process, channel: asked.into_std()?, spare })
    }

    fn attach(self) -> io::Result<Running> {
        Ok(Running { process: Some(self.process), channel: attach(self.channel)? })
    }

    /// Gives the process away: the owner of the returned channel uses it from now on.
    pub(super) fn give_away(self) -> Channel {
        let mut process = self.process;
        // The end of a process has to be waited for; it says no more than the end of the channel.
        std::thread::spawn(move || process.wait());
        self.channel
    }
}

struct Running {
    /// `None`: another process has started it.
    process: Option<Child>,
    channel: UnixStream,
}

/// Why a process gets no more questions.
enum End {
    /// It has ended, or it has to.
    Failed(Running),
    /// No caller is left.
    Unasked(Running),
}

struct Asked {
    question: Vec<u8>,
    answer: oneshot::Sender<Vec<u8>>,
}

/// Asks a process. The process ends with the last clone of this.
#[derive(Debug, Clone)]
pub(super) struct ChildProcess {
    asked: mpsc::Sender<Asked>,
}

impl ChildProcess {
    /// Asks the process, and starts it again when it has ended or needs longer than `limit` for an
    /// answer.
    pub(super) fn new(started: Started, limit: Duration) -> Self {
        Self::replaced_by(None, started, limit)
    }

    /// Asks the process, which starts a spare one when it is told to. The spare takes its place when it
    /// has ended or needs longer than `limit`, and starts the next. So a confined process can use this.
    pub(super) fn with_spare(mut started: Started, limit: Duration) -> Self {
        // One that cannot be used is asked for anew.
        let held = started.spare.take().and_then(|channel| attach(channel).ok());
        let now = Instant::now();
        let spare = Spare { held, asked: now, ask_at: now, pauses: Pauses::default() };
        Self::replaced_by(Some(spare), started, limit)
    }

    fn replaced_by(spare: Option<Spare>, started: Started, limit: Duration) -> Self {
        let (asked, questions) = mpsc::channel(QUEUE);
        tokio::spawn(keep_running(started, limit, spare, questions));
        Self { asked }
    }

    /// Asks one question. `None`: the process does not run, does not answer, or has too much to do.
    pub(super) async fn ask(&self, question: Vec<u8>) -> Option<Vec<u8>> {
        let (answer, answered) = oneshot::channel();
        self.asked.try_send(Asked { question, answer }).ok()?;
        answered.await.ok()
    }
}

/// The pauses between replacements. Pure.
struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(FIRST_PAUSE)
    }
}

impl Pauses {
    /// The pause after a process that has lived for so long.
    fn after(&mut self, lived: Duration) -> Duration {
        if lived >= STEADY {
            self.0 = FIRST_PAUSE;
        }
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST_PAUSE);
        pause
    }
}

/// A process that waits to take the place of the one that is asked.
struct Spare {
    held: Option<UnixStream>,
    /// When it was asked for.
    asked: Instant,
    /// When to ask for the next one, if none is held.
    ask_at: Instant,
    pauses: Pauses,
}

impl Spare {
    /// Waits until one has to be asked for.
    async fn missing(this: Option<&mut Self>) {
        let Some(this) = this else { return std::future::pending().await };
        if let Some(channel) = &mut this.held {
            // It sends nothing without a question: this is its end, or a fault.
            let _ = channel.read_u8().await;
            tracing::warn!("the spare signer process ended; starting another");
            this.take();
        }
        sleep_until(this.ask_at).await;
    }

    /// Asks the process for one.
    async fn ask_for(&mut self, process: &mut UnixStream) -> io::Result<()> {
        self.asked = Instant::now();
        self.held = spare_of(process).await?;
        if self.held.is_none() {
            tracing::warn!("the signer cannot start a spare process; it tries again");
            self.take();
        }
        Ok(())
    }

    /// Takes it, so that the next one is asked for after a pause.
    fn take(&mut self) -> Option<UnixStream> {
        self.ask_at = Instant::now() + self.pauses.after(self.asked.elapsed());
        self.held.take()
    }
}

/// Lets the process start a spare one; `None`: it cannot.
async fn spare_of(process: &mut UnixStream) -> io::Result<Option<UnixStream>> {
    write_frame(process, START_A_SPARE).await?;
    take_over(process).await
}

async fn keep_running(
    first: Started,
    limit: Duration,
    mut spare: Option<Spare>,
    mut questions: mpsc::Receiver<Asked>,
) {
    let program = first.program.clone();
    let mut next = first.attach();
    let mut pauses = Pauses::default();
    loop {
        let started = Instant::now();
        match next {
            Ok(running) => match serve(running, limit, spare.as_mut(), &mut questions).await {
                End::Failed(running) => {
                    tracing::warn!(
                        "the signer process ended; starting another. Nobody can join or renew until it runs"
                    );
                    end(running, true).await;
                }
                End::Unasked(running) => return end(running, false).await,
            },
            // A confined node cannot start a program.
            Err(error) => tracing::warn!(
                %error,
                "the signer and its spare have ended, and no other can be started; nobody can join or \
                 renew until this node is restarted"
            ),
        }
        if refuse_until(Instant::now() + pauses.after(started.elapsed()), &mut questions).await {
            return;
        }
        next = match spare.as_mut().and_then(Spare::take) {
            Some(channel) => Ok(Running { process: None, channel }),
            None => program.clone().start().and_then(Started::attach),
        };
    }
}

/// Puts questions to the process until it ends or nobody asks any more.
async fn serve(
    mut running: Running,
    limit: Duration,
    mut spare: Option<&mut Spare>,
    questions: &mut mpsc::Receiver<Asked>,
) -> End {
    loop {
        let asked = tokio::select! {
            // It sends nothing without a question: this is its end, or a fault.
            _ = running.channel.read_u8() => return End::Failed(running),
            () = Spare::missing(spare.as_deref_mut()) => None,
            asked = questions.recv() => match asked {
                Some(asked) => Some(asked),
                None => return End::Unasked(running),
            },
        };
        let exchanged = match (asked, spare.as_deref_mut()) {
            (Some(asked), _) => timeout(limit, answer(&mut running.channel, asked)).await,
            (None, Some(spare)) => timeout(limit, spare.ask_for(&mut running.channel)).await,
            (None, None) => continue,
        };
        match exchanged {
            Ok(Ok(())) => {}
            // The beginning of the next answer is unknown.
            Ok(Err(error)) => {
                tracing::warn!(%error, "the signer gives no answer");
                return End::Failed(running);
            }
            Err(_) => {
                tracing::warn!("the signer does not answer in time");
                return End::Failed(running);
            }
        }
    }
}

async fn answer(channel: &mut UnixStream, asked: Asked) -> io::Result<()> {
    if asked.answer.is_closed() {
        return Ok(());
    }
    write_frame(channel, &asked.question).await?;
    let bytes = read_frame(channel, MAX_ANSWER).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    // The asker may have gone.
    let _ = asked.answer.send(bytes);
    Ok(())
}

/// Lets the process end by the end of its channel, or by force, and waits for it.
async fn end(running: Running, by_force: bool) {
    let Running { process, channel } = running;
    drop(channel);
    let Some(mut process) = process else { return };
    if by_force {
        // It may have ended by itself; a confined node may send no signals to its signer, which then
        // ends by the end of its channel.
        let _ = process.kill();
    }
    let waiting = tokio::task::spawn_blocking(move || process.wait());
    if timeout(END_TIMEOUT, waiting).await.is_err() {
        tracing::warn!("the signer does not end");
    }
}

/// Refuses all questions until `end`; `true` when no caller is left.
async fn refuse_until(end: Instant, questions: &mut mpsc::Receiver<Asked>) -> bool {
    loop {
        tokio::select! {
            () = sleep_until(end) => return false,
            // Dropping the question is the refusal.
            asked = questions.recv() => if asked.is_none() { return true },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(script: &str) -> ChildProcess {
        let arguments = vec!["-c".into(), script.into()];
        let started = Program { path: "/bin/sh".into(), arguments }.start().unwrap();
        ChildProcess::new(started, WORKER_TIMEOUT)
    }

    #[tokio::test]
    async fn a_process_that_ends_is_started_again() {
        // It answers one question, of five bytes with its length, by the same, and ends.
        let child = start("exec head -c 5");
        assert_eq!(child.ask(b"a".to_vec()).await.unwrap(), b"a");
        let again = async {
            loop {
                if let Some(answer) = child.ask(b"b".to_vec()).await {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert_eq!(timeout(Duration::from_secs(10), again).await.unwrap(), b"b");
    }

    #[tokio::test]
    async fn a_process_that_answers_nonsense_is_no_answer() {
        let child = start("head -c 5 >/dev/null; printf '\\377\\377\\377\\377'");
        assert_eq!(child.ask(b"a".to_vec()).await, None);
    }

    #[tokio::test]
    async fn questions_beyond_the_queue_are_refused_at_once() {
        let child = start("exec sleep 60");
        let asked: Vec<_> = (0..QUEUE + 2).map(|_| child.ask(vec![1])).collect();
        let first = futures_util::future::select_all(asked.into_iter().map(Box::pin));
        assert_eq!(timeout(Duration::from_secs(1), first).await.unwrap().0, None);
    }

    #[test]
    fn pauses_double_to_half_a_minute_and_begin_anew_after_a_steady_life() {
        let mut pauses = Pauses::default();
        let short = Duration::from_secs(1);
        assert_eq!([pauses.after(short), pauses.after(short)], [FIRST_PAUSE, 2 * FIRST_PAUSE]);
        let longest = (0..20).map(|_| pauses.after(short)).max();
        assert_eq!(longest, Some(LONGEST_PAUSE));
        assert_eq!(pauses.after(STEADY), FIRST_PAUSE);
    }
}
