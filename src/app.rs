//! The composition root: builds the planes, joins them by their channels, owns start, reload and stop.

mod changes;
mod planes;
mod reload;
mod save;
mod settings;
mod sockets;
mod watch_over;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::planes::{WorkerThreads, start_control, start_workers};
use self::settings::policy_of;
#[cfg(test)]
pub(crate) use self::settings::{commons, multiplexer_settings};
use self::sockets::{bind_admin, bind_all, bind_console, start_acceptors, start_admin, start_console};
use self::watch_over::{announce, is_alive};
use crate::admin::desk::{Desk, DeskGroup};
use crate::admin::events::Streams;
use crate::admin::guard::Guard;
use crate::admin::http::Admin;
use crate::channels::{
    Amendment, Directions, GroupStatus, ORDERS_MAX, Order, ProcessCommand, ProcessOrder, Rehearsal, WorkerReport,
};
use crate::cli::Exit;
use crate::config::{Config, Origin, Sources, WebhookSettings};
use crate::control::state;
use crate::events::ledger::Ledger;
use crate::events::program::Program;
use crate::events::webhook::Webhook;
use crate::events::{EventHub, Kinds};
use crate::lifecycle::{Lifecycle, Signal, Signals, Systemd};
use crate::logic::identity::Users;
use crate::logic::multiplexer::CloseReason;
use crate::logic::record::Happening;
use crate::net::recruit::Recruiter;
use crate::telemetry::counters::{Way, WorkerCounters};
use crate::telemetry::logging::Logging;
use crate::telemetry::metrics::Reloads;
use crate::tls::{self, FileProblem, Keeper, Owner};

/// How long clients have to finish after the first SIGTERM.
const DRAIN_MAX: Duration = Duration::from_secs(25);
/// How long tasks have to end once they were told to.
const STOP_MAX: Duration = Duration::from_secs(2);
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
    /// What the file says, as far as it is in force.
    config: Config,
    /// The same, for the console.
    in_force: watch::Sender<Arc<Config>>,
    lifecycle: Lifecycle,
    /// Cancelled when no new clients are taken.
    draining: CancellationToken,
    /// In the order of the configuration.
    groups: Vec<GroupEnds>,
    recruiter: Recruiter,
    remaining: Vec<watch::Receiver<usize>>,
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

/// The application's ends of one group's channels.
struct GroupEnds {
    orders: mpsc::Sender<Order>,
    amendments: mpsc::Sender<Amendment>,
    rehearsals: mpsc::Sender<Rehearsal>,
    directions: watch::Receiver<Directions>,
    status: watch::Receiver<GroupStatus>,
    reports: mpsc::Sender<WorkerReport>,
    users: watch::Sender<Arc<Users>>,
    /// One for each worker.
    counters: Vec<Arc<WorkerCounters>>,
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
        let certificates = Keeper::default();
        let (listeners, webhook) = (secure(&config, &certificates)?, secure_webhook(&config, &certificates)?);
        let recruiter = Recruiter::new(certificates.clone());
        let bound = bind_all(&config).await?;
        let admin = bind_admin(&config).await?;
        let console = bind_console(&config).await?;
        let (lifecycle, draining, origin) = (Lifecycle::new(), CancellationToken::new(), Instant::now());
        let (saved, keeper) = open_state(&config, &lifecycle);
        let events = EventHub::new(Arc::default(), lifecycle.stopping());
        let outcomes = EventHub::new(events.counters().clone(), lifecycle.stopping());
        // Before anything happens.
        start_ways_out(&config, &lifecycle, &events, webhook);
        let remembered = (&saved, keeper.clone());
        let groups = start_control(&config, &recruiter, remembered, origin, (&lifecycle, &events))?;
        let statuses: Vec<_> = groups.iter().map(|ends| ends.status.clone()).collect();
        for status in &statuses {
            lifecycle.start("announce", announce(status.clone(), lifecycle.stopping()));
        }
        let in_force = watch::Sender::new(Arc::new(config.clone()));
        if let Some(keeper) = keeper {
            for ends in &groups {
                let (file, ends) = (in_force.subscribe(), (ends.status.clone(), ends.directions.clone()));
                let keeping = changes::keep(keeper.clone(), file, ends, lifecycle.stopping());
                lifecycle.start("changes at run time", keeping);
            }
        }
        let reloads = Arc::new(Reloads::loaded(SystemTime::now()));
        let (process, asked) = mpsc::channel(ORDERS_MAX);
        let view = (&recruiter, in_force.subscribe());
        let desk = desk_of(&config, &groups, view, process, &draining, [&events, &outcomes]);
        if let Some(listener) = admin {
            let view = Admin {
                statuses: statuses.clone(),
                counters: groups.iter().map(|ends| ends.counters.clone()).collect(),
                close_reasons: &CLOSE_REASONS,
                reloads: reloads.clone(),
                certificates: certificates.clone(),
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
        let WorkerThreads { threads, arrivals, remaining, heartbeats } =
            start_workers(&config, &groups, origin, &lifecycle, &draining)
                .map_err(|error| fail(Exit::Failure, "cannot start a worker", &error))?;
        start_acceptors(&config, bound, &listeners, &arrivals, &lifecycle, &draining);
        let counters = groups.iter().map(|ends| ends.counters.clone()).collect();
        let ledger = Ledger { statuses: statuses.clone(), counters, events: events.clone(), outcomes };
        lifecycle.start("ledger", ledger.run(lifecycle.stopping()));
        let hurry = certificates.hurry();
        lifecycle.start("certificates", certificates.run(lifecycle.stopping()));
        let alive = is_alive(statuses, heartbeats, origin);
        lifecycle.start("watchdog", Systemd.keep_watchdog(lifecycle.stopping(), alive));
        Ok(Self {
            config,
            in_force,
            lifecycle,
            draining,
            groups,
            recruiter,
            remaining,
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
            ProcessCommand::Save => self.save(sources, logging).await,
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

    /// SIGHUP: what can change while running does so at once; the rest is named.
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
        info!(groups = self.groups.len(), "stopped");
        exit
    }
}

fn desk_of(
    config: &Config,
    groups: &[GroupEnds],
    (recruiter, in_force): (&Recruiter, watch::Receiver<Arc<Config>>),
    process: mpsc::Sender<ProcessOrder>,
    draining: &CancellationToken,
    [events, outcomes]: [&EventHub; 2],
) -> Arc<Desk> {
    let groups = config.groups.iter().zip(groups).map(|(group, ends)| DeskGroup {
        status: ends.status.clone(),
        orders: ends.orders.clone(),
        amendments: ends.amendments.clone(),
        rehearsals: ends.rehearsals.clone(),
        counters: ends.counters.clone(),
        policy: policy_of(group),
    });
    Arc::new(Desk {
        groups: groups.collect(),
        in_force,
        recruiter: recruiter.clone(),
        process,
        events: events.clone(),
        outcomes: outcomes.clone(),
        started: SystemTime::now(),
        draining: draining.clone(),
    })
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

/// What handshakes with the receiver of events need; from here on `keeper` has it.
fn secure_webhook(config: &Config, keeper: &Keeper) -> Result<Option<tls::Client>, Exit> {
    let Some(WebhookSettings { url, tls: Some(files), .. }) = &config.events.webhook else { return Ok(None) };
    let owner = Owner::Webhook(url.authority());
    keeper.client(owner.clone(), files, None).map(Some).map_err(|problem| {
        error!(of = %owner, %problem, "cannot use the certificates");
        Exit::Configuration
    })
}

/// What handshakes with clients need, in the order of the groups and their listeners; from here on `keeper` has it.
fn secure(config: &Config, keeper: &Keeper) -> Result<Vec<Vec<Option<tls::Server>>>, Exit> {
    let secured = config.groups.iter().map(|group| {
        let of_listener = |listener: &crate::config::Listener| {
            let owner = Owner::Listener(listener.bind.to_string());
            let server = listener.tls.as_ref().map(|files| keeper.server(owner.clone(), files));
            server.transpose().map_err(|problem| (owner, problem))
        };
        group.listeners.iter().map(of_listener).collect()
    });
    secured.collect::<Result<_, (Owner, FileProblem)>>().map_err(|(owner, problem)| {
        error!(of = %owner, %problem, "cannot use the certificates");
        Exit::Configuration
    })
}
