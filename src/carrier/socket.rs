//! The TCP socket that accepts streams.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the kernel keeps until they are accepted, as web servers ask for.
const BACKLOG: i32 = 511;

/// Opens the node's TCP socket.
///
/// An IPv6 wildcard address also serves IPv4 where the system allows it.
///
/// # Errors As `bind(2)`: the port is in use, the address is not of this machine, or permission is
/// missing, as for ports below 1024.
pub fn bind_streams(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6()
        && let Err(error) = socket.set_only_v6(false)
    {
        tracing::debug!(%error, "streams will be accepted by IPv6 only");
    }
    // Connections of the last process, which the kernel still remembers, do not keep the port.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
