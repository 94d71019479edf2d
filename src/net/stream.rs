//! A byte stream over TCP, TLS or a Unix socket, split into a half that reads and one that writes without waiting.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

use super::tls::TlsStream;

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
    /// TLS over TCP.
    Tls(Box<TlsStream>),
}

impl Stream {
    /// Sets what every TCP connection of ours has: no delay, keepalive, and a bound for unacknowledged bytes.
    pub fn set_options(&self, user_timeout: Duration) {
        let stream = match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.socket(),
            Self::Unix(_) => return,
        };
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
            Self::Tls(stream) => {
                let stream = Rc::new(*stream);
                (ReadHalf::Tls(stream.clone()), WriteHalf::Tls(stream))
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => {
                let bytes = ready!(stream.poll_read(context, buffer.initialize_unfilled()))?;
                buffer.advance(bytes);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => {
                ready!(stream.poll_flush(context))?;
                Poll::Ready(stream.try_write(bytes))
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => stream.poll_flush(context),
            // The kernel has everything already.
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => {
                stream.say_goodbye();
                stream.poll_flush(context)
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
    /// TLS over TCP.
    Tls(Rc<TlsStream>),
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
            Self::Tls(stream) => return stream.poll_read(context, buffer.initialize_unfilled()),
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
            Self::Tls(stream) => stream.try_read(buffer),
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
    /// TLS over TCP.
    Tls(Rc<TlsStream>),
}

impl WriteHalf {
    /// Writes as much as the kernel takes now; with TLS, some of it may wait for [`WriteHalf::try_flush`].
    ///
    /// # Errors
    /// `WouldBlock` when it takes nothing; else the connection broke.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => half.try_write(bytes),
            Self::Unix(half) => half.try_write(bytes),
            Self::Tls(stream) => stream.try_write(bytes),
        }
    }

    /// Hands the kernel what TLS keeps back.
    ///
    /// # Errors
    /// `WouldBlock` when some of it still waits; else the connection broke.
    pub fn try_flush(&self) -> io::Result<()> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => Ok(()),
            Self::Tls(stream) => stream.try_flush(),
        }
    }

    /// Says goodbye where the protocol has a word for it, once everything is handed over; waits for that if it must.
    pub async fn finish(&self) {
        if let Self::Tls(stream) = self {
            // Whoever is gone needs no goodbye.
            let _ = poll_fn(|context| stream.poll_flush(context)).await;
            stream.say_goodbye();
        }
    }

    /// The same without waiting.
    pub fn say_goodbye(&self) {
        if let Self::Tls(stream) = self {
            stream.say_goodbye();
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
            Self::Tls(stream) => stream.writable().await,
        }
    }

    /// Makes the close of the connection a reset: what the peer has not read it need not read.
    pub fn reset_on_close(&self) {
        let socket = match self {
            Self::Tcp(half) => half.as_ref(),
            Self::Tls(stream) => stream.socket(),
            Self::Unix(_) => return,
        };
        let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
    }

    /// The addresses of both ends, for people.
    #[must_use]
    pub fn addresses(&self) -> (String, String) {
        let of_tcp = |socket: &TcpStream| {
            (
                socket.peer_addr().map_or_else(|_| "?:0".to_owned(), |address| address.to_string()),
                socket.local_addr().map_or_else(|_| "?:0".to_owned(), |address| address.to_string()),
            )
        };
        match self {
            Self::Tcp(half) => of_tcp(half.as_ref()),
            Self::Tls(stream) => of_tcp(stream.socket()),
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
