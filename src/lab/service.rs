//! Services that live behind a lab's exits, inside the process.

use std::{collections::HashMap, fmt, net::Ipv4Addr, sync::Arc, time::Duration};

use super::LabNode;
use crate::{
    flow::{
        BoxFuture, Carried, DatagramDrop, DatagramDrops, DatagramSink, FlowIo, FlowLabel,
        Judgement, OutwardDatagrams, Refusal, RefusalKind, Target,
    },
    identity::Peer,
    lane::{FlowAcceptor, Outward, OutwardStream, Place},
};

/// What a pipe between an exit and a service holds by default, in bytes: a socket buffer's worth.
const PIPE: usize = 256 * 1024;

/// Flows of one entry that its exits carry: what those of real nodes do by default.
const FLOWS_PER_ENTRY: usize = 2_048;

/// A service: gets one end of each connection to it.
pub type Service = Arc<dyn Fn(Box<dyn FlowIo>) + Send + Sync>;

/// A service that gets the datagrams to it, and answers by the sink.
pub type DatagramService = Arc<dyn Fn(&Target, &[u8], &dyn DatagramSink) + Send + Sync>;

/// The services of a lab, by host name. There is nothing else behind its exits.
#[derive(Clone)]
pub struct Services {
    hosts: HashMap<String, Service>,
    datagrams: HashMap<String, DatagramService>,
    refuses: Option<RefusalKind>,
    connects_in: Duration,
    pipe: usize,
}

impl Default for Services {
    fn default() -> Self {
        Self {
            hosts: HashMap::new(),
            datagrams: HashMap::new(),
            refuses: None,
            connects_in: Duration::ZERO,
            pipe: PIPE,
        }
    }
}

impl Services {
    /// Adds a service at `host`, on every port.
    #[must_use]
    pub fn with(mut self, host: &str, service: Service) -> Self {
        self.hosts.insert(host.to_owned(), service);
        self
    }

    /// Adds a service at `host` for datagrams, on every port.
    #[must_use]
    pub fn with_datagrams(mut self, host: &str, service: DatagramService) -> Self {
        self.datagrams.insert(host.to_owned(), service);
        self
    }

    /// Lets each pipe between an exit and a service hold so many bytes: few, to measure the exit alone.
    #[must_use]
    pub fn with_pipes_of(self, bytes: usize) -> Self {
        Self { pipe: bytes, ..self }
    }

    /// The same behind this exit.
    #[must_use]
    pub(super) fn behind(self, exit: &LabNode) -> Self {
        Self { refuses: exit.refuses, connects_in: exit.connects_in, ..self }
    }

    /// The service to which a flow to `target` goes.
    fn service(&self, target: &Target) -> Result<&Service, Refusal> {
        if let Some(kind) = self.refuses {
            return Err(Refusal::new(kind, "this exit refuses everything"));
        }
        let host = target.host.to_string();
        self.hosts.get(&host).ok_or_else(|| {
            let detail = format!("{host} does not exist in this lab");
            Refusal::new(RefusalKind::NameNotFound, detail)
        })
    }
}

impl FlowAcceptor for Services {
    fn flows_per_entry(&self) -> usize {
        FLOWS_PER_ENTRY
    }

    fn open<'a>(
        &'a self,
        _entry: &'a Peer,
        _label: FlowLabel,
        target: &'a Target,
    ) -> BoxFuture<'a, Result<Outward, Refusal>> {
        Box::pin(async move {
            let service = self.service(target)?;
            if !self.connects_in.is_zero() {
                tokio::time::sleep(self.connects_in).await;
            }
            let (near, far) = tokio::io::duplex(self.pipe);
            service(Box::new(far));
            let remote = (Ipv4Addr::LOCALHOST, target.port).into();
            Ok(Outward {
                stream: OutwardStream::Inside(Box::new(near)),
                remote,
                place: Place::default(),
            })
        })
    }

    fn judge<'a>(
        &'a self,
        _entry: &'a Peer,
        target: &'a Target,
        _served: bool,
    ) -> BoxFuture<'a, Result<Judgement, Refusal>> {
        Box::pin(async move { self.service(target).map(|_| Judgement::Allowed) })
    }

    fn admit(&self, _: &Peer, _: &Target) -> Result<Place, Refusal> {
        match self.refuses {
            Some(kind) => Err(Refusal::new(kind, "this exit refuses everything")),
            None => Ok(Place::default()),
        }
    }

    fn associate(
        &self,
        _entry: &Peer,
        back: Arc<dyn DatagramSink>,
        drops: Arc<DatagramDrops>,
    ) -> Result<OutwardDatagrams, Refusal> {
        if let Some(kind) = self.refuses {
            return Err(Refusal::new(kind, "this exit refuses everything"));
        }
        let carried = Arc::<Carried>::default();
        let (services, counted) = (self.datagrams.clone(), carried.clone());
        Ok(OutwardDatagrams {
            sink: Arc::new(Inside { services, back, drops, carried: counted }),
            local: (Ipv4Addr::LOCALHOST, 1).into(),
            carried,
            permit: Box::new(()),
        })
    }
}

/// An association that ends inside the process.
struct Inside {
    services: HashMap<String, DatagramService>,
    back: Arc<dyn DatagramSink>,
    drops: Arc<DatagramDrops>,
    carried: Arc<Carried>,
}

impl DatagramSink for Inside {
    fn deliver(&self, peer: &Target, payload: &[u8]) {
        self.carried.add_sent(payload.len());
        let host = peer.host.to_string();
        match self.services.get(&host) {
            Some(service) => service(peer, payload, &*self.back),
            None => {
                self.drops.count(DatagramDrop::Unresolved);
                let detail = format!("{host} does not exist in this lab");
                self.back.refused(peer, Refusal::new(RefusalKind::NameNotFound, detail));
            }
        }
    }

    fn refused(&self, _: &Target, _: Refusal) {}
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.hosts.keys()).finish()
    }
}
