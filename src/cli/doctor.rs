//! `ronproxy doctor`

mod names;
mod tcp;

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    process::{Command, ExitCode},
};

use clap::Args;
use serde::Serialize;

use super::{
    CliError,
    folder::Folder,
    output::{print, print_json},
    units,
};
use crate::{
    admin::{ClientError, StatusReport},
    app::CertificateStatus,
    carrier::{StreamDialler, bind_streams},
    config::Config,
    exit::SystemResolver,
    identity::{AuthorityContact, Fingerprint, NodeFile, NodeIdentity, UnixTime, skew_in_words},
    mesh::LinkFacts,
    node::Written,
    underlay::{Carrier, bind_udp},
};

/// Look for what is wrong with this node, and say what to do
#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// Print facts as JSON
    #[arg(long)]
    json: bool,
}

/// One thing looked at.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Finding {
    /// What was looked at.
    check: &'static str,
    /// Whether it is in order.
    ok: bool,
    /// What was found.
    found: String,
    /// What to do, if it is not in order.
    advice: Option<String>,
}

impl Doctor {
    pub(super) async fn run(self, folder: &Folder) -> Result<ExitCode, CliError> {
        let findings = examine(folder).await;
        if self.json {
            print_json(&findings)?;
        } else {
            for finding in &findings {
                print(finding.line())?;
            }
        }
        let well = findings.iter().all(|finding| finding.ok);
        Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl Finding {
    fn good(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, ok: true, found: found.into(), advice: None }
    }

    fn bad(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, ok: false, found: found.into(), advice: Some(advice.into()) }
    }

    /// In order, but perhaps not what was meant.
    fn note(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, ok: true, found: found.into(), advice: Some(advice.into()) }
    }

    fn line(&self) -> String {
        let mark = if self.ok { "ok  " } else { "FAIL" };
        let advice = self.advice.as_ref().map(|advice| format!("\n{:19}→ {advice}", ""));
        format!("{mark}  {:13}{}{}", self.check, self.found, advice.unwrap_or_default())
    }
}

/// What helps a node that was revoked.
const JOIN_AGAIN: &str = "ask for an invitation, move this folder away, and join again";

async fn examine(folder: &Folder) -> Vec<Finding> {
    // What cannot be moved is found missing below.
    let _ = folder.bring_up_to_date();
    let mut findings = vec![permissions(folder)];
    findings.extend(programs());
    let config = folder.config();
    findings.push(match &config {
        Ok(_) => Finding::good("config", folder.dir.path(NodeFile::Config).display().to_string()),
        Err(error) => Finding::bad("config", "cannot be used", error.to_string()),
    });
    let running: Result<StatusReport, _> = folder.client().get("/status").await;
    let identity = NodeIdentity::load(&folder.dir);
    match &identity {
        Ok(identity) => {
            let now = UnixTime::now();
            findings.push(clock(identity.peer().starts.as_secs(), now.as_secs()));
            let told = running.as_ref().ok().map(|status| &status.node.certificate);
            let failed = told.and_then(|told| told.renewal_error.as_deref());
            findings.push(certificate(identity, now, failed));
            findings.extend(told.into_iter().flat_map(experienced));
            if let Ok(config) = &config {
                findings.extend(exit_role(identity.peer().roles.exit, config.exit.enabled));
            }
        }
        Err(error) => findings.push(Finding::bad("identity", "cannot be used", error.to_string())),
    }
    if let Ok(config) = &config {
        // A file that cannot be read only costs the names in it.
        let contact = AuthorityContact::load(&folder.dir).ok().flatten();
        let (resolver, proxy) = (SystemResolver::new(), config.node.stream_proxy());
        findings.extend(names::names(config, contact.as_ref(), &resolver, proxy).await);
    }
    match (running, &config) {
        (Ok(status), _) => {
            findings.push(Finding::good("node", format!("running, pid {}", status.run.pid)));
            let dialler = config.as_ref().ok().zip(identity.as_ref().ok());
            let dialler = dialler.and_then(|(config, identity)| {
                let authority = Fingerprint::of(identity.authority());
                let proxy = config.node.stream_proxy().filter(|_| config.node.stream_dial)?;
                tcp::dialler(proxy, authority)
            });
            findings.extend(linked(folder, dialler.as_ref()).await);
        }
        (Err(error @ ClientError::Unreadable(_)), _) => {
            findings.push(Finding::bad("node", "runs in another version", error.to_string()));
        }
        // It has its ports itself.
        (Err(error @ ClientError::Silent), _) => {
            findings.push(Finding::bad("node", "runs, and does not answer", error.to_string()));
        }
        (Err(error), config) => {
            findings.push(Finding::bad("node", "does not answer", error.to_string()));
            if let Ok(config) = config {
                findings.extend(config.node.udp.then(|| udp(config)));
                findings.extend(config.node.stream_listen.map(streams));
                findings.extend(proxy(config));
            }
        }
    }
    findings
}

/// The links of the running node. `dialler` has the proxy by which streams are dialled, if there is one.
async fn linked(folder: &Folder, dialler: Option<&StreamDialler>) -> Vec<Finding> {
    let all: Vec<LinkFacts> = match folder.client().get("/links").await {
        Ok(all) => all,
        Err(error) => return vec![Finding::bad("links", "unknown", error.to_string())],
    };
    let mut findings = vec![links(&all)];
    findings.extend(carriers(&all));
    if all.iter().all(|link| !link.up) {
        findings.extend(tcp::tcp(&Written::load(&folder.dir).bootstrap, dialler).await);
    }
    findings
}

/// What the running node experienced of its certificate and clock.
fn experienced(told: &CertificateStatus) -> Vec<Finding> {
    let mut findings = Vec::new();
    if told.refused_as_revoked > 0 {
        let found = "a member says that it is revoked; no list of the authority here does";
        let advice = format!("ask who runs the authority; if it is so, {JOIN_AGAIN}");
        findings.push(Finding::bad("certificate", found, advice));
    }
    findings.extend(told.clock_ahead_seconds.and_then(skew_in_words).map(|words| {
        let found = format!("{words} the authority's");
        Finding::bad("clock", found, "set this machine's clock, best by NTP")
    }));
    findings
}

/// Folders that others may enter, and keys that others may read.
fn permissions(folder: &Folder) -> Finding {
    let files = [NodeFile::Key, NodeFile::AuthorityKey].map(|file| folder.dir.path(file));
    let folders = [NodeFile::Config, NodeFile::Members, NodeFile::AuthorityKey]
        .map(|file| folder.dir.path(file));
    let folders = folders.iter().filter_map(|path| path.parent());
    for path in files.iter().map(AsRef::as_ref).chain(folders) {
        let Ok(metadata) = fs::metadata(path) else { continue };
        if metadata.permissions().mode() & 0o077 != 0 {
            let (found, mode) = (path.display(), if metadata.is_dir() { "700" } else { "600" });
            let advice = format!("run: chmod {mode} {found}");
            return Finding::bad("folder", format!("others may open {found}"), advice);
        }
    }
    Finding::good("folder", "keys and state are this user's alone")
}

/// Whether `ronproxy exec` can give programs a network of their own. It takes a process with one thread to find out.
fn programs() -> Option<Finding> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    let program = std::env::current_exe().ok()?;
    let checked = Command::new(program).args(["exec", "--check"]).output().ok()?;
    let said = String::from_utf8_lossy(&checked.stderr);
    Some(exec_of(checked.status.success(), said.trim().trim_start_matches("ronproxy: ")))
}

/// Not to have it is no fault of the node.
fn exec_of(works: bool, said: &str) -> Finding {
    if works {
        return Finding::good(
            "exec",
            "programs without proxy support can be run by `ronproxy exec`",
        );
    }
    let (found, advice) = said.split_once("; ").unwrap_or((said, "see `ronproxy exec --check`"));
    Finding::note("exec", format!("`ronproxy exec` is not possible: {found}"), advice)
}

/// A certificate that is not valid yet was made by a clock ahead of this one.
fn clock(starts: u64, now: u64) -> Finding {
    if now < starts {
        let late = units::span(starts - now);
        let found = format!("at least {late} behind the clock of the overlay's authority");
        return Finding::bad("clock", found, "set this machine's clock, best by NTP");
    }
    Finding::good("clock", "not before the start of the certificate")
}

/// `failed` is why the running node could not renew it the last time it tried.
fn certificate(identity: &NodeIdentity, now: UnixTime, failed: Option<&str>) -> Finding {
    let peer = identity.peer();
    if identity.revoked().contains(peer) {
        return Finding::bad("certificate", "revoked", JOIN_AGAIN);
    }
    let advice = failed.map_or_else(
        || "run the node: it asks the authority for the next one by itself".to_owned(),
        |error| format!("the last renewal failed: {error}; it is tried again by itself"),
    );
    match peer.expires.as_secs().checked_sub(now.as_secs()) {
        None => {
            let late = units::span(now.as_secs() - peer.expires.as_secs());
            Finding::bad("certificate", format!("ended {late} ago"), advice)
        }
        // Two thirds are left when renewals begin: that late they have failed for long.
        Some(left) if left < peer.lifetime().as_secs() / 4 => {
            Finding::bad("certificate", format!("ends in {}", units::span(left)), advice)
        }
        Some(left) => Finding::good("certificate", format!("valid for {}", units::span(left))),
    }
}

/// An exit needs a certificate that grants it and a configuration that enables it.
fn exit_role(granted: bool, enabled: bool) -> Option<Finding> {
    match (granted, enabled) {
        (true, true) => Some(Finding::good("exit", "granted by the certificate and enabled")),
        (true, false) => Some(Finding::note(
            "exit",
            "granted by the certificate, but not enabled: no flow leaves here",
            "to be an exit, set `enabled = true` under [exit] and restart the node",
        )),
        (false, true) => Some(Finding::bad(
            "exit",
            "enabled, but not granted by the certificate: no flow leaves here",
            "ask for an invitation with --exit and join with it in a new folder, or set `enabled = false` under [exit]",
        )),
        (false, false) => None,
    }
}

fn udp(config: &Config) -> Finding {
    let listen: SocketAddr = config.node.listen;
    match bind_udp(listen) {
        Ok(_) => Finding::good("UDP", format!("{listen} is free")),
        Err(error) => Finding::bad(
            "UDP",
            format!("{listen}: {error}"),
            "stop the program that has it, or set another `listen` under [node]",
        ),
    }
}

/// Whether streams can be accepted at `listen`.
fn streams(listen: SocketAddr) -> Finding {
    match bind_streams(listen) {
        Ok(_) => Finding::good("streams", format!("TCP {listen} is free")),
        Err(error) => Finding::bad(
            "streams",
            format!("TCP {listen}: {error}"),
            "stop the program that has it, set another `stream_listen` under [node], or for a port below 1024 \
             give the program CAP_NET_BIND_SERVICE",
        ),
    }
}

fn proxy(config: &Config) -> Option<Finding> {
    let listen = config.entry.enabled.then_some(config.entry.listen)?;
    Some(match std::net::TcpListener::bind(listen) {
        Ok(_) => Finding::good("proxy", format!("{listen} is free")),
        Err(error) => Finding::bad(
            "proxy",
            format!("{listen}: {error}"),
            "stop the program that has it, or set another `listen` under [entry]",
        ),
    })
}

fn links(all: &[LinkFacts]) -> Finding {
    let down = all.iter().filter(|link| !link.up);
    let down: Vec<&str> = down.map(|link| link.peer.as_str()).collect();
    match (all.len(), down.len()) {
        (0, _) => Finding::good("links", "no other member is known yet"),
        (all, 0) => Finding::good("links", format!("all {all} are up")),
        (all, lost) if lost == all => Finding::bad(
            "links",
            "none is up",
            "check that this machine's firewall lets UDP or TLS out, and that the others run",
        ),
        _ => Finding::bad(
            "links",
            format!("no link to {}", down.join(", ")),
            "see whether these nodes run; flows to them go through other members meanwhile",
        ),
    }
}

/// What links go over, if UDP is not all of it, and whether UDP passes there.
fn carriers(all: &[LinkFacts]) -> Vec<Finding> {
    let up: Vec<_> = all.iter().filter(|link| link.up).collect();
    let is_tls = |link: &&&LinkFacts| link.carrier.as_deref() == Some(Carrier::Tls.name());
    let tls = up.iter().filter(is_tls);
    let (mut silent, mut lossy) = (Vec::new(), Vec::new());
    for link in tls {
        match udp_loss(link) {
            Some(loss) => lossy.push(format!("{} to {}", units::percent(loss), link.peer)),
            None => silent.push(link.peer.as_str()),
        }
    }
    let silent = match silent.len() {
        0 => None,
        all if all == up.len() => {
            Some("has passed to no member lately: all links go over TLS on TCP".to_owned())
        }
        _ => Some(format!("has not passed to {} lately: TLS on TCP is used", silent.join(", "))),
    };
    let lossy = (!lossy.is_empty()).then(|| {
        let lossy = lossy.join(", ");
        format!("passes, but lost round trips when it was measured, {lossy}: TLS on TCP is used")
    });
    let advice = "nothing has to be done; UDP is measured again by itself";
    let found = silent.into_iter().chain(lossy);
    found.map(|found| Finding::note("UDP", found, advice)).collect()
}

/// The round trips that UDP beside the link lost, in percent, if it was measured and lost some, but not all.
fn udp_loss(link: &LinkFacts) -> Option<f64> {
    let other = link.other_carrier.as_ref().filter(|other| other.carrier == Carrier::Udp.name());
    other.map(|udp| udp.loss_percent).filter(|loss| units::is_part(*loss))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(peer: &str, up: bool, carrier: &str) -> LinkFacts {
        let facts = serde_json::json!({
            "peer": peer, "up": up, "carrier": carrier, "state": "", "control_bytes": [0, 0], "labels": 0,
            "exit": false, "relay": false,
        });
        serde_json::from_value(facts).unwrap()
    }

    #[test]
    fn a_clock_that_is_behind_is_told_from_one_that_is_not() {
        let starts = 1_800_000_000;
        assert!(clock(starts, starts).ok);
        assert!(!clock(starts, starts - 1).ok);
    }

    #[test]
    fn an_exit_that_is_only_granted_or_only_enabled_is_named() {
        let line = |granted, enabled| exit_role(granted, enabled).map(|found| found.line());
        assert_eq!(line(false, false), None);
        assert!(line(true, true).unwrap().starts_with("ok "));
        let granted = line(true, false).unwrap();
        assert!(granted.starts_with("ok ") && granted.contains("`enabled = true`"), "{granted}");
        let enabled = line(false, true).unwrap();
        assert!(enabled.starts_with("FAIL") && enabled.contains("not granted"), "{enabled}");
    }

    #[test]
    fn programs_that_cannot_be_run_are_no_fault_and_have_a_cure() {
        assert!(exec_of(true, "").ok);
        let blocked = exec_of(false, "this system does not allow it: no; run this; or that");
        assert!(blocked.ok, "{blocked:?}");
        assert_eq!(blocked.advice.as_deref(), Some("run this; or that"));
        assert!(blocked.line().contains("does not allow it: no"), "{blocked:?}");
    }

    /// What is said of UDP where links go over these carriers, and UDP beside them lost so much in percent.
    fn said(links: &[(&str, &str, Option<f64>)]) -> Vec<String> {
        let links = links.iter().map(|(peer, carrier, udp_loss)| {
            let of = |loss_percent: f64| crate::mesh::CarrierFacts {
                carrier: "udp".to_owned(),
                rtt_ms: 60.0,
                loss_percent,
                age_seconds: 40,
            };
            LinkFacts { other_carrier: udp_loss.map(of), ..link(peer, true, carrier) }
        });
        let found = carriers(&links.collect::<Vec<_>>());
        assert!(found.iter().all(|found| found.ok && found.advice.is_some()), "{found:?}");
        found.into_iter().map(|found| found.found).collect()
    }

    #[test]
    fn links_over_streams_say_that_udp_does_not_pass() {
        assert!(said(&[("a", "udp", None)]).is_empty());
        for lost in [None, Some(100.0)] {
            let all = said(&[("a", "tls", lost), ("b", "tls", None)]);
            assert_eq!(all, ["has passed to no member lately: all links go over TLS on TCP"]);
        }
        let some = said(&[("a", "tls", None), ("b", "udp", None)]);
        assert_eq!(some, ["has not passed to a lately: TLS on TCP is used"]);
    }

    #[test]
    fn links_over_streams_say_that_udp_passes_and_loses() {
        let lossy = "passes, but lost round trips when it was measured, 36.0 % to a, 12.5 % to b: TLS on TCP is used";
        let both = [("a", "tls", Some(36.0)), ("b", "tls", Some(12.5))];
        assert_eq!(said(&both), [lossy]);
        let all = [&both[..], &[("c", "tls", None)]].concat();
        assert_eq!(said(&all), ["has not passed to c lately: TLS on TCP is used", lossy]);
    }

    #[test]
    fn links_that_are_down_are_named() {
        let links_of = |up: &[(&str, bool)]| {
            let all = up.iter().map(|(peer, up)| link(peer, *up, "udp"));
            links(&all.collect::<Vec<_>>())
        };
        assert!(links_of(&[]).ok && links_of(&[("a", true)]).ok);
        let one = links_of(&[("a", true), ("b", false)]);
        assert!(!one.ok && one.line().contains("no link to b"));
        assert!(links_of(&[("a", false)]).line().contains("firewall"));
    }
}
