//! A connection that never waits, over TCP, TLS or a Unix socket: a poller tells when there is something to do.

use std::io::{self, Read, Write};
use std::time::Duration;

use mio::event::Source;
use socket2::SockRef;

use super::stream::{self, Stream};
use super::tls::TlsSocket;

/// A connection of a worker.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(mio::net::TcpStream),
    /// A Unix socket.
    Unix(mio::net::UnixStream),
    /// TLS over TCP.
    Tls(Box<TlsSocket>),
}

impl Socket {
    /// Takes a connection out of the runtime that it belongs to.
    ///
    /// # Errors
    /// The connection broke meanwhile.
    pub fn new(stream: Stream) -> io::Result<Self> {
        Ok(match stream {
            Stream::Tcp(stream) => Self::Tcp(mio::net::TcpStream::from_std(stream.into_std()?)),
            Stream::Unix(stream) => Self::Unix(mio::net::UnixStream::from_std(stream.into_std()?)),
            Stream::Tls(stream) => Self::Tls(Box::new(stream.into_socket()?)),
        })
    }

    /// What a poller watches.
    pub fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Tcp(socket) => socket,
            Self::Unix(socket) => socket,
            Self::Tls(socket) => socket.socket_mut(),
        }
    }

    /// Sets what every TCP connection of ours has.
    pub fn set_options(&self, user_timeout: Duration) {
        if let Some(socket) = self.tcp() {
            stream::set_options(SockRef::from(socket), user_timeout);
        }
    }

    /// Reads what is there; zero means that the peer sends nothing more.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; else the connection broke.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => (&mut &*socket).read(buffer),
            Self::Unix(socket) => (&mut &*socket).read(buffer),
            Self::Tls(socket) => socket.try_read(buffer),
        }
    }

    /// Nothing is left behind a read that took so many bytes where there was room for so many.
    #[must_use]
    pub fn is_dry(&self, bytes: usize, room: usize) -> bool {
        bytes < room
            && match self {
                Self::Tcp(_) | Self::Unix(_) => true,
                Self::Tls(socket) => socket.is_dry(),
            }
    }

    /// Bytes may have come before anybody watched.
    #[must_use]
    pub const fn may_hold_bytes(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Writes as much as the kernel takes now; with TLS, some of it may wait for [`Socket::try_flush`].
    ///
    /// # Errors
    /// `WouldBlock` when it takes nothing; else the connection broke.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => (&mut &*socket).write(bytes),
            Self::Unix(socket) => (&mut &*socket).write(bytes),
            Self::Tls(socket) => socket.try_write(bytes),
        }
    }

    /// Hands the kernel what TLS keeps back.
    ///
    /// # Errors
    /// `WouldBlock` when some of it still waits; else the connection broke.
    pub fn try_flush(&self) -> io::Result<()> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => Ok(()),
            Self::Tls(socket) => socket.try_flush(),
        }
    }

    /// Says goodbye where the protocol has a word for it, behind everything that is still to be handed over; false when
    /// the kernel does not take that yet.
    #[must_use]
    pub fn finish(&self) -> bool {
        let Self::Tls(socket) = self else { return true };
        match socket.try_flush() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            _ => {
                socket.say_goodbye();
                true
            }
        }
    }

    /// Makes the close of the connection a reset: what the peer has not read it need not read.
    pub fn reset_on_close(&self) {
        if let Some(socket) = self.tcp() {
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
    }

    /// The addresses of both ends, for people.
    #[must_use]
    pub fn addresses(&self) -> (String, String) {
        match self {
            Self::Unix(socket) => {
                let path = socket
                    .local_addr()
                    .ok()
                    .and_then(|address| address.as_pathname().map(|path| path.display().to_string()));
                let path = format!("{}:0", path.unwrap_or_default());
                (path.clone(), path)
            }
            Self::Tcp(_) | Self::Tls(_) => {
                let shown = |address: Option<std::net::SocketAddr>| {
                    address.map_or_else(|| "?:0".to_owned(), |address| address.to_string())
                };
                let socket = self.tcp();
                let (peer, local) = (|| socket?.peer_addr().ok(), || socket?.local_addr().ok());
                (shown(peer()), shown(local()))
            }
        }
    }

    const fn tcp(&self) -> Option<&mio::net::TcpStream> {
        match self {
            Self::Tcp(socket) => Some(socket),
            Self::Tls(socket) => Some(socket.socket()),
            Self::Unix(_) => None,
        }
    }
}
