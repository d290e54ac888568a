//! What one neighbour may make this node do on its link. PURE: time is an argument.
//!
//! Each kind of message has a token bucket. A message over its budget is dropped and counted.
//! Messages that no honest node sends, and floods far over the budgets, use up the neighbour's
//! *credit*. When the credit is used up, the link closes, and links of that neighbour are refused
//! for a while.
//!
//! The budgets belong to the neighbour's key and outlive its links, so a new link brings no new tokens,
//! and the next holder of a name has its own.

use std::time::{Duration, Instant};

/// Tokens that come back at a steady rate, up to a capacity.
#[derive(Debug, Clone)]
pub struct Bucket {
    capacity: f64,
    per_second: f64,
    tokens: f64,
    counted: Option<Instant>,
}

impl Bucket {
    /// A full bucket that holds `capacity` tokens and gains `per_second`.
    #[must_use]
    pub fn new(capacity: u32, per_second: f64) -> Self {
        let capacity = f64::from(capacity);
        Self { capacity, per_second, tokens: capacity, counted: None }
    }

    /// Takes `tokens`; false, and takes nothing, if fewer are left.
    pub fn take(&mut self, now: Instant, tokens: f64) -> bool {
        self.refill(now);
        let enough = self.tokens >= tokens;
        if enough {
            self.tokens -= tokens;
        }
        enough
    }

    /// Whether `tokens` are left; takes none.
    pub fn has(&mut self, now: Instant, tokens: f64) -> bool {
        self.refill(now);
        self.tokens >= tokens
    }

    /// Takes `tokens`, also when fewer are left. The bucket is then empty until the missing ones
    /// have come in.
    pub fn spend(&mut self, now: Instant, tokens: f64) {
        self.refill(now);
        self.tokens = (self.tokens - tokens).max(-self.capacity);
    }

    /// Takes up to `tokens`, down to an empty bucket; false if fewer were left.
    pub fn drain(&mut self, now: Instant, tokens: f64) -> bool {
        let enough = self.take(now, tokens);
        if !enough {
            self.tokens = 0.0;
        }
        enough
    }

    fn refill(&mut self, now: Instant) {
        let passed = self.counted.map(|then| now.saturating_duration_since(then));
        let gained = passed.unwrap_or_default().as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + gained).min(self.capacity);
        self.counted = Some(self.counted.map_or(now, |then| then.max(now)));
    }
}

/// Kinds of messages on a link. Each has a budget of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A request, whatever it asks for.
    Request,
    /// A notice, whatever it says.
    Notice,
    /// An advertisement, its own or passed on.
    Advertisement,
    /// A digest of what it holds.
    Digest,
    /// Figures for its site.
    Shared,
    /// A probe: one datagram.
    Probe,
}

impl Kind {
    /// Every kind, in the order of the buckets.
    pub const ALL: [Self; 6] =
        [Self::Request, Self::Notice, Self::Advertisement, Self::Digest, Self::Shared, Self::Probe];

    /// The budget: messages at once, and messages a second.
    fn budget(self) -> (u32, f64) {
        match self {
            // An entry has at most 256 lanes. After an outage of all routes, each asks for three
            // routes at once. Otherwise each renews its grants every 40 s, which makes 20 a second.
            Self::Request => (1024, 64.0),
            // The sum of the next two, with room for one-off notices.
            Self::Notice => (2048, 300.0),
            // The digest of a new node is answered with the advertisements of 256 nodes, and the
            // link may be replaced meanwhile. Later a neighbour passes on at most one a second of
            // each node, and a quarter of them in the worst storm of a mesh of 256.
            Self::Advertisement => (1024, 128.0),
            // One when the link stands, one when its path is up; each costs up to 256 advertisements.
            Self::Digest => (2, 1.0),
            // One when the link stands, one when the first of the neighbour comes in, then at most one a second.
            Self::Shared => (8, 1.0),
            // Probes are at least 0.5 s apart and have three messages. A lane that suspects silence
            // asks for a probe at once, at most about ten times a second.
            Self::Probe => (200, 50.0),
        }
    }
}

/// A message that no honest node sends, or sends so often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offence {
    /// A message over its budget. An honest node may send a burst that is too large, so it costs
    /// little.
    OverBudget,
    /// A message that cannot be read.
    Malformed,
    /// A statement with a wrong signature, or one that exceeds its author's certificate. An honest
    /// node checks a statement before it passes it on.
    Forged,
}

impl Offence {
    /// What it costs of [`CREDIT`].
    fn price(self) -> f64 {
        match self {
            Self::OverBudget => 1.0,
            Self::Malformed => 64.0,
            Self::Forged => 32.0,
        }
    }
}

/// The credit of a neighbour, and how much of it comes back in a second. A burst of 512 messages
/// over budget does not use it up, nor do eight unreadable or sixteen forged ones, nor one of these
/// every minute or two.
const CREDIT: (u32, f64) = (512, 1.0);

/// Signature checks that a neighbour may cause at once, and in a second. A digest is answered with
/// 256 certificates and as many advertisements. Each check takes about 0.1 ms, so those of a second
/// take 6 ms.
const CHECKS: (u32, f64) = (1024, 64.0);

/// The cost of a certificate that is not known yet. Its own signature, its revocation and its
/// attributes are checked, too.
const CERTIFICATE_CHECKS: f64 = 2.0;

/// A check that fails costs this many times more. An honest neighbour causes few of them.
const FAILURE_FACTOR: f64 = 8.0;

/// Bytes of advertisements that a neighbour may ask for by digests: at once, all of a mesh of 256
/// nodes; then, every second, all of a mesh of 50.
const ANSWER_BYTES: (u32, f64) = (2 << 20, 64.0 * 1024.0);

/// Requests for lanes that a member may have passed on, at once and in a second. After an outage an
/// entry asks for one lane per exit and hint. It needs a relay only for exits without a link. A relay
/// may bring as many that it should not have passed on.
const PASSING: (u32, f64) = (32, 4.0);

/// Certificates that a neighbour may ask for itself, at once and in a second. It asks again at the
/// earliest 5 s after a failure (`app/renewal.rs`), and succeeds every few days. The capacity is for
/// certificates that last a few seconds, in tests.
const RENEWALS: (u32, f64) = (8, 0.2);

/// Requests for certificates that it may pass on for others, at once and in a second. Many members may
/// come back at the same time. It has a budget for each of them, so that 80 of them have to spend all of
/// theirs to use this up.
const RENEWALS_PASSED_ON: (u32, f64) = (64, 16.0);

/// Nonces returned to a neighbour at once and in a second. It sends up to four for each of our few
/// addresses. Nobody else can ask for it, except one who saw a nonce of the same link on its way.
const RETURNED: (u32, f64) = (16, 16.0);

/// How often a neighbour is tried to be reached because it asks, at once and in a second. A person asks for
/// it, and now and then again. One try is three packets of 17 bytes and one TCP connection, both to where its
/// link stands.
const REACHES: (u32, f64) = (4, 0.2);

/// How long links of a neighbour are refused when it uses up its credit for the first time. The
/// time doubles with each repetition, up to [`LONGEST_REFUSAL`].
const FIRST_REFUSAL: Duration = Duration::from_secs(30);

/// The longest refusal. A node that was repaired waits at most this long.
const LONGEST_REFUSAL: Duration = Duration::from_secs(600);

/// After this time without a refusal, the next one has the first length again.
const FORGIVEN_AFTER: Duration = Duration::from_secs(3600);

/// The budgets of one neighbour.
#[derive(Debug)]
pub struct PeerBudget {
    kinds: [Bucket; Kind::ALL.len()],
    checks: Bucket,
    answers: Bucket,
    passing: Bucket,
    renewals: Bucket,
    renewals_passed_on: Bucket,
    returned: Bucket,
    reaches: Bucket,
    credit: Bucket,
    refused_until: Option<Instant>,
    refusals: u32,
}

impl Default for PeerBudget {
    fn default() -> Self {
        let bucket = |(capacity, per_second)| Bucket::new(capacity, per_second);
        Self {
            kinds: Kind::ALL.map(|kind| bucket(kind.budget())),
            checks: bucket(CHECKS),
            answers: bucket(ANSWER_BYTES),
            passing: bucket(PASSING),
            renewals: bucket(RENEWALS),
            renewals_passed_on: bucket(RENEWALS_PASSED_ON),
            returned: bucket(RETURNED),
            reaches: bucket(REACHES),
            credit: bucket(CREDIT),
            refused_until: None,
            refusals: 0,
        }
    }
}

impl PeerBudget {
    /// Takes one message of this kind; false if it is over the budget.
    pub fn take(&mut self, now: Instant, kind: Kind) -> bool {
        self.kinds[kind as usize].take(now, 1.0)
    }

    /// Whether the neighbour may cause one more signature check.
    pub fn may_check(&mut self, now: Instant) -> bool {
        self.checks.has(now, CERTIFICATE_CHECKS)
    }

    /// Records a signature check, its result, and whether it included a certificate.
    pub fn checked(&mut self, now: Instant, of_certificate: bool, good: bool) {
        let checks = if of_certificate { CERTIFICATE_CHECKS } else { 1.0 };
        let factor = if good { 1.0 } else { FAILURE_FACTOR };
        self.checks.spend(now, checks * factor);
    }

    /// Whether the neighbour may bring another request for a lane that it passes on.
    pub fn may_pass_on(&mut self, now: Instant) -> bool {
        self.passing.has(now, 1.0)
    }

    /// Takes one request for a lane that is passed on; false if it is over the budget.
    pub fn take_passing(&mut self, now: Instant) -> bool {
        self.passing.take(now, 1.0)
    }

    /// Takes one request for a certificate: of the neighbour itself, or one that it passes on. False if
    /// it is over the budget.
    pub fn take_renewal(&mut self, now: Instant, passed_on: bool) -> bool {
        let bucket = if passed_on { &mut self.renewals_passed_on } else { &mut self.renewals };
        bucket.take(now, 1.0)
    }

    /// Takes one nonce that is returned to the neighbour; false if it is over the budget.
    pub fn take_returned(&mut self, now: Instant) -> bool {
        self.returned.take(now, 1.0)
    }

    /// Takes one try to reach the neighbour; false if it is over the budget.
    pub fn take_reach(&mut self, now: Instant) -> bool {
        self.reaches.take(now, 1.0)
    }

    /// Takes `bytes` of the answer to a digest; false if they are over the budget.
    pub fn take_answer(&mut self, now: Instant, bytes: usize) -> bool {
        self.answers.take(now, u32::try_from(bytes).unwrap_or(u32::MAX).into())
    }

    /// Records an offence. True if the credit is used up: the caller closes the link, and further
    /// links are refused for a while.
    pub fn offend(&mut self, now: Instant, offence: Offence) -> bool {
        if self.credit.drain(now, offence.price()) || self.is_refused(now) {
            return false;
        }
        let last = self.refused_until.map(|until| now.saturating_duration_since(until));
        if last.is_some_and(|calm| calm > FORGIVEN_AFTER) {
            self.refusals = 0;
        }
        let refusal = FIRST_REFUSAL.saturating_mul(2u32.saturating_pow(self.refusals));
        self.refusals = self.refusals.saturating_add(1);
        self.refused_until = Some(now + refusal.min(LONGEST_REFUSAL));
        // After the refusal the neighbour starts with full credit.
        self.credit = Bucket::new(CREDIT.0, CREDIT.1);
        true
    }

    /// Whether links of the neighbour are refused at present.
    #[must_use]
    pub fn is_refused(&self, now: Instant) -> bool {
        self.refused_until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_mesh_of_256_that_forms_is_within_the_budgets() {
        let (mut budget, now) = (PeerBudget::default(), Instant::now());
        for _ in 0..255 {
            assert!(budget.take(now, Kind::Notice) && budget.take(now, Kind::Advertisement));
            assert!(budget.may_check(now));
            budget.checked(now, true, true);
        }
        assert!(budget.take(now, Kind::Digest) && budget.take(now, Kind::Digest));
        // Advertisements of 256 nodes with 255 links: each has about 4 KiB and a certificate.
        assert!((0..255).all(|_| budget.take_answer(now, 5 << 10)));
    }

    #[test]
    fn forged_statements_cause_few_checks() {
        let (mut budget, start) = (PeerBudget::default(), Instant::now());
        let mut checks = 0;
        // A thousand a second for a minute.
        for n in 0..60_000u32 {
            let now = start + Duration::from_millis(u64::from(n));
            if budget.may_check(now) {
                checks += 1;
                budget.checked(now, true, false);
            }
        }
        // 1,024 at once and 64 a second, at 16 each.
        assert!((280..=320).contains(&checks), "{checks}");
    }

    #[test]
    fn requests_that_are_passed_on_are_held_to_their_pace() {
        let (mut budget, start) = (PeerBudget::default(), Instant::now());
        // A hundred a second for a minute.
        let passed = (0..6000u64)
            .filter(|n| budget.take_passing(start + Duration::from_millis(10 * n)))
            .count();
        assert!((260..=272).contains(&passed), "{passed}");
    }

    #[test]
    fn renewals_are_few_and_those_of_others_leave_the_neighbour_its_own() {
        let (mut budget, start) = (PeerBudget::default(), Instant::now());
        // A hundred a second for a minute.
        let mut taken = |passed_on| {
            let at = |n: &u64| start + Duration::from_millis(10 * n);
            (0..6000).filter(|n| budget.take_renewal(at(n), passed_on)).count()
        };
        let (others, own) = (taken(true), taken(false));
        assert!((1016..=1024).contains(&others) && (19..=20).contains(&own), "{others}, {own}");
    }

    #[test]
    fn a_neighbour_is_tried_to_be_reached_at_most_so_often() {
        let (mut budget, start) = (PeerBudget::default(), Instant::now());
        // A hundred times a second for a minute: 4, and one in five seconds.
        let at = |n: &u64| start + Duration::from_millis(10 * n);
        let tried = (0..6000).filter(|n| budget.take_reach(at(n))).count();
        assert!((15..=16).contains(&tried), "{tried}");
    }

    #[test]
    fn a_flood_ends_the_link_and_refusals_double_up_to_ten_minutes() {
        let (mut budget, mut now) = (PeerBudget::default(), Instant::now());
        for expected in [30, 60, 120, 240, 480, 600, 600] {
            let burst = (0..).take_while(|_| !budget.offend(now, Offence::OverBudget)).count();
            assert_eq!(burst, 512, "a burst is forgiven");
            assert!(budget.is_refused(now));
            now += Duration::from_secs(expected);
            assert!(!budget.is_refused(now));
        }
        now += FORGIVEN_AFTER * 2;
        while !budget.offend(now, Offence::Malformed) {}
        assert!(!budget.is_refused(now + FIRST_REFUSAL), "calm is rewarded");
    }

    #[test]
    fn one_forged_statement_a_minute_is_forgiven_for_ever() {
        let (mut budget, start) = (PeerBudget::default(), Instant::now());
        for minute in 0..10_000 {
            let now = start + Duration::from_secs(60 * minute);
            assert!(!budget.offend(now, Offence::Forged));
        }
    }

    proptest! {
        #[test]
        fn a_bucket_never_gives_more_than_its_capacity_and_rate(
            waits in prop::collection::vec(0u64..2_000, 1..200),
            capacity in 1u32..50,
            rate in 0.1f64..50.0,
        ) {
            let (mut bucket, start) = (Bucket::new(capacity, rate), Instant::now());
            let (mut now, mut given) = (start, 0.0);
            for wait in waits {
                now += Duration::from_millis(wait);
                given += f64::from(u8::from(bucket.take(now, 1.0)));
                let most = f64::from(capacity) + rate * (now - start).as_secs_f64();
                prop_assert!(given <= most + 1e-6);
            }
        }

        #[test]
        fn time_that_goes_back_gives_no_tokens(back in 0u64..10_000) {
            let (mut bucket, now) = (Bucket::new(1, 1.0), Instant::now() + Duration::from_secs(100));
            prop_assert!(bucket.take(now, 1.0));
            let earlier = now.checked_sub(Duration::from_millis(back)).unwrap();
            prop_assert!(!bucket.take(earlier, 1.0));
            prop_assert!(!bucket.take(now, 1.0));
        }
    }
}
