use super::*;

const RTT: Duration = Duration::from_millis(60);

/// Steps the watches through time. `counters(ms)` gives the packets that asked for an answer and
/// those that came in until then; every packet in acknowledges one. Returns the findings other than
/// "look again", with their times in milliseconds.
fn run(ms: u64, counters: impl Fn(u64) -> (u64, u64)) -> Vec<(u64, Finding)> {
    let (t0, timing) = (Instant::now(), Timing::default());
    let mut silence = Silence::new(t0);
    let (mut findings, mut look_at, mut asked_before) = (Vec::new(), Some(t0), 0);
    let (mut departed, mut arrived, mut heard_before) = (None, None, 0);
    for t in 0..ms {
        let now = t0 + Duration::from_millis(t);
        let (asked, received) = counters(t);
        if asked != asked_before {
            departed = Some(now);
        }
        if received != heard_before {
            arrived = Some(now);
        }
        let woken = look_at.is_none() && asked != asked_before;
        (asked_before, heard_before) = (asked, received);
        if look_at.is_some_and(|at| now >= at) || woken {
            let traffic = Traffic {
                asked,
                answered: received.min(asked),
                received,
                departed,
                arrived,
                smoothed_rtt: Some(RTT),
                least_rtt: Some(RTT),
                ..Traffic::NONE
            };
            let finding = silence.look(now, &timing, &traffic);
            look_at = match finding {
                Finding::LookAt(at) | Finding::Ping(at) => Some(at),
                Finding::Rest => None,
                Finding::Silent(_) => {
                    silence.rerouted(now, None);
                    Some(now)
                }
            };
            if !matches!(finding, Finding::LookAt(_)) {
                findings.push((t, finding));
            }
        }
    }
    findings
}

fn verdicts(findings: &[(u64, Finding)]) -> Vec<u64> {
    let silent =
        |(t, finding): &(u64, Finding)| matches!(finding, Finding::Silent(_)).then_some(*t);
    findings.iter().filter_map(silent).collect()
}

fn pings(findings: &[(u64, Finding)]) -> usize {
    findings.iter().filter(|(_, finding)| matches!(finding, Finding::Ping(_))).count()
}

#[test]
fn a_busy_route_is_silent_after_one_and_a_half_round_trips() {
    // A packet each way every 2 ms until the cut at 300 ms; then only outgoing ones.
    let findings = run(500, |t| (t / 2, t.min(300) / 2));
    let silent = verdicts(&findings)[0];
    assert!((300 + 90..=300 + 160).contains(&silent), "{findings:?}");
}

#[test]
fn a_typist_is_judged_from_the_keystroke_on() {
    // A keystroke every 200 ms, answered 60 ms later until the cut at 1 s.
    let findings = run(1_400, |t| (t / 200, t.min(1_000).saturating_sub(60) / 200));
    let silent = verdicts(&findings)[0];
    assert!((1_000 + 90..=1_000 + 200).contains(&silent), "{findings:?}");
}

#[test]
fn a_receiver_that_sends_nothing_notices_that_a_transfer_stopped() {
    let findings = run(500, |t| (0, t.min(300)));
    let silent = verdicts(&findings)[0];
    assert!((300 + 90..=300 + 160).contains(&silent), "{findings:?}");
}

#[test]
fn the_end_of_a_transfer_costs_one_ping() {
    let findings = run(5_000, |t| (u64::from(t >= 325), t.min(300) + u64::from(t >= 385)));
    assert!(verdicts(&findings).is_empty(), "{findings:?}");
    assert_eq!(pings(&findings), 1);
}

#[test]
fn a_packet_that_was_on_its_way_before_is_no_answer() {
    // A keystroke after a second; 20 ms later something comes in that the far end sent before.
    let findings = run(1_400, |t| (u64::from(t >= 1_000), u64::from(t >= 1_020)));
    let silent = verdicts(&findings)[0];
    assert!((1_000 + 90..=1_000 + 260).contains(&silent), "{findings:?}");
}

#[test]
fn an_idle_route_is_never_silent() {
    let findings = run(60_000, |_| (0, 0));
    assert!(verdicts(&findings).is_empty() && pings(&findings) == 0, "{findings:?}");
}

#[test]
fn answers_to_pings_do_not_wait_for_an_answer() {
    let (t0, timing) = (Instant::now(), Timing::default());
    let mut silence = Silence::new(t0);
    let mut now = t0;
    for n in 1..100 {
        silence.answering();
        let traffic = Traffic {
            asked: n,
            answered: 0,
            received: 0,
            departed: Some(now),
            arrived: None,
            smoothed_rtt: Some(RTT),
            least_rtt: Some(RTT),
            ..Traffic::NONE
        };
        let finding = silence.look(now, &timing, &traffic);
        assert!(matches!(finding, Finding::LookAt(_) | Finding::Rest), "{finding:?}");
        now += timing.step;
    }
}

#[test]
fn jitter_of_a_round_trip_is_no_outage() {
    let findings = run(10_000, |t| (t / 2, t / 60 * 30));
    assert!(verdicts(&findings).is_empty(), "{findings:?}");
}

#[test]
fn a_path_that_answered_late_before_is_given_that_time_again() {
    // A packet every 400 ms, answered after 120 ms for a minute, then after 150 ms.
    let answered = |t: u64| {
        let late = if t < 60_000 { 120 } else { 150 };
        t / 400 + u64::from(t % 400 >= late)
    };
    let findings = run(90_000, |t| (t / 400 + 1, answered(t)));
    assert!(verdicts(&findings).is_empty(), "{findings:?}");
}

#[test]
fn an_outage_of_all_routes_causes_no_storm() {
    let findings = run(60_000, |t| (t / 2, t.min(300) / 2));
    assert!(verdicts(&findings).len() < 70, "{}", verdicts(&findings).len());
}

#[test]
fn an_estimate_of_seconds_does_not_delay_the_verdict_by_seconds() {
    let (t0, timing) = (Instant::now(), Timing::default());
    let mut silence = Silence::new(t0);
    let (mut now, mut silent) = (t0, None);
    while silent.is_none() && now < t0 + Duration::from_secs(10) {
        let traffic = Traffic {
            asked: 1,
            answered: 0,
            received: 0,
            departed: Some(t0),
            arrived: None,
            smoothed_rtt: Some(Duration::from_secs(7)),
            least_rtt: None,
            ..Traffic::NONE
        };
        match silence.look(now, &timing, &traffic) {
            Finding::LookAt(at) | Finding::Ping(at) => now = at,
            Finding::Silent(time) => silent = Some(time),
            Finding::Rest => panic!("a packet is outstanding"),
        }
    }
    assert!(silent.is_some_and(|silence| silence < Duration::from_secs(2)), "{silent:?}");
}

#[test]
fn of_two_findings_the_more_urgent_one_counts() {
    let at = |ms| Instant::now() + Duration::from_millis(ms);
    let (soon, late) = (at(1), at(9));
    let silent = Finding::Silent(RTT);
    assert_eq!(Finding::Rest.and(Finding::LookAt(late)), Finding::LookAt(late));
    assert_eq!(Finding::LookAt(soon).and(Finding::Ping(late)), Finding::Ping(soon));
    assert_eq!(silent.and(Finding::Ping(late)), silent);
    assert_eq!(Finding::Rest.and(silent), silent);
    assert_eq!(Finding::Rest.and(Finding::Rest), Finding::Rest);
}

#[test]
fn a_process_that_slept_does_not_blame_the_route() {
    let (t0, timing) = (Instant::now(), Timing::default());
    let mut silence = Silence::new(t0);
    for (ms, asked) in [(0, 5), (20, 9), (90_000, 9)] {
        let now = t0 + Duration::from_millis(ms);
        let traffic = Traffic {
            asked,
            answered: 5,
            received: 5,
            departed: Some(now),
            arrived: Some(t0),
            smoothed_rtt: Some(RTT),
            least_rtt: Some(RTT),
            ..Traffic::NONE
        };
        let finding = silence.look(now, &timing, &traffic);
        assert!(!matches!(finding, Finding::Silent(_)), "{finding:?}");
    }
}

#[test]
fn probes_say_how_late_a_route_answers_until_it_has_answered() {
    let (t0, timing) = (Instant::now(), Timing::default());
    let ms = Duration::from_millis;
    let mut silence = Silence::new(t0);
    silence.rerouted(t0, Some(ms(500)));
    for (least, smoothed) in [(None, ms(500)), (Some(ms(40)), RTT), (Some(ms(700)), ms(700))] {
        let traffic = Traffic { smoothed_rtt: Some(RTT), least_rtt: least, ..Traffic::NONE };
        assert_eq!(silence.rtt(&timing, &traffic).smoothed, smoothed);
    }
}
