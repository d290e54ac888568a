//! A child process that answers questions over its standard input and output. It is started again
//! when it ends.

use std::{
    io,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::{
    io::AsyncReadExt as _,
    process::{ChildStdin, ChildStdout},
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};

use super::message::{MAX_ANSWER, read_frame, write_frame};

/// Questions that wait for the one being answered. Joiners and renewing nodes are few, and each
/// waits for its own answer; more are refused at once.
const QUEUE: usize = 32;

/// An answer takes a few signatures and disk writes, about 20 ms on a slow disk. A worker that
/// needs much longer hangs, and is replaced. On an overloaded machine a new worker would be as
/// slow, so this is long.
pub(super) const WORKER_TIMEOUT: Duration = Duration::from_secs(20);

/// The pause before the first restart. It doubles, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The longest pause: a folder that was repaired is used again within this time.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// After this time the next end of a process counts as its first.
const STEADY: Duration = Duration::from_secs(60);

/// How long a process may take to end after the end of its input.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// A program with its arguments.
#[derive(Debug, Clone)]
pub struct Program {
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
    pub fn this(
        arguments: impl IntoIterator<Item = impl Into<std::ffi::OsString>>,
    ) -> io::Result<Self> {
        let path = if cfg!(target_os = "linux") {
            PathBuf::from("/proc/self/exe")
        } else {
            std::env::current_exe()?
        };
        Ok(Self { path, arguments: arguments.into_iter().map(Into::into).collect() })
    }

    /// Starts it, with its standard input and output as the channel. Needs no runtime.
    ///
    /// # Errors
    /// When the system cannot start it.
    pub fn start(self) -> io::Result<Started> {
        let mut command = Command::new(&self.path);
        // `ps` shows this name.
        command.arg0("ronproxy").args(&self.arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let process = command.spawn()?;
        Ok(Started { program: self, process })
    }
}

/// A process that was started and not yet asked.
#[derive(Debug)]
pub struct Started {
    program: Program,
    process: Child,
}

impl Started {
    fn attach(mut self) -> io::Result<Running> {
        let ends = self.process.stdin.take().zip(self.process.stdout.take());
        let (input, output) = ends.ok_or_else(|| io::Error::other("no pipe to the process"))?;
        let (input, output) = (ChildStdin::from_std(input)?, ChildStdout::from_std(output)?);
        Ok(Running { process: self.process, input, output })
    }
}

struct Running {
    process: Child,
    input: ChildStdin,
    output: ChildStdout,
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
    /// answer. `None`: no limit.
    pub(super) fn new(started: Started, limit: Option<Duration>) -> Self {
        let (asked, questions) = mpsc::channel(QUEUE);
        tokio::spawn(keep_running(started, limit, questions));
        Self { asked }
    }

    /// Asks one question. `None`: the process does not run, does not answer, or has too much to do.
    pub(super) async fn ask(&self, question: Vec<u8>) -> Option<Vec<u8>> {
        let (answer, answered) = oneshot::channel();
        self.asked.try_send(Asked { question, answer }).ok()?;
        answered.await.ok()
    }
}

async fn keep_running(
    first: Started,
    limit: Option<Duration>,
    mut questions: mpsc::Receiver<Asked>,
) {
    let program = first.program.clone();
    let mut next = Ok(first);
    let mut pause = FIRST_PAUSE;
    loop {
        let started = Instant::now();
        match next.and_then(Started::attach) {
            Ok(running) => match serve(running, limit, &mut questions).await {
                End::Failed(running) => {
                    tracing::warn!(
                        "the signer has ended and is started again; nobody can join or renew meanwhile"
                    );
                    end(running, true).await;
                }
                End::Unasked(running) => return end(running, false).await,
            },
            // A confined node cannot start a program.
            Err(error) => tracing::warn!(
                %error,
                "the signer cannot be started; nobody can join or renew until this node is restarted"
            ),
        }
        if started.elapsed() >= STEADY {
            pause = FIRST_PAUSE;
        }
        if refuse_until(Instant::now() + pause, &mut questions).await {
            return;
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
        next = program.clone().start();
    }
}

/// Puts questions to the process until it ends or nobody asks any more.
async fn serve(
    mut running: Running,
    limit: Option<Duration>,
    questions: &mut mpsc::Receiver<Asked>,
) -> End {
    loop {
        let asked = tokio::select! {
            // It sends nothing without a question: this is its end, or a fault.
            _ = running.output.read_u8() => return End::Failed(running),
            asked = questions.recv() => asked,
        };
        let Some(Asked { question, answer }) = asked else { return End::Unasked(running) };
        if answer.is_closed() {
            continue;
        }
        let exchanged = match limit {
            Some(limit) => timeout(limit, exchange(&mut running, &question)).await,
            None => Ok(exchange(&mut running, &question).await),
        };
        match exchanged {
            // The asker may have gone.
            Ok(Ok(bytes)) => drop(answer.send(bytes)),
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

async fn exchange(running: &mut Running, question: &[u8]) -> io::Result<Vec<u8>> {
    write_frame(&mut running.input, question).await?;
    let answer = read_frame(&mut running.output, MAX_ANSWER).await?;
    answer.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Lets the process end by the end of its input, or by force, and waits for it.
async fn end(running: Running, by_force: bool) {
    let Running { mut process, input, output } = running;
    drop((input, output));
    if by_force {
        // It may have ended by itself; a confined node may send no signals to its signer, which then
        // ends by the end of its input.
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
        ChildProcess::new(started, Some(WORKER_TIMEOUT))
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
}
