//! Watches one link by three-way probes: a state machine without a socket and without a clock.
//!
//! The owner calls [`Monitor::handle_message`] for what arrives, and when [`Monitor::poll_timeout`]
//! is due [`Monitor::handle_timeout`]; after either, it drains [`Monitor::poll_transmit`] and
//! [`Monitor::poll_event`].
//!
//! # The exchange
//!
//! Request, reply, finish. A complete exchange gives both ends a round-trip time and resets both
//! timers. So a link costs one exchange per interval and not two. The end that began it begins the next
//! one. The other end begins one if none comes for half an interval and a time-out longer.
//!
//! # Up and down
//!
//! A request unanswered within the time-out of [`LatencyEstimator::timeout`] is lost, and another
//! follows at once. The fourth in a row means down. So an outage is found at most
//! interval + 4 time-outs after it begins, and 4 time-outs after [`Monitor::probe_now`].
//!
//! A link without use whose figures another node tells ([`super::sharing`]) needs an exchange every 100 s
//! only. Both ends have to agree: a message says whether its sender does.
//!
//! On first contact one complete exchange means up, so that a new node is usable at once. After an
//! outage three in a row are needed.
//!
//! Loss describes a link that is up, so only regular exchanges of a link that is up count for it. Those of an
//! outage do not: a minute of it would be 100 % loss for the next hundred probes. Those after it do not
//! either: a link that comes up after each of many short silences would seem cleaner than one that stays up in
//! them. An outage counts as the one exchange that finds it. Losses from before it are kept for a minute: at
//! 30 % loss, four losses in a row happen by chance, and the link would come up with a clean record each time.

mod probe;
mod summary;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

pub use probe::{Probe, ProbeKind};
pub use summary::{LinkEvent, LinkState, LinkSummary, PassiveSample, Probed};

use super::{
    budget::{IDLE_INTERVAL, INTERVAL_BOUNDS, RARE_INTERVAL},
    latency::LatencyEstimator,
    loss::{DataLoss, LossCounts, LossWindow},
    throughput::DeliveredRate,
    units::LossRate,
};

/// Lost probes in a row that mean down: the paper's four (SOSP 2001, §5.1). At 10 % loss each way,
/// chance alone does it once in about 770 trials.
const LOST_TO_DOWN: u8 = 4;

/// Good probes in a row that mean up again after an outage, as in the SCION gateway: a link that
/// flaps faster than this stays down.
const GOOD_TO_UP: u8 = 3;

/// The pause between the probes of a recovering link: the fastest regular interval.
const RECOVERY_PAUSE: Duration = INTERVAL_BOUNDS.0;

/// The bounds of the pause between probes of a link that is down; it doubles from one to the
/// other. A second finds a short outage's end soon; the slowest regular interval bounds the cost of
/// a node that is gone.
const DOWN_PAUSE: (Duration, Duration) = (Duration::from_secs(1), INTERVAL_BOUNDS.1);

/// The longest outage after which the earlier loss counts. After a longer one the path may be
/// another. Outages by chance are shorter (a recovery at 50 % loss each way takes half a minute).
const LOSS_MEMORY: Duration = Duration::from_secs(60);

/// The longest pause between probes of a link that is not up while a flow waits for a route: it finds the
/// network's return within a fifth of a second.
const HURRIED_PAUSE: Duration = Duration::from_millis(200);

/// Exchanges within [`MEASURED_WITHIN`] that make the figures of a link its own node's: they have ten
/// messages of this end, of which the loss is computed.
const MEASURED_BY: usize = 5;

/// Five exchanges take 67 s at most at the pace of a link without use, and over eight minutes of one that is
/// probed rarely.
const MEASURED_WITHIN: Duration = Duration::from_secs(75);

/// Exchanges of which is known whether they were late: those of half a minute at the fastest pace.
const OUTCOMES: usize = 60;

/// Fewer exchanges count as so many, as those of [`LossCounts`] do.
const FEW_OUTCOMES: usize = 10;

/// An exchange that takes twice the least round trip and this is late. TCP repeats a lost segment 0.2 s after the
/// round trip at the earliest (Linux; RFC 6298 says 1 s), and a queue of the system is shorter than this.
const LATE: Duration = Duration::from_millis(50);

/// Exchanges besides the regular ones that are under way at most. A lane may suspect silence again before
/// the answer to its first question is here.
const EXTRAS: usize = 2;

/// How much of the interval is random, either way: the paper's third (SOSP 2001, §5.1). It keeps
/// nodes from probing in step.
const JITTER: f64 = 1.0 / 3.0;

/// Messages of one kind that are remembered for their answers. The longest time-out, 3 s, spans 6
/// of the shortest intervals. Twice as many allow late answers.
const REMEMBERED: usize = 12;

/// The monitor of one link, at one of its ends.
#[derive(Debug, Clone)]
pub struct Monitor {
    epoch: u16,
    next_seq: u32,
    next_regular: u32,
    peer_epoch: Option<u16>,
    interval: Duration,
    need: Need,
    /// The peer said in its last message that it needs few probes.
    peer_rarely: bool,
    /// When the last five exchanges were completed, oldest first.
    exchanges: VecDeque<Instant>,
    /// Of the last exchanges whether each was lost or late.
    outcomes: VecDeque<bool>,
    /// The factor of the pause after the next probe, 2/3 to 4/3.
    jitter: f64,
    next_probe: Instant,
    /// When one more exchange is due, because something was silent or lost.
    extra: Option<Instant>,
    /// When the peer last began an exchange, and until when it is taken to watch the link closely.
    asked: Option<Instant>,
    asked_until: Option<Instant>,
    /// The peer has begun an exchange while ours was under way, and begins the next one.
    yields: bool,
    requests: VecDeque<Sent>,
    replies: VecDeque<Sent>,
    latency: LatencyEstimator,
    inbound: LossWindow,
    outbound: LossCounts,
    data: DataLoss,
    delivered: DeliveredRate,
    probed: Probed,
    phase: Phase,
    since: Instant,
    heard: Option<Instant>,
    /// When the newest of those messages left that the peer has answered.
    answered: Option<Instant>,
    event: Option<LinkEvent>,
}

/// How much one end depends on exchanges of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Need {
    /// It takes the usual pace, or the peer's if that is slower.
    Any,
    /// It needs the usual pace: it uses the figures, or tells them to others.
    Usual,
    /// An exchange every 100 s is enough: another node tells it the figures.
    Few,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    seq: u32,
    regular: bool,
    at: Instant,
    /// When it is lost; `None` when that was counted already, or never will be.
    deadline: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Unmeasured {
        lost: u8,
    },
    Up {
        lost: u8,
    },
    /// `lost`: probes in a row since the last complete exchange, or since a new connection stands; four at most.
    Down {
        good: u8,
        lost: u8,
        pause: Duration,
    },
}

impl Monitor {
    /// A monitor that sends its first probe at `now`.
    ///
    /// `epoch` is random. It shows the peer that the numbering starts again.
    #[must_use]
    pub fn new(now: Instant, epoch: u16) -> Self {
        Self {
            epoch,
            next_seq: 0,
            next_regular: 0,
            peer_epoch: None,
            interval: INTERVAL_BOUNDS.0,
            need: Need::Any,
            peer_rarely: false,
            exchanges: VecDeque::with_capacity(MEASURED_BY),
            outcomes: VecDeque::new(),
            jitter: 1.0,
            next_probe: now,
            extra: None,
            asked: None,
            asked_until: None,
            yields: false,
            requests: VecDeque::new(),
            replies: VecDeque::new(),
            latency: LatencyEstimator::default(),
            inbound: LossWindow::default(),
            outbound: LossCounts::default(),
            data: DataLoss::default(),
            delivered: DeliveredRate::default(),
            probed: Probed::default(),
            phase: Phase::Unmeasured { lost: 0 },
            since: now,
            heard: None,
            answered: None,
            event: None,
        }
    }

    /// Sets the mean time between two exchanges, from [`super::budget::plan`]; clamped to its
    /// bounds, 0.5 s to 10 s.
    pub fn set_interval(&mut self, now: Instant, interval: Duration) {
        self.interval = interval.clamp(INTERVAL_BOUNDS.0, INTERVAL_BOUNDS.1);
        self.next_probe = self.next_probe.min(now + self.pause());
    }

    /// Sets how much this end depends on own figures of the link. When one that was probed rarely has to be
    /// probed more often, that begins at once.
    pub fn set_need(&mut self, now: Instant, need: Need) {
        let rare = self.needs_few();
        self.need = need;
        if rare && !self.needs_few() {
            self.next_probe = self.next_probe.min(now);
        }
    }

    /// Whether the link is probed once in 100 s now.
    #[must_use]
    pub fn is_rare(&self) -> bool {
        self.needs_few() && matches!(self.phase, Phase::Up { lost: 0 })
    }

    /// Whether one exchange in 100 s is enough for both ends.
    fn needs_few(&self) -> bool {
        self.need == Need::Few || self.need == Need::Any && self.peer_rarely
    }

    /// Whether the figures are of this node's own exchanges of the last 75 s, at least five.
    #[must_use]
    pub fn is_measured(&self, now: Instant) -> bool {
        let recent = |first: &Instant| now.saturating_duration_since(*first) < MEASURED_WITHIN;
        self.exchanges.len() >= MEASURED_BY && self.exchanges.front().is_some_and(recent)
    }

    /// When the last exchange was completed; `None` before the first.
    #[must_use]
    pub fn exchanged(&self) -> Option<Instant> {
        self.exchanges.back().copied()
    }

    /// Takes a message of the peer; the answer, if any, is to be sent at once.
    ///
    /// Answers are never longer than what they answer, and one for one.
    pub fn handle_message(&mut self, now: Instant, message: &Probe) -> Option<Probe> {
        self.hear(message);
        self.heard = Some(now);
        match message.kind {
            ProbeKind::Request => {
                let before = self.asked.replace(now);
                if before.is_some_and(|before| now < before + IDLE_INTERVAL / 2) {
                    self.asked_until = Some(now + IDLE_INTERVAL);
                }
                // Both ends have begun: one of them leaves it to the other from now on.
                let out = self.requests.iter().any(|request| request.deadline.is_some());
                self.yields |= out && self.epoch < message.epoch;
                let regular = message.regular.is_some();
                let reply = self.message(ProbeKind::Reply { to: message.seq }, regular);
                let sent = Sent { seq: reply.seq, regular, at: now, deadline: None };
                remember(&mut self.replies, sent);
                Some(reply)
            }
            ProbeKind::Reply { to } => {
                let sent = take(&mut self.requests, to)?;
                // One that came after its time-out counts as lost already.
                if sent.deadline.is_some() {
                    self.probed.answered += 1;
                    self.probed.last = Some(now.saturating_duration_since(sent.at));
                }
                let began = !std::mem::take(&mut self.yields);
                self.completed(now, sent, began);
                Some(self.message(ProbeKind::Finish { to: message.seq }, sent.regular))
            }
            ProbeKind::Finish { to } => {
                let sent = take(&mut self.replies, to)?;
                self.completed(now, sent, false);
                None
            }
        }
    }

    /// Counts the probes whose time-out is over by `now` as lost.
    pub fn handle_timeout(&mut self, now: Instant) {
        let mut lost = 0;
        for request in &mut self.requests {
            if request.deadline.is_some_and(|deadline| deadline <= now) {
                request.deadline = None;
                lost += 1;
            }
        }
        self.probed.lost += lost;
        for _ in 0..lost {
            self.count_lost(now);
        }
    }

    /// The next request, when one is due at `now`. `draw` is random, uniform in 0..1.
    pub fn poll_transmit(&mut self, now: Instant, draw: f64) -> Option<Probe> {
        let due = now >= self.next_probe;
        if !due && self.extra.is_none_or(|at| now < at) {
            return None;
        }
        self.extra = None;
        if due {
            self.jitter = 1.0 + JITTER * (2.0 * draw.clamp(0.0, 1.0) - 1.0);
            self.next_probe = now + self.pause();
        }
        let regular = due && !matches!(self.phase, Phase::Down { .. });
        let request = self.message(ProbeKind::Request, regular);
        let deadline = Some(now + self.latency.timeout());
        remember(&mut self.requests, Sent { seq: request.seq, regular, at: now, deadline });
        Some(request)
    }

    /// When [`Self::handle_timeout`] and [`Self::poll_transmit`] are to be called next. Never
    /// `None`: a link is probed for as long as it is known.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let deadlines = self.requests.iter().filter_map(|request| request.deadline);
        deadlines.chain([self.next_probe]).chain(self.extra).min()
    }

    /// The event since the last call. A newer event replaces one that was not fetched.
    pub fn poll_event(&mut self) -> Option<LinkEvent> {
        self.event.take()
    }

    /// A new connection to the peer stands, so packets pass both ways again: it counts as a good probe after
    /// an outage.
    pub fn shook_hands(&mut self) {
        if let Phase::Down { good, lost, pause } = &mut self.phase {
            (*lost, *pause) = (0, DOWN_PAUSE.0);
            // What is under way left on the connection before.
            self.requests.iter_mut().for_each(|request| request.deadline = None);
            if *good == 0 {
                *good = 1;
                // After an outage the path may be another one.
                self.latency = LatencyEstimator::default();
            }
        }
    }

    /// The connection to the peer has ended, or its packets are not answered.
    pub fn unanswered(&mut self, now: Instant) {
        if self.is_rare() {
            self.probe_now(now);
        }
    }

    /// Probes now as well as at the next interval, for a lane that suspects silence. Does nothing while
    /// two such probes are out.
    pub fn probe_now(&mut self, now: Instant) {
        if self.extras_out() < EXTRAS {
            self.probe_at(now);
        }
    }

    /// Probes a link that is not up sooner, because a flow waits for a route. Does nothing within 200 ms
    /// of the last probe.
    pub fn hurry(&mut self, now: Instant) {
        if let Phase::Up { .. } = self.phase {
            return;
        }
        let last = self.requests.back().map(|request| request.at + HURRIED_PAUSE);
        self.probe_at(last.map_or(now, |last| last.max(now)));
    }

    fn extras_out(&self) -> usize {
        let out = |request: &&Sent| !request.regular && request.deadline.is_some();
        self.requests.iter().filter(out).count()
    }

    /// One exchange more than the regular ones.
    fn probe_at(&mut self, at: Instant) {
        self.extra = Some(self.extra.map_or(at, |extra| extra.min(at)));
    }

    /// Takes the figures of a lane on this link. Ignored unless the link is up: only probes show
    /// that an outage is over.
    ///
    /// Packets delivered prove that the link works both ways, so they end a run of lost probes: a
    /// link whose queue is full is not down.
    pub fn record_passive(&mut self, now: Instant, sample: &PassiveSample) {
        let Phase::Up { lost } = &mut self.phase else { return };
        if sample.delivered > 0 {
            *lost = 0;
        }
        if let Some(rtt) = sample.rtt {
            self.latency.record(rtt);
        }
        self.data.record(now, sample.lost, sample.delivered);
        self.delivered.record(now, sample.bytes, sample.over);
    }

    /// Whether the peer watches the link closely: it probes more often than on a link without use.
    #[must_use]
    pub fn is_asked(&self, now: Instant) -> bool {
        self.asked_until.is_some_and(|until| now < until)
    }

    /// The link's summary at `now`.
    #[must_use]
    pub fn summary(&self, now: Instant) -> LinkSummary {
        LinkSummary {
            state: match self.phase {
                Phase::Unmeasured { .. } => LinkState::Unmeasured,
                Phase::Up { .. } => LinkState::Up,
                Phase::Down { good: 0, .. } => LinkState::Down,
                Phase::Down { good, .. } => LinkState::Recovering { good },
            },
            since: self.since,
            rtt: self.latency.rtt(),
            loss_out: self.data.pooled_with(self.outbound, now),
            loss_in: self.inbound.counts().rate(),
            exchanges: (self.inbound.counts().of() + self.outbound.of()) / 3,
            delivered: self.delivered.rate(now),
        }
    }

    /// The share of the last exchanges, sixty at most, that were lost or late; `None` before the first. On a
    /// stream nothing is lost: TCP repeats it, and what came behind it waits.
    #[must_use]
    pub fn late(&self) -> Option<LossRate> {
        let late = self.outcomes.iter().filter(|late| **late).count();
        let of = self.outcomes.len().max(FEW_OUTCOMES);
        (!self.outcomes.is_empty()).then(|| LossRate::from_counts(late as u64, of as u64))?
    }

    /// Exchanges of which [`Self::late`] knows.
    #[must_use]
    pub fn outcomes(&self) -> usize {
        self.outcomes.len()
    }

    /// This monitor, of another carrier to the same peer, takes the place of `old`. It counts on from the counters of
    /// `old`, and probes at once for those who wait for an answer. If the path was up, it tells no event of its own.
    pub fn succeed(&mut self, now: Instant, old: &Self) {
        self.probed = old.probed;
        if let Phase::Up { .. } = old.phase {
            self.event = old.event;
        }
        self.probe_now(now);
    }

    /// The link goes over another carrier from now on: what was lost on the path before says nothing of it.
    pub fn another_path(&mut self) {
        self.inbound.forget();
        self.outbound = LossCounts::default();
        self.data = DataLoss::default();
        self.outcomes.clear();
    }

    fn outcome(&mut self, late: bool) {
        if self.outcomes.len() >= OUTCOMES {
            self.outcomes.pop_front();
        }
        self.outcomes.push_back(late);
    }

    /// The least round-trip time lately; `None` before the first.
    #[must_use]
    pub fn least_rtt(&self) -> Option<Duration> {
        self.latency.least()
    }

    /// What became of the requests of this end.
    #[must_use]
    pub fn probed(&self) -> Probed {
        self.probed
    }

    /// When a message of the peer came in last; `None` before the first.
    #[must_use]
    pub fn heard(&self) -> Option<Instant> {
        self.heard
    }

    /// When the newest message left that the peer has answered: the link carried it there and the answer
    /// back. `None` before the first answer.
    #[must_use]
    pub fn answered(&self) -> Option<Instant> {
        self.answered
    }

    fn message(&mut self, kind: ProbeKind, regular: bool) -> Probe {
        let seq = self.next_seq;
        self.next_seq = seq.wrapping_add(1);
        let number = self.next_regular;
        self.next_regular = number.wrapping_add(u32::from(regular));
        let heard = self.inbound.counts();
        Probe {
            epoch: self.epoch,
            seq,
            regular: regular.then_some(number),
            heard_lost: u8::try_from(heard.lost()).unwrap_or(u8::MAX),
            heard_of: u8::try_from(heard.of()).unwrap_or(u8::MAX),
            rarely: self.need == Need::Few,
            kind,
        }
    }

    fn hear(&mut self, message: &Probe) {
        if self.peer_epoch.replace(message.epoch) != Some(message.epoch) {
            self.inbound = LossWindow::default();
        }
        self.peer_rarely = message.rarely;
        if let Some(number) = message.regular {
            self.inbound.record(number);
        }
        self.outbound = message.heard();
    }

    /// An exchange is complete; `began`: this end began it.
    fn completed(&mut self, now: Instant, sent: Sent, began: bool) {
        if let Phase::Down { good: 0, .. } = self.phase {
            // After an outage the path may be another one.
            self.latency = LatencyEstimator::default();
        }
        let took = now.saturating_duration_since(sent.at);
        self.latency.record(took);
        // One that was counted as lost when its time-out was over is not counted again.
        if sent.deadline.is_some() || !began {
            let late = self.latency.least().is_some_and(|least| took > least * 2 + LATE);
            self.outcome(late);
        }
        self.answered = self.answered.max(Some(sent.at));
        if self.exchanges.len() >= MEASURED_BY {
            self.exchanges.pop_front();
        }
        self.exchanges.push_back(now);
        let was_up = matches!(self.phase, Phase::Up { .. });
        match self.phase {
            Phase::Unmeasured { .. } => self.enter(now, Phase::Up { lost: 0 }),
            Phase::Up { .. } => self.phase = Phase::Up { lost: 0 },
            Phase::Down { good, .. } if good + 1 >= GOOD_TO_UP => {
                self.recall_loss(now);
                self.enter(now, Phase::Up { lost: 0 });
            }
            Phase::Down { good, .. } => {
                self.phase = Phase::Down { good: good + 1, lost: 0, pause: DOWN_PAUSE.0 };
            }
        }
        if began && self.latency.is_unsure() {
            // A round trip that is out of line is looked at again at once.
            self.probe_at(now);
        }
        if was_up && !sent.regular {
            return;
        }
        self.next_probe = now + self.pause();
        if !began {
            // The peer begins the next exchange as well, unless it has died.
            self.next_probe += self.mean_pause() / 2 + self.latency.timeout();
        }
    }

    /// The outage is over: after a long one the loss is unknown.
    fn recall_loss(&mut self, now: Instant) {
        if now.saturating_duration_since(self.since) >= LOSS_MEMORY {
            self.inbound.forget();
            self.outbound = LossCounts::default();
        } else {
            self.inbound.resume();
        }
    }

    fn count_lost(&mut self, now: Instant) {
        self.outcome(true);
        match &mut self.phase {
            Phase::Unmeasured { lost } | Phase::Up { lost } => {
                *lost += 1;
                if *lost >= LOST_TO_DOWN {
                    self.data = DataLoss::default();
                    self.delivered = DeliveredRate::default();
                    let lost = LOST_TO_DOWN;
                    self.enter(now, Phase::Down { good: 0, lost, pause: DOWN_PAUSE.0 });
                    (self.next_probe, self.extra) = (now + self.pause(), None);
                } else if self.extras_out() == 0 {
                    self.probe_at(now);
                }
            }
            Phase::Down { good, lost, pause } => {
                *good = 0;
                if *lost == LOST_TO_DOWN {
                    *pause = (*pause * 2).min(DOWN_PAUSE.1);
                    return;
                }
                *lost += 1;
                if *lost == LOST_TO_DOWN {
                    self.event = Some(LinkEvent::StillDown);
                }
            }
        }
    }

    fn enter(&mut self, now: Instant, phase: Phase) {
        self.since = now;
        self.event = Some(match phase {
            Phase::Down { .. } => LinkEvent::Down,
            Phase::Up { .. } | Phase::Unmeasured { .. } => LinkEvent::Up,
        });
        self.phase = phase;
    }

    fn pause(&self) -> Duration {
        self.mean_pause().mul_f64(self.jitter)
    }

    fn mean_pause(&self) -> Duration {
        match self.phase {
            Phase::Up { lost: 0 } if self.needs_few() => RARE_INTERVAL,
            Phase::Unmeasured { .. } | Phase::Up { .. } => self.interval,
            Phase::Down { good: 0, pause, .. } => pause,
            Phase::Down { .. } => RECOVERY_PAUSE,
        }
    }
}

fn remember(sent: &mut VecDeque<Sent>, message: Sent) {
    if sent.len() >= REMEMBERED {
        sent.pop_front();
    }
    sent.push_back(message);
}

fn take(sent: &mut VecDeque<Sent>, seq: u32) -> Option<Sent> {
    let at = sent.iter().position(|message| message.seq == seq)?;
    sent.remove(at)
}

#[cfg(test)]
mod tests;
