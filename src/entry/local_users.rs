//! Which users of this machine the proxy serves.
//!
//! A TCP port on loopback is open to every user of the machine. So the entry looks up the owner of
//! each client's socket (`socket_owner`), once per connection, before it reads a byte.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::time::Instant;
use tracing::{debug, warn};

#[cfg(target_os = "linux")]
use super::socket_owner::{Answer, Netlink, by_proc, datagrams_by_proc};
use super::{
    backoff::WarnLimit,
    config::LocalUsers,
    refused::{LocalRefusal, RefusedClients},
};

/// The uid of root, which can read every process anyway.
#[cfg(target_os = "linux")]
const ROOT: u32 = 0;

/// Decides which clients are served, and counts those that are not.
#[derive(Debug)]
pub(crate) struct LocalGate {
    /// The uids that are served; `None`: everyone.
    served: Option<Vec<u32>>,
    #[cfg(target_os = "linux")]
    netlink: Netlink,
    refused: Arc<RefusedClients>,
    warnings: Mutex<WarnLimit>,
}

/// The list of users cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocalUsersError {
    /// A name that `/etc/passwd` lacks.
    #[error(
        "local_users names {0:?}, which is no user in /etc/passwd; write the name as `id -un` shows it, or the number of `id -u`"
    )]
    NoSuchUser(String),
    /// The node cannot find its own user.
    #[error(
        "the user who runs this node cannot be told: {0}; set local_users = \"all\" under [entry]"
    )]
    Own(String),
}

/// The uids of `users`, by `passwd`, the text of `/etc/passwd`.
#[cfg(target_os = "linux")]
fn uids(users: &[String], passwd: &str) -> Result<Vec<u32>, LocalUsersError> {
    let uid = |user: &String| {
        let entry = passwd.lines().map(|line| line.split(':')).find_map(|mut fields| {
            (fields.next()? == user).then(|| fields.nth(1)?.parse().ok()).flatten()
        });
        entry.or_else(|| user.parse().ok()).ok_or_else(|| LocalUsersError::NoSuchUser(user.clone()))
    };
    users.iter().map(uid).collect()
}

impl LocalGate {
    pub(crate) fn new(users: &LocalUsers) -> Result<Self, LocalUsersError> {
        Ok(Self {
            served: served(users)?,
            #[cfg(target_os = "linux")]
            netlink: Netlink::open(),
            refused: Arc::default(),
            warnings: Mutex::default(),
        })
    }

    pub(super) fn refused(&self) -> Arc<RefusedClients> {
        Arc::clone(&self.refused)
    }

    /// Why the client at `client`, connected to `proxy`, is not served; `None` if it is.
    /// `[[entry.users]]` checks clients that are not on loopback.
    pub(crate) async fn judge(
        &self,
        client: SocketAddr,
        proxy: SocketAddr,
    ) -> Option<LocalRefusal> {
        let served = self.served.as_ref()?;
        if !client.ip().to_canonical().is_loopback() {
            return None;
        }
        let refusal = match self.owner(client, proxy).await {
            Some(uid) if served.contains(&uid) => return None,
            Some(uid) => {
                debug!(%client, uid, "a client of another local user is refused");
                LocalRefusal::OtherUser
            }
            None => LocalRefusal::UnknownUser,
        };
        self.refused.count(refusal);
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if warnings.allows(Instant::now()) {
            warn!(
                reason = refusal.name(),
                "a local client is not served; see local_users under [entry]"
            );
        }
        Some(refusal)
    }

    /// Whether datagrams from `client` to the proxy's UDP socket at `proxy` are served, by the user of the
    /// socket that they come from. The gate has judged the TCP connection of the same client.
    pub(super) async fn serves_datagrams(&self, client: SocketAddr, proxy: SocketAddr) -> bool {
        let Some(served) = self.served.as_ref() else { return true };
        if !client.ip().to_canonical().is_loopback() {
            return true;
        }
        let owner = Self::datagram_owner(client, proxy).await;
        let is_served = owner.is_some_and(|uid| served.contains(&uid));
        if !is_served {
            debug!(%client, ?owner, "datagrams of another local user are dropped");
        }
        is_served
    }

    #[cfg(target_os = "linux")]
    async fn datagram_owner(client: SocketAddr, proxy: SocketAddr) -> Option<u32> {
        let read = tokio::task::spawn_blocking(move || datagrams_by_proc(client, proxy)).await;
        match read.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            Ok(Answer::Owned(uid)) => Some(uid),
            Ok(Answer::Gone) => None,
            Err(error) => {
                debug!(%error, "/proc/net gives no owner of a UDP socket");
                None
            }
        }
    }

    #[cfg(not(target_os = "linux"))]
    #[expect(clippy::unused_async, reason = "as on Linux")]
    async fn datagram_owner(_: SocketAddr, _: SocketAddr) -> Option<u32> {
        None
    }

    /// The uid of the process at `client`; `None` when the system does not say.
    #[cfg(target_os = "linux")]
    async fn owner(&self, client: SocketAddr, proxy: SocketAddr) -> Option<u32> {
        let answer = match self.netlink.ask(client, proxy) {
            Ok(answer) => Ok(answer),
            Err(error) => {
                debug!(%error, "netlink gives no socket owner; reading /proc/net");
                let read = tokio::task::spawn_blocking(move || by_proc(client, proxy)).await;
                read.unwrap_or_else(|error| Err(std::io::Error::other(error)))
            }
        };
        match answer {
            Ok(Answer::Owned(uid)) => Some(uid),
            Ok(Answer::Gone) => None,
            Err(error) => {
                debug!(%error, "/proc/net gives no socket owner either");
                None
            }
        }
    }

    #[cfg(not(target_os = "linux"))]
    #[expect(clippy::unused_async, reason = "as on Linux")]
    async fn owner(&self, _: SocketAddr, _: SocketAddr) -> Option<u32> {
        None
    }
}

#[cfg(target_os = "linux")]
fn served(users: &LocalUsers) -> Result<Option<Vec<u32>>, LocalUsersError> {
    let listed: &[String] = match users {
        LocalUsers::All => return Ok(None),
        LocalUsers::Own => &[],
        LocalUsers::Listed(listed) => listed,
    };
    // Without the file, numbers still work.
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut served = uids(listed, &passwd)?;
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    if !listed.is_empty() && !tells_users_apart(&map) {
        warn!(
            "local_users names users that cannot be told apart in this service's user namespace; \
             they are refused until `ronproxy service install` writes a unit without it"
        );
    }
    // A socket pair shows the own user, also where /proc is hidden.
    let own = tokio::net::UnixStream::pair().and_then(|(end, _)| end.peer_cred());
    served.push(own.map_err(|error| LocalUsersError::Own(error.to_string()))?.uid());
    served.push(ROOT);
    Ok(Some(served))
}

/// Whether a user namespace with this map (user_namespaces(7)) has all users of the machine: in one that
/// a user makes, all but that user look the same.
#[cfg(target_os = "linux")]
fn tells_users_apart(uid_map: &str) -> bool {
    // One range for all is the machine's own; container runtimes map 65,536 users.
    let counts =
        uid_map.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok());
    counts.sum::<u64>() != 1
}

#[cfg(not(target_os = "linux"))]
fn served(users: &LocalUsers) -> Result<Option<Vec<u32>>, LocalUsersError> {
    if *users != LocalUsers::All {
        debug!("this system does not say who owns a connection: every local user is served");
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_namespace_of_one_user_does_not_tell_users_apart() {
        assert!(tells_users_apart("         0          0 4294967295\n"));
        assert!(tells_users_apart("0 100000 65536\n"));
        assert!(!tells_users_apart("      1000       1000          1\n"));
        assert!(tells_users_apart(""), "a kernel without namespaces");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn users_are_found_by_name_and_by_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n";
        let users = ["ann".to_owned(), "1001".to_owned()];
        assert_eq!(uids(&users, passwd), Ok(vec![1000, 1001]));
        let error = uids(&["bob".to_owned()], passwd).unwrap_err().to_string();
        assert!(error.contains("bob") && error.contains("id -un"), "{error}");
    }
}
