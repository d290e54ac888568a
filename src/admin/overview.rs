//! What the dashboard shows, in one answer: it asks twice a second.

use serde::{Deserialize, Serialize};

use super::{Admin, api::StatusReport, playground::PlayPath, query};
use crate::{
    app::{FlowFacts, LaneStatus, Steering},
    events::{Page, Query},
    mesh::{FarLink, LinkFacts},
};

/// The answer to `GET /overview`. A reader may add something to each flow by an `F` of its own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Overview<F = FlowFacts> {
    /// The node in numbers.
    pub(crate) status: StatusReport,
    /// Its links.
    pub(crate) links: Vec<LinkFacts>,
    /// The links between other nodes, as they advertise them.
    pub(crate) far_links: Vec<FarLink>,
    /// Its lanes.
    pub(crate) lanes: Vec<LaneStatus>,
    /// Its flows, without the history of their reroutes; `None` unless they were asked for.
    pub(crate) flows: Option<Vec<F>>,
    /// What new flows are steered to.
    pub(crate) steering: Steering,
    /// In the demo, the paths that may be cut.
    pub(crate) paths: Option<Vec<PlayPath>>,
    /// What happened.
    pub(crate) events: Page,
}

/// What is asked for beside the figures.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    events: Query,
    flows: bool,
}

/// Reads the question.
///
/// # Errors
/// A sentence that says what to write instead.
pub(super) fn read(text: &str) -> Result<Wanted, String> {
    let (flows, others): (Vec<_>, Vec<_>) =
        form_urlencoded::parse(text.as_bytes()).partition(|(name, _)| name == "flows");
    let mut rest = form_urlencoded::Serializer::new(String::new());
    rest.extend_pairs(others);
    let (events, _) = query::read(&rest.finish())?;
    Ok(Wanted { events, flows: flows.iter().any(|(_, value)| value == "1") })
}

impl Admin {
    /// What the dashboard shows.
    pub(super) fn overview(&self, wanted: &Wanted) -> Overview {
        let without_history = |flow: FlowFacts| FlowFacts { history: Vec::new(), ..flow };
        let flows = || self.view.flow_facts().into_iter().map(without_history).collect();
        Overview {
            status: self.status(),
            links: self.view.link_facts(),
            far_links: self.view.far_links(),
            lanes: self.view.lane_facts(),
            flows: wanted.flows.then(flows),
            steering: self.view.steering(),
            paths: self.playground.as_ref().map(|playground| (playground.paths)()),
            events: self.view.events().read(&wanted.events),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_are_shown_when_they_are_asked_for() {
        let wanted = read("since=4&flows=1&limit=9").unwrap();
        assert!(wanted.flows);
        assert_eq!((wanted.events.since, wanted.events.limit), (Some(4), Some(9)));
        assert!(!read("").unwrap().flows);
        assert!(read("colour=red").unwrap_err().contains("since"));
    }
}
