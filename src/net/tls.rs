//! TLS over a TCP socket: rustls decides what is to be sent, this moves it without waiting.
//!
//! Bytes that [`TlsStream::try_write`] took may wait here for the kernel, at most [`WAITING_BYTES_MAX`] of them. They
//! count as sent, which is the safe side: who loses the connection then does not repeat what may have gone out.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use tokio::net::TcpStream;

use crate::tls::explain;

/// The most that waits for the kernel.
const WAITING_BYTES_MAX: usize = 64 * 1024;
/// The first byte of a TLS connection: a handshake record.
const HANDSHAKE_RECORD: u8 = 0x16;

/// A connection with TLS, for tasks that wait: handshakes, and exchanges off the path of commands.
#[derive(Debug)]
pub struct TlsStream {
    socket: TcpStream,
    records: RefCell<Records>,
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
        let mut stream = Self { socket, records: RefCell::new(Records { session, is_dry: false }) };
        std::future::poll_fn(|context| stream.poll_handshake(context)).await?;
        Ok(stream)
    }

    fn poll_handshake(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_flush(context))?;
            let records = self.records.get_mut();
            if !records.session.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            match records.receive(&mut Waitless(&self.socket)) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => ready!(self.socket.poll_read_ready(context))?,
                Ok(0) => {
                    let message = "TLS: closed during the handshake; does the other side speak TLS on this port?";
                    return Poll::Ready(Err(io::Error::new(ErrorKind::UnexpectedEof, message)));
                }
                result => drop(result?),
            }
        }
    }

    /// The certificate that the other side showed.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<CertificateDer<'static>> {
        let records = self.records.borrow();
        records.session.peer_certificates().and_then(<[_]>::first).map(|certificate| certificate.clone().into_owned())
    }

    /// The socket below.
    #[must_use]
    pub const fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Reads what is there; zero means that the peer sends nothing more, whether it said so or just closed: where a
    /// request or a reply ends, RESP itself says.
    ///
    /// # Errors
    /// The connection broke.
    pub fn poll_read(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.records.borrow_mut().read(&mut Waitless(&self.socket), buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => ready!(self.socket.poll_read_ready(context))?,
                result => return Poll::Ready(result),
            }
        }
    }

    /// Takes as much as there is room for now, and hands the kernel what it takes of that.
    ///
    /// # Errors
    /// `WouldBlock` when what was taken before still waits; else the connection broke.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.records.borrow_mut().write(&mut Waitless(&self.socket), bytes)
    }

    /// Waits until the kernel has taken everything.
    ///
    /// # Errors
    /// The connection broke.
    pub fn poll_flush(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.records.borrow_mut().flush(&mut Waitless(&self.socket)) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => ready!(self.socket.poll_write_ready(context))?,
                result => return Poll::Ready(result),
            }
        }
    }

    /// Says that nothing more will be sent, as far as the kernel takes it.
    pub fn say_goodbye(&self) {
        self.records.borrow_mut().say_goodbye(&mut Waitless(&self.socket));
    }

    /// The same connection for a worker, which never waits.
    ///
    /// # Errors
    /// The socket broke meanwhile.
    pub fn into_socket(self) -> io::Result<TlsSocket> {
        let socket = mio::net::TcpStream::from_std(self.socket.into_std()?);
        Ok(TlsSocket { socket, records: self.records })
    }
}

/// A connection with TLS that never waits.
#[derive(Debug)]
pub struct TlsSocket {
    socket: mio::net::TcpStream,
    records: RefCell<Records>,
}

impl TlsSocket {
    /// The socket below.
    #[must_use]
    pub const fn socket(&self) -> &mio::net::TcpStream {
        &self.socket
    }

    /// The same, to be registered.
    pub const fn socket_mut(&mut self) -> &mut mio::net::TcpStream {
        &mut self.socket
    }

    /// Reads what is there; zero means that the peer sends nothing more.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; else the connection broke.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.records.borrow_mut().read(&mut &self.socket, buffer)
    }

    /// The kernel had nothing more when it was last read.
    #[must_use]
    pub fn is_dry(&self) -> bool {
        self.records.borrow().is_dry
    }

    /// As [`TlsStream::try_write`].
    ///
    /// # Errors
    /// `WouldBlock` when what was taken before still waits; else the connection broke.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.records.borrow_mut().write(&mut &self.socket, bytes)
    }

    /// Hands the kernel what waits here.
    ///
    /// # Errors
    /// `WouldBlock` when some of it still waits; else the connection broke.
    pub fn try_flush(&self) -> io::Result<()> {
        self.records.borrow_mut().flush(&mut &self.socket)
    }

    /// Says that nothing more will be sent, as far as the kernel takes it.
    pub fn say_goodbye(&self) {
        self.records.borrow_mut().say_goodbye(&mut &self.socket);
    }
}

/// What rustls makes of the bytes of a socket, and what it has for it. The socket never waits.
#[derive(Debug)]
struct Records {
    session: Connection,
    /// The last read took less than there was room for.
    is_dry: bool,
}

impl Records {
    fn read(&mut self, socket: &mut (impl Read + Write), buffer: &mut [u8]) -> io::Result<usize> {
        // What was left of earlier records says nothing of what the kernel has by now.
        self.is_dry = false;
        loop {
            match self.session.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                result => return result,
            }
            if let Err(error) = self.receive(socket) {
                // What was sound before the fault still counts; the fault comes again with the next read.
                self.is_dry &= error.kind() == ErrorKind::WouldBlock;
                return match self.session.reader().read(buffer) {
                    Ok(bytes) if bytes > 0 => Ok(bytes),
                    _ => Err(error),
                };
            }
        }
    }

    fn write(&mut self, socket: &mut (impl Read + Write), bytes: &[u8]) -> io::Result<usize> {
        self.flush(socket)?;
        let taken = self.session.writer().write(bytes)?;
        // Part of it may be gone: a failure is told with the next call, lest it pass for "never sent".
        let _ = self.flush(socket);
        Ok(taken)
    }

    /// Reads once from the socket; zero at its end.
    fn receive(&mut self, socket: &mut (impl Read + Write)) -> io::Result<usize> {
        let mut reading = Reading { socket, is_dry: true };
        let read = self.session.read_tls(&mut reading);
        self.is_dry = reading.is_dry;
        let bytes = read?;
        let outcome = self.session.process_new_packets();
        // Answers of TLS itself: an alert that says why, new keys.
        let _ = self.flush(socket);
        outcome.map_err(broken)?;
        Ok(bytes)
    }

    fn flush(&mut self, socket: &mut impl Write) -> io::Result<()> {
        while self.session.wants_write() {
            if self.session.write_tls(socket)? == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    fn say_goodbye(&mut self, socket: &mut impl Write) {
        self.session.send_close_notify();
        let _ = self.flush(socket);
    }
}

fn broken(error: rustls::Error) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, explain(&error))
}

/// Notices whether a read took all that there was.
struct Reading<'a, S> {
    socket: &'a mut S,
    is_dry: bool,
}

impl<S: Read> Read for Reading<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = self.socket.read(buffer);
        // The end of the stream comes with a read of its own.
        self.is_dry = !matches!(result, Ok(bytes) if bytes == 0 || bytes == buffer.len());
        result
    }
}

/// A socket of the runtime, read and written without waiting.
struct Waitless<'a>(&'a TcpStream);

impl Read for Waitless<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Waitless<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rustls::RootCertStore;
    use rustls::pki_types::PrivateKeyDer;

    use super::*;

    #[tokio::test]
    async fn what_was_left_of_a_record_says_nothing_of_the_kernel() {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let server = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert.der().clone()], key);
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let name = ServerName::try_from("localhost").unwrap();
        let (near, far) = tokio::join!(
            TlsStream::connect(near.unwrap(), Arc::new(client), name),
            TlsStream::accept(far.unwrap().0, Arc::new(server.unwrap()))
        );
        let (near, far) = (near.unwrap(), far.unwrap().into_socket().unwrap());
        assert_eq!(near.try_write(b"0123456789").unwrap(), 10);
        let mut buffer = [0; 64];
        let first = loop {
            match far.try_read(&mut buffer[..4]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => tokio::task::yield_now().await,
                result => break result.unwrap(),
            }
        };
        assert_eq!((first, far.try_read(&mut buffer).unwrap(), far.is_dry()), (4, 6, false));
        let error = far.try_read(&mut buffer).unwrap_err();
        assert_eq!((error.kind(), far.is_dry()), (ErrorKind::WouldBlock, true));
    }
}
