//! Real processes whose clocks are wrong and run fast, through a renewal and a revocation.
//!
//! libfaketime (Debian: `faketime`) gives each process the offset that a file says. The monotonic clock, by
//! which everything but certificates, requests and logs is timed, stays the machine's. Where the library is
//! missing, the test says so and ends.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use super::{
    overlay::{Running, Site, configure, is_rid_of, json, ronproxy, stderr, wait_for},
    trust::{WITHIN, drip},
    web,
};

const MINUTE: u64 = 60;

/// How far one clock is ahead. Certificates are backdated by an hour, and requests are good for one.
const AHEAD: u64 = 55 * MINUTE;

/// What passes at once, of certificates that last two hours: more than the third after which they are renewed.
const PASSES: u64 = 45 * MINUTE;

/// The authority's setting, and that of this test.
const LIFETIMES: [&str; 2] = ["certificate_lifetime = \"168h\"", "certificate_lifetime = \"2h\""];

/// How often the file of a clock that runs at double speed is written.
const TICK: Duration = Duration::from_millis(100);

/// The library, if it is installed.
fn library() -> Option<PathBuf> {
    let below = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten();
    let found = |dir: PathBuf| Some(dir.join("faketime/libfaketimeMT.so.1")).filter(|p| p.exists());
    below(Path::new("/usr/lib")).find_map(|entry| found(entry.path()))
}

/// The file that says how far the clock of the node in `dir` is ahead.
fn file(dir: &Path) -> PathBuf {
    dir.join("ahead")
}

fn set(dir: &Path, seconds: u64) {
    // Readers must never find half of it.
    let (new, file) = (dir.join("ahead.new"), file(dir));
    std::fs::write(&new, format!("+{seconds}\n")).unwrap();
    std::fs::rename(new, file).unwrap();
}

/// The program with the clock of the node in `dir`.
fn with_clock(library: &Path, dir: &Path) -> Command {
    let mut command = ronproxy(dir);
    command
        .env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", file(dir))
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    command
}

/// A clock at double speed: each second of the others is two of it.
struct Double {
    passed: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    task: Option<JoinHandle<()>>,
}

impl Double {
    fn of(dir: PathBuf) -> Self {
        let (passed, over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (seen, ended, began) = (passed.clone(), over.clone(), Instant::now());
        let task = thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                set(&dir, began.elapsed().as_secs() + 2 * seen.load(Ordering::Relaxed));
                sleep(TICK);
            }
        });
        Self { passed, over, task: Some(task) }
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.task.take().map(JoinHandle::join);
    }
}

#[test]
fn clocks_that_run_fast_get_through_a_renewal_and_a_revocation() {
    let Some(library) = library() else {
        println!("skipped: libfaketime is not installed");
        return;
    };
    let site = Site::new();
    let hub = site.hub();
    configure(&hub, LIFETIMES[0], LIFETIMES[1]);
    set(&hub, 0);
    // Confined, a process reads its own files only, and not that of its clock.
    let start = |dir: &Path| {
        configure(dir, "confine = true", "confine = false");
        Running::start_as(with_clock(&library, dir), dir, &[])
    };
    let _hub = start(&hub);
    let dirs = ["ahead", "double", "right", "eve"].map(|name| site.join(name));
    let [ahead, double, right, eve] = &dirs;
    for (dir, seconds) in [(ahead, AHEAD), (double, 0), (right, 0), (eve, 0)] {
        set(dir, seconds);
    }
    let clock = Double::of(double.clone());
    let nodes = dirs.each_ref().map(|dir| start(dir));
    wait_for("the mesh", || dirs.iter().all(|dir| json(dir, &["status"])["links_up"] == 4));
    let server = drip();
    let mut flows: Vec<_> =
        nodes[..3].iter().map(|node| web::tunnel(node.proxy(), server).unwrap()).collect();
    let mut go_on = |what: &str| {
        for flow in &mut flows {
            let start = Instant::now();
            flow.read_exact(&mut [0; 100]).unwrap();
            assert!(start.elapsed() < WITHIN, "{what}: {:?}", start.elapsed());
        }
    };
    go_on("at first");
    let fact = |dir: &Path, name: &str| json(dir, &["status"])["certificate"][name].clone();
    let said = |dir: &Path| fact(dir, "clock_ahead_seconds").as_i64();
    wait_for("the clock that is ahead to be named", || {
        said(ahead).is_some_and(|said| said.unsigned_abs().abs_diff(AHEAD) < MINUTE)
    });
    clock.passed.store(PASSES, Ordering::Relaxed);
    for (dir, seconds) in [(&hub, PASSES), (ahead, AHEAD + PASSES), (right, PASSES), (eve, PASSES)]
    {
        set(dir, seconds);
    }
    wait_for("the renewals", || {
        [ahead, double, right].iter().all(|dir| fact(dir, "renewals").as_u64() >= Some(1))
    });
    go_on("after the renewals");
    let revoked = Instant::now();
    let output = with_clock(&library, &hub).args(["revoke", "eve"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let members = [&hub, ahead, double, right];
    wait_for("the end of eve", || members.iter().all(|dir| is_rid_of(dir, "eve")));
    let took = revoked.elapsed();
    assert!(took < WITHIN, "{took:?}");
    go_on("after the revocation");
    // By a clock that is ahead the next renewal is soon due again.
    assert!(fact(right, "renewal_error").is_null(), "{}", json(right, &["status"]));
    assert!(json(ahead, &["links"]).as_array().unwrap().iter().all(|link| link["up"] == true));
    println!(
        "renewed {:?} times; a revocation acted after {took:?}",
        members.map(|d| fact(d, "renewals"))
    );
}
