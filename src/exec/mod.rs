//! `ronproxy exec`: programs without proxy support go through the overlay, without privileges. Linux only.
//!
//! The program is started in a network namespace whose only interfaces are loopback and a TUN device. This process reads
//! the device (`door`): connections become flows of the running node, by its local proxy (`proxy`); datagrams become
//! associations (`datagrams`); questions for names are answered with addresses that stand for them (`dns`, `names`). When
//! this process or the node is gone, the program has no network.
//!
//! TCP itself is the kernel's at both ends: `sessions` sends the packets of a connection back to a listener of ours in the
//! same namespace, with other addresses. `space` makes the namespaces, and `blocked` tells what a system forbids.

mod blocked;
mod child;
mod datagrams;
mod dns;
mod door;
mod names;
mod netlink;
mod packet;
mod proxy;
mod sessions;
mod space;

use std::{
    ffi::OsString,
    io,
    process::{Command, ExitCode},
};

use blocked::Blocked;
use child::Signals;
pub(crate) use proxy::Proxy;

/// Descriptors: two for each connection, and some room.
const FILE_LIMIT: u64 = 2 * sessions::MOST as u64 + 512;

/// Exit codes as those of env(1).
const FAILED: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// A program cannot be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The system forbids it.
    #[error("{0}; {cure}", cure = .0.cure())]
    Blocked(Blocked),
    /// Such namespaces are not nested.
    #[error(
        "this is a program of `ronproxy exec` already: start the other one without it, or outside"
    )]
    Inside,
    /// There is no such program.
    #[error("{0:?}: there is no such program; look at its spelling and at PATH")]
    NotFound(OsString),
    /// The system does not run it.
    #[error("{0:?} cannot be run: {1}; `chmod +x` makes a file a program")]
    NotExecutable(OsString, #[source] io::Error),
    /// A thread.
    #[error("cannot start: {0}; check this user's limits with `ulimit -a`")]
    Thread(#[source] io::Error),
}

impl From<Blocked> for Failure {
    fn from(blocked: Blocked) -> Self {
        Self::Blocked(blocked)
    }
}

impl Failure {
    /// The exit code that tells of it.
    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::NotFound(_) => NOT_FOUND,
            Self::NotExecutable(..) => NOT_EXECUTABLE,
            _ => FAILED,
        })
    }
}

/// Looks whether this system lets programs have a network of their own.
///
/// # Errors
/// When it does not. The process must have one thread.
pub(crate) fn check() -> Result<(), Failure> {
    become_privileged()?;
    child::start(None, vec![]).map(drop)
}

/// Runs the program that `words` name to its end, and ends as it does. `localhost` are the ports of this machine's
/// loopback addresses that it reaches.
///
/// # Errors
/// When it cannot be started. The process must have one thread.
pub(crate) fn run(
    words: Vec<OsString>,
    localhost: Vec<u16>,
    proxy: Proxy,
) -> Result<ExitCode, Failure> {
    become_privileged()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(Failure::Thread)?;
    // Before the program starts: a signal that it waits for must not end this process instead.
    let signals = runtime.block_on(async { Signals::catch() }).map_err(Failure::Thread)?;
    let (space, program) = child::start(command(words, &proxy), localhost)?;
    let Some(program) = program else { return Ok(ExitCode::SUCCESS) };
    // After the program has started, which keeps the limits that it had.
    if let Err(error) = rlimit::increase_nofile_limit(FILE_LIMIT) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
    let ended = runtime.block_on(async {
        let serving = async {
            if let Err(error) = door::serve(space, proxy).await {
                tracing::error!(%error, "the program's interface failed; it has no network any more");
            }
        };
        let serving = tokio::spawn(serving);
        let ended = program.wait(signals).await;
        serving.abort();
        ended
    });
    runtime.shutdown_background();
    Ok(child::end_as(ended.map_err(Failure::Thread)?))
}

fn become_privileged() -> Result<(), Failure> {
    if space::is_inside() {
        return Err(Failure::Inside);
    }
    Ok(space::become_privileged()?)
}

/// The program, without variables that lead it to the proxy: that is not reached from inside, and not needed.
fn command(words: Vec<OsString>, proxy: &Proxy) -> Option<Command> {
    let mut words = words.into_iter();
    let mut command = Command::new(words.next()?);
    let address = proxy.address.to_string();
    for (name, value) in std::env::vars_os() {
        let is_proxy = name.to_string_lossy().to_ascii_lowercase().ends_with("_proxy");
        if is_proxy && value.to_string_lossy().contains(&address) {
            command.env_remove(name);
        }
    }
    command.args(words);
    Some(command)
}
