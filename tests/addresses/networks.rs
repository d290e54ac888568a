//! Three network namespaces in a user namespace.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use crate::overlay::{Running, Site, configure, ronproxy, stderr};

/// `hub` has a network with `laptop`, which has IPv4 only, and one with `site`, which has IPv6 only. Nothing is
/// forwarded between them.
const SETUP: &str = "
set -e
mount -t tmpfs none /run
for name in hub laptop site; do
    ip netns add $name
    ip -n $name link set lo up
    ip netns exec $name sh -c 'echo 0 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv6/conf/all/forwarding'
done
ip -n hub link add four type veth peer name out netns laptop
ip -n hub link add six type veth peer name out netns site
ip netns exec laptop sh -c 'echo 1 > /proc/sys/net/ipv6/conf/out/disable_ipv6'
ip netns exec hub sh -c 'echo 1 > /proc/sys/net/ipv6/conf/four/disable_ipv6'
ip -n hub address add 198.51.100.1/24 dev four
ip -n hub address add 2001:db8:6::1/64 dev six nodad
ip -n laptop address add 198.51.100.2/24 dev out
ip -n site address add 2001:db8:6::2/64 dev out nodad
ip -n hub link set four up
ip -n hub link set six up
ip -n laptop link set out up
ip -n site link set out up
ip -n hub route add default dev four
ip -n hub -6 route add default dev six
ip -n laptop route add default via 198.51.100.1
ip -n site -6 route add default via 2001:db8:6::1
echo ready
exec cat
";

/// The networks. They end with this.
pub struct Networks {
    /// Holds the namespaces; ends when its standard input does.
    holder: Child,
    pub site: Site,
}

impl Networks {
    /// Makes them; nothing where the system does not allow it, which is then said.
    pub fn make() -> Option<Self> {
        Self::of(SETUP)
    }

    /// The same with other networks: this makes them, says `ready`, and ends with its standard input.
    pub fn of(setup: &str) -> Option<Self> {
        let mut holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--net", "--mount", "sh", "-c", setup])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .ok()?;
        let mut line = String::new();
        BufReader::new(holder.stdout.take()?).read_line(&mut line).unwrap();
        if line != "ready\n" {
            let said = holder.wait_with_output().map(|output| stderr(&output)).unwrap();
            assert!(!Self::are_allowed(), "the networks cannot be made: {said}");
            println!("skipped: this system does not allow network namespaces: {said}");
            return None;
        }
        Some(Self { holder, site: Site::new() })
    }

    /// Whether the system allows network namespaces at all.
    fn are_allowed() -> bool {
        let mut one = Command::new("unshare");
        one.args(["--user", "--map-root-user", "--net", "--mount", "sh", "-c"]);
        one.arg("mount -t tmpfs none /run && ip netns add one").stderr(Stdio::null());
        one.status().is_ok_and(|status| status.success())
    }

    /// A program on the host `host`.
    pub fn on(&self, host: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string()]);
        command.args(["--user", "--preserve-credentials", "--mount", "--net"]);
        command.args(["ip", "netns", "exec", host]).env_remove("RON_LOG").stdin(Stdio::null());
        command
    }

    /// The program `ronproxy` on a host, whose `/etc/hosts` is a file that a test may change.
    pub fn ronproxy(&self, host: &str) -> Command {
        let (dir, hosts) = (self.site.dir(host), self.hosts(host));
        if !hosts.exists() {
            self.know(host, "");
        }
        let mut command = self.on(host);
        command.args(["sh", "-c", "mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"", "sh"]);
        command.arg(hosts);
        let own = ronproxy(&dir);
        command.arg(own.get_program()).args(own.get_args());
        command
    }

    fn hosts(&self, host: &str) -> PathBuf {
        self.site.dir(&format!("{host}.hosts"))
    }

    /// What a host has in `/etc/hosts` from now on.
    pub fn know(&self, host: &str, lines: &str) {
        std::fs::write(self.hosts(host), format!("127.0.0.1 localhost\n{lines}\n")).unwrap();
    }

    /// Runs a command of `ronproxy` on a host, with this on its standard input.
    pub fn run(&self, host: &str, arguments: &[&str], input: &str) -> Output {
        told(self.ronproxy(host).args(arguments), input)
    }

    /// The same, which must succeed; returns what it printed.
    pub fn must(&self, host: &str, arguments: &[&str], input: &str) -> String {
        let output = self.run(host, arguments, input);
        assert!(output.status.success(), "{host} {arguments:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Starts the node of a host.
    pub fn start(&self, host: &str, arguments: &[&str]) -> Running {
        Running::start_as(self.ronproxy(host), &self.site.dir(host), arguments)
    }

    /// Makes the overlay, with these options of `init`, and starts its first node on `hub`.
    pub fn found(&self, options: &[&str]) -> Running {
        self.must("hub", &[&["init", "--name", "hub"], options].concat(), "");
        self.start("hub", &[])
    }

    /// Invites a host with these options, and lets it join.
    pub fn join(&self, host: &str, invite: &[&str], join: &[&str]) -> PathBuf {
        let line = self.must("hub", &[&["invite", "--name", host], invite].concat(), "");
        self.must(host, &[&["join", "-"], join].concat(), &line);
        self.site.dir(host)
    }

    /// Changes addresses of a host, by `ip`.
    pub fn change(&self, host: &str, command: &str) {
        let words = command.split(' ');
        assert!(self.on(host).arg("ip").args(words).status().unwrap().success(), "{command}");
    }
}

impl Drop for Networks {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

/// Runs a command with this on its standard input.
pub fn told(command: &mut Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "{input}").unwrap();
    child.wait_with_output().unwrap()
}

/// Lets the exit in `dir` reach its own machine.
pub fn allow_itself(dir: &Path) {
    configure(dir, "allow_private = []", "allow_private = [\"127.0.0.0/8\", \"::1/128\"]");
}
