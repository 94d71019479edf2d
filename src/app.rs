//! The composition root: builds the planes, joins them by their channels, owns start, reload and stop.

mod settings;
mod sockets;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

pub(crate) use self::settings::{commons, multiplexer_settings};
use self::settings::{policy_of, users_of};
use self::sockets::{bind_admin, bind_all, bind_console, start_acceptors, start_admin, start_console};
use crate::admin::desk::{Desk, DeskGroup};
use crate::admin::events::Streams;
use crate::admin::guard::Guard;
use crate::admin::http::Admin;
use crate::channels::{BackendId, GroupStatus, ORDERS_MAX, Order, ProcessCommand, ProcessOrder, Vitals};
use crate::cli::Exit;
use crate::config::diff::{Effect, diff};
use crate::config::{self, Backend, BackendTls, Config, Origin, Sources, WebhookSettings, Weights};
use crate::control::{self, GroupControl, Shared, state};
use crate::events::ledger::Ledger;
use crate::events::program::Program;
use crate::events::webhook::Webhook;
use crate::events::{EventHub, Kinds};
use crate::lifecycle::{Lifecycle, Signal, Signals, Systemd};
use crate::logic::failover::Command;
use crate::logic::identity::Users;
use crate::logic::multiplexer::{CloseReason, Commons};
use crate::logic::record::Happening;
use crate::net::dial::Endpoint;
use crate::proxy::hub::HubSpec;
use crate::proxy::inquiry::Question;
use crate::proxy::worker::{self, WorkerGroup, WorkerSpec};
use crate::telemetry::counters::{Way, WorkerCounters};
use crate::telemetry::logging::Logging;
use crate::telemetry::metrics::Reloads;
use crate::tls::{self, FileProblem, Keeper, Owner};

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
    users: Vec<watch::Sender<Arc<Users>>>,
    threads: Vec<JoinHandle<()>>,
    reloads: Arc<Reloads>,
    events: EventHub,
    /// Has the certificates looked at now.
    hurry: Arc<Notify>,
    /// What operators ask of the process.
    process: mpsc::Receiver<ProcessOrder>,
    /// The file that the configuration came from, if there is one.
    origin: Option<Origin>,
}

/// Serves until a signal ends it. `origin` is the file that `config` came from, if there is one.
pub async fn run(config: Config, origin: Option<Origin>, sources: Sources, logging: &Logging) -> Exit {
    let mut signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => return fail(Exit::Failure, "cannot install the signal handlers", &error),
    };
    let mut app = match App::start(config, origin, logging).await {
        Ok(app) => app,
        Err(exit) => return exit,
    };
    Systemd.ready();
    loop {
        tokio::select! {
            signal = signals.next() => match signal {
                // What came of it stands in the log.
                Signal::Reload => drop(app.reload(&sources, logging).await),
                Signal::Drain => return app.drain(&mut signals).await,
                Signal::Now => return app.stop(Exit::ClientsCut).await,
            },
            Some(order) = app.process.recv() => app.obey(order, &sources, logging).await,
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
    async fn start(config: Config, file: Option<Origin>, logging: &Logging) -> Result<Self, Exit> {
        let mut certificates = Keeper::default();
        let secured = secure(&config, &mut certificates)?;
        let bound = bind_all(&config).await?;
        let admin = bind_admin(&config).await?;
        let console = bind_console(&config).await?;
        let lifecycle = Lifecycle::new();
        let draining = CancellationToken::new();
        let (saved, keeper) = open_state(&config, &lifecycle);
        let events = EventHub::new(Arc::default(), lifecycle.stopping());
        let outcomes = EventHub::new(events.counters().clone(), lifecycle.stopping());
        // Before anything happens.
        start_ways_out(&config, &lifecycle, &events, secured.webhook.clone());
        let origin = Instant::now();
        let ids = number_backends(&config);
        let counters: Vec<Vec<Arc<WorkerCounters>>> =
            config.groups.iter().map(|_| (0..config.workers).map(|_| Arc::default()).collect()).collect();

        let mut parts = Vec::new();
        let users: Vec<watch::Sender<Arc<Users>>> =
            config.groups.iter().map(|group| watch::Sender::new(users_of(&config, group))).collect();
        let (mut orders, mut statuses, mut rehearsals) = (Vec::new(), Vec::new(), Vec::new());
        for ((group, ids), tls) in config.groups.iter().zip(&ids).zip(&secured.backends) {
            let vitals: Vec<Vec<Arc<Vitals>>> =
                (0..config.workers).map(|_| ids.iter().map(|_| Arc::default()).collect()).collect();
            let shared = Shared { ids: ids.clone(), vitals: vitals.clone(), origin, tls: tls.clone() };
            let control = control::group(group, shared, saved.get(&group.name), keeper.clone(), events.clone());
            let GroupControl { supervisor, probers, reports, orders: operator, rehearsals: asked, route, status } =
                control;
            lifecycle.start("control supervisor", supervisor.run(lifecycle.stopping()));
            for prober in probers {
                lifecycle.start("control prober", prober.run(lifecycle.stopping()));
            }
            lifecycle.start("announce", announce(status.clone(), lifecycle.stopping()));
            orders.push(operator);
            rehearsals.push(asked);
            statuses.push(status);
            parts.push((vitals, reports, route));
        }

        let reloads = Arc::new(Reloads::loaded(SystemTime::now()));
        let (process, asked) = mpsc::channel(ORDERS_MAX);
        let groups = config.groups.iter().enumerate().map(|(index, group)| DeskGroup {
            status: statuses[index].clone(),
            orders: orders[index].clone(),
            rehearsals: rehearsals[index].clone(),
            counters: counters[index].clone(),
            policy: policy_of(group),
            ceiling: group.retry.ceiling,
        });
        let desk = Arc::new(Desk {
            groups: groups.collect(),
            process,
            events: events.clone(),
            outcomes: outcomes.clone(),
            started: SystemTime::now(),
            draining: draining.clone(),
        });
        if let Some(listener) = admin {
            let view = Admin {
                statuses: statuses.clone(),
                counters: counters.clone(),
                close_reasons: &CLOSE_REASONS,
                reloads: reloads.clone(),
                certificates: certificates.facts(),
                log_lines_dropped: logging.dropped(),
                streams: Streams::new(events.clone(), outcomes.clone()),
                started: origin,
                draining: draining.clone(),
                desk: desk.clone(),
                guard: Guard::new(config.admin.http_token),
            };
            start_admin(&lifecycle, listener, view);
        }
        start_console(&lifecycle, console, &desk);

        let (arrivals, mut receivers): (Vec<_>, Vec<_>) =
            (0..config.workers).map(|_| mpsc::channel(ARRIVALS_MAX)).unzip();
        let inquiries: Vec<(Vec<mpsc::Sender<Question>>, Vec<_>)> =
            config.groups.iter().map(|_| (0..config.workers).map(|_| mpsc::channel(INQUIRIES_MAX)).unzip()).collect();
        let (asking, mut answering): (Vec<Arc<Vec<_>>>, Vec<Vec<_>>) =
            inquiries.into_iter().map(|(senders, receivers)| (Arc::new(senders), receivers)).unzip();
        let (mut threads, mut remaining, mut heartbeats) = (Vec::new(), Vec::new(), Vec::new());
        let commons: Vec<Arc<Commons>> = config.groups.iter().map(|_| commons(&config)).collect();
        for worker in (0..config.workers).rev() {
            let mut groups = Vec::new();
            let heartbeat = Arc::new(AtomicU64::new(0));
            heartbeats.push(heartbeat.clone());
            for (index, (group, (vitals, reports, route))) in config.groups.iter().zip(&parts).enumerate() {
                let backends = endpoints(&ids[index], &group.backends, &secured.backends[index]);
                let hub = HubSpec {
                    route: route.clone(),
                    worker,
                    settings: multiplexer_settings(&config, group, worker, commons[index].clone()),
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
                let users = users[index].subscribe();
                groups.push(WorkerGroup { hub, route: route.clone(), users, inquiries, tick });
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

        start_acceptors(&config, bound, &secured.listeners, &arrivals, &lifecycle, &draining);
        let ledger = Ledger { statuses: statuses.clone(), counters, events: events.clone(), outcomes };
        lifecycle.start("ledger", ledger.run(lifecycle.stopping()));
        let hurry = certificates.hurry();
        lifecycle.start("certificates", certificates.run(lifecycle.stopping()));
        let alive = is_alive(statuses.clone(), heartbeats, origin);
        lifecycle.start("watchdog", Systemd.keep_watchdog(lifecycle.stopping(), alive));
        Ok(Self {
            config,
            lifecycle,
            draining,
            orders,
            statuses,
            ids,
            remaining,
            users,
            threads,
            reloads,
            events,
            hurry,
            process: asked,
            origin: file,
        })
    }

    /// An operator asks something of the process.
    async fn obey(&mut self, order: ProcessOrder, sources: &Sources, logging: &Logging) {
        let ProcessOrder { command, by, outcome } = order;
        let result = match command {
            ProcessCommand::Reload => self.reload(sources, logging).await,
            ProcessCommand::Save => self.save(),
        };
        let order = match command {
            ProcessCommand::Reload => "reload the configuration",
            ProcessCommand::Save => "save what was changed at run time",
        };
        match &result {
            Ok(done) => info!(target: "audit", audit = true, by, order, new = done.join("; "), "operator"),
            Err(why) => warn!(target: "audit", audit = true, by, order, why, "operator's order refused"),
        }
        // Who asked may have gone.
        drop(outcome.send(result));
    }

    /// Writes what was changed at run time into the configuration's file; says what was written, a line each.
    fn save(&mut self) -> Result<Vec<String>, String> {
        let origin = self.origin.as_ref().ok_or("there is no file: the configuration came from the command line")?;
        let (edits, origin) = config::save(origin, &self.weights()).map_err(|error| error.to_string())?;
        let path = origin.path.display().to_string();
        self.origin = Some(origin);
        if edits.is_empty() {
            return Ok(vec![format!("nothing to write: {path} has it all")]);
        }
        for group in &mut self.config.groups {
            for backend in &mut group.backends {
                let key = format!("backend.{}.weight", backend.name);
                let written = edits.iter().find(|edit| edit.key == key).and_then(|edit| edit.new.parse().ok());
                backend.weight = written.unwrap_or(backend.weight);
            }
        }
        let mut lines = vec![format!("written to {path}:")];
        lines.extend(edits.iter().map(|edit| format!("{}: {} → {}", edit.key, edit.old, edit.new)));
        Ok(lines)
    }

    /// Every backend's weight as operators left it.
    fn weights(&self) -> Weights {
        let statuses = self.statuses.iter().map(|status| status.borrow());
        statuses
            .flat_map(|status| {
                let weight =
                    |backend: &crate::channels::BackendStatus| (backend.name.clone(), backend.wishes.own_weight);
                status.backends.iter().map(weight).collect::<Vec<_>>()
            })
            .collect()
    }

    /// SIGHUP: weights, users, certificates and the log level at once; the rest is named.
    /// Says what differs, a line each, or why nothing was changed.
    async fn reload(&mut self, sources: &Sources, logging: &Logging) -> Result<Vec<String>, String> {
        Systemd.reloading();
        self.hurry.notify_one();
        let outcome = match Config::load(sources) {
            Ok(loaded) => {
                for warning in &loaded.warnings {
                    warn!("{warning}");
                }
                self.origin = loaded.file;
                let mut lines = loaded.warnings;
                lines.iter_mut().for_each(|warning| warning.insert_str(0, "warning: "));
                lines.splice(0..0, self.apply(loaded.config, logging).await);
                Ok(lines)
            }
            Err(problems) => {
                self.reloads.failed();
                let outcome = Err(format!("the configuration was not reloaded, what was in force stays: {problems}"));
                self.events.tell(None, None, Happening::config_reloaded(Err(problems.to_string())));
                outcome
            }
        };
        Systemd.ready();
        outcome
    }

    async fn apply(&mut self, new: Config, logging: &Logging) -> Vec<String> {
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
        // Another mode comes with a restart, and its users with it.
        if self.config.users != new.users && self.config.identity.mode == new.identity.mode {
            self.config.users = new.users;
            for (group, users) in self.config.groups.iter().zip(&self.users) {
                users.send_replace(users_of(&self.config, group));
            }
        }
        self.reloads.succeeded(SystemTime::now());
        let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
        let mut lines = vec![format!("reloaded; {} settings differ", changes.len())];
        lines.extend(changes.iter().cloned());
        self.events.tell(None, None, Happening::config_reloaded(Ok(changes)));
        lines
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

type SavedGroups = std::collections::BTreeMap<String, crate::logic::failover::Saved>;

fn open_state(config: &Config, lifecycle: &Lifecycle) -> (SavedGroups, Option<state::Keeper>) {
    let Some(path) = &config.state_file else { return (SavedGroups::new(), None) };
    let (saved, keeper, writer) = state::open(path);
    lifecycle.start("state file", writer.run(lifecycle.stopping()));
    (saved, Some(keeper))
}

/// The webhook and the program, which nothing waits for.
fn start_ways_out(config: &Config, lifecycle: &Lifecycle, events: &EventHub, tls: Option<tls::Client>) {
    let kinds = || Kinds::new(config.events.kinds.clone());
    if let Some(settings) = config.events.webhook.clone() {
        let webhook = Webhook { settings, tls, kinds: kinds(), reader: events.subscribe(Way::Webhook) };
        lifecycle.start("webhook", webhook.run(lifecycle.stopping()));
    }
    if let Some(settings) = config.events.command.clone() {
        let program = Program { settings, kinds: kinds(), reader: events.subscribe(Way::Command) };
        lifecycle.start("program on events", program.run(lifecycle.stopping()));
    }
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

/// What handshakes need, for each listener and backend that has TLS.
struct Secured {
    /// In the order of the groups and their listeners.
    listeners: Vec<Vec<Option<tls::Server>>>,
    /// In the order of the groups and their backends.
    backends: Vec<Vec<Option<tls::Client>>>,
    webhook: Option<tls::Client>,
}

/// Reads every certificate; from here on the keeper has them.
fn secure(config: &Config, keeper: &mut Keeper) -> Result<Secured, Exit> {
    let mut secured = Secured { listeners: Vec::new(), backends: Vec::new(), webhook: None };
    let mut keep = || -> Result<(), (Owner, FileProblem)> {
        for group in &config.groups {
            let mut listeners = Vec::new();
            for listener in &group.listeners {
                let owner = Owner::Listener(listener.bind.to_string());
                let server = listener.tls.as_ref().map(|files| keeper.server(owner.clone(), files));
                listeners.push(server.transpose().map_err(|problem| (owner, problem))?);
            }
            secured.listeners.push(listeners);
            let mut backends = Vec::new();
            for backend in &group.backends {
                let owner = Owner::Backend(backend.name.clone());
                let client = backend
                    .tls
                    .as_ref()
                    .map(|BackendTls { files, server_name }| keeper.client(owner.clone(), files, server_name.clone()));
                backends.push(client.transpose().map_err(|problem| (owner, problem))?);
            }
            secured.backends.push(backends);
        }
        if let Some(WebhookSettings { url, tls: Some(files), .. }) = &config.events.webhook {
            let owner = Owner::Webhook(url.authority());
            secured.webhook = Some(keeper.client(owner.clone(), files, None).map_err(|problem| (owner, problem))?);
        }
        Ok(())
    };
    match keep() {
        Ok(()) => Ok(secured),
        Err((owner, problem)) => {
            error!(of = %owner, %problem, "cannot use the certificates");
            Err(Exit::Configuration)
        }
    }
}

fn endpoints(ids: &[BackendId], backends: &[Backend], tls: &[Option<tls::Client>]) -> Vec<(BackendId, Arc<Endpoint>)> {
    let endpoint = |(backend, tls): (&Backend, &Option<tls::Client>)| {
        Arc::new(Endpoint { backend: Arc::new(backend.clone()), tls: tls.clone() })
    };
    ids.iter().copied().zip(backends.iter().zip(tls).map(endpoint)).collect()
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
