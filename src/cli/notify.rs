//! What systemd is told of this process: the datagrams of sd_notify(3).

use std::{env, ffi::OsStr, io, os::unix::net::UnixDatagram, time::Duration};

use tokio::time::{MissedTickBehavior, interval};

/// Tells the service manager, if one asked for it by `NOTIFY_SOCKET`.
#[derive(Debug)]
pub(super) struct Notify(Option<UnixDatagram>);

impl Notify {
    /// Connects to the manager. To be called before the process confines itself: the manager's socket may
    /// have an abstract name, which a confined process cannot reach.
    pub(super) fn from_environment() -> Self {
        let Some(name) = env::var_os("NOTIFY_SOCKET") else { return Self(None) };
        let socket = connect(&name);
        if let Err(error) = &socket {
            tracing::warn!(%error, name = %name.display(), "the service manager of NOTIFY_SOCKET cannot be reached");
        }
        Self(socket.ok())
    }

    /// The node serves, or serves again after a reload.
    pub(super) fn ready(&self) {
        self.say("READY=1");
    }

    /// The node reads its configuration again.
    pub(super) fn reloading(&self) {
        self.say("RELOADING=1");
    }

    /// The node stops in order.
    pub(super) fn stopping(&self) {
        self.say("STOPPING=1");
    }

    /// Tells the manager that the node lives, as often as it wants to hear that.
    pub(super) async fn watchdog(&self) {
        let Some(every) = watchdog_every() else { return };
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.say("WATCHDOG=1");
        }
    }

    fn say(&self, state: &str) {
        let Some(socket) = &self.0 else { return };
        if let Err(error) = socket.send(state.as_bytes()) {
            tracing::debug!(%error, state, "the service manager was not told");
        }
    }
}

fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    // A manager that does not read must not stop the node.
    socket.set_nonblocking(true)?;
    #[cfg(target_os = "linux")]
    if let Some(name) = name.as_encoded_bytes().strip_prefix(b"@") {
        use std::os::{linux::net::SocketAddrExt as _, unix::net::SocketAddr};
        socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?;
        return Ok(socket);
    }
    socket.connect(name)?;
    Ok(socket)
}

/// How often the manager wants to hear of this process: twice in the time after which it acts
/// (sd_watchdog_enabled(3)).
fn watchdog_every() -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse::<u64>().ok();
    if number("WATCHDOG_PID").is_some_and(|pid| pid != u64::from(std::process::id())) {
        return None;
    }
    number("WATCHDOG_USEC").filter(|us| *us > 1).map(|us| Duration::from_micros(us / 2))
}
