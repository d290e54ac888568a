//! New flows that wait for a route, and a network that has changed: both make the mesh look at once.

use tokio::{sync::watch, time::Instant};

use super::{Members, Mesh};
use crate::overlay::{monitor::LinkState, router::Router};

impl Mesh {
    /// Changes whenever a route may have come up.
    #[must_use]
    pub fn route_news(&self) -> watch::Receiver<()> {
        self.route_news.subscribe()
    }

    /// Whether any link is up.
    #[must_use]
    pub fn has_link(&self) -> bool {
        let now = Instant::now().into_std();
        self.routing().links(now).values().any(|link| link.state == LinkState::Up)
    }

    /// A flow waits for a route: links that are not up are probed, and members without a link are dialled,
    /// several times a second. To be called again within a second while the flow waits.
    pub fn hurry(&self) {
        self.look_now(Router::hurry, Members::hurry);
    }

    /// The machine's addresses or routes changed, or it slept: all links are probed, and all members without
    /// a link are dialled. To be called at most once a second.
    pub fn network_changed(&self) {
        self.enter_network();
        self.look_now(Router::suspect_all, Members::network_changed);
        self.moves.send_replace(());
    }

    /// Changes when this machine's addresses may have changed.
    #[must_use]
    pub fn moves(&self) -> watch::Receiver<()> {
        self.moves.subscribe()
    }

    fn look_now(
        &self,
        links: fn(&mut Router, std::time::Instant),
        members: fn(&mut Members, std::time::Instant),
    ) {
        let now = Instant::now().into_std();
        self.look_at_network();
        links(&mut self.routing(), now);
        members(&mut self.members(), now);
        self.news.notify_one();
        self.dial_news.notify_one();
    }
}
