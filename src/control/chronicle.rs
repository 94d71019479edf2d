//! What has happened to a group: a line in the log for each change, and the latest of them for operators.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::channels::{BackendId, EventLine};
use crate::logic::failover::{Command, Event, Manner, Reason, Removal, Switched};

/// Changes that operators can look back at.
const EVENTS_MAX: usize = 64;

/// Different switches that are counted; beyond that those of backends that are gone are forgotten.
const COURSES_MAX: usize = 256;

/// From, to, and why.
type Course = (String, String, String);

/// The history of one group.
pub(super) struct Chronicle {
    group: String,
    names: Vec<(BackendId, String)>,
    /// What backends that are gone were called, since what is told of them comes late.
    former: VecDeque<(BackendId, String)>,
    switches: BTreeMap<Course, u64>,
    last_switch: Option<(Duration, Duration)>,
    active_since: Option<SystemTime>,
    events: Arc<VecDeque<EventLine>>,
}

impl Chronicle {
    pub(super) fn new(group: &str) -> Self {
        Self {
            group: group.to_owned(),
            names: Vec::new(),
            former: VecDeque::new(),
            switches: BTreeMap::new(),
            last_switch: None,
            active_since: None,
            events: Arc::default(),
        }
    }

    /// A backend goes by this name.
    pub(super) fn enroll(&mut self, backend: BackendId, name: &str) {
        self.names.push((backend, name.to_owned()));
    }

    /// A backend is gone.
    pub(super) fn dismiss(&mut self, backend: BackendId) {
        if self.former.len() >= EVENTS_MAX {
            self.former.pop_front();
        }
        self.former.extend(self.names.extract_if(.., |(id, _)| *id == backend));
    }

    pub(super) fn group(&self) -> &str {
        &self.group
    }

    /// Switches so far: from, to, why, how many.
    pub(super) fn switches(&self) -> Vec<(String, String, String, u64)> {
        let switches = self.switches.iter();
        switches.map(|((from, to, reason), count)| (from.clone(), to.clone(), reason.clone(), *count)).collect()
    }

    /// Detection and switch time of the last switch.
    pub(super) const fn last_switch(&self) -> Option<(Duration, Duration)> {
        self.last_switch
    }

    pub(super) const fn active_since(&self) -> Option<SystemTime> {
        self.active_since
    }

    pub(super) fn events(&self) -> Arc<VecDeque<EventLine>> {
        Arc::clone(&self.events)
    }

    /// The latest change in words.
    pub(super) fn last_text(&self) -> String {
        self.events.back().map(|event| event.text.clone()).unwrap_or_default()
    }

    /// Something changed.
    pub(super) fn tell(&mut self, event: &Event) {
        self.log(event);
        if let Event::Switched(switched) = event {
            self.count(switched);
        }
        let Some((kind, text)) = self.line(event) else { return };
        let events = Arc::make_mut(&mut self.events);
        if events.len() >= EVENTS_MAX {
            events.pop_front();
        }
        events.push_back(EventLine { at: SystemTime::now(), kind, text });
    }

    /// An operator's command in words.
    pub(super) fn describe(&self, command: &Command) -> String {
        match command {
            Command::Switch { to, manner: Manner::Planned } => format!("switch to {}", self.name_of(*to)),
            Command::Switch { to, manner: Manner::Forced } => format!("force the switch to {}", self.name_of(*to)),
            Command::SetWeight { backend, weight } => {
                format!("set the weight of {} to {weight}", self.name_of(*backend))
            }
            Command::Stay { backend, length } => format!("stay on {} for {length:?}", self.name_of(*backend)),
            Command::EndStay => "end the stay".to_owned(),
            Command::Ban { backend, length } => format!("ban {} for {length:?}", self.name_of(*backend)),
            Command::EndBan { backend } => format!("end the ban of {}", self.name_of(*backend)),
            Command::Remove { backend, removal: Removal::Forced } => {
                format!("force the removal of {}", self.name_of(*backend))
            }
            Command::Remove { backend, .. } => format!("remove {}", self.name_of(*backend)),
        }
    }

    fn count(&mut self, switched: &Switched) {
        let from = switched.from.map_or("none", |from| self.name_of(from)).to_owned();
        let course = (from, self.name_of(switched.to).to_owned(), switched.reason.to_string());
        self.last_switch = Some((switched.detect, switched.switch));
        self.active_since = Some(SystemTime::now());
        if self.switches.len() >= COURSES_MAX {
            let is_known = |name: &str| name == "none" || self.names.iter().any(|(_, known)| known == name);
            self.switches.retain(|(from, to, _), _| is_known(from) && is_known(to));
        }
        *self.switches.entry(course).or_default() += 1;
    }

    pub(super) fn name_of(&self, backend: BackendId) -> &str {
        self.names.iter().chain(&self.former).find(|(id, _)| *id == backend).map_or("?", |(_, name)| name)
    }

    /// What operators read of it later; `None`: nothing.
    fn line(&self, event: &Event) -> Option<(&'static str, String)> {
        let name = |backend: &BackendId| self.name_of(*backend);
        Some(match event {
            Event::Switched(switched) => ("switched", self.switch_line(switched)),
            Event::SwitchCalledOff { to, why, .. } => {
                ("switch_called_off", format!("the planned switch to {} was called off: {why}", name(to)))
            }
            Event::BackendUp { backend } => ("backend_up", format!("{} is healthy", name(backend))),
            Event::BackendDown { backend, fault } => {
                ("backend_down", format!("{} is unhealthy: {}: {}", name(backend), fault.reason, fault.cause))
            }
            Event::BreakerOpened { backend, grace } => {
                ("breaker_opened", format!("the breaker of {} opened for {grace:?}", name(backend)))
            }
            Event::BreakerHalfOpen { backend } => {
                ("breaker_half_open", format!("the breaker of {} is half-open: probes decide", name(backend)))
            }
            Event::BreakerClosed { backend } => ("breaker_closed", format!("the breaker of {} closed", name(backend))),
            Event::ProbeWarning { backend, warning: Some(warning) } => {
                ("probe_warning", format!("{}: {warning}", name(backend)))
            }
            Event::NoneHealthy => ("none_healthy", "no backend is healthy: staying on the last active".to_owned()),
            Event::Refusing => ("refusing", "no backend is healthy: commands are refused at once".to_owned()),
            Event::Recovered { backend, after } => {
                ("recovered", format!("{} can serve again after {after:?} without any", name(backend)))
            }
            Event::WeightChanged { backend, weight } => {
                ("weight_changed", format!("{} has the weight {weight}", name(backend)))
            }
            Event::StayBegan { backend, length } => ("stay_began", format!("held on {} for {length:?}", name(backend))),
            Event::StayEnded { backend, why } => ("stay_ended", format!("no longer held on {}: {why}", name(backend))),
            Event::Banned { backend, length } => ("banned", format!("{} is banned for {length:?}", name(backend))),
            Event::BanEnded { backend } => ("ban_ended", format!("{} is no longer banned", name(backend))),
            Event::BackendAdded { backend } => ("backend_added", format!("{} was added", name(backend))),
            Event::BackendRemoved { backend } => ("backend_removed", format!("{} was removed", name(backend))),
            Event::BackendReplaced { by, .. } => {
                ("backend_replaced", format!("{} is another server from now on", name(by)))
            }
            Event::ProbeWarning { warning: None, .. } | Event::FailbackBlocked { .. } | Event::WorkersLate { .. } => {
                return None;
            }
        })
    }

    fn switch_line(&self, switched: &Switched) -> String {
        let from = switched.from.map_or("none", |from| self.name_of(from));
        let (to, judged) = (self.name_of(switched.to), switched.judged);
        let cause = match switched.cause.as_str() {
            "" => String::new(),
            cause => format!(" ({cause})"),
        };
        format!(
            "switched from {from} to {to} in {:.1} ms: {}{cause}; epoch {}; in flight {}: moved {}, repeated {}, \
             rearmed {}, uncertain {}, not applied {}, aborted {}, gone {}",
            switched.switch.as_secs_f64() * 1e3,
            switched.reason,
            switched.epoch,
            judged.total(),
            judged.moved,
            judged.repeated,
            judged.rearmed,
            judged.uncertain,
            judged.not_applied,
            judged.aborted,
            judged.gone,
        )
    }

    /// One line for each change of state.
    fn log(&self, event: &Event) {
        let group = self.group.as_str();
        match event {
            Event::Switched(switched) => self.log_switch(switched),
            Event::SwitchCalledOff { to, why, retry_in } => {
                let to = self.name_of(*to);
                tracing::warn!(group, to, %why, ?retry_in, "planned switch called off");
            }
            Event::BackendUp { backend } => {
                let backend = self.name_of(*backend);
                tracing::info!(group, backend, "backend is healthy");
            }
            Event::BackendDown { backend, fault } => {
                let backend = self.name_of(*backend);
                tracing::warn!(group, backend, reason = %fault.reason, cause = fault.cause, "backend is unhealthy");
            }
            Event::BreakerOpened { backend, grace } => {
                let backend = self.name_of(*backend);
                tracing::info!(group, backend, ?grace, "breaker opened");
            }
            Event::BreakerHalfOpen { backend } => {
                let backend = self.name_of(*backend);
                tracing::info!(group, backend, "breaker is half-open: probes decide");
            }
            Event::BreakerClosed { backend } => {
                let backend = self.name_of(*backend);
                tracing::info!(group, backend, "breaker closed");
            }
            Event::ProbeWarning { backend, warning: Some(warning) } => {
                let backend = self.name_of(*backend);
                tracing::warn!(group, backend, warning, "the health check tells less than it should");
            }
            Event::ProbeWarning { backend, warning: None } => {
                let backend = self.name_of(*backend);
                tracing::info!(group, backend, "the health check tells all again");
            }
            Event::NoneHealthy => tracing::error!(group, "no backend is healthy: staying on the last active"),
            Event::Refusing => tracing::error!(group, "no backend is healthy: commands are refused at once"),
            Event::Recovered { backend, after } => {
                let backend = self.name_of(*backend);
                tracing::warn!(group, backend, ?after, "a backend can serve again");
            }
            Event::FailbackBlocked { reason: Some(reason) } => {
                tracing::info!(group, %reason, "a heavier backend is healthy but not returned to");
            }
            Event::FailbackBlocked { reason: None } => tracing::debug!(group, "failback is no longer blocked"),
            Event::WorkersLate { missing } => {
                tracing::error!(group, missing, "workers did not acknowledge a switch in time");
            }
            Event::WeightChanged { backend, weight } => {
                let backend = self.name_of(*backend);
                tracing::info!(group, backend, weight, "weight changed");
            }
            Event::StayBegan { backend, length } => {
                let backend = self.name_of(*backend);
                tracing::warn!(group, backend, ?length, "an operator holds the active");
            }
            Event::StayEnded { backend, why } => {
                let backend = self.name_of(*backend);
                tracing::warn!(group, backend, %why, "the active is no longer held");
            }
            Event::Banned { backend, length } => {
                let backend = self.name_of(*backend);
                tracing::warn!(group, backend, ?length, "backend banned");
            }
            Event::BanEnded { backend } => {
                let backend = self.name_of(*backend);
                tracing::warn!(group, backend, "ban ended");
            }
            Event::BackendAdded { backend } => {
                let backend = self.name_of(*backend);
                tracing::info!(group, backend, "backend added");
            }
            Event::BackendRemoved { backend } => {
                let backend = self.name_of(*backend);
                tracing::info!(group, backend, "backend removed");
            }
            Event::BackendReplaced { by, .. } => {
                let backend = self.name_of(*by);
                tracing::info!(group, backend, "backend replaced: another server has its name");
            }
        }
    }

    fn log_switch(&self, switched: &Switched) {
        let from = switched.from.map_or("none", |from| self.name_of(from)).to_owned();
        let to = self.name_of(switched.to).to_owned();
        let reason = switched.reason.to_string();
        let judged = switched.judged;
        // The first choice is how things should be; any other switch is worth a look.
        let is_start = switched.reason == Reason::Start;
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    group = self.group,
                    from,
                    to,
                    reason,
                    cause = switched.cause,
                    epoch = switched.epoch,
                    detect_us = micros(switched.detect),
                    switch_us = micros(switched.switch),
                    in_flight = judged.total(),
                    moved = judged.moved,
                    repeated = judged.repeated,
                    rearmed = judged.rearmed,
                    uncertain = judged.uncertain,
                    not_applied = judged.not_applied,
                    aborted = judged.aborted,
                    gone = judged.gone,
                    "switched"
                )
            };
        }
        if is_start { line!(info) } else { line!(warn) }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
