//! Names that a program in this process serves: flows to them end here, instead of at an address. Packets for
//! programs end at [`Inboxes`].
//!
//! ```text
//!  LaneHost ──open──► Serving ──name is served──► Queue ──accept──► the program
//!                        └──────any other───────► the exit
//! ```
//!
//! An opened flow waits in the queue of its name until the program accepts it; only then the caller is told
//! that it is open. So a program that is slow or hangs is seen by callers as such.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::timeout,
};

use super::{
    inboxes::Inboxes,
    pipe::{PipeEnd, pipe},
};
use crate::{
    flow::{
        BoxFuture, DatagramDrops, DatagramSink, FlowLabel, Host, Judgement, OutwardDatagrams,
        Refusal, RefusalKind, Target,
    },
    identity::{NodeName, Peer},
    lane::{FlowAcceptor, Outward, OutwardStream, Place},
    mesh::Mesh,
};

/// Flows that wait for one name, of all callers: as many as a program takes in one turn of its loop.
const MAX_WAITING: usize = 64;

/// Of one caller, so that one alone does not fill the queue.
const MAX_WAITING_PER_ENTRY: usize = 16;

/// How long a flow waits to be accepted: as long as an exit tries to connect by default, and half of what
/// an entry waits for the exit's answer.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes between a lane and the program, each way. The windows of lanes do not count them: an entry's 2,048
/// flows hold 16 MiB by it. More makes a flow no faster, as both sides are in one process.
const PIPE: usize = 8 * 1024;

/// Opens flows to served names here, and the others by what is behind it.
pub(super) struct Serving {
    behind: Arc<dyn FlowAcceptor>,
    us: NodeName,
    inboxes: Arc<Inboxes>,
    names: Mutex<BTreeMap<Target, Arc<Queue>>>,
}

/// Why a name cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The node is no exit now.
    #[error(
        "this node is no exit: it needs a certificate that grants it and [exit] enabled = true"
    )]
    NotAnExit,
    /// An address instead of a name.
    #[error("{0} is an address; serve a name, as in wiki.lab:80")]
    Address(Target),
    /// The certificate names other domains.
    #[error(
        "this node's certificate does not serve {0}; invite the node with `--serves {0}` or a domain above it"
    )]
    NotCertified(Host),
    /// The process serves it already.
    #[error("{0} is served by this program already")]
    Taken(Target),
}

/// A flow that a program has accepted.
pub(crate) struct Accepted {
    /// Who opened it, by its certificate.
    pub(crate) caller: Peer,
    /// Its label.
    pub(crate) label: FlowLabel,
    /// The name that was called.
    pub(crate) target: Target,
    /// Its bytes.
    pub(crate) io: PipeEnd,
}

/// The flows to one name, as its program takes them. Dropping it ends the service.
pub(crate) struct Accepts {
    serving: Arc<Serving>,
    target: Target,
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    news: Notify,
}

#[derive(Default)]
struct Waiting {
    /// The number of the next flow.
    next: u64,
    flows: VecDeque<Arrived>,
    /// Whether nobody accepts any more.
    closed: bool,
}

struct Arrived {
    number: u64,
    flow: Accepted,
    /// Tells the caller's side that it is accepted.
    accept: oneshot::Sender<()>,
}

/// A flow's place in the queue; dropping it takes the flow out.
struct Waits<'a> {
    queue: &'a Queue,
    number: u64,
}

impl Serving {
    /// Serves no name yet.
    pub(super) fn new(behind: Arc<dyn FlowAcceptor>, us: NodeName) -> Arc<Self> {
        Arc::new(Self { behind, us, inboxes: Arc::default(), names: Mutex::default() })
    }

    /// Where packets for programs go.
    pub(super) fn inboxes(&self) -> &Arc<Inboxes> {
        &self.inboxes
    }

    /// Serves `target` from now on, if `mesh` says that this node may.
    pub(super) fn serve(
        self: &Arc<Self>,
        mesh: &Mesh,
        target: Target,
    ) -> Result<Accepts, ServeError> {
        if !mesh.is_exit(&mesh.us().name) {
            return Err(ServeError::NotAnExit);
        }
        if matches!(target.host, Host::Ip(_)) {
            return Err(ServeError::Address(target));
        }
        if !mesh.serves_itself(&target.host) {
            return Err(ServeError::NotCertified(target.host));
        }
        let queue = Arc::<Queue>::default();
        let mut names = self.names();
        if names.contains_key(&target) {
            return Err(ServeError::Taken(target));
        }
        names.insert(target.clone(), queue.clone());
        Ok(Accepts { serving: self.clone(), target, queue })
    }

    /// Whether a program in this process serves `target`.
    pub(super) fn serves(&self, target: &Target) -> bool {
        self.names().contains_key(target)
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<Target, Arc<Queue>>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FlowAcceptor for Serving {
    fn flows_per_entry(&self) -> usize {
        self.behind.flows_per_entry()
    }

    fn open<'a>(
        &'a self,
        entry: &'a Peer,
        label: FlowLabel,
        target: &'a Target,
    ) -> BoxFuture<'a, Result<Outward, Refusal>> {
        let served = self.names().get(target).cloned();
        match served {
            None => self.behind.open(entry, label, target),
            Some(queue) => Box::pin(async move {
                let place = self.behind.admit(entry, target)?;
                let (near, far) = pipe(PIPE);
                let (caller, target) = (entry.clone(), target.clone());
                let port = target.port;
                queue.wait(Accepted { caller, label, target, io: far }).await?;
                Ok(Outward {
                    stream: OutwardStream::Inside(Box::new(near)),
                    remote: (Ipv4Addr::LOCALHOST, port).into(),
                    place,
                })
            }),
        }
    }

    fn judge<'a>(
        &'a self,
        entry: &'a Peer,
        target: &'a Target,
        served: bool,
    ) -> BoxFuture<'a, Result<Judgement, Refusal>> {
        self.behind.judge(entry, target, served || self.serves(target))
    }

    fn admit(&self, entry: &Peer, target: &Target) -> Result<Place, Refusal> {
        self.behind.admit(entry, target)
    }

    fn associate(
        &self,
        entry: &Peer,
        back: Arc<dyn DatagramSink>,
        drops: Arc<DatagramDrops>,
    ) -> Result<OutwardDatagrams, Refusal> {
        self.behind.associate(entry, back, drops)
    }

    fn receive(
        &self,
        entry: &Peer,
        label: FlowLabel,
        back: Arc<dyn DatagramSink>,
        drops: Arc<DatagramDrops>,
    ) -> Result<OutwardDatagrams, Refusal> {
        self.inboxes.judge(&self.us)?;
        let here = Target { host: Host::Name(self.us.to_string()), port: 0 };
        let place = self.behind.admit(entry, &here)?;
        Ok(self.inboxes.receive((entry, label), (back, drops), place))
    }
}

impl Queue {
    /// Waits until the program accepts `flow`.
    async fn wait(&self, flow: Accepted) -> Result<(), Refusal> {
        let target = flow.target.clone();
        let (accept, accepted) = oneshot::channel();
        let _waits = self.enter(flow, accept)?;
        match timeout(ACCEPT_TIMEOUT, accepted).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(gone(&target)),
            Err(_) => {
                let detail = format!("the program that serves {target} accepted no flow in time");
                Err(Refusal::new(RefusalKind::TimedOut, detail))
            }
        }
    }

    fn enter(&self, flow: Accepted, accept: oneshot::Sender<()>) -> Result<Waits<'_>, Refusal> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(gone(&flow.target));
        }
        let of_caller = |arrived: &&Arrived| arrived.flow.caller.name == flow.caller.name;
        let own = waiting.flows.iter().filter(of_caller).count();
        if own >= MAX_WAITING_PER_ENTRY || waiting.flows.len() >= MAX_WAITING {
            let detail = format!("too many flows wait for the program that serves {}", flow.target);
            return Err(Refusal::new(RefusalKind::Overloaded, detail));
        }
        waiting.next += 1;
        let number = waiting.next;
        waiting.flows.push_back(Arrived { number, flow, accept });
        self.news.notify_one();
        Ok(Waits { queue: self, number })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.queue.lock().flows.retain(|arrived| arrived.number != self.number);
    }
}

impl Accepts {
    /// The name.
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// The flow that waits for longest.
    pub(crate) async fn accept(&mut self) -> Accepted {
        loop {
            let arrived = self.queue.lock().flows.pop_front();
            let Some(Arrived { flow, accept, .. }) = arrived else {
                self.queue.news.notified().await;
                continue;
            };
            // Otherwise the caller has gone meanwhile.
            if accept.send(()).is_ok() {
                return flow;
            }
        }
    }
}

impl Drop for Accepts {
    fn drop(&mut self) {
        self.serving.names().remove(&self.target);
        let waiting = {
            let mut waiting = self.queue.lock();
            waiting.closed = true;
            std::mem::take(&mut waiting.flows)
        };
        drop(waiting);
    }
}

/// The refusal of a flow whose name is served no more.
fn gone(target: &Target) -> Refusal {
    let detail = format!("the program that served {target} has stopped serving it");
    Refusal::new(RefusalKind::ConnectionRefused, detail)
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names().keys()).finish()
    }
}

impl fmt::Debug for Accepts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Accepts").field(&self.target).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::test_support::{NOW, Overlay};

    #[tokio::test(start_paused = true)]
    async fn one_caller_has_a_part_of_the_queue_and_all_have_64_places() {
        let queue = Queue::default();
        let peer = Overlay::new().node("template", NOW).peer().clone();
        let arrives = |caller: usize| {
            let caller = Peer { name: format!("n{caller}").parse().unwrap(), ..peer.clone() };
            let target = "wiki.lab:80".parse().unwrap();
            let flow = Accepted { caller, label: FlowLabel(1), target, io: pipe(1).1 };
            queue.enter(flow, oneshot::channel().0)
        };
        let mut held = Vec::new();
        for caller in 0..MAX_WAITING / MAX_WAITING_PER_ENTRY {
            held.extend((0..MAX_WAITING_PER_ENTRY).map(|_| arrives(caller).unwrap()));
            assert_eq!(arrives(caller).err().unwrap().kind, RefusalKind::Overloaded);
        }
        assert_eq!(arrives(99).err().unwrap().kind, RefusalKind::Overloaded, "all are taken");
        held.pop();
        drop(arrives(99).unwrap());
        held.clear();
        assert!(queue.lock().flows.is_empty());
    }
}
