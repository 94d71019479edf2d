//! A client that sends and reads bytes, over TCP or a Unix socket, and never waits for ever.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use socket2::SockRef;

use super::{PATIENCE, Value, encode, read_value};

/// One connection.
pub struct RawClient {
    stream: BufReader<Stream>,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl RawClient {
    /// Connects over TCP.
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)
            .unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"));
        stream.set_nodelay(true).expect("TCP_NODELAY on an open socket");
        Self::new(Stream::Tcp(stream))
    }

    /// Connects to a Unix socket.
    #[track_caller]
    pub fn connect_unix(path: &Path) -> Self {
        let stream =
            UnixStream::connect(path).unwrap_or_else(|error| panic!("cannot connect to {}: {error}", path.display()));
        Self::new(Stream::Unix(stream))
    }

    fn new(stream: Stream) -> Self {
        let client = Self { stream: BufReader::with_capacity(64 * 1024, stream) };
        client.bound_reads(PATIENCE);
        client.bound_writes(PATIENCE);
        client
    }

    /// Waits three times as long for what it reads: for so much at once that a busy machine takes seconds for it.
    pub fn patient(self) -> Self {
        self.bound_reads(3 * PATIENCE);
        self
    }

    /// Sends all of `bytes`.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.stream
            .get_mut()
            .write_all(bytes)
            .unwrap_or_else(|error| panic!("cannot send {} bytes: {error}", bytes.len()));
    }

    /// Sends a byte as urgent data; TCP only.
    #[track_caller]
    pub fn send_urgent(&mut self, byte: u8) {
        let sent = SockRef::from(self.stream.get_ref()).send_out_of_band(&[byte]);
        assert_eq!(sent.expect("urgent data can be sent"), 1);
    }

    /// Sends until all is sent, or the other side has taken nothing for `bound`, or has closed; how many bytes went.
    pub fn send_while_taken(&mut self, bytes: &[u8], bound: Duration) -> usize {
        self.bound_writes(bound);
        let mut sent = 0;
        while let Ok(length @ 1..) = self.stream.get_mut().write(&bytes[sent..]) {
            sent += length;
        }
        self.bound_writes(PATIENCE);
        sent
    }

    /// Sends one command; its reply is read later.
    #[track_caller]
    pub fn send_command<A: AsRef<[u8]>>(&mut self, arguments: &[A]) {
        self.send(encode(arguments));
    }

    /// Sends one command and reads one reply.
    #[track_caller]
    pub fn command<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> Value {
        self.send_command(arguments);
        self.read_reply()
    }

    /// Reads one reply.
    #[track_caller]
    pub fn read_reply(&mut self) -> Value {
        self.read_reply_raw().0
    }

    /// Reads one reply, with its bytes as they came.
    #[track_caller]
    pub fn read_reply_raw(&mut self) -> (Value, Vec<u8>) {
        let mut raw = Vec::new();
        match read_value(&mut self.stream, &mut raw) {
            Ok(value) => (value, raw),
            Err(error) => panic!("no whole reply: {error}; got {:?}", shown(&raw)),
        }
    }

    /// The next reply, or `None` when the connection ends, or breaks, before it is whole.
    #[track_caller]
    pub fn read_reply_or_end(&mut self) -> Option<Value> {
        match read_value(&mut self.stream, &mut Vec::new()) {
            Ok(value) => Some(value),
            Err(error) if is_end(error.kind()) => None,
            Err(error) => panic!("neither a reply nor an end: {error}"),
        }
    }

    /// Reads exactly `count` bytes.
    #[track_caller]
    pub fn read_bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count);
        let outcome = self.stream.by_ref().take(count as u64).read_to_end(&mut bytes);
        assert!(bytes.len() == count, "wanted {count} bytes, got {:?} ({outcome:?})", shown(&bytes));
        bytes
    }

    /// The next reply, or `None` when the connection ends, or breaks, before it is whole, whatever came of it.
    #[track_caller]
    pub fn read_reply_or_closed(&mut self) -> Option<Value> {
        match read_value(&mut self.stream, &mut Vec::new()) {
            Ok(value) => Some(value),
            Err(error) if is_timeout(error.kind()) => panic!("neither a reply nor an end"),
            Err(_) => None,
        }
    }

    /// What has come, waiting for the first byte; nothing when the connection ended, cleanly or not.
    #[track_caller]
    pub fn read_available(&mut self) -> Vec<u8> {
        let bytes = match self.stream.fill_buf() {
            Ok(bytes) => bytes.to_vec(),
            Err(error) if is_end(error.kind()) => Vec::new(),
            Err(error) => panic!("neither bytes nor an end: {error}"),
        };
        self.stream.consume(bytes.len());
        bytes
    }

    /// Reads as many bytes as are `expected`, which they must equal.
    #[track_caller]
    pub fn expect(&mut self, expected: impl AsRef<[u8]>) {
        let expected = expected.as_ref();
        let mut bytes = Vec::with_capacity(expected.len());
        let outcome = self.stream.by_ref().take(expected.len() as u64).read_to_end(&mut bytes);
        assert!(bytes == expected, "expected {:?}, got {:?} ({outcome:?})", shown(expected), shown(&bytes));
    }

    /// Nothing comes within `bound`, and the connection stays open. A test of absence: keep `bound` small.
    #[track_caller]
    pub fn expect_silence(&mut self, bound: Duration) {
        self.bound_reads(bound);
        let outcome = self.stream.fill_buf().map(shown);
        self.bound_reads(PATIENCE);
        let silent = outcome.as_ref().is_err_and(|error| is_timeout(error.kind()));
        assert!(silent, "expected silence, got {outcome:?} (nothing: the end)");
    }

    /// The connection ends, cleanly or not, and not a byte comes before that.
    #[track_caller]
    pub fn expect_end(&mut self) {
        let rest = self.read_to_end();
        assert!(rest.is_empty(), "expected the end, got {:?}", shown(&rest));
    }

    /// Everything that comes until the connection ends, which it must.
    #[track_caller]
    pub fn read_to_end(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Err(error) if is_timeout(error.kind()) => panic!("still open; got {:?}", shown(&rest)),
            _ => rest,
        }
    }

    /// Whether the other side has closed or reset, with nothing left to read. Does not wait; for `wait_until`.
    pub fn is_closed(&mut self) -> bool {
        self.set_nonblocking(true);
        let closed = match self.stream.fill_buf() {
            Ok(bytes) => bytes.is_empty(),
            Err(error) => is_end(error.kind()),
        };
        self.set_nonblocking(false);
        closed
    }

    /// Ends our sending half (FIN); replies can still be read.
    pub fn shut_down_sending(&self) {
        match self.stream.get_ref() {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
        .expect("an open socket can be shut down");
    }

    /// Closes with a reset (RST) instead of an end (FIN).
    pub fn reset(self) {
        SockRef::from(self.stream.get_ref()).set_linger(Some(Duration::ZERO)).expect("SO_LINGER on an open socket");
    }

    /// The socket itself, for what this client has no word for; TCP only, and nothing may be left unread.
    #[track_caller]
    pub fn into_tcp(self) -> TcpStream {
        assert!(self.stream.buffer().is_empty(), "unread: {:?}", shown(self.stream.buffer()));
        match self.stream.into_inner() {
            Stream::Tcp(stream) => stream,
            Stream::Unix(_) => panic!("not a TCP client"),
        }
    }

    /// Our own address, as the other side sees it; TCP only.
    #[track_caller]
    pub fn local_address(&self) -> SocketAddr {
        match self.stream.get_ref() {
            Stream::Tcp(stream) => stream.local_addr().expect("an open socket has an address"),
            Stream::Unix(_) => panic!("a Unix client has no address"),
        }
    }

    fn bound_reads(&self, bound: Duration) {
        SockRef::from(self.stream.get_ref()).set_read_timeout(Some(bound)).expect("a positive bound");
    }

    fn bound_writes(&self, bound: Duration) {
        SockRef::from(self.stream.get_ref()).set_write_timeout(Some(bound)).expect("a positive bound");
    }

    fn set_nonblocking(&self, nonblocking: bool) {
        SockRef::from(self.stream.get_ref()).set_nonblocking(nonblocking).expect("an open socket");
    }
}

fn is_end(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe
    )
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn shown(bytes: &[u8]) -> String {
    const SHOWN_BYTES_MAX: usize = 400;
    let start = bytes[..bytes.len().min(SHOWN_BYTES_MAX)].escape_ascii();
    if bytes.len() > SHOWN_BYTES_MAX { format!("{start}… {} bytes", bytes.len()) } else { start.to_string() }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}
