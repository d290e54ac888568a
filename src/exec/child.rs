//! The program: starting it, passing signals on to it, and ending as it ends.

use std::{
    io,
    os::unix::process::ExitStatusExt as _,
    process::{Command, ExitCode, ExitStatus},
    sync::mpsc,
};

use rustix::process::{Pid, Signal, getpgrp, kill_process};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use super::{Failure, space::Space};

/// The exit code of a program that was ended by a signal is this and the signal's number, as shells have it.
const BY_SIGNAL: i32 = 128;

/// A running program.
pub(super) struct Program {
    pid: Pid,
    ended: oneshot::Receiver<io::Result<ExitStatus>>,
}

/// Makes the namespaces in a thread of their own, and starts `command` there if there is one.
///
/// # Errors
/// When the system forbids it, or there is no such program.
pub(super) fn start(
    command: Option<Command>,
    ports: Vec<u16>,
) -> Result<(Space, Option<Program>), Failure> {
    let (tell, started) = mpsc::sync_channel(1);
    let run = move || {
        let (end, ended) = oneshot::channel();
        let (space, child) = match begin(command, &ports) {
            Ok(begun) => begun,
            Err(failure) => return drop(tell.send(Err(failure))),
        };
        let Some(mut child) = child else { return drop(tell.send(Ok((space, None)))) };
        let pid = Pid::from_child(&child);
        let _ = tell.send(Ok((space, Some(Program { pid, ended }))));
        let _ = end.send(child.wait());
    };
    std::thread::Builder::new().name("program".into()).spawn(run).map_err(Failure::Thread)?;
    started.recv().map_err(|error| Failure::Thread(io::Error::other(error)))?
}

fn begin(
    command: Option<Command>,
    ports: &[u16],
) -> Result<(Space, Option<std::process::Child>), Failure> {
    let space = Space::make(ports)?;
    let Some(mut command) = command else { return Ok((space, None)) };
    let child = command.spawn().map_err(|error| {
        let program = command.get_program().to_owned();
        match error.kind() {
            io::ErrorKind::NotFound => Failure::NotFound(program),
            _ => Failure::NotExecutable(program, error),
        }
    })?;
    Ok((space, Some(child)))
}

/// The signals that are passed on to the program. They are caught from the moment on at which this is made.
pub(super) struct Signals(Vec<(Signal, tokio::signal::unix::Signal)>);

impl Signals {
    /// # Errors
    /// When the system does not tell of signals.
    pub(super) fn catch() -> io::Result<Self> {
        use Signal as S;
        let caught = [S::TERM, S::INT, S::QUIT, S::HUP, S::USR1, S::USR2]
            .map(|number| Ok((number, signal(SignalKind::from_raw(number.as_raw()))?)));
        caught.into_iter().collect::<io::Result<_>>().map(Self)
    }
}

impl Program {
    /// Waits for the program's end, and meanwhile passes signals on to it.
    ///
    /// # Errors
    /// When the system does not tell of the end.
    pub(super) async fn wait(self, signals: Signals) -> io::Result<ExitStatus> {
        let mut passed = tokio::task::JoinSet::new();
        for (number, mut signal) in signals.0 {
            let pid = self.pid;
            passed.spawn(async move {
                while signal.recv().await.is_some() {
                    // The terminal tells all programs of its foreground group itself.
                    if !(matches!(number, Signal::INT | Signal::QUIT) && is_in_foreground()) {
                        let _ = kill_process(pid, number);
                    }
                }
            });
        }
        self.ended.await.map_err(io::Error::other)?
    }
}

fn is_in_foreground() -> bool {
    let terminal = std::fs::File::open("/dev/tty");
    terminal.is_ok_and(|terminal| {
        rustix::termios::tcgetpgrp(terminal).is_ok_and(|group| group == getpgrp())
    })
}

/// Ends as the program has ended: with its exit code, or by the same signal.
pub(super) fn end_as(status: ExitStatus) -> ExitCode {
    if let Some(signal) = status.signal() {
        // The program has left a core, if one is wanted.
        let _ = rlimit::setrlimit(rlimit::Resource::CORE, 0, 0);
        // It returns only where the signal ends no program.
        let _ = signal_hook::low_level::emulate_default_handler(signal);
        return ExitCode::from(u8::try_from(BY_SIGNAL + signal).unwrap_or(u8::MAX));
    }
    ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
}
