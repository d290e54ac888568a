//! The three ways to a server.

use std::net::TcpStream;

use crate::nodes::{Nodes, Server};

/// How bytes cross the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Ronproxy,
    Cubic,
    Bbr,
}

/// All, in the order of the columns.
pub(crate) const WAYS: [Way; 3] = [Way::Ronproxy, Way::Cubic, Way::Bbr];

impl Way {
    /// Starts or ends the entry, so that nothing else is on the line.
    pub(crate) fn prepare(self, nodes: &mut Nodes) {
        match self {
            Self::Ronproxy => nodes.start_over("udp"),
            Self::Cubic | Self::Bbr => nodes.end_entry(),
        }
    }

    /// A server for this way. Behind ronproxy, its TCP does not cross the line.
    pub(crate) fn serve(self, nodes: &Nodes) -> Server {
        nodes.serve(if self == Self::Bbr { "bbr" } else { "cubic" })
    }

    pub(crate) fn connect(self, nodes: &Nodes, server: &Server, wanted: u8) -> TcpStream {
        match self {
            Self::Ronproxy => nodes.flow(server, wanted),
            Self::Cubic | Self::Bbr => nodes.direct(server, wanted),
        }
    }
}
