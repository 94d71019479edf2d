//! Words for everything that happens: one function for each kind, and one match for the machine's events.

use std::time::Duration;

use super::{Details, EventKind, Failed, Happening, InFlight, Millis, Outcomes, Severity, State};
use crate::logic::failover::{Blocked, Event, Reason, Switched};
use crate::logic::judged::Judged;
use crate::logic::route::BackendId;

/// Who changes a group, until it is known better.
const AN_OPERATOR: &str = "operator";

impl Happening {
    pub(super) fn new(
        kind: EventKind,
        severity: Severity,
        title: &'static str,
        text: String,
        details: Details,
    ) -> Self {
        Self { kind, severity, title, text, details: Box::new(details) }
    }

    /// An event of the decision machine; `name` gives backends their names.
    pub fn of<'n>(event: &Event, name: impl Fn(BackendId) -> &'n str) -> Self {
        use EventKind as Kind;
        use Severity::{Debug, Error, Info, Warning};
        let about = |backend: &BackendId| Details { backend: Some(name(*backend).to_owned()), ..Details::default() };
        match event {
            Event::Switched(switched) => Self::switched(switched, name),
            Event::SwitchCalledOff { to, why, retry_in } => {
                let text = format!("the planned switch to {} was called off: {why}", name(*to));
                let to = Some(name(*to).to_owned());
                let details = Details { to, reason: Some(why.to_string()), retry_in: retry_in.map(Millis), ..empty() };
                Self::new(Kind::SwitchCalledOff, Warning, "planned switch called off", text, details)
            }
            Event::BackendUp { backend } => {
                let text = format!("{} is healthy", name(*backend));
                let details = Details { state: Some(State::Healthy), ..about(backend) };
                Self::new(Kind::BackendHealth, Info, "backend is healthy", text, details)
            }
            Event::BackendDown { backend, fault } => {
                let text = format!("{} is unhealthy: {}: {}", name(*backend), fault.reason, fault.cause);
                let (reason, cause) = (Some(fault.reason.to_string()), Some(fault.cause.clone()));
                let details = Details { state: Some(State::Unhealthy), reason, cause, ..about(backend) };
                Self::new(Kind::BackendHealth, Warning, "backend is unhealthy", text, details)
            }
            Event::BreakerOpened { backend, grace } => {
                let text = format!("the breaker of {} opened for {grace:?}", name(*backend));
                let details = Details { state: Some(State::Open), length: Some(Millis(*grace)), ..about(backend) };
                Self::new(Kind::Breaker, Info, "breaker opened", text, details)
            }
            Event::BreakerHalfOpen { backend } => {
                let text = format!("the breaker of {} is half-open: probes decide", name(*backend));
                let details = Details { state: Some(State::HalfOpen), ..about(backend) };
                Self::new(Kind::Breaker, Info, "breaker is half-open: probes decide", text, details)
            }
            Event::BreakerClosed { backend } => {
                let text = format!("the breaker of {} closed", name(*backend));
                let details = Details { state: Some(State::Closed), ..about(backend) };
                Self::new(Kind::Breaker, Info, "breaker closed", text, details)
            }
            Event::ProbeWarning { backend, warning: Some(warning) } => {
                let text = format!("{}: {warning}", name(*backend));
                let details = Details { state: Some(State::Began), reason: Some(warning.clone()), ..about(backend) };
                Self::new(Kind::CheckWarning, Warning, "the health check tells less than it should", text, details)
            }
            Event::ProbeWarning { backend, warning: None } => {
                let text = format!("{}: the health check tells all again", name(*backend));
                let details = Details { state: Some(State::Ended), ..about(backend) };
                Self::new(Kind::CheckWarning, Info, "the health check tells all again", text, details)
            }
            Event::Degraded { backend, evidence: Some(evidence) } => {
                let text = format!("{} answers too slowly: {evidence}", name(*backend));
                let details = Details { state: Some(State::Began), cause: Some(evidence.clone()), ..about(backend) };
                Self::new(Kind::BackendDegraded, Info, "backend answers too slowly", text, details)
            }
            Event::Degraded { backend, evidence: None } => {
                let text = format!("{} answers in time again", name(*backend));
                let details = Details { state: Some(State::Ended), ..about(backend) };
                Self::new(Kind::BackendDegraded, Info, "backend answers in time again", text, details)
            }
            Event::NoneHealthy => {
                let title = "no backend is healthy: staying on the last active";
                Self::new(Kind::NoneHealthy, Error, title, title.to_owned(), empty())
            }
            Event::Refusing => {
                let title = "no backend is healthy: commands are refused at once";
                Self::new(Kind::Refusing, Error, title, title.to_owned(), empty())
            }
            Event::Recovered { backend, after } => {
                let text = format!("{} can serve again after {after:?} without any", name(*backend));
                let details = Details { after: Some(Millis(*after)), ..about(backend) };
                Self::new(Kind::Recovered, Warning, "a backend can serve again", text, details)
            }
            Event::FailbackBlocked { reason: Some(reason) } => {
                let title = "a heavier backend is healthy but not returned to";
                let details = Details { state: Some(State::Began), reason: Some(reason.to_string()), ..empty() };
                // The guard is an alarm: something comes and goes, and nobody but a person will end it.
                let severity = if *reason == Blocked::FlapGuard { Warning } else { Info };
                Self::new(Kind::FailbackBlocked, severity, title, format!("{title}: {reason}"), details)
            }
            Event::FailbackBlocked { reason: None } => {
                let title = "failback is no longer blocked";
                let details = Details { state: Some(State::Ended), ..empty() };
                Self::new(Kind::FailbackBlocked, Debug, title, title.to_owned(), details)
            }
            Event::WorkersLate { missing } => {
                let title = "workers did not acknowledge a switch in time";
                let details = Details { missing: u64::try_from(*missing).ok(), ..empty() };
                Self::new(Kind::WorkersLate, Error, title, format!("{missing} {title}"), details)
            }
            Event::WeightChanged { backend, weight } => {
                let text = format!("{} has the weight {weight}", name(*backend));
                let details = Details { weight: Some(*weight), ..about(backend) };
                Self::new(Kind::BackendWeight, Info, "weight changed", text, details)
            }
            Event::StayBegan { backend, length } => {
                let text = format!("held on {} for {length:?}", name(*backend));
                let details = Details { state: Some(State::Began), length: Some(Millis(*length)), ..about(backend) };
                Self::new(Kind::Stay, Warning, "an operator holds the active", text, details)
            }
            Event::StayEnded { backend, why } => {
                let text = format!("no longer held on {}: {why}", name(*backend));
                let reason = Some(why.to_string());
                let details = Details { state: Some(State::Ended), reason, ..about(backend) };
                Self::new(Kind::Stay, Warning, "the active is no longer held", text, details)
            }
            Event::Banned { backend, length } => {
                let text = format!("{} is banned for {length:?}", name(*backend));
                let details = Details { state: Some(State::Began), length: Some(Millis(*length)), ..about(backend) };
                Self::new(Kind::Ban, Warning, "backend banned", text, details)
            }
            Event::BackendAdded { backend, weight } => Self::backend_added(name(*backend), *weight, AN_OPERATOR),
            Event::BackendRemoved { backend } => Self::backend_removed(name(*backend), AN_OPERATOR),
            Event::BackendReplaced { by, .. } => Self::backend_replaced(name(*by), AN_OPERATOR),
            Event::Replication { backend, news } => Self::replication(name(*backend), news),
            Event::BanEnded { backend } => {
                let text = format!("{} is no longer banned", name(*backend));
                let details = Details { state: Some(State::Ended), ..about(backend) };
                Self::new(Kind::Ban, Warning, "ban ended", text, details)
            }
            Event::Drained { .. }
            | Event::DrainEnded { .. }
            | Event::Reported { .. }
            | Event::ReportEnded { .. }
            | Event::Stranded { .. }
            | Event::Paused { .. }
            | Event::Resumed { .. }
            | Event::DrillBegan { .. }
            | Event::DrillEnded { .. } => Self::of_order(event, name),
        }
    }

    fn switched<'n>(switched: &Switched, name: impl Fn(BackendId) -> &'n str) -> Self {
        let (from, to, judged) = (switched.from.map(&name), name(switched.to), switched.judged);
        let cause = match switched.cause.as_str() {
            "" => String::new(),
            cause => format!(" ({cause})"),
        };
        let text = format!(
            "switched from {} to {to} in {:.1} ms: {}{cause}; epoch {}; in flight {}: {}",
            from.unwrap_or("none"),
            switched.switch.as_secs_f64() * 1e3,
            switched.reason,
            switched.epoch,
            judged.total(),
            fates(judged),
        );
        let details = Details {
            from: from.map(str::to_owned),
            to: Some(to.to_owned()),
            reason: Some(switched.reason.to_string()),
            cause: Some(switched.cause.clone()),
            detect: Some(Millis(switched.detect)),
            switch: Some(Millis(switched.switch)),
            in_flight: Some(InFlight(judged)),
            ..empty()
        };
        // The first choice is how things should be; any other switch is worth a look.
        let severity = if switched.reason == Reason::Start { Severity::Info } else { Severity::Warning };
        Self::new(EventKind::ActiveChanged, severity, "switched", text, details)
    }

    /// An operator's switch was not begun; the audit line is its log line.
    #[must_use]
    pub fn switch_refused(to: &str, by: &str, why: &str) -> Self {
        let (to, by, reason) = (Some(to.to_owned()), Some(by.to_owned()), Some(why.to_owned()));
        let text = format!("the switch to {} was refused: {why}", to.as_deref().unwrap_or_default());
        let details = Details { to, by, reason, ..empty() };
        Self::new(EventKind::SwitchRefused, Severity::Warning, "switch refused", text, details)
    }

    /// Commands failed in the last second.
    #[must_use]
    pub fn commands_failed(failed: Failed) -> Self {
        let text = format!(
            "{} commands failed in a second: uncertain {}, not applied {}, aborted {}, gone {}, refused {}",
            failed.total(),
            failed.uncertain,
            failed.not_applied,
            failed.aborted,
            failed.gone,
            failed.refused,
        );
        let details = Details { failed: Some(failed), ..empty() };
        Self::new(EventKind::CommandsFailed, Severity::Info, "commands failed", text, details)
    }

    /// Another server has a backend's name from now on.
    #[must_use]
    pub fn backend_replaced(backend: &str, by: &str) -> Self {
        let text = format!("{backend} is another server from now on");
        let details = Details { by: Some(by.to_owned()), ..of_backend(backend) };
        Self::new(EventKind::BackendReplaced, Severity::Warning, "backend replaced", text, details)
    }

    /// A backend was added while running.
    #[must_use]
    pub fn backend_added(backend: &str, weight: f64, by: &str) -> Self {
        let text = format!("{backend} was added with the weight {weight}");
        let details = Details { weight: Some(weight), by: Some(by.to_owned()), ..of_backend(backend) };
        Self::new(EventKind::BackendAdded, Severity::Warning, "backend added", text, details)
    }

    /// A backend was removed while running.
    #[must_use]
    pub fn backend_removed(backend: &str, by: &str) -> Self {
        let details = Details { by: Some(by.to_owned()), ..of_backend(backend) };
        let text = format!("{backend} was removed");
        Self::new(EventKind::BackendRemoved, Severity::Warning, "backend removed", text, details)
    }

    /// Messages of subscriptions may have been missed between two backends.
    #[must_use]
    pub fn gap(from: &str, to: &str, reason: &str, length: Option<Duration>) -> Self {
        let text = format!("messages between {from} and {to} may be missing: {reason}");
        let (from, to, reason) = (Some(from.to_owned()), Some(to.to_owned()), Some(reason.to_owned()));
        let details = Details { from, to, reason, length: length.map(Millis), ..empty() };
        Self::new(EventKind::Gap, Severity::Warning, "subscriptions have a gap", text, details)
    }

    /// The configuration was read again: what changed, or what is wrong with it.
    #[must_use]
    pub fn config_reloaded(outcome: Result<Vec<String>, String>) -> Self {
        let kind = EventKind::ConfigReloaded;
        match outcome {
            Ok(changes) => {
                let text = format!("the configuration was reloaded: {} changes", changes.len());
                let details = Details { state: Some(State::Accepted), changes: Some(changes), ..empty() };
                Self::new(kind, Severity::Info, "configuration reloaded", text, details)
            }
            Err(problems) => {
                let title = "the configuration was not reloaded: what was in force stays";
                let details = Details { state: Some(State::Refused), reason: Some(problems), ..empty() };
                Self::new(kind, Severity::Error, title, title.to_owned(), details)
            }
        }
    }

    /// Whoever reads was too slow for so many records.
    #[must_use]
    pub fn lost(records: u64) -> Self {
        let text = format!("{records} records are gone: they were not read in time");
        let details = Details { lost: Some(records), ..empty() };
        Self::new(EventKind::Lost, Severity::Warning, "records lost", text, details)
    }

    /// What a second brought.
    #[must_use]
    pub fn outcomes(outcomes: Outcomes) -> Self {
        let text = format!("{} ok, {} errors, {} failed", outcomes.ok, outcomes.errors, outcomes.failed.total());
        let details = Details { outcomes: Some(outcomes), ..empty() };
        Self::new(EventKind::Outcomes, Severity::Debug, "outcomes", text, details)
    }
}

/// A judgement in words.
pub(super) fn fates(judged: Judged) -> String {
    format!(
        "moved {}, repeated {}, rearmed {}, uncertain {}, not applied {}, aborted {}, gone {}",
        judged.moved,
        judged.repeated,
        judged.rearmed,
        judged.uncertain,
        judged.not_applied,
        judged.aborted,
        judged.gone,
    )
}

pub(super) fn empty() -> Details {
    Details::default()
}

fn of_backend(backend: &str) -> Details {
    Details { backend: Some(backend.to_owned()), ..empty() }
}
