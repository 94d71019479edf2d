//! How a client comes to a hub, and its place among those that the process may serve.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::entry::Entry;
use super::hub::Hub;
use super::worker::Arrival;
use crate::net::socket::Socket;
use crate::net::stream::Stream;

/// Bytes that a client does not acknowledge for so long end its connection.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

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

/// Lets a client in: at once where its listener asks for nothing, else by a task that waits for what it asks.
pub(super) fn admit(hub: &Rc<Hub>, arrival: Arrival) -> io::Result<()> {
    let Arrival { stream, entry, place, .. } = arrival;
    if entry.asks_for_nothing() {
        let socket = stream.into_socket();
        socket.set_options(USER_TIMEOUT);
        hub.open_client(socket, None, entry.dedicated, place);
    } else {
        hub.lifecycle.start_local("entry", pass(hub.clone(), stream.attach()?, entry, place));
    }
    Ok(())
}

async fn pass(hub: Rc<Hub>, stream: Stream, entry: Arc<Entry>, place: Place) {
    stream.set_options(USER_TIMEOUT);
    let Some((stream, origin)) = entry.pass(&hub, stream).await else { return };
    // Who has gone meanwhile is not missed.
    let Ok(socket) = Socket::new(stream) else { return };
    hub.open_client(socket, origin, entry.dedicated, place);
}
