//! Notices that the machine's addresses or routes changed, or that it slept.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio_util::sync::CancellationToken;

use crate::mesh::Mesh;

/// How often to look.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How often a change is acted upon at most: an interface that gets its addresses announces several.
const PAUSE: Duration = Duration::from_secs(1);

/// The clock of the day ran ahead of the monotonic one, which stands still while the machine sleeps, by so
/// much more since the last look: the machine slept. A clock that is set forward looks the same.
const SLEPT: Duration = Duration::from_secs(3);

/// Tells the mesh of changes until `shutdown`.
pub(super) async fn watch(mesh: Arc<Mesh>, shutdown: CancellationToken) {
    let changes = Changes::open();
    if let Err(error) = &changes {
        tracing::info!(%error, "this system does not report changes of its addresses");
    }
    let mut look = tokio::time::interval(LOOK_EVERY);
    let mut last = (Instant::now(), SystemTime::now());
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            _ = look.tick() => {}
        }
        let before = std::mem::replace(&mut last, (Instant::now(), SystemTime::now()));
        let why = if changes.as_ref().is_ok_and(Changes::any) {
            "the machine's addresses or routes changed"
        } else if slept(before, last) {
            "the machine slept, or its clock was set"
        } else {
            continue;
        };
        tracing::info!("{why}; all links are probed now");
        mesh.network_changed();
        tokio::time::sleep(PAUSE).await;
        last = (Instant::now(), SystemTime::now());
    }
}

fn slept(before: (Instant, SystemTime), now: (Instant, SystemTime)) -> bool {
    let day = now.1.duration_since(before.1).unwrap_or_default();
    day > now.0.saturating_duration_since(before.0) + SLEPT
}

#[cfg(target_os = "linux")]
use linux::Changes;

#[cfg(target_os = "linux")]
mod linux {
    use std::{io, os::fd::OwnedFd};

    use rustix::{
        io::Errno,
        net::{
            AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink::SocketAddrNetlink,
            recv, socket_with,
        },
    };

    /// `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV4_ROUTE`, and the same for IPv6 (rtnetlink(7)).
    const GROUPS: u32 = 0x10 | 0x40 | 0x100 | 0x400;

    /// Announcements read at one look; more are left for the next.
    const MOST: usize = 256;

    /// The kernel's announcements of changed addresses and routes.
    pub(super) struct Changes(OwnedFd);

    impl Changes {
        pub(super) fn open() -> io::Result<Self> {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            // Protocol 0 is NETLINK_ROUTE.
            let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
            bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
            Ok(Self(socket))
        }

        /// Whether there were announcements since the last look. Their content does not matter.
        pub(super) fn any(&self) -> bool {
            let mut buffer = [0u8; 4096];
            let mut any = false;
            for _ in 0..MOST {
                match recv(&self.0, &mut buffer, RecvFlags::DONTWAIT) {
                    // Some were dropped, as the buffer was full: that is news, too.
                    Ok(_) | Err(Errno::NOBUFS) => any = true,
                    Err(Errno::INTR) => {}
                    Err(_) => break,
                }
            }
            any
        }
    }
}

#[cfg(not(target_os = "linux"))]
use elsewhere::Changes;

/// Nobody announces changes; probes find them.
#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use std::io;

    pub(super) struct Changes;

    impl Changes {
        pub(super) fn open() -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        #[expect(clippy::unused_self, reason = "as on Linux")]
        pub(super) fn any(&self) -> bool {
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clock_that_ran_ahead_means_that_the_machine_slept() {
        let before = (Instant::now(), SystemTime::now());
        let after = |monotonic: u64, day: u64| {
            (before.0 + Duration::from_secs(monotonic), before.1 + Duration::from_secs(day))
        };
        assert!(slept(before, after(1, 60)));
        assert!(!slept(before, after(1, 1)));
        assert!(!slept(before, after(30, 31)), "the program was starved");
        assert!(!slept(before, after(2, 0)), "the clock was set back");
    }
}
