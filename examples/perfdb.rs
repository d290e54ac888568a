//! Three hosts of one LAN share what they measure of a member elsewhere, so that one of them probes it for all.
//! Then that one stops. Minutes pass in a moment: the overlay is in memory, and its time is virtual.
//!
//! ```text
//! cargo run --example perfdb
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use std::{error::Error, time::Duration};

use ronproxy::{EmulatedOverlay, EmulatedPath, Emulation, LinkFacts};
use tokio::time::{Instant, sleep};

const SITE: [&str; 3] = ["attic", "den", "kitchen"];

/// Each host measures at first, and by itself. Then its figures age, and those of the one that goes on serve.
const LONG: Duration = Duration::from_secs(300);

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn Error>> {
    in_memory().await?.iter().for_each(|line| println!("{line}"));
    Ok(())
}

/// What the hosts know of the member, and from whom: before and after the one that measures it stops.
pub(crate) async fn in_memory() -> Result<Vec<String>, Box<dyn Error>> {
    let far = EmulatedPath::new(Duration::from_millis(30)).loss(0.02);
    let near = EmulatedPath::new(Duration::from_micros(500));
    let mut plan = Emulation::new().exit("far").site(&SITE);
    for (n, host) in SITE.iter().enumerate() {
        plan = plan.entry(host).path(host, "far", far);
        plan = SITE[..n].iter().fold(plan, |plan, other| plan.path(host, other, near));
    }
    let overlay = plan.start().await?;
    overlay.settled().await;
    let first = measuring(&overlay).await?;
    let mut told = vec![format!("{first} measures for its site:")];
    for host in SITE {
        told.push(known(&overlay, host)?);
    }

    overlay.node(&first)?.stop().await;
    told.push(format!("{first} stops:"));
    let second = measuring(&overlay).await?;
    told.push(format!("{second} measures for its site:"));
    for host in SITE.into_iter().filter(|host| *host != first) {
        told.push(known(&overlay, host)?);
    }
    overlay.stop().await;
    Ok(told)
}

/// Waits until all hosts that run but one know the member by that one, which is returned.
async fn measuring(overlay: &EmulatedOverlay) -> Result<String, Box<dyn Error>> {
    let start = Instant::now();
    while start.elapsed() < LONG {
        sleep(Duration::from_secs(1)).await;
        let mut alone = Vec::new();
        for host in SITE {
            if link(overlay, host)?.is_some_and(|link| link.up && link.shared_by.is_none()) {
                alone.push(host);
            }
        }
        if let [host] = alone[..] {
            return Ok(host.to_owned());
        }
    }
    Err("no host measures for the others".into())
}

/// A host's link to the member; `None`: it has stopped.
fn link(overlay: &EmulatedOverlay, host: &str) -> Result<Option<LinkFacts>, Box<dyn Error>> {
    let links = overlay.node(host)?.links();
    Ok(links.into_iter().find(|link| link.peer.as_str() == "far" && link.address.is_some()))
}

fn known(overlay: &EmulatedOverlay, host: &str) -> Result<String, Box<dyn Error>> {
    let link = link(overlay, host)?.ok_or("the host has stopped")?;
    let rtt = link.rtt_ms.ok_or("the link is not measured")?;
    Ok(match (link.shared_by, link.shared_age_seconds) {
        (Some(by), Some(age)) => format!("  {host}: {rtt:.0} ms, measured by {by} {age} s ago"),
        _ => format!("  {host}: {rtt:.0} ms, measured by itself"),
    })
}
