//! Every time and threshold that a lane's end decides by, in one table.

use std::time::Duration;

use crate::overlay::units::LossRate;

/// The constants of a [`RouteAgent`](super::RouteAgent). Tests pass their own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    // -- Silence (`silence.rs`) ------------------------------------------------------------------
    /// A packet that is unanswered for this long plus ¼ RTT causes a ping. It is longer than the
    /// acknowledgement delay of a busy peer (a few ms), and shorter than the 25 ms of an idle one.
    pub ping_after: Duration,
    /// The ping's answer is overdue after this long plus 1¼ RTT: room for jitter and a busy CPU.
    pub verdict_after: Duration,
    /// No answer on a route that works takes longer. If the smoothed round-trip time is longer, an outage
    /// has distorted the estimate. After repeated verdicts the time-out doubles up to this, so a lane
    /// resumes at most this long after all routes come back. Losses from before a move are found by then.
    pub longest_answer: Duration,
    /// How long the slowest answer is remembered: jitter comes and goes with the hours of the day.
    pub slow_answer_memory: Duration,
    /// The round-trip time that is assumed without a measurement.
    pub unknown_rtt: Duration,
    /// Room for a queue that was not there when the round-trip time was measured, and for an
    /// acknowledgement that is delayed by 25 ms (RFC 9000, section 18.2). It applies where other
    /// packets come in while acknowledgements do not.
    pub ack_queue: Duration,
    /// This many packets within one `step` are a transfer that will continue: 2 Mbit/s carry as many.
    pub busy_packets: u64,
    /// An agent that is woken up later than this was suspended or starved. Silence is not held
    /// against the route then.
    pub overslept: Duration,
    /// Without packets for this long the agent rests until the next one goes out.
    pub rest_after: Duration,

    // -- Blame (`blame.rs`) ----------------------------------------------------------------------
    /// A route that failed is excluded for this long the first time: three good probes of its links. The first trial of
    /// another route comes after this time, too, because only a long transfer is worth one.
    pub first_hold: Duration,
    /// How long the lane remembers a route at most: its faults (the longest exclusion, and
    /// the time after one in which another fault counts as the next), and the rate that it carried. The
    /// pauses between trials grow up to this time.
    pub memory: Duration,

    // -- Loss (`loss.rs`) ------------------------------------------------------------------------
    /// Length of a window in which loss is counted: some round trips, so that packets and their
    /// losses fall into the same one.
    pub loss_window: Duration,
    /// A window with fewer packets stays open: one loss of ten says nothing.
    pub loss_packets: u64,
    /// Unless so many of them were lost. At 30 % loss a controller takes seconds to send 40 packets.
    pub loss_many: u64,
    /// A window that did not fill within this time is dropped with all before it.
    pub loss_stale: Duration,
    /// A lane does not leave a route that loses less than this: congestion control alone stays below.
    pub leave_above: LossRate,
    /// A route must promise to carry this factor more than the lossy one in use.
    pub cleaner_factor: f64,
    /// The loss of the probes, of which ten in a hundred must be lost, that is believed without
    /// packets of the lane's own.
    pub probes_lost: LossRate,

    // -- Capacity --------------------------------------------------------------------------------
    /// The lane returns to a route that carried this factor more than the route in use delivers now (SOSP 2001,
    /// section 5.2: the hysteresis of throughput).
    pub capacity_factor: f64,
    /// How long a route is tried at most: slow start from one packet to 100 Mbit/s takes less.
    pub trial: Duration,

    // -- Grants (`grants.rs`) --------------------------------------------------------------------
    /// A relay's grant lasts 120 s unless renewed; the last of its time is not relied upon.
    pub grant_valid: Duration,
    /// A grant is renewed at this age, so that two attempts may fail.
    pub grant_renew: Duration,
    /// How often the next move is prepared: missing grants of the next best routes are asked for, and the
    /// overlay is told which links to watch closely.
    pub prepare_every: Duration,

    // -- The agent -------------------------------------------------------------------------------
    /// How often candidates and loss are looked at. The selector's hysteresis decides; this bounds
    /// how late a decision is carried out. While no route works, one that failed at once is taken again as often.
    pub tick: Duration,
    /// How often the agent does tasks that are not urgent: it looks while it rests, asks the far end while probes
    /// report the route in use as down, and tells the far end that its direction is limited by the route. (After three
    /// times this without such a notice, the direction is not limited any more.)
    pub slow_tick: Duration,
    /// The resolution of silence and of clocks, where packets are sent again.
    pub step: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let ms = Duration::from_millis;
        let s = Duration::from_secs;
        Self {
            ping_after: ms(10),
            verdict_after: ms(30),
            longest_answer: s(1),
            slow_answer_memory: s(300),
            unknown_rtt: ms(250),
            ack_queue: ms(40),
            busy_packets: 4,
            overslept: ms(150),
            rest_after: ms(500),
            first_hold: s(20),
            memory: s(600),
            loss_window: ms(500),
            loss_packets: 40,
            loss_many: 6,
            loss_stale: s(5),
            leave_above: LossRate::new(0.006),
            cleaner_factor: 1.3,
            probes_lost: LossRate::from_percent(10),
            capacity_factor: 1.5,
            trial: s(3),
            grant_valid: s(110),
            grant_renew: s(40),
            prepare_every: s(5),
            tick: ms(250),
            slow_tick: s(1),
            step: ms(20),
        }
    }
}
