//! The relay role: granting labels under which we forward for others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    identity::{NodeName, Peer},
    link::Links,
    underlay::{
        NextHop, Switch,
        labels::{Forwarding, GrantError, Meter},
    },
    wire::{
        label::Label,
        link::{ForwardRequest, LinkRefusal, Reply},
    },
};

/// How long a forwarding label lasts unless renewed. A lane that ended without a word stops
/// costing a relay memory after this time.
pub(super) const GRANT_LIFETIME: Duration = Duration::from_secs(120);

/// The relay role's configuration.
#[derive(Debug, Clone, Default)]
pub struct RelayConfig {
    /// Whether this node forwards for others, if its certificate allows it.
    pub enabled: bool,
    /// What one neighbour may send through this node, in bytes per second; `None`: no limit.
    pub rate_limit: Option<u64>,
}

pub(super) struct Relay {
    config: RelayConfig,
    certified: bool,
    meters: Mutex<HashMap<NodeName, Arc<Meter>>>,
}

impl Relay {
    pub(super) fn new(config: RelayConfig, certified: bool) -> Self {
        Self { config, certified, meters: Mutex::default() }
    }

    /// Grants `holder` a label under which its packets are forwarded, or says why not.
    pub(super) fn grant(
        &self,
        now: Instant,
        holder: &Peer,
        request: &ForwardRequest,
        links: &Links,
        switch: &Switch,
    ) -> Result<Reply, LinkRefusal> {
        if !self.config.enabled || !self.certified {
            return Err(LinkRefusal::NotMyRole("relay".into()));
        }
        let toward = links
            .get(&request.toward)
            .ok_or_else(|| LinkRefusal::NoLink(request.toward.clone()))?;
        let next = NextHop { neighbour: toward.neighbour().clone(), label: request.label };
        let forwarding = Forwarding {
            meter: self.meter(&holder.name),
            ..Forwarding::new(holder.name.clone(), next, GRANT_LIFETIME)
        };
        let label = switch
            .with_labels(|labels| {
                loop {
                    let label = Label(rand::random());
                    match labels.grant_forward(now, label, forwarding.clone()) {
                        Ok(()) => return Ok(label),
                        Err(GrantError::InUse) => {}
                        Err(error) => return Err(error),
                    }
                }
            })
            .map_err(|error| LinkRefusal::Full(error.to_string()))?;
        tracing::debug!(holder = %holder.name, toward = %request.toward, ?label, "granted a label");
        let seconds = u32::try_from(GRANT_LIFETIME.as_secs()).unwrap_or(u32::MAX);
        Ok(Reply::Granted { label, seconds })
    }

    fn meter(&self, holder: &NodeName) -> Option<Arc<Meter>> {
        let rate = self.config.rate_limit?;
        let mut meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        Some(meters.entry(holder.clone()).or_insert_with(|| Arc::new(Meter::new(rate))).clone())
    }
}
