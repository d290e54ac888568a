//! `demo --check`: the whole round without a visitor. Every figure is measured.

use std::{future::Future, net::SocketAddr, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout};

use super::{
    DemoError, Options,
    client::{Client, ClientError, Download, Way, text},
    commands::Command,
    facts::paths_of,
    object::Object,
    out::say,
    paths::{PathId, Place},
    site::HOSTS,
    stage::Stage,
    text::bytes,
    view,
};

/// The campus site.
const HOST: &str = HOSTS[0];

/// A name behind no exit.
const NOBODY: &str = "nobody.mit.test";

/// No check takes longer: a flow's patience with a broken route is 60 s.
const PATIENCE: Duration = Duration::from_secs(90);

/// What is downloaded, in MiB: a few seconds at the demo's rates.
const SIZE_MB: u64 = 4;

/// What is uploaded, in MiB. Less, because a burst of loss on the direct path can bring one
/// sender down to 0.7 Mbit/s for a while.
const UPLOAD_MB: u64 = 2;

/// The path is cut when this much has arrived, well past slow start.
const CUT_AT: u64 = 1 << 20;

/// SOCKS5's "host unreachable" (RFC 1928, §6): the exit found no such name.
const HOST_UNREACHABLE: u8 = 4;

/// The figures of a check that held, or what was wrong.
type Outcome = Result<String, String>;

/// Counts the checks and prints them.
#[derive(Debug, Default)]
struct Report {
    all: usize,
    failed: usize,
}

impl Report {
    async fn check(&mut self, what: &str, check: impl Future<Output = Outcome>) {
        let outcome = timeout(PATIENCE, check)
            .await
            .unwrap_or_else(|_| Err(format!("it did not end within {PATIENCE:?}")));
        self.all += 1;
        match outcome {
            Ok(figures) => {
                say(&format!("✓ {what}: {figures}"));
            }
            Err(problem) => {
                self.failed += 1;
                say(&format!("✗ {what}: {problem}"));
            }
        }
    }
}

/// Makes the round on a free port.
pub(super) async fn run(options: &Options) -> Result<(), DemoError> {
    let start = Instant::now();
    let listen = SocketAddr::new(options.listen.ip(), 0);
    let mut stage = Stage::start(listen, options.seed).await?;
    let client = Client::new(stage.proxy());
    let mut report = Report::default();
    let meshed = start.elapsed().as_millis();
    let started = async { Ok(format!("all linked after {meshed} ms, proxy at {}", stage.proxy())) };
    report.check("four nodes run", started).await;
    for (way, what) in [
        (Way::Socks5, "the campus page by SOCKS5"),
        (Way::Forward, "the campus page by HTTP"),
        (Way::Connect, "the campus page by CONNECT"),
    ] {
        report.check(what, index(client, way)).await;
    }
    report.check("a download", overlay_download(&stage, client)).await;
    report.check("an upload", upload(client)).await;
    report.check("an unknown host by SOCKS5", refused_by_socks(client)).await;
    report.check("an unknown host by HTTP", refused_by_http(client)).await;
    if options.cut {
        report.check("a cut in the middle of a download", cut(&mut stage, client)).await;
        report.check("healing", heal(&mut stage)).await;
    } else {
        say("– a cut in the middle of a download: not asked for");
    }
    stage.stop().await;
    finish(&report)
}

fn finish(report: &Report) -> Result<(), DemoError> {
    let Report { all, failed } = *report;
    if failed > 0 {
        return Err(DemoError::Failed { failed, all });
    }
    say(&format!("All {all} checks hold."));
    Ok(())
}

fn broken(error: ClientError) -> String {
    error.to_string()
}

async fn index(client: Client, way: Way) -> Outcome {
    let start = Instant::now();
    let answer = client.ask(way, HOST, "/", None).await.map_err(broken)?;
    let status = answer.status();
    let page = text(answer).await.map_err(broken)?;
    if status != 200 || !page.contains("You reached the campus") {
        return Err(format!("status {status} and {} of another page", bytes(page.len() as u64)));
    }
    Ok(format!("status 200, {} in {} ms", bytes(page.len() as u64), start.elapsed().as_millis()))
}

/// Downloads, and proves by three independent counters that the bytes crossed the overlay.
async fn overlay_download(stage: &Stage, client: Client) -> Outcome {
    let before = arrived(stage);
    let path = format!("/big?mb={SIZE_MB}");
    let (seen, done) = {
        let mut download = std::pin::pin!(client.download(HOST, &path, |_| {}));
        let mut seen = None;
        loop {
            tokio::select! {
                done = &mut download => break (seen, done.map_err(broken)?),
                () = sleep(Duration::from_millis(20)) => {
                    let facts = stage.observe();
                    let flow = facts.flows.into_iter().find(|f| f.target == format!("{HOST}:80"));
                    seen = flow.filter(|flow| flow.received > 0).or(seen);
                }
            }
        }
    };
    verify(&done, SIZE_MB)?;
    let flow = seen.ok_or("the entry never listed it as a flow")?;
    let lanes = stage.entry().map_or_else(Vec::new, |entry| entry.lane_facts());
    let lane = lanes.first().ok_or("the entry has no lane")?;
    let crossed = arrived(stage) - before;
    if crossed < done.bytes {
        return Err(format!("only {} crossed the emulated Internet", bytes(crossed)));
    }
    Ok(format!(
        "{}; flow {} in lane {} {}, {} packets received, {} over the emulated Internet",
        figures(&done),
        flow.label,
        lane.facts.lane,
        lane.facts.route,
        lane.facts.packets.1,
        bytes(crossed),
    ))
}

/// Bytes that reached the entry over the emulated Internet.
fn arrived(stage: &Stage) -> u64 {
    let others = [Place::Mit, Place::Utah, Place::MediaOne];
    others.into_iter().map(|place| stage.traffic(place, Place::ArosNet).bytes).sum()
}

fn verify(done: &Download, mb: u64) -> Result<(), String> {
    let object = Object::new(mb << 20);
    if done.bytes != object.len() {
        return Err(format!("{} of {} bytes arrived", done.bytes, object.len()));
    }
    if done.sha256 != object.sha256() {
        return Err(format!("the SHA-256 is wrong: {}", done.sha256));
    }
    Ok(())
}

fn figures(done: &Download) -> String {
    let (seconds, mbit) = (done.took.as_secs_f64(), done.mbit());
    format!("{} in {seconds:.1} s, {mbit:.1} Mbit/s, SHA-256 right", bytes(done.bytes))
}

async fn upload(client: Client) -> Outcome {
    let object = Object::new(UPLOAD_MB << 20);
    let body: Bytes = object.chunks().flatten().collect();
    let start = Instant::now();
    let answer = client.ask(Way::Socks5, HOST, "/echo", Some(body)).await.map_err(broken)?;
    let told = text(answer).await.map_err(broken)?;
    let took = start.elapsed();
    if told.trim() != format!("{} bytes, sha256 {}", object.len(), object.sha256()) {
        return Err(format!("the campus got something else: {}", told.trim()));
    }
    Ok(figures(&Download {
        bytes: object.len(),
        sha256: String::new(),
        took,
        stall: Duration::ZERO,
    }))
}

async fn refused_by_socks(client: Client) -> Outcome {
    match client.ask(Way::Socks5, NOBODY, "/", None).await {
        Err(ClientError::Socks(HOST_UNREACHABLE)) => Ok("reply 4, host unreachable".to_owned()),
        Err(error) => Err(error.to_string()),
        Ok(answer) => Err(format!("it was reached and answered {}", answer.status())),
    }
}

async fn refused_by_http(client: Client) -> Outcome {
    let answer = client.ask(Way::Forward, NOBODY, "/", None).await.map_err(broken)?;
    let why = answer.headers().get("proxy-status").and_then(|why| why.to_str().ok());
    if answer.status() != 502 || !why.is_some_and(|why| why.contains("dns_error")) {
        return Err(format!("status {}, proxy-status {why:?}", answer.status()));
    }
    match client.ask(Way::Connect, NOBODY, "/", None).await {
        Err(ClientError::Connect { status: 502, head }) if head.contains("dns_error") => {
            Ok("status 502, dns_error, both for GET and CONNECT".to_owned())
        }
        Err(error) => Err(error.to_string()),
        Ok(_) => Err("CONNECT succeeded".to_owned()),
    }
}

/// Cuts the path that the download is on: a cut elsewhere would prove nothing.
async fn cut(stage: &mut Stage, client: Client) -> Outcome {
    let path = format!("/big?mb={}", 2 * SIZE_MB);
    let (so_far, mut received) = tokio::sync::watch::channel(0);
    let progress = move |count| {
        so_far.send_replace(count);
    };
    let download = tokio::spawn(async move { client.download(HOST, &path, progress).await });
    // The sender is gone when the download failed early; it then tells why.
    let _ = received.wait_for(|count| *count >= CUT_AT).await;
    let lanes = stage.observe().lanes;
    let before = lanes.first().ok_or("the entry has no lane")?;
    let used = *paths_of(&before.route).first().ok_or("the lane's route is unknown")?;
    stage.perform(&Command::Cut(used)).await.map_err(|error| error.to_string())?;
    let done = timeout(PATIENCE - Duration::from_secs(10), download).await;
    let done = done.map_err(|_| format!("nothing more came after path {used} was cut"))?;
    let done = done.map_err(|error| error.to_string())?.map_err(broken)?;
    verify(&done, 2 * SIZE_MB)?;
    let lanes = stage.observe().lanes;
    let after = lanes.iter().find(|lane| lane.lane == before.lane).ok_or("the lane is gone")?;
    if after.route == before.route {
        return Err(format!("it ended, but still {} over the cut path {used}", after.route));
    }
    let known = usize::try_from(before.reroutes).unwrap_or(usize::MAX);
    let reroutes: Vec<String> = after.history.iter().skip(known).map(view::change).collect();
    Ok(format!(
        "{used} cut at {}; {}; {}; longest stall {} ms",
        bytes(CUT_AT),
        reroutes.join(", "),
        figures(&done),
        done.stall.as_millis(),
    ))
}

async fn heal(stage: &mut Stage) -> Outcome {
    stage.perform(&Command::HealAll).await.map_err(|error| error.to_string())?;
    let start = Instant::now();
    while !stage.observe().paths.iter().all(|path| path.linked) {
        sleep(Duration::from_millis(20)).await;
    }
    let count = PathId::all().count();
    Ok(format!("all {count} links up {:.1} s later", start.elapsed().as_secs_f64()))
}
