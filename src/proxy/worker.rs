//! A worker: one thread with a runtime of its own, and a hub for each group.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::{Poll, Registry};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::client::{self, Place};
use super::entry::Entry;
use super::hub::{Hub, HubSpec};
use super::inquiry::{self, Question};
use super::sockets;
use crate::channels::Directions;
use crate::lifecycle::Lifecycle;
use crate::logic::identity::Users;
use crate::net::socket::Socket;
use crate::net::stream::Stream;

/// Between two looks at what waits for a moment that comes soon.
const HURRIED_TICK: Duration = Duration::from_millis(5);
/// A tick that comes later than this was held up, and so was everything else on the thread.
const LATE_TICK: Duration = Duration::from_millis(100);

/// A client that the acceptor hands to a worker.
#[derive(Debug)]
pub struct Arrival {
    /// Its connection, not yet of any runtime.
    pub stream: Detached,
    /// The group's place in [`WorkerSpec::groups`].
    pub group: usize,
    /// What its listener asks for.
    pub entry: Arc<Entry>,
    /// Its place among those that the process may serve.
    pub place: Place,
}

/// A connection between two runtimes.
#[derive(Debug)]
pub enum Detached {
    /// TCP.
    Tcp(std::net::TcpStream),
    /// A Unix socket.
    Unix(std::os::unix::net::UnixStream),
}

impl Detached {
    /// Takes a connection out of the acceptor's runtime.
    ///
    /// # Errors
    /// The connection broke meanwhile.
    pub fn new(stream: Stream) -> io::Result<Self> {
        match stream {
            Stream::Tcp(stream) => stream.into_std().map(Self::Tcp),
            Stream::Unix(stream) => stream.into_std().map(Self::Unix),
            Stream::Tls(_) => Err(io::Error::other("TLS begins on the worker")),
        }
    }

    /// For a worker to serve.
    pub(super) fn into_socket(self) -> Socket {
        match self {
            Self::Tcp(stream) => Socket::Tcp(mio::net::TcpStream::from_std(stream)),
            Self::Unix(stream) => Socket::Unix(mio::net::UnixStream::from_std(stream)),
        }
    }

    /// For a task to wait for.
    ///
    /// # Errors
    /// The runtime has no room for it.
    pub(super) fn attach(self) -> io::Result<Stream> {
        match self {
            Self::Tcp(stream) => tokio::net::TcpStream::from_std(stream).map(Stream::Tcp),
            Self::Unix(stream) => tokio::net::UnixStream::from_std(stream).map(Stream::Unix),
        }
    }
}

/// What a group is made of on one worker.
pub struct WorkerGroup {
    /// Its hub's parts.
    pub hub: HubSpec,
    /// Its route, and the backends that it may name.
    pub directions: watch::Receiver<Directions>,
    /// Handover's own users, as far as they concern this group.
    pub users: watch::Receiver<Arc<Users>>,
    /// Questions of other workers.
    pub inquiries: mpsc::Receiver<Question>,
}

/// What a worker is made of.
pub struct WorkerSpec {
    /// Its number.
    pub worker: usize,
    /// Clients, from the acceptor.
    pub arrivals: mpsc::Receiver<Arrival>,
    /// Its groups.
    pub groups: Vec<WorkerGroup>,
    /// Everything that it runs.
    pub lifecycle: Lifecycle,
    /// Cancelled when clients shall be ended politely.
    pub draining: CancellationToken,
    /// Told how many clients are still there, while draining.
    pub remaining: watch::Sender<usize>,
}

/// Starts a worker's thread. It ends when its lifecycle stops.
///
/// # Errors
/// No thread or no runtime could be had.
pub fn start(spec: WorkerSpec) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let watches = spec.groups.iter().map(|_| watch_sockets()).collect::<io::Result<Vec<_>>>()?;
    std::thread::Builder::new().name(format!("worker-{}", spec.worker)).spawn(move || {
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, run(spec, watches));
    })
}

/// What a hub's sockets are watched with, and where they are registered.
fn watch_sockets() -> io::Result<(Poll, Registry)> {
    let poll = Poll::new()?;
    let registry = poll.registry().try_clone()?;
    Ok((poll, registry))
}

async fn run(mut spec: WorkerSpec, watches: Vec<(Poll, Registry)>) {
    let stopping = spec.lifecycle.stopping();
    let groups = spec.groups.drain(..).zip(watches);
    let hubs: Vec<Rc<Hub>> = groups.map(|(group, watch)| start_group(group, watch, &spec.lifecycle)).collect();
    spec.lifecycle.start_local("drain", drain(hubs.clone(), spec.draining.clone(), spec.remaining));
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            arrival = spec.arrivals.recv() => match arrival {
                Some(arrival) => admit(&hubs, arrival),
                None => break,
            },
        }
    }
    stopping.cancelled().await;
}

fn admit(hubs: &[Rc<Hub>], arrival: Arrival) {
    if let Err(error) = client::admit(&hubs[arrival.group], arrival) {
        warn!(%error, "a new connection broke before it was served");
    }
}

/// Starts what keeps a hub going.
fn start_group(group: WorkerGroup, (poll, registry): (Poll, Registry), lifecycle: &Lifecycle) -> Rc<Hub> {
    let hub = Hub::new(group.hub, lifecycle.clone(), registry);
    lifecycle.start_local("route", follow(hub.clone(), group.directions));
    lifecycle.start_local("users", follow_users(hub.clone(), group.users));
    lifecycle.start_local("sockets", sockets::serve(hub.clone(), poll));
    lifecycle.start_local("tick", tick(hub.clone()));
    lifecycle.start_local("report", report(hub.clone()));
    lifecycle.start_local("inquiries", inquiry::answer(hub.clone(), group.inquiries));
    hub
}

/// Hands each new route to the hub, with the backends that it may name.
async fn follow(hub: Rc<Hub>, mut directions: watch::Receiver<Directions>) {
    let stopping = hub.lifecycle.stopping();
    hub.follow();
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            changed = directions.changed() => if changed.is_err() { return },
        }
        hub.catch_up();
    }
}

/// Hands changed users to the hub, which has those of the start.
async fn follow_users(hub: Rc<Hub>, mut users: watch::Receiver<Arc<Users>>) {
    let stopping = hub.lifecycle.stopping();
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            changed = users.changed() => if changed.is_err() { return },
        }
        let latest = users.borrow_and_update().clone();
        hub.follow_users(latest);
    }
}

/// Lets time pass.
async fn tick(hub: Rc<Hub>) {
    let stopping = hub.lifecycle.stopping();
    let mut due = Instant::now() + hub.regular_tick.get();
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep_until(due.into()) => {}
            () = hub.hurry.notified() => {}
        }
        let now = Instant::now();
        hub.tick(now.saturating_duration_since(due) > LATE_TICK);
        let regular = hub.regular_tick.get();
        due = Instant::now() + if hub.is_hurried() { HURRIED_TICK.min(regular) } else { regular };
    }
}

/// Tells the supervisor.
async fn report(hub: Rc<Hub>) {
    let stopping = hub.lifecycle.stopping();
    let reports = hub.reports();
    loop {
        while let Some(report) = hub.next_report() {
            if reports.send(report).await.is_err() {
                return;
            }
        }
        tokio::select! {
            biased;
            () = hub.report.notified() => {}
            () = stopping.cancelled() => return,
        }
    }
}

/// Ends the clients of a worker politely, and says how many are left.
async fn drain(hubs: Vec<Rc<Hub>>, draining: CancellationToken, remaining: watch::Sender<usize>) {
    draining.cancelled().await;
    hubs.iter().for_each(|hub| hub.drain());
    loop {
        let clients: usize = hubs.iter().map(|hub| hub.clients()).sum();
        remaining.send_replace(clients);
        if clients == 0 {
            return;
        }
        tokio::time::sleep(HURRIED_TICK).await;
        hubs.iter().for_each(|hub| hub.drain());
    }
}
