//! The relay role: granting labels under which we forward for others.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    identity::NodeName,
    underlay::{
        Switch,
        labels::{Forwarding, GrantError, Meter},
    },
    wire::{
        label::Label,
        link::{LinkRefusal, Reply},
    },
};

/// How long a forwarding label lasts unless renewed. After this time a lane that ended without a
/// message takes no memory of a relay.
pub(super) const GRANT_LIFETIME: Duration = Duration::from_secs(120);

/// The relay role's configuration.
#[derive(Debug, Clone, Default)]
pub struct RelayConfig {
    /// Whether this node forwards for others, if its certificate allows it.
    pub enabled: bool,
    /// The rate that one neighbour may send through this node, in bytes per second; `None`: no
    /// limit.
    pub rate_limit: Option<u64>,
}

pub(super) struct Relay {
    config: RelayConfig,
    certified: bool,
    meters: Mutex<BTreeMap<NodeName, Arc<Meter>>>,
}

impl Relay {
    pub(super) fn new(config: RelayConfig, certified: bool) -> Self {
        Self { config, certified, meters: Mutex::default() }
    }

    /// Whether this node is a relay now.
    ///
    /// # Errors
    /// When its certificate does not grant that or its configuration disables it.
    pub(super) fn must_be_relay(&self) -> Result<(), LinkRefusal> {
        if self.config.enabled && self.certified {
            Ok(())
        } else {
            Err(LinkRefusal::NotMyRole("relay".into()))
        }
    }

    /// Grants a label under which packets are forwarded, or says why not.
    pub(super) fn grant(
        &self,
        now: Instant,
        asked: Forwarding,
        switch: &Switch,
    ) -> Result<Reply, LinkRefusal> {
        let forwarding = Forwarding { meter: self.meter(&asked.holder), ..asked };
        let label = switch
            .with_labels(|labels| {
                loop {
                    let label = Label(switch.chance().draw());
                    match labels.grant_forward(now, label, forwarding.clone()) {
                        Ok(()) => return Ok(label),
                        Err(GrantError::InUse) => {}
                        Err(error) => return Err(error),
                    }
                }
            })
            .map_err(|error| LinkRefusal::Full(error.to_string()))?;
        let (holder, next) = (&forwarding.holder, &forwarding.next);
        tracing::debug!(%holder, toward = ?next.neighbour, ?label, "granted a label");
        let seconds = u32::try_from(GRANT_LIFETIME.as_secs()).unwrap_or(u32::MAX);
        Ok(Reply::Granted { label, seconds })
    }

    fn meter(&self, holder: &NodeName) -> Option<Arc<Meter>> {
        let rate = self.config.rate_limit?;
        let mut meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        Some(meters.entry(holder.clone()).or_insert_with(|| Arc::new(Meter::new(rate))).clone())
    }
}
