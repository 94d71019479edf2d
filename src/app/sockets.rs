//! Sockets that clients and operators connect to, and who serves them.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::fail;
use crate::admin::console;
use crate::admin::desk::Desk;
use crate::admin::http::{self, Admin};
use crate::cli::Exit;
use crate::config::{Config, Listener, SessionMode};
use crate::lifecycle::Lifecycle;
use crate::net::listen::Bound;
use crate::proxy::acceptor::Acceptor;
use crate::proxy::entry::Entry;
use crate::proxy::worker::Arrival;
use crate::tls;

/// Descriptors that are not for clients: probes, admin, logs, the state file.
const DESCRIPTORS_RESERVED: u64 = 128;

/// A socket with its group and its listener, by their places in the configuration.
pub(super) type Place = (usize, usize, Bound);

pub(super) async fn bind_all(config: &Config) -> Result<Vec<Place>, Exit> {
    let mut bound = Vec::new();
    let mut has_failed = false;
    for (index, group) in config.groups.iter().enumerate() {
        for (place, listener) in group.listeners.iter().enumerate() {
            match Bound::bind(listener).await {
                Ok(sockets) => bound.extend(sockets.into_iter().map(|socket| (index, place, socket))),
                Err(error) => {
                    error!(%error, group = group.name, "cannot bind");
                    has_failed = true;
                }
            }
        }
    }
    if has_failed { Err(Exit::CannotBind) } else { Ok(bound) }
}

/// The admin plane's socket.
pub(super) enum AdminSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

pub(super) async fn bind_admin(config: &Config) -> Result<Option<AdminSocket>, Exit> {
    let Some(address) = &config.admin.http else { return Ok(None) };
    let listener = Listener::plain(address.clone());
    let bound =
        Bound::bind(&listener).await.map_err(|error| fail(Exit::CannotBind, "cannot bind the admin port", &error))?;
    let Some(first) = bound.into_iter().next() else {
        error!(%address, "the admin address has no meaning here");
        return Err(Exit::CannotBind);
    };
    info!(address = first.address(), "admin listening");
    Ok(Some(match first {
        Bound::Tcp(listener) => AdminSocket::Tcp(listener),
        Bound::Unix(listener) => AdminSocket::Unix(listener),
    }))
}

pub(super) fn start_admin(lifecycle: &Lifecycle, listener: AdminSocket, view: Admin) {
    let stop = lifecycle.stopping();
    match listener {
        AdminSocket::Tcp(listener) => lifecycle.start("admin", http::serve(listener, view, stop)),
        AdminSocket::Unix(listener) => lifecycle.start("admin", http::serve(listener, view, stop)),
    }
}

pub(super) async fn bind_console(config: &Config) -> Result<Vec<Bound>, Exit> {
    let Some(address) = &config.admin.console else { return Ok(Vec::new()) };
    let listener = Listener::plain(address.clone());
    let bound =
        Bound::bind(&listener).await.map_err(|error| fail(Exit::CannotBind, "cannot bind the console", &error))?;
    for socket in &bound {
        info!(address = socket.address(), "console listening");
    }
    Ok(bound)
}

pub(super) fn start_console(lifecycle: &Lifecycle, bound: Vec<Bound>, desk: &Arc<Desk>) {
    for socket in bound {
        let serving = console::serve(socket, desk.clone(), lifecycle.clone(), lifecycle.stopping());
        lifecycle.start("console", serving);
    }
}

pub(super) fn start_acceptors(
    config: &Config,
    bound: Vec<Place>,
    tls: &[Vec<Option<tls::Server>>],
    arrivals: &[mpsc::Sender<Arrival>],
    lifecycle: &Lifecycle,
    draining: &CancellationToken,
) {
    let (turn, clients) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let clients_max = affordable_clients(config.limits.clients_max);
    for (index, place, socket) in bound {
        let listener = &config.groups[index].listeners[place];
        let entry = Entry {
            dedicated: listener.sessions == SessionMode::Dedicated,
            tls: tls[index][place].clone(),
            proxy_sources: listener.proxy_sources.clone(),
        };
        let acceptor = Acceptor {
            bound: socket,
            group: index,
            entry: Arc::new(entry),
            workers: arrivals.to_vec(),
            turn: turn.clone(),
            clients: clients.clone(),
            clients_max,
        };
        acceptor.announce(&config.groups[index].name);
        lifecycle.start("acceptor", acceptor.run(draining.clone()));
    }
}

/// Raises the limit of open files as far as it goes, and takes no more clients than it allows.
fn affordable_clients(wanted: usize) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let Some(descriptors) = current else { return wanted };
    let affordable = usize::try_from(descriptors.saturating_sub(DESCRIPTORS_RESERVED)).unwrap_or(usize::MAX).max(1);
    if affordable < wanted {
        warn!(
            limit = descriptors,
            clients = affordable,
            "the limit of open files allows fewer clients than limits.clients"
        );
    }
    wanted.min(affordable)
}
