//! The planes: the control of each group, and the threads that serve clients.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::changes;
use super::settings::{commons, multiplexer_settings, users_of};
use super::{ARRIVALS_MAX, GroupEnds, INQUIRIES_MAX, SavedGroups};
use crate::channels::Recruit;
use crate::cli::Exit;
use crate::config::{Backend, Config, Group};
use crate::control::{self, GroupControl, Parts, state};
use crate::events::EventHub;
use crate::lifecycle::Lifecycle;
use crate::logic::multiplexer::Commons;
use crate::net::recruit::Recruiter;
use crate::proxy::hub::HubSpec;
use crate::proxy::inquiry::Question;
use crate::proxy::worker::{self, Arrival, WorkerGroup, WorkerSpec};

/// Starts the control plane of every group, with what was changed at run time before a restart.
pub(super) fn start_control(
    config: &Config,
    recruiter: &Recruiter,
    (saved, keeper): (&SavedGroups, Option<state::Keeper>),
    origin: Instant,
    (lifecycle, events): (&Lifecycle, &EventHub),
) -> Result<Vec<GroupEnds>, Exit> {
    let start_group = |group: &Group| {
        let changes = keeper.as_ref().map(|keeper| keeper.changes(&group.name)).unwrap_or_default();
        let (group, additions) = changes::restored(group, changes, config);
        let mut recruits = Vec::new();
        for backend in &group.backends {
            recruits.push(recruited(recruiter, backend)?);
        }
        recruits.extend(additions.into_iter().filter_map(|(backend, addition)| {
            let refused = |error: &_| tracing::warn!(backend = addition.name, %error, "cannot be added again");
            recruiter.recruit(backend, Some(addition.clone())).inspect_err(refused).ok()
        }));
        let parts = Parts { recruits, workers: config.workers, origin, lifecycle: lifecycle.clone() };
        let control = control::group(&group, parts, saved.get(&group.name), keeper.clone(), events.clone());
        let GroupControl { supervisor, reports, orders, amendments, rehearsals, directions, status } = control;
        lifecycle.start("control supervisor", supervisor.run(lifecycle.stopping()));
        let users = watch::Sender::new(users_of(config, &group));
        let counters = (0..config.workers).map(|_| Arc::default()).collect();
        Ok(GroupEnds { orders, amendments, rehearsals, directions, status, reports, users, counters })
    };
    config.groups.iter().map(start_group).collect()
}

fn recruited(recruiter: &Recruiter, backend: &Backend) -> Result<Recruit, Exit> {
    recruiter.recruit(backend.clone(), None).map_err(|problem| {
        error!(of = %format!("backend {}", backend.name), %problem, "cannot be used");
        Exit::Configuration
    })
}

/// The threads that serve clients, and the application's ends of their channels.
pub(super) struct WorkerThreads {
    pub(super) threads: Vec<JoinHandle<()>>,
    pub(super) arrivals: Vec<mpsc::Sender<Arrival>>,
    pub(super) remaining: Vec<watch::Receiver<usize>>,
    pub(super) heartbeats: Vec<Arc<AtomicU64>>,
}

/// What the workers of one group have in common.
struct GroupShare {
    commons: Arc<Commons>,
    asking: Arc<Vec<mpsc::Sender<Question>>>,
    answering: Vec<mpsc::Receiver<Question>>,
}

impl GroupShare {
    fn new(config: &Config) -> Self {
        let (asking, answering): (Vec<_>, Vec<_>) = (0..config.workers).map(|_| mpsc::channel(INQUIRIES_MAX)).unzip();
        Self { commons: commons(config), asking: Arc::new(asking), answering }
    }
}

/// Starts every worker.
pub(super) fn start_workers(
    config: &Config,
    groups: &[GroupEnds],
    origin: Instant,
    lifecycle: &Lifecycle,
    draining: &CancellationToken,
) -> io::Result<WorkerThreads> {
    let (arrivals, mut receivers): (Vec<_>, Vec<_>) = (0..config.workers).map(|_| mpsc::channel(ARRIVALS_MAX)).unzip();
    let mut shares: Vec<GroupShare> = config.groups.iter().map(|_| GroupShare::new(config)).collect();
    let (mut threads, mut remaining, mut heartbeats) = (Vec::new(), Vec::new(), Vec::new());
    for worker in (0..config.workers).rev() {
        let heartbeat = Arc::new(AtomicU64::new(0));
        heartbeats.push(heartbeat.clone());
        let of_group = |((group, ends), share): ((&Group, &GroupEnds), &mut GroupShare)| WorkerGroup {
            hub: HubSpec {
                directions: ends.directions.clone(),
                worker,
                settings: multiplexer_settings(config, group, worker, share.commons.clone()),
                origin,
                reports: ends.reports.clone(),
                inquiries: share.asking.clone(),
                counters: ends.counters[worker].clone(),
                heartbeat: heartbeat.clone(),
            },
            directions: ends.directions.clone(),
            users: ends.users.subscribe(),
            inquiries: share.answering.pop().expect("one receiver a worker"),
        };
        let groups = config.groups.iter().zip(groups).zip(&mut shares).map(of_group).collect();
        let (left, left_receiver) = watch::channel(usize::MAX);
        threads.push(worker::start(WorkerSpec {
            worker,
            arrivals: receivers.pop().expect("one receiver a worker"),
            groups,
            lifecycle: lifecycle.clone(),
            draining: draining.clone(),
            remaining: left,
        })?);
        remaining.push(left_receiver);
    }
    Ok(WorkerThreads { threads, arrivals, remaining, heartbeats })
}
