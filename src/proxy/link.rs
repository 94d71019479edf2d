//! The task of one backend connection: opens it, then waits for its socket.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Notify;

use super::drill::{self, Play};
use super::hub::Hub;
use crate::channels::BackendId;
use crate::logic::identity::IdentityId;
use crate::logic::multiplexer::{Dial, DialOutcome, LinkKey};
use crate::net::dial::{self, Dialled, Endpoint};
use crate::net::stream::{ReadHalf, WriteHalf};

/// A backend connection's socket.
pub(super) struct LinkSocket {
    pub(super) read: RefCell<ReadHalf>,
    pub(super) write: WriteHalf,
    pub(super) wake: Notify,
    pub(super) is_blocked: Cell<bool>,
    pub(super) backend: BackendId,
    pub(super) play: Play,
    is_closing: Cell<bool>,
}

impl LinkSocket {
    /// Ends the connection's task, and with it the connection.
    pub(super) fn close(&self, reset: bool) {
        if reset {
            self.write.reset_on_close();
        } else {
            self.write.say_goodbye();
        }
        self.is_closing.set(true);
        self.wake.notify_one();
    }
}

/// What a connection's task woke up for.
enum Event {
    Wake,
    Writable,
    Read(io::Result<usize>),
}

/// Opens a connection and serves it to its end.
pub(super) async fn open(hub: Rc<Hub>, wanted: Dial, endpoint: Arc<Endpoint>) {
    let (stream, outcome) = match drill::dial(&hub, &wanted, &endpoint).await {
        Some(played) => played,
        None => drill::dialled(&hub, &wanted, dial(&hub, &wanted, &endpoint).await),
    };
    let socket = stream.map(|stream| {
        let (read, write) = stream.split();
        Rc::new(LinkSocket {
            read: RefCell::new(read),
            write,
            wake: Notify::new(),
            is_blocked: Cell::new(false),
            backend: wanted.backend,
            play: Play::begun(hub.played(wanted.backend)),
            is_closing: Cell::new(false),
        })
    });
    let is_wanted = hub.open_link(wanted.link, socket.as_ref(), outcome);
    if let Some(socket) = socket.filter(|_| is_wanted) {
        serve(&hub, wanted.link, &socket).await;
    }
}

/// An identity that was forgotten meanwhile must never become the user of the backend's URL.
async fn dial(hub: &Hub, wanted: &Dial, endpoint: &Endpoint) -> Dialled {
    match hub.login(wanted.profile.identity) {
        None if wanted.profile.identity != IdentityId::CONFIGURED => {
            (None, DialOutcome::RefusedIdentity(Bytes::from_static(b"-NOAUTH Authentication required.\r\n")))
        }
        login => dial::dial_as(endpoint, wanted.profile, login.as_deref()).await,
    }
}

async fn serve(hub: &Rc<Hub>, key: LinkKey, socket: &LinkSocket) {
    while !socket.is_closing.get() {
        match next_event(hub, key, socket).await {
            Event::Wake => {}
            Event::Writable => {
                socket.is_blocked.set(false);
                hub.catch_up();
                hub.write_link(key, std::time::Instant::now());
                hub.turn(|_, _| ());
            }
            Event::Read(Ok(0)) => return hub.lose_link(key, "closed by the server"),
            Event::Read(Ok(bytes)) if socket.play.delay().is_some() => {
                let kept_back = hub.link_scratch.borrow()[..bytes].to_vec();
                let show = || hub.turn(|machine, now| machine.on_link_bytes(key, &kept_back, now));
                drill::keep_back(socket, show).await;
            }
            Event::Read(Ok(bytes)) => {
                let scratch = hub.link_scratch.borrow();
                let seen = socket.play.seen(&scratch[..bytes]);
                let bytes = seen.as_deref().unwrap_or(&scratch[..bytes]);
                hub.turn(|machine, now| machine.on_link_bytes(key, bytes, now));
            }
            Event::Read(Err(error)) => return hub.lose_link(key, &error.to_string()),
        }
    }
}

/// The only place that waits; it changes nothing but the scratch buffer.
async fn next_event(hub: &Hub, key: LinkKey, socket: &LinkSocket) -> Event {
    tokio::select! {
        biased;
        () = socket.wake.notified() => Event::Wake,
        _ = socket.write.writable(), if socket.is_blocked.get() => Event::Writable,
        read = read(hub, socket), if hub.wants_link_bytes(key) && !socket.play.is_deaf() => Event::Read(read),
    }
}

/// Reads into the thread's scratch buffer, whose content holds until the next wait.
async fn read(hub: &Hub, socket: &LinkSocket) -> io::Result<usize> {
    poll_fn(|context| socket.read.borrow_mut().poll_read(context, &mut hub.link_scratch.borrow_mut())).await
}
