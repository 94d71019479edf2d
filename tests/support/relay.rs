//! A TCP relay that misbehaves on command: it stands between two programs and holds, delays, cuts or refuses.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::{PATIENCE, ReservedPort, wait_until};

const CHUNK_BYTES_MAX: usize = 64 * 1024;
/// What moves at once.
const PIECE_BYTES: usize = 16 * 1024;
/// Chunks under way in one direction of one connection; then the relay stops reading it.
const CHUNKS_MAX: usize = 256;
/// How often a blocked writer looks whether its connection was cut.
const CUT_CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// What happens to bytes under way. Held bytes are not lost: they arrive, in order, once a mode lets them pass.
///
/// What a relay cannot do: new connections still succeed while it holds everything, since the kernel accepts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// At once.
    Pass,
    /// Each byte so much later, without limiting the rate.
    Delay(Duration),
    /// So many bytes a second each way, for all connections together, one behind the other, as on one slow line.
    Rate(u32),
    /// Neither direction moves.
    BlackHole,
    /// Requests arrive, replies do not.
    HoldReplies,
    /// Replies arrive, requests do not.
    HoldRequests,
}

/// How a connection is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// FIN, after what was already written.
    End,
    /// RST.
    Reset,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Requests,
    Replies,
}

/// A running relay.
pub struct Relay {
    port: ReservedPort,
    shared: Arc<Shared>,
    acceptor: Option<(TcpListener, JoinHandle<()>)>,
}

struct Shared {
    target: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    mode: Mode,
    /// Reply bytes that still pass before the connection that exceeds them is cut.
    reply_budget: Option<Budget>,
    connections: Vec<Arc<Connection>>,
    /// Threads that still move bytes: the connections are closed when it is zero.
    movers: usize,
    accepted: u64,
    request_bytes: u64,
    reply_bytes: u64,
    /// Until then the line is busy with requests, and with replies.
    busy_until: [Instant; 2],
}

/// How many bytes of replies still pass, and how the connection that exceeds them is ended.
struct Budget {
    left: u64,
    how: Cut,
    /// Counts on the connection alone that carries this.
    asked: Vec<u8>,
    /// That connection, by its address.
    of: Option<usize>,
}

struct Connection {
    client: TcpStream,
    server: TcpStream,
    cut: Mutex<Option<Cut>>,
}

struct Chunk {
    due: Instant,
    bytes: Vec<u8>,
}

impl Relay {
    /// A relay to `target`, passing everything.
    pub fn start(target: SocketAddr) -> Self {
        let state = State {
            mode: Mode::Pass,
            reply_budget: None,
            connections: Vec::new(),
            movers: 0,
            accepted: 0,
            request_bytes: 0,
            reply_bytes: 0,
            busy_until: [Instant::now(); 2],
        };
        let shared = Arc::new(Shared { target, state: Mutex::new(state), changed: Condvar::new() });
        let mut relay = Self { port: ReservedPort::take(), shared, acceptor: None };
        relay.listen();
        relay
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The port where clients connect.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// From now on, for old connections and new ones.
    pub fn set_mode(&self, mode: Mode) {
        self.shared.lock().mode = mode;
        self.shared.changed.notify_all();
    }

    /// Ends every connection that was accepted; all are closed when this returns.
    #[track_caller]
    pub fn cut(&self, how: Cut) {
        let connections = std::mem::take(&mut self.shared.lock().connections);
        connections.iter().for_each(|connection| connection.cut(how));
        drop(connections);
        self.shared.wake();
        wait_until(PATIENCE, || self.shared.lock().movers == 0);
    }

    /// Lets exactly `count` more bytes of replies pass, then ends the connection that would carry the next.
    pub fn cut_after_reply_bytes(&self, count: u64, how: Cut) {
        self.cut_replies_to("", count, how);
    }

    /// The same on the connection alone that carries `asked` from now on: probes go through the relay too.
    pub fn cut_replies_to(&self, asked: &str, count: u64, how: Cut) {
        self.shared.lock().reply_budget = Some(Budget { left: count, how, asked: asked.into(), of: None });
    }

    /// Refuses new connections, as a dead server's kernel does; old ones stay, if a byte has gone through them.
    pub fn refuse(&mut self) {
        if let Some((listener, thread)) = self.acceptor.take() {
            SockRef::from(&listener).shutdown(Shutdown::Both).expect("a listening socket can be shut down");
            thread.join().expect("the acceptor does not panic");
        }
    }

    /// Accepts new connections again, on the same port.
    pub fn listen(&mut self) {
        if self.acceptor.is_none() {
            let listener = TcpListener::bind(self.port.address()).expect("a reserved port can be listened on");
            let accepting = listener.try_clone().expect("a listening socket can be cloned");
            let shared = Arc::clone(&self.shared);
            self.acceptor = Some((listener, std::thread::spawn(move || accept(&accepting, &shared))));
        }
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.shared.lock().accepted
    }

    /// Connections through which something may still come.
    pub fn open(&self) -> usize {
        self.shared.lock().connections.len()
    }

    /// Bytes handed to the target so far, or just about to be.
    pub fn request_bytes(&self) -> u64 {
        self.shared.lock().request_bytes
    }

    /// Bytes handed to the clients so far, or just about to be.
    pub fn reply_bytes(&self) -> u64 {
        self.shared.lock().reply_bytes
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.refuse();
        let connections = std::mem::take(&mut self.shared.lock().connections);
        connections.iter().for_each(|connection| connection.cut(Cut::Reset));
        self.shared.wake();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread of the relay panics")
    }

    /// Makes those who wait for passage look again; under the lock, so that nobody misses it on the way to waiting.
    fn wake(&self) {
        let _state = self.lock();
        self.changed.notify_all();
    }
}

impl State {
    fn holds(&self, direction: Direction) -> bool {
        match self.mode {
            Mode::Pass | Mode::Delay(_) | Mode::Rate(_) => false,
            Mode::BlackHole => true,
            Mode::HoldReplies => direction == Direction::Replies,
            Mode::HoldRequests => direction == Direction::Requests,
        }
    }

    /// When so many bytes that come now are through.
    fn due(&mut self, direction: Direction, bytes: usize) -> Instant {
        let now = Instant::now();
        match self.mode {
            Mode::Delay(delay) => now + delay,
            Mode::Rate(rate) => {
                let busy_until = &mut self.busy_until[usize::from(direction == Direction::Replies)];
                *busy_until = now.max(*busy_until) + Duration::from_secs_f64(bytes as f64 / f64::from(rate));
                *busy_until
            }
            _ => now,
        }
    }
}

impl Connection {
    /// Marks it and wakes its readers; the sockets close when the last thread lets go of them.
    fn cut(&self, how: Cut) {
        self.cut.lock().expect("no thread of the relay panics").get_or_insert(how);
        for socket in [&self.client, &self.server] {
            if how == Cut::Reset {
                // Errors here and below: the other side was faster, and the socket is gone already.
                SockRef::from(socket).set_linger(Some(Duration::ZERO)).ok();
            }
            // Closing does the rest of a reset; a FIN before it would make it look like an end.
            let half = if how == Cut::Reset { Shutdown::Read } else { Shutdown::Both };
            socket.shutdown(half).ok();
        }
    }

    fn is_cut(&self) -> bool {
        self.cut.lock().expect("no thread of the relay panics").is_some()
    }

    fn ends(&self, direction: Direction) -> (&TcpStream, &TcpStream) {
        match direction {
            Direction::Requests => (&self.client, &self.server),
            Direction::Replies => (&self.server, &self.client),
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while let Ok((client, _)) = listener.accept() {
        shared.lock().accepted += 1;
        // A dead target: the client sees its connection end, as through any proxy.
        let Ok(server) = TcpStream::connect_timeout(&shared.target, PATIENCE) else { continue };
        for socket in [&client, &server] {
            socket.set_nodelay(true).ok();
            socket.set_write_timeout(Some(CUT_CHECK_INTERVAL)).expect("a positive bound");
        }
        let connection = Arc::new(Connection { client, server, cut: Mutex::new(None) });
        let mut state = shared.lock();
        state.connections.push(Arc::clone(&connection));
        state.movers += 4;
        drop(state);
        for direction in [Direction::Requests, Direction::Replies] {
            let (chunks, inbox) = sync_channel(CHUNKS_MAX);
            start_mover(shared, &connection, move |shared, connection| read(shared, connection, direction, &chunks));
            start_mover(shared, &connection, move |shared, connection| write(shared, connection, direction, inbox));
        }
    }
}

fn start_mover(
    shared: &Arc<Shared>,
    connection: &Arc<Connection>,
    work: impl FnOnce(&Shared, &Connection) + Send + 'static,
) {
    let (shared, connection) = (Arc::clone(shared), Arc::clone(connection));
    std::thread::spawn(move || {
        work(&shared, &connection);
        let mut state = shared.lock();
        // The last of a connection's four lets go of the relay's own share, so that the sockets close.
        if Arc::strong_count(&connection) <= 2 {
            state.connections.retain(|other| !Arc::ptr_eq(other, &connection));
        }
        drop(connection);
        state.movers -= 1;
        shared.changed.notify_all();
    });
}

fn read(shared: &Shared, connection: &Connection, direction: Direction, chunks: &SyncSender<Chunk>) {
    let (mut source, _) = connection.ends(direction);
    let mut buffer = vec![0; CHUNK_BYTES_MAX];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                for piece in buffer[..length].chunks(PIECE_BYTES) {
                    let due = shared.lock().due(direction, piece.len());
                    if chunks.send(Chunk { due, bytes: piece.to_vec() }).is_err() {
                        return;
                    }
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return connection.cut(Cut::Reset),
        }
    }
}

fn write(shared: &Shared, connection: &Connection, direction: Direction, inbox: Receiver<Chunk>) {
    for chunk in inbox {
        if !wait_for_passage(shared, connection, direction, chunk.due) {
            return;
        }
        let (allowed, cut) = take_from_budget(shared, connection, direction, &chunk.bytes);
        // Before the write: whoever has seen a byte finds it counted.
        count(shared, direction, allowed.len());
        let written = write_all(connection, direction, allowed);
        if let Some(how) = cut {
            return connection.cut(how);
        }
        if written < allowed.len() {
            return connection.cut(Cut::Reset);
        }
    }
    // The source ended: so does what we send on, unless the way is blocked or the connection was cut with a reset.
    if wait_for_passage(shared, connection, direction, Instant::now()) {
        connection.ends(direction).1.shutdown(Shutdown::Write).ok();
    }
}

/// Waits until the chunk is due and its direction is open; false when the connection was cut meanwhile.
fn wait_for_passage(shared: &Shared, connection: &Connection, direction: Direction, due: Instant) -> bool {
    let mut state = shared.lock();
    loop {
        if connection.is_cut() {
            return false;
        }
        let wait = due.saturating_duration_since(Instant::now());
        if !state.holds(direction) && wait.is_zero() {
            return true;
        }
        let bound = if wait.is_zero() { PATIENCE } else { wait };
        state = shared.changed.wait_timeout(state, bound).expect("no thread of the relay panics").0;
    }
}

fn take_from_budget<'a>(
    shared: &Shared,
    connection: &Connection,
    direction: Direction,
    bytes: &'a [u8],
) -> (&'a [u8], Option<Cut>) {
    let mut state = shared.lock();
    let Some(budget) = &mut state.reply_budget else { return (bytes, None) };
    let address = std::ptr::from_ref(connection).addr();
    if direction == Direction::Requests {
        let is_asked = || bytes.windows(budget.asked.len().max(1)).any(|window| window == budget.asked);
        if budget.of.is_none() && is_asked() {
            budget.of = Some(address);
        }
        return (bytes, None);
    }
    if !budget.asked.is_empty() && budget.of != Some(address) {
        return (bytes, None);
    }
    let allowed = usize::try_from(budget.left).unwrap_or(usize::MAX).min(bytes.len());
    budget.left -= allowed as u64;
    let cut = (allowed < bytes.len()).then_some(budget.how);
    if cut.is_some() {
        state.reply_budget = None;
    }
    (&bytes[..allowed], cut)
}

fn write_all(connection: &Connection, direction: Direction, bytes: &[u8]) -> usize {
    let (_, mut sink) = connection.ends(direction);
    let mut written = 0;
    while written < bytes.len() {
        match sink.write(&bytes[written..]) {
            Ok(length) => written += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock && !connection.is_cut() => {}
            Err(_) => break,
        }
    }
    written
}

fn count(shared: &Shared, direction: Direction, bytes: usize) {
    let mut state = shared.lock();
    match direction {
        Direction::Requests => state.request_bytes += bytes as u64,
        Direction::Replies => state.reply_bytes += bytes as u64,
    }
}
