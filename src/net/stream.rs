//! A byte stream over TCP or a Unix socket, split into a half that reads and one that writes without waiting.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

/// Idle time before keepalive probes, their distance, and how many go unanswered before a peer is given up.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;

/// A connected stream.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
}

impl Stream {
    /// Sets what every TCP connection of ours has: no delay, keepalive, and a bound for unacknowledged bytes.
    pub fn set_options(&self, user_timeout: Duration) {
        let Self::Tcp(stream) = self else { return };
        let socket = SockRef::from(stream);
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES);
        // A socket that the peer has just closed refuses options; the next read says so better.
        let _ = stream.set_nodelay(true);
        let _ = socket.set_tcp_keepalive(&keepalive);
        let _ = socket.set_tcp_user_timeout(Some(user_timeout));
    }

    /// The half that reads and the half that writes.
    #[must_use]
    pub fn split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
            }
            Self::Unix(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Unix(read), WriteHalf::Unix(write))
            }
        }
    }
}

/// The half that reads.
#[derive(Debug)]
pub enum ReadHalf {
    /// TCP.
    Tcp(tcp::OwnedReadHalf),
    /// A Unix socket.
    Unix(unix::OwnedReadHalf),
}

impl ReadHalf {
    /// Reads what is there into `buffer`; zero means that the peer sends nothing more.
    ///
    /// # Errors
    /// The connection broke.
    pub fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(match self {
            Self::Tcp(half) => Pin::new(half).poll_read(context, &mut buffer),
            Self::Unix(half) => Pin::new(half).poll_read(context, &mut buffer),
        })?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Reads what is there without waiting.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; else the connection broke.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => half.try_read(buffer),
            Self::Unix(half) => half.try_read(buffer),
        }
    }
}

/// The half that writes.
#[derive(Debug)]
pub enum WriteHalf {
    /// TCP.
    Tcp(tcp::OwnedWriteHalf),
    /// A Unix socket.
    Unix(unix::OwnedWriteHalf),
}

impl WriteHalf {
    /// Writes as much as the kernel takes now.
    ///
    /// # Errors
    /// `WouldBlock` when it takes nothing; else the connection broke.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => half.try_write(bytes),
            Self::Unix(half) => half.try_write(bytes),
        }
    }

    /// Waits until the kernel takes bytes again.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(half) => half.writable().await,
            Self::Unix(half) => half.writable().await,
        }
    }

    /// Makes the close of the connection a reset: what the peer has not read it need not read.
    pub fn reset_on_close(&self) {
        if let Self::Tcp(half) = self {
            let _ = SockRef::from(half.as_ref()).set_linger(Some(Duration::ZERO));
        }
    }

    /// The addresses of both ends, for people.
    #[must_use]
    pub fn addresses(&self) -> (String, String) {
        match self {
            Self::Tcp(half) => (
                half.peer_addr().map_or_else(|_| "?:0".to_owned(), |address| address.to_string()),
                half.local_addr().map_or_else(|_| "?:0".to_owned(), |address| address.to_string()),
            ),
            Self::Unix(half) => {
                let path = half
                    .local_addr()
                    .ok()
                    .and_then(|address| address.as_pathname().map(|path| path.display().to_string()));
                let path = format!("{}:0", path.unwrap_or_default());
                (path.clone(), path)
            }
        }
    }
}
