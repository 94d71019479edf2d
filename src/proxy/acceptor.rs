//! Accepts clients and hands them to the workers in turn. An accept error never ends a listener.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::client::Place;
use super::entry::Entry;
use super::worker::{Arrival, Detached};
use crate::command::refusal::Refusal;
use crate::net::listen::Bound;
use crate::net::socket::Socket;
use crate::net::stream::Stream;

/// After an error that concerns the process (no descriptors, no memory), accepting pauses for so long.
const PAUSE: Duration = Duration::from_millis(100);
/// Warnings of one listener come at most so often.
const WARNING_INTERVAL: Duration = Duration::from_secs(1);

/// One bound listener.
pub struct Acceptor {
    /// The socket.
    pub bound: Bound,
    /// The group's place in every worker.
    pub group: usize,
    /// What its clients pass before their first command.
    pub entry: Arc<Entry>,
    /// The workers.
    pub workers: Vec<mpsc::Sender<Arrival>>,
    /// Whose turn it is, over all listeners.
    pub turn: Arc<AtomicUsize>,
    /// Clients served now, over all listeners.
    pub clients: Arc<AtomicUsize>,
    /// The most of them.
    pub clients_max: usize,
}

impl Acceptor {
    /// Accepts until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut warned_at: Option<tokio::time::Instant> = None;
        let address = self.bound.address();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.bound.accept() => accepted,
            };
            let problem = match accepted {
                Ok(stream) => self.admit(stream).await.err(),
                Err(error) => {
                    // A connection that broke before it was accepted is its own affair; the rest needs time.
                    if !is_of_one_connection(&error) {
                        tokio::time::sleep(PAUSE).await;
                    }
                    Some(error)
                }
            };
            if let Some(error) = problem
                && warned_at.is_none_or(|at| at.elapsed() >= WARNING_INTERVAL)
            {
                warned_at = Some(tokio::time::Instant::now());
                warn!(%address, %error, "a client could not be accepted");
            }
        }
    }

    async fn admit(&self, stream: Stream) -> io::Result<()> {
        let Some(place) = Place::take(&self.clients, self.clients_max) else {
            // Whoever speaks TLS would not understand it.
            if self.entry.tls.is_none() {
                turn_away(stream);
            }
            return Err(io::Error::other(format!("all {} places are taken (limits.clients)", self.clients_max)));
        };
        let stream = Detached::new(stream)?;
        let turn = self.turn.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let worker = &self.workers[turn % self.workers.len()];
        let arrival = Arrival { stream, group: self.group, entry: self.entry.clone(), place };
        worker.send(arrival).await.map_err(|_| io::Error::other("the worker has ended"))
    }

    /// Says where it listens.
    pub fn announce(&self, group: &str) {
        let Entry { dedicated, tls, proxy_sources } = &*self.entry;
        info!(
            address = self.bound.address(),
            group,
            tls = tls.is_some(),
            proxy_protocol = proxy_sources.is_some(),
            dedicated,
            "listening"
        );
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// Says why, as Redis does; a client that cannot take so few bytes at once does not hear it.
fn turn_away(stream: Stream) {
    let line = format!("-{}\r\n", Refusal::ClientLimit);
    let _ = Socket::new(stream).and_then(|socket| socket.try_write(line.as_bytes()));
}
