//! The task of one client: waits for its socket and hands what comes to the hub.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::entry::Entry;
use super::hub::{ClientSocket, Hub};
use crate::logic::multiplexer::{CloseReason, SessionKey};
use crate::net::stream::{ReadHalf, Stream};

/// Bytes that a client does not acknowledge for so long end its connection.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// What was written to a client and waits for the kernel has so long when its connection ends.
const GOODBYE_MAX: Duration = Duration::from_secs(1);

/// A client's place among those that the process may serve; given back when it is dropped.
#[derive(Debug)]
pub struct Place(Arc<AtomicUsize>);

impl Place {
    /// Takes a place, unless all are taken.
    pub(super) fn take(taken: &Arc<AtomicUsize>, places_max: usize) -> Option<Self> {
        let before = taken.fetch_add(1, Ordering::Relaxed);
        let place = Self(taken.clone());
        (before < places_max).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a client's task woke up for.
enum Event {
    Wake,
    Writable,
    Read(io::Result<usize>),
}

/// Serves one client to its end.
pub(super) async fn serve(hub: Rc<Hub>, stream: Stream, entry: Arc<Entry>, _place: Place) {
    stream.set_options(USER_TIMEOUT);
    let Some((stream, origin)) = entry.pass(&hub, stream).await else { return };
    let (mut read, write) = stream.split();
    let Some((key, socket)) = hub.open_client(write, origin, entry.dedicated) else { return };
    while !socket.closing.get() {
        match next_event(&hub, key, &socket, &mut read).await {
            Event::Wake => {}
            Event::Writable => {
                socket.is_blocked.set(false);
                hub.write_client(key, Instant::now());
                hub.turn(|_, _| ());
            }
            Event::Read(Ok(0)) => hub.turn(|machine, now| machine.on_client_end(key, now)),
            Event::Read(Ok(bytes)) => {
                let scratch = hub.client_scratch.borrow();
                hub.turn(|machine, now| machine.on_client_bytes(key, &scratch[..bytes], now));
            }
            Event::Read(Err(_)) => hub.turn(|machine, _| machine.on_client_lost(key, CloseReason::ClientLost)),
        }
    }
    // Who has gone keeps it waiting for no longer than this.
    let _ = tokio::time::timeout(GOODBYE_MAX, socket.write.finish()).await;
}

/// The only place that waits; it changes nothing but the scratch buffer.
async fn next_event(hub: &Hub, key: SessionKey, socket: &ClientSocket, read: &mut ReadHalf) -> Event {
    tokio::select! {
        biased;
        () = socket.wake.notified() => Event::Wake,
        _ = socket.write.writable(), if socket.is_blocked.get() => Event::Writable,
        read = poll_fn(|context| read.poll_read(context, &mut hub.client_scratch.borrow_mut())),
            if hub.wants_client_bytes(key) => Event::Read(read),
    }
}
