//! A way to the web server, and what downloads by it cost.

use std::{
    fs,
    process::{Child, Command, Stdio},
    rc::Rc,
};

use crate::{
    hosts::Host,
    run::median,
    usage::{ended_cpu, families, usage},
};

/// A way to the server.
pub(super) struct Way<'a> {
    pub(super) name: &'static str,
    /// Where curl runs.
    client: Rc<Host>,
    url: String,
    proxy: Option<String>,
    /// Bytes that cross, and those that curl gets.
    bytes: usize,
    answer: usize,
    /// The processes that carry them.
    carriers: Vec<(&'static str, &'a Child)>,
    server: Option<&'a Child>,
    rounds: Vec<Round>,
    /// System calls of the carriers, for each MB.
    calls: Option<f64>,
}

/// What one download took.
struct Round {
    gbit_per_s: f64,
    /// Processor time of each carrier, of curl and of the server, in seconds for each GB.
    cpu: Vec<f64>,
    /// Context switches of the carriers, for each MB.
    switches: f64,
}

impl<'a> Way<'a> {
    /// A way for downloads of `bytes` from `url` by curl on this host.
    pub(super) fn new(
        name: &'static str,
        client: &Rc<Host>,
        (url, bytes): (&str, usize),
        server: Option<&'a Child>,
    ) -> Self {
        let (client, url) = (client.clone(), url.to_owned());
        Self {
            name,
            client,
            url,
            proxy: None,
            bytes,
            answer: bytes,
            carriers: Vec::new(),
            server,
            rounds: Vec::new(),
            calls: None,
        }
    }

    /// The same through a proxy.
    pub(super) fn through(mut self, proxy: String) -> Self {
        self.proxy = Some(proxy);
        self
    }

    /// The same from another place; curl gets an answer of this length.
    pub(super) fn from(mut self, url: String, answer: usize) -> Self {
        (self.url, self.answer) = (url, answer);
        self
    }

    /// The same with these processes between.
    pub(super) fn by(
        mut self,
        carriers: impl IntoIterator<Item = (&'static str, &'a Child)>,
    ) -> Self {
        self.carriers.extend(carriers);
        self
    }

    /// A download that is not counted: lanes open, and find their packet size.
    pub(super) fn warm(&self) {
        self.curl(self.client.command("curl"));
    }

    /// A download.
    pub(super) fn round(&mut self) {
        let used = |processes: &[&Child]| usage(processes.iter().copied());
        let carriers: Vec<_> = self.carriers.iter().map(|(_, child)| *child).collect();
        let server: Vec<_> = self.server.into_iter().collect();
        let (before, server_before, curl) = (used(&carriers), used(&server), ended_cpu());
        let seconds = self.curl(self.client.command("curl"));
        let curl = ended_cpu() - curl;
        let megabytes = self.bytes as f64 / 1e6;
        let cpu_of = |after: Vec<_>, before: Vec<_>| -> Vec<f64> {
            let each = after.into_iter().zip(before);
            each.map(|(after, before): (crate::usage::Usage, _)| (after - before).cpu).collect()
        };
        let after = used(&carriers);
        let switches =
            after.iter().zip(&before).map(|(after, before)| after.switches - before.switches);
        let switches = switches.sum::<f64>() / megabytes;
        let mut cpu = cpu_of(after, before);
        cpu.push(curl);
        cpu.extend(cpu_of(used(&server), server_before));
        let cpu = cpu.into_iter().map(|seconds| seconds / megabytes * 1e3).collect();
        let gbit_per_s = self.bytes as f64 * 8.0 / seconds / 1e9;
        self.rounds.push(Round { gbit_per_s, cpu, switches });
    }

    /// Counts the system calls of the carriers during a download of its own: counting slows them down.
    pub(super) fn count_calls(&mut self) {
        let carriers: Vec<_> = self.carriers.iter().map(|(_, child)| *child).collect();
        let pids: Vec<String> =
            families(carriers).into_iter().flatten().map(|pid| pid.to_string()).collect();
        if pids.is_empty() {
            return;
        }
        let counts = tempfile::NamedTempFile::new().unwrap();
        let mut perf = self.client.command("perf");
        perf.args(["stat", "-x", ",", "-e", CALLS, "-p", &pids.join(","), "-o"]);
        self.curl({
            perf.arg(counts.path()).arg("curl");
            perf
        });
        let counts = fs::read_to_string(counts.path()).unwrap();
        let calls = counts.lines().find(|line| line.contains(CALLS));
        let calls = calls.and_then(|line| line.split(',').next()?.parse::<f64>().ok());
        self.calls = calls.map(|calls| calls / (self.bytes as f64 / 1e6));
    }

    /// Runs this curl; how long the download took, in seconds.
    fn curl(&self, mut curl: Command) -> f64 {
        curl.args(["-sS", "-o", "/dev/null", "-w", "%{size_download} %{time_total}", &self.url]);
        if let Some(proxy) = &self.proxy {
            curl.args(["--proxy", proxy]);
        }
        let output = curl.stderr(Stdio::inherit()).output().expect("curl is needed");
        let text = String::from_utf8(output.stdout).unwrap();
        let (bytes, seconds) = text.split_once(' ').expect("curl's answer");
        assert_eq!(bytes.parse::<usize>().unwrap(), self.answer, "{}: not all came", self.name);
        seconds.parse().unwrap()
    }

    fn median(&self, of: impl Fn(&Round) -> f64) -> f64 {
        median(&mut self.rounds.iter().map(of).collect::<Vec<_>>())
    }

    /// The median rate.
    pub(super) fn rate(&self) -> f64 {
        self.median(|round| round.gbit_per_s)
    }

    pub(super) fn print(&self) {
        let rates = self.rounds.iter().map(|round| round.gbit_per_s);
        let (least, most) = (rates.clone().fold(f64::MAX, f64::min), rates.fold(0.0, f64::max));
        let names = self.carriers.iter().map(|(name, _)| *name).chain(["curl", "server"]);
        let cpu: Vec<String> = names
            .zip(0..self.rounds[0].cpu.len())
            .map(|(name, at)| format!("{name} {:.2}", self.median(|round| round.cpu[at])))
            .collect();
        let carriers = self.carriers.len();
        let calls = self.calls.map_or("–".to_owned(), |calls| format!("{calls:.0}"));
        println!(
            "  {:<25} {:>6.2} ({least:.2} to {most:.2})  {:>5.2}  {calls:>6}  {:>8.1}   {}",
            self.name,
            self.rate(),
            self.median(|round| round.cpu[..carriers].iter().sum()),
            self.median(|round| round.switches),
            cpu.join(", "),
        );
    }
}

/// What perf counts.
const CALLS: &str = "raw_syscalls:sys_enter";

/// Whether system calls can be counted here.
pub(super) fn counts_calls() -> bool {
    let perf = Command::new("perf").args(["stat", "-e", CALLS, "true"]).output();
    perf.is_ok_and(|output| {
        output.status.success() && !String::from_utf8_lossy(&output.stderr).contains("<not")
    })
}
