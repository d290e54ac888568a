//! What processes used so far, by Linux's /proc.

use std::{fs, ops::Sub, process::Child};

/// Ticks of the clock of `/proc/PID/stat` in a second (`USER_HZ`, the same on all of Linux's platforms).
const TICKS: f64 = 100.0;

/// Processor time and context switches of one process and its children.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) cpu: f64,
    pub(crate) switches: f64,
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { cpu: self.cpu - before.cpu, switches: self.switches - before.switches }
    }
}

/// What each of these processes used, with its children: an sshd has one for each client.
pub(crate) fn usage<'a>(processes: impl IntoIterator<Item = &'a Child>) -> Vec<Usage> {
    let of_family = |family: Vec<u32>| {
        family.into_iter().fold(Usage::default(), |sum, pid| Usage {
            cpu: sum.cpu + stat(pid).map_or(0.0, |stat| stat.cpu),
            switches: sum.switches + switches(pid),
        })
    };
    families(processes).into_iter().map(of_family).collect()
}

/// Each of these processes with its children.
pub(crate) fn families<'a>(processes: impl IntoIterator<Item = &'a Child>) -> Vec<Vec<u32>> {
    let all: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat(pid)?.parent)))
        .collect();
    let with_children = |parent: &Child| {
        let children = all.iter().filter(|(_, of)| *of == parent.id()).map(|(pid, _)| *pid);
        children.chain([parent.id()]).collect()
    };
    processes.into_iter().map(with_children).collect()
}

/// Processor time of this process in seconds.
pub(crate) fn own_cpu() -> f64 {
    stat(std::process::id()).map_or(0.0, |stat| stat.cpu)
}

/// Processor time of all children of this process that have ended, in seconds.
pub(crate) fn ended_cpu() -> f64 {
    stat(std::process::id()).map_or(0.0, |stat| stat.ended)
}

/// Memory of a process by this field of its status, `VmRSS` or `VmHWM` (the most so far), in MiB.
pub(crate) fn memory_mib(process: &Child, field: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

/// The time of all processors so far, and the part of it without work, in ticks.
pub(crate) fn processors() -> (f64, f64) {
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let line = stat.lines().next().unwrap();
    let times: Vec<f64> =
        line.split_whitespace().skip(1).map(|time| time.parse().unwrap()).collect();
    // The times of guests, at the end, are counted in those of users already.
    (times[..8].iter().sum(), times[3] + times[4])
}

struct Stat {
    parent: u32,
    cpu: f64,
    /// Of its children that have ended.
    ended: f64,
}

/// Fields of `/proc/PID/stat` (proc(5)): the parent, user and system time, and those of its children.
fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        cpu: (ticks(11)? + ticks(12)?) / TICKS,
        ended: (ticks(13)? + ticks(14)?) / TICKS,
    })
}

/// Context switches of all threads.
fn switches(pid: u32) -> f64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    let statuses =
        threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("status")).ok());
    statuses
        .flat_map(|status| {
            let counts = status.lines().filter(|line| line.contains("ctxt_switches"));
            counts
                .filter_map(|line| line.split_whitespace().nth(1)?.parse().ok())
                .collect::<Vec<f64>>()
        })
        .sum()
}
