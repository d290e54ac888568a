//! Keeping this node's certificate in force, and its clock honest.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{
    desk::JoinDesk,
    join::{JoinFailure, Way, ask_time, renew_outside},
    status::{Counts, counted},
};
use crate::{
    events::{Event, Events},
    identity::{
        Credentials, IdentityError, JoinRefusal, Peer, UnixTime, needs_renewal, skew_in_words,
    },
    link::LinkError,
    mesh::Mesh,
    quantity::format_duration,
    wire::link::{LinkRefusal, RenewalRefusal},
};

/// How often to see whether something is due, by the wall clock: it may be set, and the machine
/// may have slept.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The first pause after a failed renewal; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// The longest pause is this part of the lifetime: a hundred attempts fit the time that is left.
const PAUSES: u32 = 100;

/// Without a valid certificate the node can do nothing else: the longest pause then.
const PAUSE_WITHOUT: Duration = Duration::from_secs(60);

/// How often the authority is asked for the time at most, while certificates are refused because
/// of their dates; the pause doubles up to an hour while the clocks agree.
const ASK_TIME_EVERY: Duration = Duration::from_secs(60);
const ASK_TIME_SELDOM: Duration = Duration::from_secs(3600);

/// The log line of a failed attempt.
const NOT_RENEWED: &str = "this node's certificate could not be renewed";

/// Why a certificate was not renewed.
#[derive(Debug, thiserror::Error)]
enum RenewalError {
    /// Over links.
    #[error("{0}")]
    Link(LinkError),
    /// By a connection of its own to the authority.
    #[error(transparent)]
    Outside(#[from] JoinFailure),
    /// By the authority: in this node's own folder, or over its own link.
    #[error(transparent)]
    Authority(#[from] RenewalRefusal),
    /// The answer.
    #[error(transparent)]
    Answer(#[from] IdentityError),
    /// The same certificate again.
    #[error("the authority answered with a certificate that ends no later")]
    NoLater,
    /// Where the authority is.
    #[error("no link leads to the authority, and its address is not known")]
    NoContact,
}

impl RenewalError {
    /// Whether trying again is in vain unless the authority changes its mind.
    fn is_final(&self) -> bool {
        match self {
            Self::Authority(refusal) => {
                matches!(refusal, RenewalRefusal::Revoked | RenewalRefusal::UnknownKey)
            }
            Self::Outside(failure) => {
                matches!(
                    failure,
                    JoinFailure::Refused(JoinRefusal::UnknownKey(_) | JoinRefusal::Revoked(_))
                )
            }
            _ => false,
        }
    }
}

/// What `status` shows of a node's certificate and clock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CertificateStatus {
    /// When it ends, in seconds since 1970.
    pub expires: u64,
    /// How long it lasts from its issue, in seconds.
    pub lifetime_seconds: u64,
    /// Whether the authority has revoked it, by the list in force here.
    pub revoked: bool,
    /// How often members refused it as revoked since one last accepted it.
    pub refused_as_revoked: u64,
    /// When it was last renewed, in seconds since 1970; `None`: not since the node started.
    pub renewed: Option<u64>,
    /// How often it was renewed since the node started.
    pub renewals: u64,
    /// How often that failed.
    pub renewals_failed: u64,
    /// Why the last attempt failed; `None` when it succeeded, or none was made.
    pub renewal_error: Option<String>,
    /// The number of the revocation list in force.
    pub revocation_list: u64,
    /// Revocation lists ignored, by reason.
    pub lists_ignored: Counts,
    /// By how many seconds this machine's clock is ahead of the authority's; `None`: not compared.
    pub clock_ahead_seconds: Option<i64>,
}

/// Renews this node's certificate when a third of its life has passed, over whatever leads to the
/// authority, and again and again until it succeeds.
pub(super) struct Renewal {
    credentials: Credentials,
    mesh: Arc<Mesh>,
    events: Arc<Events>,
    way: Way,
    desk: Option<Arc<JoinDesk>>,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    renewed: Option<u64>,
    renewals: u64,
    failed: u64,
    error: Option<String>,
    /// Whether that error was told as urgent. The same is not told again.
    urgent: bool,
    pauses: Pauses,
}

/// When the next attempt may be made. Pure.
#[derive(Debug, Default)]
struct Pauses {
    failures: u32,
    last: Option<Instant>,
}

impl Pauses {
    /// Whether the pause after the last failure is over: `first` after one failure, doubling up to
    /// `longest`, which is judged now, as the need may have grown since.
    fn is_over(&self, now: Instant, first: Duration, longest: Duration) -> bool {
        let pause = first * 2u32.saturating_pow(self.failures.saturating_sub(1).min(16));
        self.last.is_none_or(|last| now.saturating_duration_since(last) >= pause.min(longest))
    }

    fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.last = Some(now);
    }
}

/// The longest pause between two attempts to renew `certificate`.
fn longest_pause(certificate: &Peer, now: UnixTime) -> Duration {
    let longest = (certificate.lifetime() / PAUSES).max(LOOK_EVERY);
    if certificate.expires <= now { PAUSE_WITHOUT.min(longest) } else { longest }
}

impl Renewal {
    pub(super) fn new(
        credentials: Credentials,
        (mesh, events): (Arc<Mesh>, Arc<Events>),
        way: Way,
        desk: Option<Arc<JoinDesk>>,
    ) -> Self {
        Self { credentials, mesh, events, way, desk, progress: Mutex::default() }
    }

    /// Runs until `shutdown`.
    pub(super) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut doubts, mut asked) = (0, Pauses::default());
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                _ = look.tick() => {}
            }
            let (now, peer) = (self.credentials.now(), self.credentials.peer());
            let longest = longest_pause(&peer, now);
            let is_over = self.progress().pauses.is_over(Instant::now(), FIRST_PAUSE, longest);
            if needs_renewal(&peer, now) && is_over {
                self.renew(&peer).await;
            }
            let refused = self.credentials.refused_by_date();
            let doubtful = refused != doubts || now < peer.starts;
            if doubtful && asked.is_over(Instant::now(), ASK_TIME_EVERY, ASK_TIME_SELDOM) {
                doubts = refused;
                self.question_clock().await;
                asked.failed(Instant::now());
            }
        }
    }

    async fn renew(&self, peer: &Peer) {
        let now = self.credentials.now();
        let left = peer.expires.as_secs().saturating_sub(now.as_secs());
        if left == 0 && self.progress().failed == 0 {
            tracing::warn!("this node's certificate has ended; asking the authority for the next");
        }
        match self.attempt(peer, now).await {
            Ok(()) => {
                let expires = self.credentials.peer().expires.as_secs();
                let lasts =
                    Duration::from_secs(expires.saturating_sub(self.credentials.now().as_secs()));
                tracing::info!(lasts = %format_duration(lasts), "this node's certificate is renewed");
                self.events.record(Event::CertificateRenewed { expires });
                let mut progress = self.progress();
                progress.renewed = Some(self.credentials.now().as_secs());
                progress.renewals += 1;
                progress.error = None;
                progress.pauses = Pauses::default();
            }
            Err(error) => {
                let lifetime = peer.lifetime();
                let left = Duration::from_secs(left);
                let urgent = left < lifetime / 4 || error.is_final();
                let left = format_duration(left);
                let mut progress = self.progress();
                let why = Some(error.to_string());
                let repeats = progress.error == why && progress.urgent == urgent;
                match (repeats, urgent) {
                    (true, _) => tracing::debug!(%error, %left, "{NOT_RENEWED}, still"),
                    (false, true) => tracing::warn!(%error, %left, "{NOT_RENEWED}"),
                    (false, false) => tracing::info!(%error, %left, "{NOT_RENEWED} yet"),
                }
                progress.failed += 1;
                (progress.error, progress.urgent) = (why, urgent);
                progress.pauses.failed(Instant::now());
            }
        }
    }

    /// One attempt, by every way there is: the authority here, links, a connection of its own.
    async fn attempt(&self, peer: &Peer, now: UnixTime) -> Result<(), RenewalError> {
        let request = self.credentials.identity().signing_request()?;
        if let Some(desk) = &self.desk {
            return self.take_over(desk.own_certificate(request).await?);
        }
        let over_links = match peer.is_in_time(now) {
            true => match self.mesh.request_certificate(&request).await {
                Ok(chain) => return self.take_over(chain),
                Err(error) => Some(error),
            },
            false => None,
        };
        // Always: what links said may have come from a neighbour that lies.
        let outside = renew_outside(&self.way, (&self.credentials, &self.mesh), request).await;
        match (outside, over_links) {
            (Ok(Some(chain)), _) => self.take_over(chain),
            // Over links only the authority itself says more than that it has no link to it.
            (_, Some(LinkError::Refused(LinkRefusal::Renewal(refusal))))
                if refusal != RenewalRefusal::NoAuthority =>
            {
                Err(refusal.into())
            }
            (Ok(None), Some(error)) => Err(RenewalError::Link(error)),
            (Ok(None), None) => Err(RenewalError::NoContact),
            (Err(error), _) => Err(error.into()),
        }
    }

    fn take_over(
        &self,
        chain: Vec<rustls::pki_types::CertificateDer<'static>>,
    ) -> Result<(), RenewalError> {
        self.credentials.renew(chain)?.then_some(()).ok_or(RenewalError::NoLater)
    }

    /// Certificates are refused because of their dates: asks the authority what time it is.
    async fn question_clock(&self) {
        if self.desk.is_some() {
            return;
        }
        match ask_time(&self.way, (&self.credentials, &self.mesh)).await {
            Ok(Some(ahead)) => match skew_in_words(ahead) {
                Some(words) => tracing::warn!(
                    "this machine's clock is {words} the authority's; set it, best by NTP"
                ),
                None => tracing::debug!("this machine's clock and the authority's agree"),
            },
            Ok(None) => {
                tracing::debug!("the clock was not compared, because no authority is known")
            }
            Err(error) => tracing::debug!(%error, "the clock could not be compared"),
        }
    }

    pub(super) fn status(&self) -> CertificateStatus {
        let (identity, progress) = (self.credentials.identity(), self.progress());
        let ignored = self.credentials.lists_ignored().into_iter();
        CertificateStatus {
            expires: identity.peer().expires.as_secs(),
            lifetime_seconds: identity.peer().lifetime().as_secs(),
            revoked: identity.revoked().contains(identity.peer()),
            refused_as_revoked: self.credentials.refused_as_revoked(),
            renewed: progress.renewed,
            renewals: progress.renewals,
            renewals_failed: progress.failed,
            renewal_error: progress.error.clone(),
            revocation_list: identity.revoked().number(),
            lists_ignored: counted(ignored.map(|(reason, count)| (reason.name(), count))),
            clock_ahead_seconds: self.credentials.clock_ahead(),
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Renewal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Renewal({:?})", self.credentials)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_after_failures_double_up_to_the_longest() {
        let (mut pauses, start) = (Pauses::default(), Instant::now());
        let minute = Duration::from_secs(60);
        assert!(pauses.is_over(start, FIRST_PAUSE, minute));
        for pause in [5, 10, 20, 40, 60, 60] {
            pauses.failed(start);
            let over =
                |seconds| pauses.is_over(start + Duration::from_secs(seconds), FIRST_PAUSE, minute);
            assert!(!over(pause - 1) && over(pause), "{pause} s");
        }
        // A certificate that has ended meanwhile makes the pause shorter.
        assert!(pauses.is_over(start + minute / 6, FIRST_PAUSE, minute / 6));
    }
}
