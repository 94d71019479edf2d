//! A TCP port that nobody else on this machine is given while the test holds it.

use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// A port of 127.0.0.1, held by a bound socket that never listens.
///
/// A server that sets `SO_REUSEADDR` (Redis, tokio and std do) can listen on it; while none does, connecting is
/// refused; and the kernel gives it neither to `bind(0)` nor to an outgoing connection. So nothing races for it, not
/// even while a server is down between a kill and a restart.
#[derive(Debug)]
pub struct ReservedPort {
    socket: Socket,
}

impl ReservedPort {
    /// Takes a free port.
    pub fn take() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_reuse_address(true).expect("SO_REUSEADDR on a fresh socket");
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port of loopback");
        Self { socket }
    }

    /// The port's number.
    pub fn number(&self) -> u16 {
        self.address().port()
    }

    /// `127.0.0.1:number`.
    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().ok().and_then(|address| address.as_socket()).expect("a bound IPv4 socket")
    }
}
