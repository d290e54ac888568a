//! Hosts: this machine, or network namespaces with a cable (a pair of veth devices) between each two of them.

use std::{
    ffi::OsStr,
    fs,
    net::Ipv4Addr,
    process::{Child, Command, Stdio},
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

/// How long anything may take that takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// A listening socket's state in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// A host: where its processes run, and the address of its services.
pub(crate) struct Host {
    pub(crate) ip: Ipv4Addr,
    /// The process that keeps the namespace. It ends with its standard input, so with this process.
    keeper: Option<Child>,
}

impl Host {
    fn here() -> Rc<Self> {
        Rc::new(Self { ip: Ipv4Addr::LOCALHOST, keeper: None })
    }

    /// A new namespace with this address, whose TCP uses Cubic.
    fn new(ip: Ipv4Addr) -> Result<Rc<Self>, String> {
        let keeper = Command::new("unshare")
            .args(["-n", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("unshare: {error}"))?;
        let mut host = Self { ip, keeper: Some(keeper) };
        host.wait_for_namespace()?;
        host.run(&format!(
            "ip link set lo up; ip address add {ip}/32 dev lo
             for to in 127.0.0.0/8 127.0.0.1 {ip}; do
                 ip route replace local $to dev lo proto kernel scope host src ${{to%/*}} \\
                     table local congctl cubic 2>/dev/null || ip route replace local $to dev lo \\
                     proto kernel scope host src 127.0.0.1 table local congctl cubic
             done"
        ))?;
        Ok(Rc::new(host))
    }

    /// Waits until the keeper is in a namespace of its own.
    fn wait_for_namespace(&mut self) -> Result<(), String> {
        let Some(keeper) = &mut self.keeper else { return Ok(()) };
        let network = |of: &str| fs::read_link(format!("/proc/{of}/ns/net")).ok();
        let deadline = Instant::now() + PATIENCE;
        while network(&keeper.id().to_string()) == network("self") {
            let ended = keeper.try_wait().is_ok_and(|status| status.is_some());
            if ended || Instant::now() > deadline {
                return Err("this user may make no network namespace".to_owned());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// A command that runs on this host.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let Some(keeper) = &self.keeper else { return Command::new(program) };
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", keeper.id())).arg("--").arg(program);
        command
    }

    /// Runs a shell script on this host.
    fn run(&self, script: &str) -> Result<(), String> {
        let output = self.command("sh").args(["-ec", script]).output();
        let output = output.map_err(|error| format!("sh: {error}"))?;
        let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if output.status.success() { Ok(()) } else { Err(error) }
    }

    /// Waits until something listens at `port`.
    pub(crate) fn wait_for_port(&self, port: u16) {
        let network =
            self.keeper.as_ref().map_or("self".to_owned(), |keeper| keeper.id().to_string());
        let listens = |line: &str| {
            let mut fields = line.split_whitespace().skip(1);
            let at = fields.next().and_then(|local| local.rsplit_once(':'));
            at.is_some_and(|(_, at)| u16::from_str_radix(at, 16) == Ok(port))
                && fields.nth(1) == Some(LISTEN)
        };
        let deadline = Instant::now() + PATIENCE;
        while !["tcp", "tcp6"].iter().any(|table| {
            fs::read_to_string(format!("/proc/{network}/net/{table}"))
                .is_ok_and(|table| table.lines().any(listens))
        }) {
            assert!(Instant::now() < deadline, "nothing listens at port {port} of {}", self.ip);
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(keeper) = &mut self.keeper {
            let _ = keeper.kill();
            let _ = keeper.wait();
        }
    }
}

/// The hosts of an overlay's three nodes. The client is beside the entry, the server beside the exit.
pub(crate) struct Ground {
    pub(crate) entry: Rc<Host>,
    pub(crate) relay: Rc<Host>,
    pub(crate) exit: Rc<Host>,
}

impl Ground {
    /// All on this machine.
    pub(crate) fn loopback() -> Self {
        let here = Host::here();
        Self { entry: here.clone(), relay: here.clone(), exit: here }
    }

    /// Three namespaces with a cable of MTU 1500 between each two. Without `offload`, every packet crosses its
    /// cable alone.
    ///
    /// # Errors
    /// Why that is not possible here.
    pub(crate) fn cables(offload: bool) -> Result<Self, String> {
        let host = |number| Host::new(Ipv4Addr::new(10, 0, 0, number));
        let ground = Self { entry: host(1)?, exit: host(2)?, relay: host(3)? };
        let Self { entry, relay, exit } = &ground;
        for (a, b, name) in [(entry, exit, "direct"), (entry, relay, "near"), (relay, exit, "far")]
        {
            let other = b.keeper.as_ref().map_or(0, Child::id);
            a.run(&format!("ip link add name {name} type veth peer name {name} netns {other}"))?;
            for (host, far) in [(a, b), (b, a)] {
                host.run(&format!(
                    "ip link set {name} mtu 1500 up
                     ip route add {}/32 dev {name} src {} congctl cubic",
                    far.ip, host.ip
                ))?;
                if !offload {
                    host.run(&format!(
                        "ethtool -K {name} tso off gso off gro off tx-udp-segmentation off"
                    ))?;
                }
            }
        }
        Ok(ground)
    }
}
