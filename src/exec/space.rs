//! The namespaces of a program: a network of its own with one interface to this process, and its own resolver files.
//!
//! A user namespace gives the privileges for that. It holds for the whole process, so it is made while there is one
//! thread. The other namespaces are those of one thread, from which the program is started. All other threads stay in
//! the network of the machine, where the node is, so no file descriptors have to be passed.

use std::{
    fs,
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use socket2::{Domain, Protocol, Socket, Type};
use tun_rs::{DeviceBuilder, SyncDevice};

use super::{
    blocked::{Blocked, Step},
    netlink,
    sessions::Ends,
};

/// The interface's name. By it a program inside is recognized.
const INTERFACE: &str = "ronproxy0";

/// The longest packets, as IP allows. They never leave this machine, and long ones cost less per byte.
const MTU: u32 = 65_535;

/// The namespace's own address, and the one from which connections come back to us.
const OWN_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const FAR_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
const OWN_V6: Ipv6Addr = Ipv6Addr::new(0xfd72, 0x6f6e, 0, 0, 0, 2, 0, 1);
const FAR_V6: Ipv6Addr = Ipv6Addr::new(0xfd72, 0x6f6e, 0, 0, 0, 2, 0, 2);

/// Where programs find the name server.
pub(super) const RESOLVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 3);

/// Connections that wait to be accepted: as many as may open at once.
const BACKLOG: i32 = 2_048;

const RESOLV_CONF: &str = "/etc/resolv.conf";
const NSSWITCH_CONF: &str = "/etc/nsswitch.conf";

/// Sockets of services that resolve names for programs, from outside of the namespace.
const RESOLVING_SOCKETS: [&str; 4] = [
    "/run/systemd/resolve/io.systemd.Resolve",
    "/run/nscd/socket",
    "/var/run/nscd/socket",
    "/run/avahi-daemon/socket",
];

/// The capabilities that the other namespaces take (capabilities(7)): `CAP_NET_ADMIN` and `CAP_SYS_ADMIN`.
const NEEDED: u64 = 1 << 12 | 1 << 21;

/// The namespace's network, as this process holds it. It ends with this process.
pub(super) struct Space {
    pub(super) tun: SyncDevice,
    pub(super) v4: Listening,
    /// `None`: the kernel has no IPv6.
    pub(super) v6: Option<Listening>,
    /// The listeners at the namespace's loopback addresses, and the ports of this machine to which they lead.
    pub(super) loopback: Vec<(TcpListener, u16)>,
}

/// Where connections come back to us.
pub(super) struct Listening {
    pub(super) listener: TcpListener,
    pub(super) ends: Ends,
}

/// Whether this process is inside such a namespace already.
pub(super) fn is_inside() -> bool {
    Path::new("/sys/class/net").join(INTERFACE).exists()
        || fs::read_to_string("/proc/net/dev").is_ok_and(|list| list.contains(INTERFACE))
}

/// Makes a user namespace where the privileges are missing, with the user's own number in it.
///
/// # Errors
/// When the system forbids it. The process must have one thread.
pub(super) fn become_privileged() -> Result<(), Blocked> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if effective(&status) & NEEDED == NEEDED {
        return Ok(());
    }
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|error| Step::User.failed(error.into()))?;
    let write = |file: &str, text: String| {
        fs::write(Path::new("/proc/self").join(file), text).map_err(|e| Step::UserMap.failed(e))
    };
    write("setgroups", "deny".into())?;
    write("gid_map", format!("{group} {group} 1", group = group.as_raw()))?;
    write("uid_map", format!("{user} {user} 1", user = user.as_raw()))
}

/// The capabilities in force (proc(5)).
fn effective(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

impl Space {
    /// Makes the namespaces, for this thread alone. The program's connections to `ports` of its loopback addresses lead to
    /// those of this machine.
    ///
    /// # Errors
    /// When the system forbids it.
    pub(super) fn make(ports: &[u16]) -> Result<Self, Blocked> {
        let kinds = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
        unshare(kinds).map_err(|error| Step::Network.failed(error.into()))?;
        replace_resolver().map_err(|error| Step::Resolver.failed(error))?;
        let tun = DeviceBuilder::new().name(INTERFACE).enable(false).build_sync();
        let tun = tun.map_err(|error| Step::Tun.failed(error))?;
        let failed = |error| Step::Interface.failed(error);
        let index = tun.if_index().map_err(failed)?;
        netlink::start(netlink::LOOPBACK, None).map_err(failed)?;
        netlink::start(index, Some(MTU)).map_err(failed)?;
        let v4 = Listening::open(index, OWN_V4.into(), FAR_V4.into()).map_err(failed)?;
        let v6 = Listening::open(index, OWN_V6.into(), FAR_V6.into());
        if let Err(error) = &v6 {
            tracing::debug!(%error, "no IPv6 in the namespace");
        }
        let loopback = listen_on_loopback(ports).map_err(failed)?;
        Ok(Self { tun, v4, v6: v6.ok(), loopback })
    }
}

impl Listening {
    fn open(index: u32, own: IpAddr, far: IpAddr) -> io::Result<Self> {
        netlink::add_address(index, own)?;
        netlink::route_all(index, own)?;
        let listener = listen(SocketAddr::new(own, 0))?;
        let ends = Ends { listener: listener.local_addr()?, far };
        Ok(Self { listener, ends })
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Listeners at 127.0.0.1 and, where there is IPv6, at ::1.
fn listen_on_loopback(ports: &[u16]) -> io::Result<Vec<(TcpListener, u16)>> {
    let mut all = vec![];
    for port in ports {
        all.push((listen(SocketAddr::from((Ipv4Addr::LOCALHOST, *port)))?, *port));
        all.extend(listen(SocketAddr::from((Ipv6Addr::LOCALHOST, *port))).map(|tcp| (tcp, *port)));
    }
    Ok(all)
}

/// Lets programs ask the name server inside and no other.
fn replace_resolver() -> io::Result<()> {
    // Nothing that is mounted here shows outside; what is mounted outside shows here.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    cover(RESOLV_CONF, &format!("nameserver {RESOLVER}\n"))?;
    if let Ok(own) = fs::read_to_string(NSSWITCH_CONF) {
        cover(NSSWITCH_CONF, &nsswitch(&own))?;
    }
    for socket in RESOLVING_SOCKETS {
        if Path::new(socket).exists() {
            cover(socket, "")?;
        }
    }
    Ok(())
}

/// Mounts a file with this content over another one.
fn cover(path: &str, content: &str) -> io::Result<()> {
    let named = |error| io::Error::new(io::Error::kind(&error), format!("{path}: {error}"));
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(content.as_bytes())?;
    // Programs of other users read it too. It has no name any more after the mount.
    file.as_file().set_permissions(fs::Permissions::from_mode(0o444))?;
    mount_bind(file.path(), path).map_err(|error| named(error.into()))
}

/// The configuration of nsswitch.conf(5), with nothing but `/etc/hosts` and DNS for hosts.
fn nsswitch(own: &str) -> String {
    let others = own.lines().filter(|line| !line.trim_start().starts_with("hosts:"));
    let lines: Vec<&str> = others.chain(["hosts: files dns", ""]).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_looked_up_in_files_and_dns_only() {
        let own = "passwd: files sss\nhosts:  files mdns4_minimal [NOTFOUND=return] resolve dns\n";
        assert_eq!(nsswitch(own), "passwd: files sss\nhosts: files dns\n");
    }

    #[test]
    fn the_capabilities_in_force_are_read() {
        let status = "Name:\tx\nCapPrm:\t0\nCapEff:\t000001ffffffffff\n";
        assert_eq!(effective(status) & NEEDED, NEEDED);
        assert_eq!(effective("CapEff:\t0000000000000400\n") & NEEDED, 0);
        assert_eq!(effective(""), 0);
    }
}
