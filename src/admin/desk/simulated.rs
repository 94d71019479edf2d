//! What a fault would lead to, in words.

use std::sync::Arc;
use std::time::Duration;

use crate::channels::{BackendId, DrillFault, GroupStatus, Simulation};
use crate::logic::settings::RetryCeiling;
use crate::telemetry::counters::{Mode, WorkerCounters};

/// The answer to SIMULATE, a line each.
pub(super) fn in_words(
    status: &GroupStatus,
    counters: &[Arc<WorkerCounters>],
    ceiling: RetryCeiling,
    (backend, fault): (BackendId, DrillFault),
    simulation: &Simulation,
) -> Vec<String> {
    let name = |id: BackendId| {
        status.backends.iter().find(|backend| backend.id == id).map_or("?", |backend| backend.name.as_str())
    };
    let is_active = status.route.active == Some(backend);
    let mut lines = vec![format!("{fault} of {}, now; nothing was touched:", name(backend))];
    if !is_active {
        lines.push("it is not the active: clients would see nothing of it".to_owned());
        let next = status.backends.iter().any(|other| other.id != backend && Some(other.id) == status.route.standby);
        lines.push(match next {
            true => format!(
                "{} would still be there to take over from the active",
                name(status.route.standby.unwrap_or(backend))
            ),
            false => "after that no other backend could take over from the active".to_owned(),
        });
        return lines;
    }
    match (simulation.detected_after, simulation.served_after, simulation.active) {
        (Some(detected), Some(served), Some(to)) => {
            let quiet = simulation.without_traffic.map_or_else(
                || ", and not within 60 s without any".to_owned(),
                |quiet| format!(", {} without any", millis(quiet)),
            );
            lines.push(format!(
                "with commands under way it would be seen after {}, and {} would serve after {}{quiet}",
                millis(detected),
                name(to),
                millis(served)
            ));
            if let Some((_, fault)) = simulation.fault(backend) {
                lines.push(format!("by: {}: {}", fault.reason, fault.cause));
            }
        }
        _ => lines.push(
            "no other backend could take over: clients would wait for failover.hold, then get -LOADING".to_owned(),
        ),
    }
    lines.push(format!("in flight: {}", in_flight(ceiling)));
    lines.push(affected(counters));
    lines
}

const fn in_flight(ceiling: RetryCeiling) -> &'static str {
    match ceiling {
        RetryCeiling::Never => "what was not sent moves; what was sent without a reply is -UNCERTAIN",
        RetryCeiling::ReadOnly => "what was not sent moves; reads are repeated; writes without a reply are -UNCERTAIN",
        RetryCeiling::WriteChecked => {
            "what was not sent moves; reads and checked writes are repeated; the rest is -UNCERTAIN"
        }
        RetryCeiling::WriteLastWins => {
            "what was not sent moves; reads and writes such as SET are repeated; INCR, scripts and the like are -UNCERTAIN"
        }
        RetryCeiling::WriteAccumulating => {
            "what was not sent moves; reads and all writes are repeated, INCR too; scripts are -UNCERTAIN"
        }
        RetryCeiling::Always => "everything is moved or repeated, and may be applied twice",
    }
}

fn affected(counters: &[Arc<WorkerCounters>]) -> String {
    let sum = |of: &dyn Fn(&WorkerCounters) -> u64| counters.iter().map(|worker| of(worker)).sum::<u64>();
    let sessions = |mode: Mode| sum(&|worker| worker.sessions(mode).get());
    format!(
        "now there are {} clients: {} with a connection of their own, {} blocked, {} with subscriptions, which would be \
         restored; {} commands are in flight",
        sum(&|worker| worker.clients.get()),
        sessions(Mode::Pinned),
        sessions(Mode::Blocked),
        sessions(Mode::Subscribed),
        sum(&|worker| worker.inflight.get()),
    )
}

fn millis(duration: Duration) -> String {
    match duration.as_millis() {
        0..=10 => "a few milliseconds".to_owned(),
        millis => format!("about {millis} ms"),
    }
}
