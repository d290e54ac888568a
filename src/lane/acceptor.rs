//! The interface by which lanes ask the exit to open a flow's connection to its destination.

use std::{net::SocketAddr, sync::Arc};

use tokio::net::TcpStream;

use crate::{
    flow::{
        BoxFuture, Carried, DatagramDrops, DatagramSink, FlowIo, FlowLabel, Judgement,
        OutwardDatagrams, Refusal, RefusalKind, Target,
    },
    identity::Peer,
};

/// The connection an exit opened for a flow.
pub struct Outward {
    /// The connection.
    pub stream: OutwardStream,
    /// The address it goes to.
    pub remote: SocketAddr,
    /// Its place among the flows of the exit.
    pub place: Place,
}

/// A flow's place among those of an exit.
#[derive(Default)]
pub struct Place {
    /// Counts the bytes of the flow. The flow ends when this says so.
    pub carried: Arc<Carried>,
    /// Kept until the flow ends; dropping it gives the place back.
    pub permit: Option<Box<dyn Send + Sync>>,
}

/// Where a flow goes on beyond the exit.
pub enum OutwardStream {
    /// To a real destination.
    Tcp(TcpStream),
    /// To a service inside this process: a program that serves a name, the demo's campus site, or a test's server.
    Inside(Box<dyn FlowIo>),
}

/// Opens real connections for flows. Implemented over the exit role.
pub trait FlowAcceptor: Send + Sync + 'static {
    /// How many flows of one entry it carries.
    fn flows_per_entry(&self) -> usize;

    /// Opens a connection to `target` for the flow `label` of `entry`; bounds its own waiting.
    fn open<'a>(
        &'a self,
        entry: &'a Peer,
        label: FlowLabel,
        target: &'a Target,
    ) -> BoxFuture<'a, Result<Outward, Refusal>>;

    /// Whether it would carry a flow of `entry` to `target`. Resolves, connects and counts nothing. `served`:
    /// a program in this process serves the name.
    ///
    /// # Errors
    /// The refusal of such a flow.
    fn judge<'a>(
        &'a self,
        entry: &'a Peer,
        target: &'a Target,
        served: bool,
    ) -> BoxFuture<'a, Result<Judgement, Refusal>>;

    /// A place for a flow of `entry` to `target`, a name that a program in this process serves.
    ///
    /// # Errors
    /// When a rule of the exit denies it, or it carries no more flows.
    fn admit(&self, entry: &Peer, target: &Target) -> Result<Place, Refusal>;

    /// Opens the socket of an association of `entry`. `back` takes datagrams from destinations, and the
    /// refusals of destinations; `drops` counts dropped datagrams.
    ///
    /// # Errors
    /// Why the exit carries no datagrams, or no more of this entry.
    fn associate(
        &self,
        entry: &Peer,
        back: Arc<dyn DatagramSink>,
        drops: Arc<DatagramDrops>,
    ) -> Result<OutwardDatagrams, Refusal>;

    /// Takes packets of the flow `label` of `entry` for programs in this process. `back` tells the entry of
    /// types that no program takes; `drops` counts dropped packets.
    ///
    /// # Errors
    /// When no program takes packets, a rule denies it, or there are too many flows.
    fn receive(
        &self,
        _entry: &Peer,
        _label: FlowLabel,
        _back: Arc<dyn DatagramSink>,
        _drops: Arc<DatagramDrops>,
    ) -> Result<OutwardDatagrams, Refusal> {
        Err(Refusal::new(RefusalKind::ConnectionRefused, "no program of this node takes packets"))
    }
}
