//! What the flows go to: the services of the virtual-time tests, on real ports.

use std::net::SocketAddr;

use ronproxy::internals::lab::Service;
use tokio::net::TcpListener;

use crate::{
    support,
    work::{self, Arrivals, Work},
};

/// Their addresses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Servers {
    pub(crate) source: SocketAddr,
    pub(crate) sink: SocketAddr,
    pub(crate) echo: SocketAddr,
    counter: SocketAddr,
    stream: SocketAddr,
}

impl Servers {
    /// Starts them; uploads are counted at `arrivals`.
    pub(crate) async fn start(arrivals: &Arrivals) -> Self {
        Self {
            source: serve(support::source()).await,
            sink: serve(support::sink()).await,
            echo: serve(support::echo()).await,
            counter: serve(work::counter(arrivals.clone())).await,
            stream: serve(work::stream()).await,
        }
    }

    /// The one that suits this work.
    pub(crate) fn of(&self, work: Work) -> SocketAddr {
        match work {
            Work::Download => self.source,
            Work::Upload => self.counter,
            Work::Stream => self.stream,
            Work::Keystrokes => self.echo,
        }
    }
}

async fn serve(service: Service) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tcp.set_nodelay(true).unwrap();
            service(Box::new(tcp));
        }
    });
    address
}
