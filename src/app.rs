//! The composition root: builds the planes, joins them by their channels, owns start, reload and stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::admin::console::{self, Console, ConsoleGroup};
use crate::admin::http::{self, Admin};
use crate::channels::{BackendId, GroupStatus, Order, Vitals};
use crate::cli::Exit;
use crate::command::policy::Policy;
use crate::config::diff::{Effect, diff};
use crate::config::{Config, Group, Listener, SessionMode, Sources};
use crate::control::{self, GroupControl, Shared, state};
use crate::lifecycle::{Lifecycle, Signal, Signals, Systemd};
use crate::logic::failover::Command;
use crate::logic::multiplexer::{CloseReason, Settings};
use crate::logic::settings::LimitSettings;
use crate::net::listen::Bound;
use crate::proxy::acceptor::Acceptor;
use crate::proxy::hub::HubSpec;
use crate::proxy::inquiry::Question;
use crate::proxy::worker::{self, Arrival, WorkerGroup, WorkerSpec};
use crate::telemetry::counters::WorkerCounters;
use crate::telemetry::logging::Logging;
use crate::telemetry::metrics::Reloads;

/// How long clients have to finish after the first SIGTERM.
const DRAIN_MAX: Duration = Duration::from_secs(25);
/// How long tasks have to end once they were told to.
const STOP_MAX: Duration = Duration::from_secs(2);
/// A worker that lets no time pass for so long hangs.
const HEARTBEAT_MAX: Duration = Duration::from_secs(5);
/// Clients that wait for a worker to take them.
const ARRIVALS_MAX: usize = 1024;
/// Questions of other workers.
const INQUIRIES_MAX: usize = 64;
/// Pins and subscription connections opened per second and backend, over all workers.
const CONNECTS_PER_SECOND: f64 = 500.0;
/// Descriptors that are not for clients: probes, admin, logs, the state file.
const DESCRIPTORS_RESERVED: u64 = 128;

/// Labels of the reasons for which clients are closed.
const CLOSE_REASONS: [&str; CloseReason::ALL.len()] = {
    let mut labels = [""; CloseReason::ALL.len()];
    let mut index = 0;
    while index < labels.len() {
        labels[index] = CloseReason::ALL[index].label();
        index += 1;
    }
    labels
};

/// Everything that runs.
struct App {
    config: Config,
    lifecycle: Lifecycle,
    /// Cancelled when no new clients are taken.
    draining: CancellationToken,
    orders: Vec<mpsc::Sender<Order>>,
    statuses: Vec<watch::Receiver<GroupStatus>>,
    ids: Vec<Vec<BackendId>>,
    remaining: Vec<watch::Receiver<usize>>,
    threads: Vec<JoinHandle<()>>,
    reloads: Arc<Reloads>,
}

/// Serves until a signal ends it.
pub async fn run(config: Config, sources: Sources, logging: &Logging) -> Exit {
    let mut signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => return fail(Exit::Failure, "cannot install the signal handlers", &error),
    };
    let mut app = match App::start(config, logging).await {
        Ok(app) => app,
        Err(exit) => return exit,
    };
    Systemd.ready();
    loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Reload => app.reload(&sources, logging).await,
                Signal::Drain => return app.drain(&mut signals).await,
                Signal::Now => return app.stop(Exit::ClientsCut).await,
            },
            task = app.lifecycle.control_panicked() => {
                error!(%task, "a bug in the control plane: the process ends");
                return app.stop(Exit::Bug).await;
            }
        }
    }
}

fn fail(exit: Exit, what: &str, error: &dyn std::error::Error) -> Exit {
    error!(%error, "{what}");
    exit
}

impl App {
    async fn start(config: Config, logging: &Logging) -> Result<Self, Exit> {
        let bound = bind_all(&config).await?;
        let admin = bind_admin(&config).await?;
        let console = bind_console(&config).await?;
        let lifecycle = Lifecycle::new();
        let draining = CancellationToken::new();
        let (saved, keeper) = open_state(&config, &lifecycle);
        let origin = Instant::now();
        let ids = number_backends(&config);
        let counters: Vec<Vec<Arc<WorkerCounters>>> =
            config.groups.iter().map(|_| (0..config.workers).map(|_| Arc::default()).collect()).collect();

        let mut parts = Vec::new();
        let (mut orders, mut statuses) = (Vec::new(), Vec::new());
        for (group, ids) in config.groups.iter().zip(&ids) {
            let vitals: Vec<Vec<Arc<Vitals>>> =
                (0..config.workers).map(|_| ids.iter().map(|_| Arc::default()).collect()).collect();
            let shared = Shared { ids: ids.clone(), vitals: vitals.clone(), origin };
            let control = control::group(group, shared, saved.get(&group.name), keeper.clone());
            let GroupControl { supervisor, probers, reports, orders: operator, route, status } = control;
            lifecycle.start("control supervisor", supervisor.run(lifecycle.stopping()));
            for prober in probers {
                lifecycle.start("control prober", prober.run(lifecycle.stopping()));
            }
            lifecycle.start("announce", announce(status.clone(), lifecycle.stopping()));
            orders.push(operator);
            statuses.push(status);
            parts.push((vitals, reports, route));
        }

        let reloads = Arc::new(Reloads::loaded(SystemTime::now()));
        if let Some(listener) = admin {
            let view = Admin {
                statuses: statuses.clone(),
                counters: counters.clone(),
                close_reasons: &CLOSE_REASONS,
                reloads: reloads.clone(),
                log_lines_dropped: logging.dropped(),
                started: origin,
                draining: draining.clone(),
            };
            start_admin(&lifecycle, listener, view);
        }

        start_console(&lifecycle, console, console_of(&config, &statuses, &orders, &draining));

        let (arrivals, mut receivers): (Vec<_>, Vec<_>) =
            (0..config.workers).map(|_| mpsc::channel(ARRIVALS_MAX)).unzip();
        let inquiries: Vec<(Vec<mpsc::Sender<Question>>, Vec<_>)> =
            config.groups.iter().map(|_| (0..config.workers).map(|_| mpsc::channel(INQUIRIES_MAX)).unzip()).collect();
        let (asking, mut answering): (Vec<Arc<Vec<_>>>, Vec<Vec<_>>) =
            inquiries.into_iter().map(|(senders, receivers)| (Arc::new(senders), receivers)).unzip();
        let (mut threads, mut remaining, mut heartbeats) = (Vec::new(), Vec::new(), Vec::new());
        for worker in (0..config.workers).rev() {
            let mut groups = Vec::new();
            let heartbeat = Arc::new(AtomicU64::new(0));
            heartbeats.push(heartbeat.clone());
            for (index, (group, (vitals, reports, route))) in config.groups.iter().zip(&parts).enumerate() {
                let backends = ids[index].iter().copied().zip(group.backends.iter().cloned().map(Arc::new)).collect();
                let hub = HubSpec {
                    worker,
                    settings: multiplexer_settings(&config, group, worker),
                    backends,
                    vitals: vitals[worker].clone(),
                    origin,
                    reports: reports.clone(),
                    inquiries: asking[index].clone(),
                    counters: counters[index][worker].clone(),
                    heartbeat: heartbeat.clone(),
                };
                let inquiries = answering[index].pop().expect("one receiver a worker");
                let tick =
                    (group.detector.hang_timeout / 20).clamp(Duration::from_millis(5), Duration::from_millis(50));
                groups.push(WorkerGroup { hub, route: route.clone(), inquiries, tick });
            }
            let (left, left_receiver) = watch::channel(usize::MAX);
            let spec = WorkerSpec {
                worker,
                arrivals: receivers.pop().expect("one receiver a worker"),
                groups,
                lifecycle: lifecycle.clone(),
                draining: draining.clone(),
                remaining: left,
            };
            threads.push(worker::start(spec).map_err(|error| fail(Exit::Failure, "cannot start a worker", &error))?);
            remaining.push(left_receiver);
        }

        start_acceptors(&config, bound, &arrivals, &lifecycle, &draining);
        let alive = is_alive(statuses.clone(), heartbeats, origin);
        lifecycle.start("watchdog", Systemd.keep_watchdog(lifecycle.stopping(), alive));
        Ok(Self { config, lifecycle, draining, orders, statuses, ids, remaining, threads, reloads })
    }

    /// SIGHUP: weights and the log level at once; the rest is named.
    async fn reload(&mut self, sources: &Sources, logging: &Logging) {
        Systemd.reloading();
        match Config::load(sources) {
            Ok(loaded) => {
                for warning in &loaded.warnings {
                    warn!("{warning}");
                }
                self.apply(loaded.config, logging).await;
            }
            Err(problems) => {
                self.reloads.failed();
                error!(%problems, "the configuration was not reloaded: what was in force stays");
            }
        }
        Systemd.ready();
    }

    async fn apply(&mut self, new: Config, logging: &Logging) {
        let changes = diff(&self.config, &new);
        for change in &changes {
            match change.effect {
                Effect::Live => info!(%change, "changed"),
                Effect::Restart => warn!(%change, "needs a restart"),
            }
        }
        logging.set_level(new.log.level);
        self.config.log.level = new.log.level;
        for (index, group) in self.config.groups.iter_mut().enumerate() {
            let Some(new_group) = new.groups.iter().find(|other| other.name == group.name) else { continue };
            for (backend, id) in group.backends.iter_mut().zip(&self.ids[index]) {
                let Some(wanted) = new_group.backends.iter().find(|other| other.name == backend.name) else { continue };
                if (wanted.weight - backend.weight).abs() > f64::EPSILON {
                    backend.weight = wanted.weight;
                    let command = Command::SetWeight { backend: *id, weight: wanted.weight };
                    let order = Order { command, by: "reload".to_owned(), outcome: None };
                    if self.orders[index].send(order).await.is_err() {
                        error!(group = group.name, "the supervisor has ended");
                    }
                }
            }
        }
        self.reloads.succeeded(SystemTime::now());
        info!(changes = changes.len(), "configuration reloaded");
    }

    /// The first SIGTERM: no new clients; those that are here get what is due to them.
    async fn drain(self, signals: &mut Signals) -> Exit {
        info!("draining: no new clients are taken");
        Systemd.stopping();
        self.draining.cancel();
        let deadline = tokio::time::Instant::now() + DRAIN_MAX;
        let mut remaining = self.remaining.clone();
        let everybody_left = async {
            for worker in &mut remaining {
                // A worker that has ended has no clients.
                let _ = worker.wait_for(|&clients| clients == 0).await;
            }
        };
        let exit = tokio::select! {
            () = everybody_left => Exit::Clean,
            () = tokio::time::sleep_until(deadline) => Exit::ClientsCut,
            () = async { while signals.next().await != Signal::Now {} } => Exit::ClientsCut,
        };
        if exit == Exit::ClientsCut {
            let clients: usize =
                self.remaining.iter().map(|worker| *worker.borrow()).filter(|&left| left != usize::MAX).sum();
            warn!(clients, "clients were cut");
        }
        self.stop(exit).await
    }

    async fn stop(self, exit: Exit) -> Exit {
        self.draining.cancel();
        self.lifecycle.stop();
        if let Err(remaining) = self.lifecycle.stopped(STOP_MAX).await {
            let names: Vec<String> = remaining.iter().map(ToString::to_string).collect();
            // Tasks of workers whose clients were cut end with their threads.
            tracing::debug!(tasks = names.join(", "), "tasks did not end in time");
        }
        let is_orderly = exit == Exit::Clean;
        for thread in self.threads {
            if is_orderly && thread.join().is_err() {
                error!("a worker ended in a panic");
            }
        }
        info!(groups = self.statuses.len(), "stopped");
        exit
    }
}

async fn bind_all(config: &Config) -> Result<Vec<(usize, Listener, Bound)>, Exit> {
    let mut bound = Vec::new();
    let mut has_failed = false;
    for (index, group) in config.groups.iter().enumerate() {
        for listener in &group.listeners {
            match Bound::bind(listener).await {
                Ok(sockets) => bound.extend(sockets.into_iter().map(|socket| (index, listener.clone(), socket))),
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
enum AdminSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

async fn bind_admin(config: &Config) -> Result<Option<AdminSocket>, Exit> {
    let Some(address) = &config.admin.http else { return Ok(None) };
    let listener = Listener { bind: address.clone(), mode: 0o660, sessions: SessionMode::Multiplexed };
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

fn start_admin(lifecycle: &Lifecycle, listener: AdminSocket, view: Admin) {
    let stop = lifecycle.stopping();
    match listener {
        AdminSocket::Tcp(listener) => lifecycle.start("admin", http::serve(listener, view, stop)),
        AdminSocket::Unix(listener) => lifecycle.start("admin", http::serve(listener, view, stop)),
    }
}

async fn bind_console(config: &Config) -> Result<Vec<Bound>, Exit> {
    let Some(address) = &config.admin.console else { return Ok(Vec::new()) };
    let listener = Listener { bind: address.clone(), mode: 0o660, sessions: SessionMode::Multiplexed };
    let bound =
        Bound::bind(&listener).await.map_err(|error| fail(Exit::CannotBind, "cannot bind the console", &error))?;
    for socket in &bound {
        info!(address = socket.address(), "console listening");
    }
    Ok(bound)
}

fn console_of(
    config: &Config,
    statuses: &[watch::Receiver<GroupStatus>],
    orders: &[mpsc::Sender<Order>],
    draining: &CancellationToken,
) -> Console {
    let groups = config.groups.iter().zip(statuses.iter().zip(orders)).map(|(group, (status, orders))| ConsoleGroup {
        status: status.clone(),
        orders: orders.clone(),
        policy: policy_of(group),
        ceiling: group.retry.ceiling,
    });
    Console { groups: groups.collect(), started: SystemTime::now(), draining: draining.clone() }
}

fn start_console(lifecycle: &Lifecycle, bound: Vec<Bound>, console: Console) {
    let console = Arc::new(console);
    for socket in bound {
        let serving = console::serve(socket, console.clone(), lifecycle.clone(), lifecycle.stopping());
        lifecycle.start("console", serving);
    }
}

type SavedGroups = std::collections::BTreeMap<String, crate::logic::failover::Saved>;

fn open_state(config: &Config, lifecycle: &Lifecycle) -> (SavedGroups, Option<state::Keeper>) {
    let Some(path) = &config.state_file else { return (SavedGroups::new(), None) };
    let (saved, keeper, writer) = state::open(path);
    lifecycle.start("state file", writer.run(lifecycle.stopping()));
    (saved, Some(keeper))
}

/// Whether every worker lets time pass and every supervisor is there: what the service manager's watchdog asks.
fn is_alive(
    statuses: Vec<watch::Receiver<GroupStatus>>,
    heartbeats: Vec<Arc<AtomicU64>>,
    origin: Instant,
) -> impl FnMut() -> bool {
    move || {
        let now = origin.elapsed();
        let beats = |beat: &Arc<AtomicU64>| Duration::from_micros(beat.load(Ordering::Relaxed)) + HEARTBEAT_MAX > now;
        heartbeats.iter().all(beats) && statuses.iter().all(|status| status.has_changed().is_ok())
    }
}

/// Numbers that no two backends of the process share.
fn number_backends(config: &Config) -> Vec<Vec<BackendId>> {
    let mut next = 0;
    let mut number = |_: &crate::config::Backend| {
        next += 1;
        BackendId(next - 1)
    };
    config.groups.iter().map(|group| group.backends.iter().map(&mut number).collect()).collect()
}

fn start_acceptors(
    config: &Config,
    bound: Vec<(usize, Listener, Bound)>,
    arrivals: &[mpsc::Sender<Arrival>],
    lifecycle: &Lifecycle,
    draining: &CancellationToken,
) {
    let (turn, clients) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let clients_max = affordable_clients(config.limits.clients_max);
    for (index, listener, socket) in bound {
        let acceptor = Acceptor {
            bound: socket,
            group: index,
            dedicated: listener.sessions == SessionMode::Dedicated,
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

fn policy_of(group: &Group) -> Policy {
    let lists = &group.commands;
    let policy = Policy::new(lists.refuse.as_ref(), &lists.deny, &lists.shared);
    policy.expect("the configuration has checked the lists")
}

/// A multiplexer's settings: this worker's share of the process's limits.
pub(crate) fn multiplexer_settings(config: &Config, group: &Group, worker: usize) -> Settings {
    let workers = config.workers;
    let limits = LimitSettings {
        pins_per_backend_max: (config.limits.pins_per_backend_max / workers).max(1),
        held_bytes_max: config.limits.held_bytes_max / workers,
        ..config.limits.clone()
    };
    let first_database = group.backends.first().map(|backend| backend.database);
    let is_same = group.backends.iter().all(|backend| Some(backend.database) == first_database);
    Settings {
        failover: group.failover.clone(),
        retry: group.retry.clone(),
        limits,
        detector: group.detector.clone(),
        policy: policy_of(group),
        client_id_first: worker as u64 + 1,
        client_id_step: workers as u64,
        connects_per_second: CONNECTS_PER_SECOND / workers as f64,
        database: first_database.filter(|_| is_same),
        seed: fastrand::u64(..),
    }
}

/// Says once when a group begins to serve, and keeps the service manager's status line.
async fn announce(mut status: watch::Receiver<GroupStatus>, stop: CancellationToken) {
    let mut announced = None;
    loop {
        let (name, active) = {
            let status = status.borrow_and_update();
            let active = status.route.active.and_then(|id| status.backends.iter().find(|backend| backend.id == id));
            (status.name.clone(), active.map(|backend| backend.name.clone()))
        };
        if active.is_some() && announced.is_none() {
            info!(group = name, active = active.as_deref().unwrap_or_default(), "serving");
        }
        if active != announced {
            Systemd.status(&format!("{name}: {} is active", active.as_deref().unwrap_or("no backend")));
            announced = active;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = status.changed() => if changed.is_err() { return },
        }
    }
}
