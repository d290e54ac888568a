//! Clocks of running nodes that jump, and are set right again.

use std::time::Duration;

use ronproxy::internals::lab::{Dates, Lab};
use tokio::time::{Instant, sleep, timeout};

use crate::{revocation::five, support};

const DAY: i64 = 24 * 3600;

/// How long a clock is wrong: longer than the slowest timer that looks at dates.
const WRONG_FOR: Duration = Duration::from_secs(180);

/// A new flow opens within this time.
const SOON: Duration = Duration::from_secs(10);

/// Whether a new flow of `utah` by `nyu` opens, on a lane of its own class.
async fn opens(lab: &Lab, class: u32) -> bool {
    let mut request = support::flow_request_in("echo.test:7", class);
    request.exit = Some("nyu".parse().unwrap());
    let dialer = lab.node("utah").unwrap().dialer();
    timeout(SOON, dialer.dial(request)).await.is_ok_and(|flow| flow.is_ok())
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumped_does_no_harm_once_it_is_right() {
    // Of an entry, its exit, the authority and another node. Ten days are more than a certificate lasts.
    for (who, days) in [
        ("utah", 1),
        ("utah", -1),
        ("utah", 10),
        ("nyu", 1),
        ("nyu", -10),
        ("nyu", 10),
        ("mit", 1),
        ("mit", 10),
        ("mit", -10),
        ("cornell", 10),
    ] {
        let lab = five(Dates::default(), 87).await;
        let mut io = support::open_at(lab.node("utah").unwrap(), "echo.test:7", "nyu").await;
        lab.clock_of(who).unwrap().set_wrong_by(days * DAY);
        let (end, mut kept, mut opened) = (Instant::now() + WRONG_FOR, true, 0);
        while Instant::now() < end {
            kept = kept && support::type_a_key(&mut *io).await.is_ok();
            // An entry may have lanes of 16 classes.
            opened += u32::from(opened < 10 && opens(&lab, opened).await);
            sleep(Duration::from_secs(10)).await;
        }
        lab.clock_of(who).unwrap().set_wrong_by(0);
        let right = Instant::now();
        support::wait_for("the mesh", SOON, || lab.is_meshed()).await;
        let again = opens(&lab, 99).await;
        println!(
            "{who}, {days} days: the flow lives {kept}, {opened} new ones; another when it is right: {again} after {:?}",
            right.elapsed()
        );
        assert!(again, "{who}, {days} days");
        let at_an_end = ["utah", "nyu"].contains(&who);
        // By its own clock an end's certificate is over, and with it what it has.
        assert!(kept || (at_an_end && days == 10), "{who}, {days} days");
        assert!(at_an_end || opened == 10, "{who}, {days} days: {opened}");
        lab.stop().await;
    }
}
