//! The handle on an emulated Internet.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use noq::AsyncUdpSocket;

use super::{
    counters::Counters, inbox::SocketId, link::LinkModel, socket::EmulatedSocket, world::World,
};

/// A seeded Internet in memory. Clones are handles on the same Internet.
///
/// A host is an IP address; the ports on it are sockets. A pair of hosts that nobody described has
/// the default model (10 ms each way, nothing else), a host's packets to itself arrive at once.
///
/// ```
/// use std::time::Duration;
/// use ronproxy::internals::emulator::{Internet, LinkModel, LossRate};
///
/// let internet = Internet::new(7);
/// let (a, b) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
/// let model = LinkModel::new(Duration::from_millis(30)).with_loss(LossRate::from_percent(1.0));
/// internet.set_both(a, b, model);
/// internet.cut_one_way(a, b);
/// assert!(!internet.model(a, b).up && internet.model(b, a).up);
/// ```
#[derive(Clone)]
pub struct Internet {
    world: Arc<Mutex<World>>,
}

impl fmt::Debug for Internet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Internet").finish_non_exhaustive()
    }
}

impl Internet {
    /// An Internet without hosts. All its randomness comes from this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { world: Arc::new(Mutex::new(World::new(seed))) }
    }

    /// Binds a socket to this address; port 0 takes a free one. It is released when the socket and
    /// all its senders are dropped.
    ///
    /// An address that is in use moves to the new socket, so that a restarted node need not wait
    /// until its predecessor is dropped. The old socket can neither send nor receive any more. The
    /// new one also receives packets that were already on their way.
    #[must_use]
    pub fn attach(&self, address: SocketAddr) -> Box<dyn AsyncUdpSocket> {
        self.plug_in(address).0
    }

    /// The same, with the socket's cable.
    #[must_use]
    pub fn plug_in(&self, address: SocketAddr) -> (Box<dyn AsyncUdpSocket>, Cable) {
        let (id, address) = self.world().attach(now(), address);
        let cable = Cable { internet: self.clone(), id };
        (Box::new(EmulatedSocket::new(self.clone(), id, address)), cable)
    }

    /// Sets how packets travel from one host to another, in this direction. What is in flight
    /// arrives as it would have; a cut (`up: false`) loses it.
    pub fn set(&self, from: IpAddr, to: IpAddr, model: LinkModel) {
        self.world().set_model(now(), from, to, model);
    }

    /// Sets both directions.
    pub fn set_both(&self, a: IpAddr, b: IpAddr, model: LinkModel) {
        self.set(a, b, model);
        self.set(b, a, model);
    }

    /// Sets the model of all pairs that nobody described, now and later.
    pub fn set_default(&self, model: LinkModel) {
        self.world().set_unlisted(now(), model);
    }

    /// Changes one direction's model in place.
    pub fn update(&self, from: IpAddr, to: IpAddr, change: impl FnOnce(&mut LinkModel)) {
        let mut world = self.world();
        let mut model = world.model(from, to);
        change(&mut model);
        world.set_model(now(), from, to, model);
    }

    /// Changes the models of both directions in place.
    pub fn update_both(&self, a: IpAddr, b: IpAddr, change: impl Fn(&mut LinkModel)) {
        self.update(a, b, &change);
        self.update(b, a, &change);
    }

    /// Cuts the path between two hosts. Packets in flight and all later ones are lost.
    pub fn cut(&self, a: IpAddr, b: IpAddr) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    /// Cuts one direction; the other still works.
    pub fn cut_one_way(&self, from: IpAddr, to: IpAddr) {
        self.update(from, to, |model| model.up = false);
    }

    /// Undoes [`cut`](Self::cut), also after [`cut_one_way`](Self::cut_one_way).
    pub fn heal(&self, a: IpAddr, b: IpAddr) {
        self.heal_one_way(a, b);
        self.heal_one_way(b, a);
    }

    /// Undoes a cut in one direction.
    pub fn heal_one_way(&self, from: IpAddr, to: IpAddr) {
        self.update(from, to, |model| model.up = true);
    }

    /// How packets travel from one host to another now.
    #[must_use]
    pub fn model(&self, from: IpAddr, to: IpAddr) -> LinkModel {
        self.world().model(from, to)
    }

    /// The counters of packets from one host to another.
    #[must_use]
    pub fn counters(&self, from: IpAddr, to: IpAddr) -> Counters {
        let mut world = self.world();
        world.settle(now());
        world.counters(from, to)
    }

    /// A digest of all packets so far: when each was sent, from where, to where, and its size. Two runs
    /// that do the same have the same one.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.world().trace().digest()
    }

    /// The counters of packets that a host sent, by their destination, also to addresses without a
    /// host; sorted by address.
    #[must_use]
    pub fn sent_by(&self, from: IpAddr) -> Vec<(IpAddr, Counters)> {
        let mut world = self.world();
        world.settle(now());
        world.sent_by(from)
    }

    /// Sends one datagram from a host, with any source address: what a network does that does not
    /// filter its customers' sources (RFC 2827). It takes the link between the two hosts.
    pub fn forge(&self, from: IpAddr, source: SocketAddr, destination: SocketAddr, payload: &[u8]) {
        let reader = self.world().forge(now(), from, source, destination, payload);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Gives all packets that a host sends this source address from now on; `None`: their own again. As
    /// [`Internet::forge`], for a whole node.
    pub fn forge_source(&self, host: IpAddr, source: Option<SocketAddr>) {
        self.world().forge_source(host, source);
    }

    /// Gives a host another address, as when a laptop changes networks.
    ///
    /// Its sockets stay open and send from the new address (one that is in use changes hands).
    /// Its paths keep their models and counters, unless those of the new address were set. What is
    /// on its way to the old address is lost.
    pub fn move_host(&self, old: IpAddr, new: IpAddr) {
        let wakers = self.world().move_host(now(), old, new);
        wakers.into_iter().for_each(std::task::Waker::wake);
    }

    /// Puts a host behind a NAT: others see its packets come from `outside` and a mapped port, and
    /// reach it only there, and only those it has sent to. Hosts behind one `outside` share it,
    /// and reach each other by their own addresses.
    ///
    /// Models stay those of the host's own address. Packets are translated when they are sent.
    pub fn nat(&self, host: IpAddr, outside: IpAddr) {
        self.world().nats().place(host, outside);
    }

    /// Takes a host out from behind its NAT.
    pub fn remove_nat(&self, host: IpAddr) {
        self.world().nats().remove(host);
    }

    /// The NAT forgets the host's mappings: its next packets come from new ports, and what is sent
    /// to the old ones is dropped.
    pub fn rebind_nat(&self, host: IpAddr) {
        self.world().nats().rebind(host);
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The cable between a socket and the Internet. It stays when the host moves.
#[derive(Debug)]
pub struct Cable {
    internet: Internet,
    id: SocketId,
}

impl Cable {
    /// Unplugs it. Packets that the socket sends from now on are lost, and none reaches it any
    /// more.
    pub fn pull(self) {
        self.internet.world().detach(now(), self.id);
    }
}

/// Tokio's clock, which tests may pause.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
