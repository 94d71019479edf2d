//! A backend that answers whatever a test's script says: for replies that no honest Redis gives.

use std::io::{BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::SockRef;

use super::{PATIENCE, ReservedPort, Value, read_value};

/// A listening fake; its `Drop` ends every connection and fails the test if a script panicked.
pub struct FakeBackend {
    port: ReservedPort,
    listener: TcpListener,
    acceptor: Option<JoinHandle<()>>,
    sessions: Arc<Mutex<Vec<Session>>>,
}

struct Session {
    /// Weak, so that the script's thread alone closes it.
    socket: Weak<TcpStream>,
    thread: JoinHandle<()>,
}

/// One connection of a proxy to the fake.
pub struct FakeConnection {
    /// 0 for the first connection, and so on.
    pub number: usize,
    stream: BufReader<Socket>,
    resets: bool,
}

struct Socket(Arc<TcpStream>);

impl FakeBackend {
    /// Runs `script` once for each connection, in a thread of its own; the connection ends when it returns.
    ///
    /// A script mostly reads commands and answers those it does not care about with [`courtesy`].
    pub fn start(script: impl Fn(&mut FakeConnection) + Send + Sync + 'static) -> Self {
        let port = ReservedPort::take();
        let listener = TcpListener::bind(port.address()).expect("a reserved port can be listened on");
        let accepting = listener.try_clone().expect("a listening socket can be cloned");
        let sessions = Arc::new(Mutex::new(Vec::new()));
        let known = Arc::clone(&sessions);
        let acceptor = std::thread::spawn(move || accept(&accepting, &Arc::new(script), &known));
        Self { port, listener, acceptor: Some(acceptor), sessions }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The port where it listens.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.sessions.lock().expect("the acceptor does not panic").len()
    }
}

impl Drop for FakeBackend {
    fn drop(&mut self) {
        SockRef::from(&self.listener).shutdown(Shutdown::Both).expect("a listening socket can be shut down");
        let acceptor = self.acceptor.take().map(JoinHandle::join);
        let sessions = std::mem::take(&mut *self.sessions.lock().expect("the acceptor does not panic"));
        let mut scripts_panicked = false;
        for session in sessions {
            if let Some(socket) = session.socket.upgrade() {
                socket.shutdown(Shutdown::Both).ok();
            }
            scripts_panicked |= session.thread.join().is_err();
        }
        if !std::thread::panicking() {
            assert!(acceptor.is_some_and(|outcome| outcome.is_ok()), "the acceptor panicked");
            assert!(!scripts_panicked, "a script panicked");
        }
    }
}

impl FakeConnection {
    /// The next command, whole; `None` when the connection has ended. Fails the test on anything but RESP.
    pub fn read_command(&mut self) -> Option<Vec<Vec<u8>>> {
        match read_value(&mut self.stream, &mut Vec::new()) {
            Ok(command) => Some(command.elements().iter().map(|argument| argument.bytes().to_vec()).collect()),
            Err(error) if error.kind() == ErrorKind::InvalidData => panic!("not a command: {error}"),
            Err(_) => None,
        }
    }

    /// Writes bytes as they are; what the other side no longer takes is dropped.
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        (&*self.stream.get_ref().0).write_all(bytes.as_ref()).ok();
    }

    /// Makes the end of this connection a reset (RST) instead of an end (FIN); return from the script after it.
    pub fn reset(&mut self) {
        SockRef::from(&*self.stream.get_ref().0).set_linger(Some(Duration::ZERO)).ok();
        self.resets = true;
    }
}

impl Drop for FakeConnection {
    fn drop(&mut self) {
        if !self.resets {
            // Before closing, which would reset if requests are still unread.
            self.stream.get_ref().0.shutdown(Shutdown::Write).ok();
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        (&*self.0).read(buffer)
    }
}

/// What a healthy, empty master answers to a handshake or a probe; `None` for every other command.
pub fn courtesy(command: &[Vec<u8>]) -> Option<Vec<u8>> {
    let name = command.first()?.to_ascii_uppercase();
    Some(match name.as_slice() {
        b"PING" => b"+PONG\r\n".to_vec(),
        b"ECHO" => bulk(command.get(1)?),
        b"ROLE" => b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n".to_vec(),
        b"SETRANGE" => b":0\r\n".to_vec(),
        b"INFO" => b"-ERR unknown command 'INFO'\r\n".to_vec(),
        b"EXEC" => b"*0\r\n".to_vec(),
        b"AUTH" | b"SELECT" | b"CLIENT" | b"MULTI" => b"+OK\r\n".to_vec(),
        b"HELLO" => hello(command.get(1).is_some_and(|version| version == b"3")),
        _ => return None,
    })
}

fn hello(resp3: bool) -> Vec<u8> {
    let head = if resp3 { "%7\r\n" } else { "*14\r\n" };
    let protocol = if resp3 { 3 } else { 2 };
    format!(
        "{head}$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$5\r\nproto\r\n:{protocol}\r\n\
         $2\r\nid\r\n:1\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n"
    )
    .into_bytes()
}

fn bulk(bytes: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

fn accept<S>(listener: &TcpListener, script: &Arc<S>, sessions: &Mutex<Vec<Session>>)
where
    S: Fn(&mut FakeConnection) + Send + Sync + 'static,
{
    while let Ok((socket, _)) = listener.accept() {
        let mut sessions = sessions.lock().expect("nobody panics with it");
        let number = sessions.len();
        socket.set_nodelay(true).ok();
        socket.set_write_timeout(Some(PATIENCE)).expect("a positive bound");
        let socket = Arc::new(socket);
        let watched = Arc::downgrade(&socket);
        let script = Arc::clone(script);
        let thread = std::thread::spawn(move || {
            script(&mut FakeConnection { number, stream: BufReader::new(Socket(socket)), resets: false });
        });
        sessions.push(Session { socket: watched, thread });
    }
}
