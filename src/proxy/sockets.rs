//! The sockets of a hub: which of them have something, and what is read from them and written to them.
//!
//! One task serves all of them. It waits for the poller, which is edge-triggered: each socket remembers what it was told
//! until a read or a write finds that no longer true. In a round everybody at hand is read once, then the backends are
//! written to: what many clients sent goes out in one write.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::task::{self, Context, ready};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Events, Interest, Poll, Registry, Token};
use tokio::io::unix::AsyncFd;
use tracing::error;

use super::client::Place;
use super::drill::{self, Play};
use super::hub::Hub;
use crate::channels::BackendId;
use crate::logic::arena::Key;
use crate::logic::multiplexer::{CloseReason, LinkKey, SessionKey};
use crate::net::socket::Socket;

/// Sockets served in a round: the backends get what they sent before others are read.
const EVENTS_MAX: usize = 128;
/// Of those who waited for room in a lane, so many are read in a round.
const POSTPONED_MAX: usize = 32;

/// Whose socket it is. What is told of a socket that is gone finds nobody, whoever has its place by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Client(SessionKey),
    Link(LinkKey),
}

impl From<Owner> for Token {
    fn from(owner: Owner) -> Self {
        let ((index, generation), is_link) = match owner {
            Owner::Client(key) => (key.parts(), 0),
            Owner::Link(key) => (key.parts(), 1),
        };
        Self((generation as usize) << 32 | (index as usize) << 1 | is_link)
    }
}

impl From<Token> for Owner {
    fn from(Token(number): Token) -> Self {
        let parts = (number as u32 >> 1, (number >> 32) as u32);
        if number & 1 == 0 { Self::Client(Key::from_parts(parts)) } else { Self::Link(Key::from_parts(parts)) }
    }
}

/// Tells which sockets of a hub have something.
pub(super) struct Poller {
    poll: AsyncFd<Poll>,
    events: Events,
}

impl Poller {
    #[expect(deprecated, reason = "its successor is unsafe code, for descriptors that change: a Poll keeps its own")]
    fn new(poll: Poll) -> io::Result<Self> {
        let poll = AsyncFd::with_interest(poll, tokio::io::Interest::READABLE)?;
        Ok(Self { poll, events: Events::with_capacity(EVENTS_MAX) })
    }

    /// Waits until a socket has something, and gathers what has; whether there may be more. Nothing is lost when the wait
    /// is given up.
    fn poll_ready(&mut self, context: &mut Context<'_>) -> task::Poll<io::Result<bool>> {
        let mut guard = ready!(self.poll.poll_read_ready_mut(context))?;
        let is_full = gather(guard.get_inner_mut(), &mut self.events)?;
        // What comes from now on makes it ready again; what did not fit would not.
        if !is_full {
            guard.clear_ready();
        }
        task::Poll::Ready(Ok(is_full))
    }

    /// The same without waiting. The runtime looks at its own poller now and then only while there is something to do.
    fn look(&mut self) -> io::Result<bool> {
        gather(self.poll.get_mut(), &mut self.events)
    }
}

/// Gathers what is told of sockets now; whether there may be more.
fn gather(poll: &mut Poll, events: &mut Events) -> io::Result<bool> {
    match poll.poll(events, Some(Duration::ZERO)) {
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
        result => result.map(|()| events.iter().count() >= EVENTS_MAX),
    }
}

/// A socket and what was told of it.
pub(super) struct Watched {
    socket: Socket,
    /// There may be something to read.
    is_readable: Cell<bool>,
    /// A short read is not the last: the other side has ended, which is found behind its last bytes, or has sent urgent
    /// data, at which a read ends although more has come.
    reads_on: Cell<bool>,
    /// The kernel took no more bytes.
    is_blocked: Cell<bool>,
    /// It stands among those that are read in the next round.
    is_unread: Cell<bool>,
}

impl Watched {
    pub(super) fn new(mut socket: Socket, owner: Owner, registry: &Registry) -> io::Result<Self> {
        registry.register(
            socket.source(),
            owner.into(),
            Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY,
        )?;
        let is_readable = Cell::new(socket.may_hold_bytes());
        Ok(Self {
            socket,
            is_readable,
            reads_on: Cell::new(false),
            is_blocked: Cell::new(false),
            is_unread: Cell::new(false),
        })
    }

    pub(super) const fn socket(&self) -> &Socket {
        &self.socket
    }

    pub(super) const fn is_readable(&self) -> bool {
        self.is_readable.get()
    }

    /// Takes an event in; whether the socket can be written to again.
    fn note(&self, event: &Event) -> bool {
        let is_ended = event.is_read_closed() || event.is_error();
        if is_ended || event.is_priority() {
            self.reads_on.set(true);
        }
        if is_ended || event.is_readable() {
            self.is_readable.set(true);
        }
        (event.is_writable() || is_ended) && self.is_blocked.replace(false)
    }

    /// Reads once.
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = self.socket.try_read(buffer);
        let is_dry = match &result {
            Ok(bytes) => !self.reads_on.get() && self.socket.is_dry(*bytes, buffer.len()),
            Err(error) => error.kind() != ErrorKind::Interrupted,
        };
        if is_dry {
            self.is_readable.set(false);
        }
        result
    }

    /// An event says when the kernel takes bytes again.
    pub(super) fn block(&self) {
        self.is_blocked.set(true);
    }
}

/// A client's socket.
pub(super) struct ClientSocket {
    pub(super) watched: Watched,
    pub(super) _place: Place,
}

/// A backend connection's socket.
pub(super) struct LinkSocket {
    pub(super) watched: Watched,
    pub(super) backend: BackendId,
    pub(super) play: Play,
}

impl LinkSocket {
    /// The connection is about to be closed: with a goodbye, or as rudely as can be.
    pub(super) fn part(&self, reset: bool) {
        match reset {
            true => self.watched.socket.reset_on_close(),
            false => drop(self.watched.socket.finish()),
        }
    }

    /// Whether it may be read at all.
    fn is_open_to_reads(&self) -> bool {
        !self.play.is_deaf() && !self.play.keeps_back()
    }
}

/// Serves the sockets of a hub.
pub(super) async fn serve(hub: Rc<Hub>, poll: Poll) {
    let mut poller = match Poller::new(poll) {
        Ok(poller) => poller,
        Err(error) => return error!(%error, "a worker cannot watch its sockets"),
    };
    // Kept from round to round: to begin and give up a wait takes longer than to look at it.
    let mut stopping = pin!(hub.lifecycle.stopping().cancelled_owned());
    let mut attention = pin!(hub.attention.notified());
    loop {
        let gathered = tokio::select! {
            biased;
            ready = poll_fn(|context| poller.poll_ready(context)) => ready,
            () = &mut attention => {
                attention.set(hub.attention.notified());
                poller.look()
            }
            () = &mut stopping => return,
        };
        let is_full = match gathered {
            Ok(is_full) => is_full,
            Err(error) => return error!(%error, "a worker cannot watch its sockets any more"),
        };
        hub.contain(|| hub.serve_round(&poller.events));
        // Whoever has more to say waits until time, the route and everybody else had their turn.
        if is_full || !hub.unread.borrow().is_empty() {
            tokio::task::yield_now().await;
        }
    }
}

impl Hub {
    /// Serves every socket that has something, then writes to the backends.
    fn serve_round(self: &Rc<Self>, events: &Events) {
        self.is_serving.set(true);
        let unread = std::mem::take(&mut *self.unread.borrow_mut());
        // Who waits already comes first: else who is quick would take all the room there is.
        unread.into_iter().for_each(|owner| self.read_again(owner));
        events.iter().for_each(|event| self.serve_event(event));
        self.read_postponed();
        self.write_links();
        self.is_serving.set(false);
        if !self.unread.borrow().is_empty() || self.has_more_to_do() {
            self.attention.notify_one();
        }
    }

    /// Whether the machine waits for a round.
    pub(super) fn has_more_to_do(&self) -> bool {
        let machine = self.machine.borrow();
        machine.has_link_to_write() || machine.calls_postponed()
    }

    /// Reads those who wait for room in a lane, one after the other, while there is some.
    fn read_postponed(self: &Rc<Self>) {
        for _ in 0..POSTPONED_MAX {
            if !self.machine.borrow().calls_postponed() {
                return;
            }
            let Some(key) = self.turn(|machine, _| machine.next_postponed()) else { return };
            if let Some(socket) = self.client_socket(key).filter(|socket| self.may_read_client(key, socket)) {
                self.read_client(key, &socket);
            }
        }
    }

    fn serve_event(self: &Rc<Self>, event: &Event) {
        match event.token().into() {
            Owner::Client(key) => {
                let Some(socket) = self.client_socket(key) else { return };
                if socket.watched.note(event) {
                    self.write_client(key, Instant::now());
                    self.turn(|_, _| ());
                }
                if event.is_error() && !self.wants_client_bytes(key) {
                    // Whoever is not read would be found out by its next reply alone, which may never come.
                    return self.turn(|machine, _| machine.on_client_lost(key, CloseReason::ClientLost));
                }
                if !socket.watched.is_unread.get() {
                    self.read_client_in_turn(key, &socket);
                }
            }
            Owner::Link(key) => {
                let Some(socket) = self.link_socket(key) else { return };
                if socket.watched.note(event) {
                    self.catch_up();
                    self.write_link(key, Instant::now());
                    self.turn(|_, _| ());
                }
                if !socket.watched.is_unread.get() {
                    self.read_link(key, &socket);
                }
            }
        }
    }

    fn client_socket(&self, key: SessionKey) -> Option<Rc<ClientSocket>> {
        self.clients.borrow().get(key).cloned()
    }

    fn link_socket(&self, key: LinkKey) -> Option<Rc<LinkSocket>> {
        self.links.borrow().get(key).cloned()
    }

    fn read_again(self: &Rc<Self>, owner: Owner) {
        match owner {
            Owner::Client(key) => {
                if let Some(socket) = self.client_socket(key) {
                    socket.watched.is_unread.set(false);
                    self.read_client_in_turn(key, &socket);
                }
            }
            Owner::Link(key) => {
                if let Some(socket) = self.link_socket(key) {
                    socket.watched.is_unread.set(false);
                    self.read_link(key, &socket);
                }
            }
        }
    }

    /// Reads a socket in the next round, once: it holds something that nobody will tell of again.
    pub(super) fn look_again(&self, owner: Owner, watched: &Watched) {
        if watched.is_unread.replace(true) {
            return;
        }
        self.unread.borrow_mut().push(owner);
        if !self.is_serving.get() {
            self.attention.notify_one();
        }
    }

    /// Whether there is something to read of a client, and it is wanted.
    fn may_read_client(&self, key: SessionKey, socket: &ClientSocket) -> bool {
        socket.watched.is_readable() && self.wants_client_bytes(key)
    }

    /// Reads a client once, unless others come first.
    fn read_client_in_turn(self: &Rc<Self>, key: SessionKey, socket: &ClientSocket) {
        if self.may_read_client(key, socket) && !self.postpones(key) {
            self.read_client(key, socket);
        }
    }

    /// Reads a client once.
    fn read_client(self: &Rc<Self>, key: SessionKey, socket: &ClientSocket) {
        let mut scratch = self.client_scratch.borrow_mut();
        let bytes_max = self.machine.borrow().client_read_bytes(key, scratch.len());
        match socket.watched.read(&mut scratch[..bytes_max]) {
            Ok(0) => self.turn(|machine, now| machine.on_client_end(key, now)),
            Ok(bytes) => self.turn(|machine, now| machine.on_client_bytes(key, &scratch[..bytes], now)),
            Err(error) if is_passing(&error) => {}
            Err(_) => return self.turn(|machine, _| machine.on_client_lost(key, CloseReason::ClientLost)),
        }
        if self.may_read_client(key, socket) {
            self.look_again(Owner::Client(key), &socket.watched);
        }
    }

    /// Reads a backend connection once, if there is something and it is wanted.
    fn read_link(self: &Rc<Self>, key: LinkKey, socket: &Rc<LinkSocket>) {
        if !socket.watched.is_readable() || !self.wants_link_bytes(key) || !socket.is_open_to_reads() {
            return;
        }
        let mut scratch = self.link_scratch.borrow_mut();
        match socket.watched.read(&mut scratch) {
            Ok(0) => return self.lose_link(key, "closed by the server"),
            Ok(bytes) if socket.play.delay().is_some() => {
                drill::keep_back(self, key, socket, scratch[..bytes].to_vec())
            }
            Ok(bytes) => {
                let seen = socket.play.seen(&scratch[..bytes]);
                let bytes = seen.as_deref().unwrap_or(&scratch[..bytes]);
                self.turn(|machine, now| machine.on_link_bytes(key, bytes, now));
            }
            Err(error) if is_passing(&error) => {}
            Err(error) => return self.lose_link(key, &error.to_string()),
        }
        if socket.watched.is_readable() && self.wants_link_bytes(key) && socket.is_open_to_reads() {
            self.look_again(Owner::Link(key), &socket.watched);
        }
    }

    /// Writes to every client that has something to read, as far as its socket takes it.
    pub(super) fn write_clients(self: &Rc<Self>, now: Instant) {
        loop {
            let Some(key) = self.machine.borrow_mut().next_session_to_write() else { return };
            self.write_client(key, now);
        }
    }

    /// Writes to one client.
    fn write_client(self: &Rc<Self>, key: SessionKey, now: Instant) {
        let Some(socket) = self.client_socket(key) else { return };
        let result = loop {
            let written = match self.machine.borrow().client_output(key) {
                [] => socket.watched.socket.try_flush().map(|()| None),
                output => socket.watched.socket.try_write(output).map(Some),
            };
            match written {
                Ok(None) => break Ok(()),
                Ok(Some(0)) => break Err(ErrorKind::WriteZero.into()),
                Ok(Some(bytes)) => self.feed(|machine| machine.on_client_written(key, bytes, now)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        match result {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => socket.watched.block(),
            Err(_) => self.feed(|machine| machine.on_client_lost(key, CloseReason::ClientLost)),
        }
    }

    /// Writes to every backend connection that has something to send.
    pub(super) fn write_links(self: &Rc<Self>) {
        self.catch_up();
        let now = Instant::now();
        loop {
            let Some(key) = self.machine.borrow_mut().next_link_to_write() else { break };
            self.write_link(key, now);
        }
        self.carry_out(now);
    }

    /// Writes to one backend connection.
    fn write_link(self: &Rc<Self>, key: LinkKey, now: Instant) {
        let Some(socket) = self.link_socket(key) else { return };
        let failure = loop {
            let written = match self.machine.borrow().link_output(key, now) {
                [] => socket.play.try_flush(&socket.watched.socket).map(|()| None),
                output => socket.play.try_write(&socket.watched.socket, output).map(Some),
            };
            match written {
                Ok(None) => return,
                Ok(Some(0)) => break "the kernel takes no more bytes".to_owned(),
                Ok(Some(bytes)) => self.feed(|machine| machine.on_link_written(key, bytes, now)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return socket.watched.block(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => break error.to_string(),
            }
        };
        // Replies that came before the fault are worth more than the fault.
        self.read_dry(key, &socket, now);
        self.links.borrow_mut().remove(key);
        socket.part(true);
        self.feed(|machine| machine.on_link_lost(key, &failure, now));
    }

    /// Reads everything that is there from one backend connection.
    pub(super) fn read_dry(&self, key: LinkKey, socket: &LinkSocket, now: Instant) {
        let mut scratch = self.link_scratch.borrow_mut();
        while self.wants_link_bytes(key) && !socket.play.is_private() {
            match socket.watched.socket.try_read(&mut scratch) {
                Ok(bytes) if bytes > 0 => {
                    let seen = socket.play.seen(&scratch[..bytes]);
                    let bytes = seen.as_deref().unwrap_or(&scratch[..bytes]);
                    self.feed(|machine| machine.on_link_bytes(key, bytes, now));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The end, or a fault, is still there for the next event's read.
                _ => return,
            }
        }
    }

    /// Runs a piece of the shell. A panic in it is contained like one in the machine.
    fn contain(&self, work: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            self.is_serving.set(false);
            self.rebuild();
        }
    }
}

/// Nothing is wrong with the connection.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An event of a socket that is gone must not be taken for one of the socket that has its place.
    #[test]
    fn a_token_names_one_socket_alone() {
        let parts = [(0, 0), (0, 1), (1, 0), (0x7fff_ffff, u32::MAX)];
        let owners = parts.map(|parts| [Owner::Client(Key::from_parts(parts)), Owner::Link(Key::from_parts(parts))]);
        let mut tokens: Vec<Token> = owners.as_flattened().iter().map(|&owner| owner.into()).collect();
        assert!(owners.as_flattened().iter().zip(&tokens).all(|(&owner, &token)| Owner::from(token) == owner));
        tokens.sort_unstable();
        tokens.dedup();
        assert_eq!(tokens.len(), 8);
    }

    /// Beside its session, all that is kept of an idle client.
    #[test]
    fn a_clients_socket_stays_small() {
        assert!(size_of::<ClientSocket>() <= 48, "a client's socket takes {} bytes", size_of::<ClientSocket>());
    }
}
