//! A client's socket, which never blocks once it is open, in plain or with TLS.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use crate::work::Step;

const OPENING_MAX: Duration = Duration::from_secs(20);

/// A connection to a server or a proxy.
pub struct Connection {
    socket: TcpStream,
    session: Option<Box<ClientConnection>>,
}

impl Connection {
    /// Connects, shakes hands, and waits for the reply to `opening`.
    pub fn open(address: SocketAddr, tls: Option<&Arc<ClientConfig>>, opening: Option<&Step>) -> Result<Self, String> {
        let fail = |error: std::io::Error| format!("a connection to {address} does not open: {error}");
        let mut socket = TcpStream::connect_timeout(&address, OPENING_MAX).map_err(fail)?;
        socket.set_nodelay(true).map_err(fail)?;
        socket.set_read_timeout(Some(OPENING_MAX)).map_err(fail)?;
        let session = match tls {
            Some(config) => Some(Box::new(shake_hands(&mut socket, config).map_err(fail)?)),
            None => None,
        };
        let mut connection = Self { socket, session };
        if let Some(opening) = opening {
            connection.exchange(opening)?;
        }
        connection.socket.set_nonblocking(true).map_err(fail)?;
        Ok(connection)
    }

    /// One step on a connection that still blocks.
    fn exchange(&mut self, step: &Step) -> Result<(), String> {
        let (mut written, mut received) = (0, vec![0; step.reply.len()]);
        while written < step.request.len() || self.is_flushing() {
            written += self.write(&step.request[written..]).map_err(|error| error.to_string())?;
        }
        let mut filled = 0;
        while filled < received.len() {
            match self.read(&mut received[filled..]).map_err(|error| error.to_string())? {
                Some(length) => filled += length,
                None => return Err("no reply to the opening command".to_owned()),
            }
        }
        if received[..] == step.reply[..] { Ok(()) } else { Err(unexpected(&received, &step.reply)) }
    }

    /// How much was taken; 0 when the socket is full.
    pub fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let Some(session) = &mut self.session else { return or_nothing(self.socket.write(bytes)) };
        let taken = if session.wants_write() { 0 } else { session.writer().write(bytes)? };
        while session.wants_write() {
            if or_nothing(session.write_tls(&mut self.socket))? == 0 {
                break;
            }
        }
        Ok(taken)
    }

    /// Whether bytes that were taken still wait in here.
    pub fn is_flushing(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.wants_write())
    }

    /// Whether bytes may have been read from the socket that nobody has asked for yet.
    pub fn is_tls(&self) -> bool {
        self.session.is_some()
    }

    /// How much was read; `None` when there is nothing now.
    pub fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<Option<usize>> {
        let Some(session) = &mut self.session else { return some_bytes(self.socket.read(buffer)) };
        loop {
            match session.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                outcome => return some_bytes(outcome),
            }
            match session.read_tls(&mut self.socket) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => session.process_new_packets().map_err(std::io::Error::other)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            };
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// One step on a socket that blocks.
pub fn exchange(socket: &mut TcpStream, step: &Step) -> Result<(), String> {
    socket.write_all(&step.request).map_err(|error| error.to_string())?;
    expect(socket, &step.reply)
}

/// Reads exactly that.
pub fn expect(socket: &mut TcpStream, expected: &[u8]) -> Result<(), String> {
    let mut found = vec![0; expected.len()];
    socket.read_exact(&mut found).map_err(|error| error.to_string())?;
    if found == expected { Ok(()) } else { Err(unexpected(&found, expected)) }
}

/// Says what differs, without the rest of a long reply.
pub fn unexpected(found: &[u8], expected: &[u8]) -> String {
    let shown = |bytes: &[u8]| bytes[..bytes.len().min(80)].escape_ascii().to_string();
    format!("got \"{}\" instead of \"{}\"", shown(found), shown(expected))
}

fn shake_hands(socket: &mut TcpStream, config: &Arc<ClientConfig>) -> std::io::Result<ClientConnection> {
    let name = ServerName::try_from("127.0.0.1").map_err(std::io::Error::other)?;
    let mut session = ClientConnection::new(Arc::clone(config), name).map_err(std::io::Error::other)?;
    while session.is_handshaking() {
        session.complete_io(socket)?;
    }
    Ok(session)
}

fn or_nothing(outcome: std::io::Result<usize>) -> std::io::Result<usize> {
    match outcome {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        outcome => outcome,
    }
}

fn some_bytes(outcome: std::io::Result<usize>) -> std::io::Result<Option<usize>> {
    match outcome {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        Ok(length) => Ok(Some(length)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
