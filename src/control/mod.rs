//! The control plane: probes, detector, breaker, decision. One owner of health and of the route.
//!
//! [`group`] builds what one group needs, and starts a [`Prober`] for each backend; the caller starts
//! [`Supervisor::run`].

mod audit;
pub mod checks;
mod chronicle;
pub mod inventory;
mod observed;
pub mod prober;
mod promotion;
mod roster;
pub mod state;
pub mod supervisor;
#[cfg(test)]
mod tests;

use std::time::Instant;

use tokio::sync::{mpsc, watch};

pub use self::prober::Prober;
use self::roster::{Reporting, Roster};
pub use self::supervisor::Supervisor;
use crate::channels::{
    Amendment, Directions, GroupStatus, OBSERVATIONS_MAX, ORDERS_MAX, Order, REPORTS_MAX, Recruit, Rehearsal, Route,
    WorkerReport,
};
use crate::config::Group;
use crate::control::inventory::Bequest;
use crate::control::state::Keeper;
use crate::events::EventHub;
use crate::lifecycle::Lifecycle;
use crate::logic::failover::Saved;

/// The task of one group, and the ends of its channels that others hold.
pub struct GroupControl {
    /// The owner of the decision; to be run. It starts a prober for each backend itself.
    pub supervisor: Supervisor,
    /// For the workers.
    pub reports: mpsc::Sender<WorkerReport>,
    /// For operators.
    pub orders: mpsc::Sender<Order>,
    /// For whoever changes the group itself.
    pub amendments: mpsc::Sender<Amendment>,
    /// For operators who ask what would be.
    pub rehearsals: mpsc::Sender<Rehearsal>,
    /// For the workers.
    pub directions: watch::Receiver<Directions>,
    /// For the admin plane.
    pub status: watch::Receiver<GroupStatus>,
}

/// What a group's control plane is made of, besides its settings.
pub struct Parts {
    /// The group's backends, in the file's order.
    pub recruits: Vec<Recruit>,
    /// How many threads serve clients.
    pub workers: usize,
    /// The origin of the vitals' microseconds.
    pub origin: Instant,
    /// Starts the probers.
    pub lifecycle: Lifecycle,
}

/// Builds the control plane of one group. `saved` comes from the state file, `keeper` writes it; `events` takes what happens.
#[must_use]
pub fn group(
    group: &Group,
    parts: Parts,
    saved: Option<&Saved>,
    keeper: Option<Keeper>,
    events: EventHub,
) -> GroupControl {
    let (reports, worker_reports) = mpsc::channel(REPORTS_MAX);
    let (probe_reports, probes) = mpsc::channel(REPORTS_MAX);
    let (bequest_sender, bequests) = watch::channel(Bequest::default());
    let (observation_sender, observations) = mpsc::channel(OBSERVATIONS_MAX);
    let (orders, operator) = mpsc::channel(ORDERS_MAX);
    let (amendments, amended) = mpsc::channel(ORDERS_MAX);
    let (rehearsals, asked) = mpsc::channel(ORDERS_MAX);
    let Parts { recruits, workers, origin, lifecycle } = parts;
    let route = watch::Sender::new(Route::unknown());
    let reporting = Reporting { probes: probe_reports, observations: observation_sender, bequests };
    let mut roster = Roster::new(group.clone(), (workers, origin), lifecycle, route.subscribe(), reporting);
    let specs = recruits.into_iter().map(|recruit| roster.enroll(recruit)).collect();
    let (directed, directions) = watch::channel(roster.directions(Route::unknown()));
    let reports_in = worker_reports;
    let ends = supervisor::Ends {
        reports: reports_in,
        probes,
        observations,
        operator,
        amended,
        rehearsals: asked,
        route,
        directed,
        keeper,
        events,
        bequests: bequest_sender,
    };
    let (supervisor, status) = Supervisor::new(group, (roster, specs, workers), saved, ends);
    GroupControl { supervisor, reports, orders, amendments, rehearsals, directions, status }
}

/// The time, by the runtime's clock, which tests may stop.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
