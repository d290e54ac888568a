//! Probing a link because a person asks.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::Mesh;
use crate::{identity::NodeName, lane::RouteControl as _, overlay::monitor::Probed};

/// No probe's time-out is longer than 3 s; a little more covers a late timer.
const PATIENCE: Duration = Duration::from_millis(3200);

/// How often to look whether a probe counts as lost, which nobody is woken for. A person does not notice it.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A probe brought no round-trip time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PingFailure {
    /// There never was a link.
    #[error("this node has no link to it")]
    NoLink,
    /// The answer did not come in time.
    #[error("the probe was lost")]
    Lost,
}

impl Mesh {
    /// What became of the probes that this node sent to a neighbour; `None`: there never was a link.
    #[must_use]
    pub fn probed(&self, neighbour: &NodeName) -> Option<Probed> {
        self.routing().probed(neighbour)
    }

    /// Probes the link to a neighbour now. The round-trip time is that of one small packet and its answer.
    ///
    /// # Errors
    /// When there is no link, or no answer within the link's own time-out.
    pub async fn ping(&self, neighbour: &NodeName) -> Result<Duration, PingFailure> {
        let probed = || self.probed(neighbour).ok_or(PingFailure::NoLink);
        let mut news = self.route_news();
        let before = probed()?;
        self.probe(neighbour);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let now = probed()?;
            if now.answered > before.answered {
                return now.last.ok_or(PingFailure::Lost);
            }
            if now.lost > before.lost {
                return Err(PingFailure::Lost);
            }
            // Either the probe was answered, or it is time to look again.
            let _ = timeout(LOOK_EVERY, news.changed()).await;
        }
        Err(PingFailure::Lost)
    }
}
