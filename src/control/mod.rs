//! The control plane: probes, detector, breaker, decision. One owner of health and of the route.
//!
//! [`group`] builds what one group needs; the caller starts [`Supervisor::run`] and each [`Prober::run`].

mod audit;
pub mod checks;
mod chronicle;
pub mod inventory;
mod observed;
pub mod prober;
mod promotion;
pub mod state;
pub mod supervisor;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Notify, mpsc, watch};

pub use self::prober::Prober;
pub use self::supervisor::Supervisor;
use crate::channels::{
    BackendId, GroupStatus, OBSERVATIONS_MAX, ORDERS_MAX, Order, REPORTS_MAX, Rehearsal, Route, Vitals, WorkerReport,
};
use crate::config::Group;
use crate::control::checks::{Checker, LagWatch};
use crate::control::inventory::{Bequest, Watch};
use crate::control::state::Keeper;
use crate::events::EventHub;
use crate::logic::failover::Saved;
use crate::logic::health::Cadence;
use crate::tls;

/// The tasks of one group, and the ends of its channels that others hold.
pub struct GroupControl {
    /// The owner of the decision; to be run.
    pub supervisor: Supervisor,
    /// One a backend; to be run.
    pub probers: Vec<Prober>,
    /// For the workers.
    pub reports: mpsc::Sender<WorkerReport>,
    /// For operators.
    pub orders: mpsc::Sender<Order>,
    /// For operators who ask what would be.
    pub rehearsals: mpsc::Sender<Rehearsal>,
    /// For the workers.
    pub route: watch::Receiver<Route>,
    /// For the admin plane.
    pub status: watch::Receiver<GroupStatus>,
}

/// What a group's control plane shares with the workers.
pub struct Shared {
    /// The numbers of the group's backends, in the file's order.
    pub ids: Vec<BackendId>,
    /// Each worker's vitals of each of those backends: `vitals[worker][backend]`.
    pub vitals: Vec<Vec<Arc<Vitals>>>,
    /// The origin of the vitals' microseconds.
    pub origin: Instant,
    /// Certificates for each of those backends that is spoken to with TLS.
    pub tls: Vec<Option<tls::Client>>,
}

/// Builds the control plane of one group. `saved` comes from the state file, `keeper` writes it; `events` takes what happens.
#[must_use]
pub fn group(
    group: &Group,
    shared: Shared,
    saved: Option<&Saved>,
    keeper: Option<Keeper>,
    events: EventHub,
) -> GroupControl {
    let (reports, worker_reports) = mpsc::channel(REPORTS_MAX);
    let (probe_reports, probes) = mpsc::channel(REPORTS_MAX);
    let (bequest_sender, bequests) = watch::channel(Bequest::default());
    let (observation_sender, observations) = mpsc::channel(OBSERVATIONS_MAX);
    let (orders, operator) = mpsc::channel(ORDERS_MAX);
    let (rehearsals, asked) = mpsc::channel(ORDERS_MAX);
    let (route_sender, route) = watch::channel(Route::unknown());
    let asks: Vec<Arc<Notify>> = group.backends.iter().map(|_| Arc::new(Notify::new())).collect();
    let probers = group
        .backends
        .iter()
        .enumerate()
        .map(|(index, backend)| Prober {
            backend: shared.ids[index],
            settings: group.health_of(backend).clone(),
            checker: Checker::new(&group.name, backend, group.health_of(backend), shared.tls[index].clone()),
            inventory: (!group.parity.interval.is_zero()).then(|| Watch {
                id: shared.ids[index],
                group: group.name.clone(),
                backend: backend.clone(),
                probe_key: group.health_of(backend).probe_key.clone(),
                tls: shared.tls[index].clone(),
                settings: group.parity,
                bequests: bequests.clone(),
            }),
            lag: backend.checks.lag.clone().map(|check| LagWatch::new(shared.ids[index], check)),
            cadence: Cadence::default(),
            jitter: fastrand::f64(),
            route: route.clone(),
            vitals: shared.vitals.iter().map(|of_worker| Arc::clone(&of_worker[index])).collect(),
            origin: shared.origin,
            ask: Arc::clone(&asks[index]),
            reports: probe_reports.clone(),
            observations: observation_sender.clone(),
        })
        .collect();
    let ends = supervisor::Ends {
        reports: worker_reports,
        probes,
        observations,
        operator,
        rehearsals: asked,
        route: route_sender,
        asks,
        keeper,
        events,
        bequests: bequest_sender,
    };
    let (supervisor, status) = Supervisor::new(group, shared, saved, ends);
    GroupControl { supervisor, probers, reports, orders, rehearsals, route, status }
}

/// The time, by the runtime's clock, which tests may stop.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
