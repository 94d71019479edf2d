//! TLS over a TCP socket: rustls decides what is to be sent, this moves it without waiting.
//!
//! Bytes that [`TlsStream::try_write`] took may wait here for the kernel, at most [`WAITING_BYTES_MAX`] of them. They
//! count as sent, which is the safe side: who loses the connection then does not repeat what may have gone out.

use std::cell::RefCell;
use std::io::{self, ErrorKind, IoSlice, Read as _, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::tls::explain;

/// The most that waits for the kernel.
const WAITING_BYTES_MAX: usize = 64 * 1024;
/// The first byte of a TLS connection: a handshake record.
const HANDSHAKE_RECORD: u8 = 0x16;

/// A connection with TLS; one task uses it, or several of one thread.
#[derive(Debug)]
pub struct TlsStream {
    write: OwnedWriteHalf,
    inner: RefCell<Inner>,
}

#[derive(Debug)]
struct Inner {
    read: OwnedReadHalf,
    session: Connection,
}

impl TlsStream {
    /// Shakes hands as the client; the other side is verified when this returns.
    ///
    /// # Errors
    /// The connection broke, or one side does not accept the other, in words for operators.
    pub async fn connect(socket: TcpStream, config: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<Self> {
        let session = ClientConnection::new(config, name).map_err(broken)?;
        Self::shake_hands(socket, session.into()).await
    }

    /// Shakes hands as the server. Whoever does not begin with a TLS record is refused at the first byte.
    ///
    /// # Errors
    /// The same as for [`TlsStream::connect`]; `InvalidInput` for what is no TLS.
    pub async fn accept(socket: TcpStream, config: Arc<ServerConfig>) -> io::Result<Self> {
        let mut first = [0];
        match socket.peek(&mut first).await? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            _ if first[0] != HANDSHAKE_RECORD => {
                return Err(io::Error::new(ErrorKind::InvalidInput, "the client does not speak TLS on a TLS listener"));
            }
            _ => {}
        }
        let session = ServerConnection::new(config).map_err(broken)?;
        Self::shake_hands(socket, session.into()).await
    }

    async fn shake_hands(socket: TcpStream, mut session: Connection) -> io::Result<Self> {
        session.set_buffer_limit(Some(WAITING_BYTES_MAX));
        let (read, write) = socket.into_split();
        let mut stream = Self { write, inner: RefCell::new(Inner { read, session }) };
        std::future::poll_fn(|context| stream.poll_handshake(context)).await?;
        Ok(stream)
    }

    fn poll_handshake(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_flush(context))?;
            let inner = self.inner.get_mut();
            if !inner.session.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if inner.session.wants_read() && ready!(inner.receive(Some(context), &self.write))? == 0 {
                let message = "TLS: closed during the handshake; does the other side speak TLS on this port?";
                return Poll::Ready(Err(io::Error::new(ErrorKind::UnexpectedEof, message)));
            }
        }
    }

    /// The certificate that the other side showed.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<CertificateDer<'static>> {
        let inner = self.inner.borrow();
        inner.session.peer_certificates().and_then(<[_]>::first).map(|certificate| certificate.clone().into_owned())
    }

    /// The socket below.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        self.write.as_ref()
    }

    /// Reads what is there; zero means that the peer sends nothing more, whether it said so or just closed: where a
    /// request or a reply ends, RESP itself says.
    ///
    /// # Errors
    /// The connection broke.
    pub fn poll_read(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.read(Some(context), buffer)
    }

    fn read(&self, mut context: Option<&mut Context<'_>>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.inner.borrow_mut();
        loop {
            match inner.session.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Poll::Ready(Ok(0)),
                result => return Poll::Ready(result),
            }
            ready!(inner.receive(context.as_deref_mut(), &self.write))?;
        }
    }

    /// Reads what is there without waiting.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; else the connection broke.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.read(None, buffer) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(ErrorKind::WouldBlock.into()),
        }
    }

    /// Takes as much as there is room for now, and hands the kernel what it takes of that.
    ///
    /// # Errors
    /// `WouldBlock` when what was taken before still waits; else the connection broke.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut inner = self.inner.borrow_mut();
        inner.flush(&self.write)?;
        let taken = inner.session.writer().write(bytes)?;
        // Part of it may be gone: a failure is told with the next call, lest it pass for "never sent".
        let _ = inner.flush(&self.write);
        Ok(taken)
    }

    /// Hands the kernel what waits here.
    ///
    /// # Errors
    /// `WouldBlock` when some of it still waits; else the connection broke.
    pub fn try_flush(&self) -> io::Result<()> {
        self.inner.borrow_mut().flush(&self.write)
    }

    /// Waits until the kernel has taken everything.
    ///
    /// # Errors
    /// The connection broke.
    pub fn poll_flush(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.try_flush() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    ready!(self.socket().poll_write_ready(context))?;
                }
                result => return Poll::Ready(result),
            }
        }
    }

    /// Waits until the kernel takes bytes again.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn writable(&self) -> io::Result<()> {
        self.write.writable().await
    }

    /// Says that nothing more will be sent, as far as the kernel takes it.
    pub fn say_goodbye(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.session.send_close_notify();
        let _ = inner.flush(&self.write);
    }
}

impl Inner {
    /// Reads once from the socket; zero at its end.
    fn receive(&mut self, context: Option<&mut Context<'_>>, write: &OwnedWriteHalf) -> Poll<io::Result<usize>> {
        let mut half = Reading { half: &mut self.read, context };
        let bytes = match self.session.read_tls(&mut half) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Poll::Pending,
            result => result?,
        };
        let outcome = self.session.process_new_packets();
        // Answers of TLS itself: an alert that says why, new keys.
        let _ = self.flush(write);
        outcome.map_err(broken)?;
        Poll::Ready(Ok(bytes))
    }

    fn flush(&mut self, write: &OwnedWriteHalf) -> io::Result<()> {
        while self.session.wants_write() {
            if self.session.write_tls(&mut Writing(write))? == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }
}

fn broken(error: rustls::Error) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, explain(&error))
}

/// The socket as rustls reads it. With a context, its task is woken when there is something to read; without one, the
/// task that waits for that already keeps its place.
struct Reading<'a, 'c> {
    half: &'a mut OwnedReadHalf,
    context: Option<&'a mut Context<'c>>,
}

impl io::Read for Reading<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(context) = self.context.as_deref_mut() else { return self.half.try_read(buffer) };
        let mut buffer = ReadBuf::new(buffer);
        match Pin::new(&mut *self.half).poll_read(context, &mut buffer) {
            Poll::Ready(result) => result.map(|()| buffer.filled().len()),
            Poll::Pending => Err(ErrorKind::WouldBlock.into()),
        }
    }
}

/// The socket as rustls writes it.
struct Writing<'a>(&'a OwnedWriteHalf);

impl io::Write for Writing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
