//! What has happened to a group: a record of each change, and the latest of them for operators.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::channels::{BackendId, EventRecord};
use crate::events::EventHub;
use crate::logic::failover::{Command, Event, Manner, Removal, Switched, Verdict};
use crate::logic::record::{EventKind, Happening, Severity};

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
    /// Who wanted a backend to come or to go, as long as it has not.
    authors: Vec<(BackendId, String)>,
    switches: BTreeMap<Course, u64>,
    last_switch: Option<(Duration, Duration)>,
    active_since: Option<SystemTime>,
    events: Arc<VecDeque<Arc<EventRecord>>>,
    hub: EventHub,
}

impl Chronicle {
    pub(super) fn new(group: &str, hub: EventHub) -> Self {
        Self {
            group: group.to_owned(),
            names: Vec::new(),
            former: VecDeque::new(),
            authors: Vec::new(),
            switches: BTreeMap::new(),
            last_switch: None,
            active_since: None,
            events: Arc::default(),
            hub,
        }
    }

    /// A backend goes by this name.
    pub(super) fn enroll(&mut self, backend: BackendId, name: &str) {
        self.names.push((backend, name.to_owned()));
    }

    /// Who wanted a backend to come or to go.
    pub(super) fn attribute(&mut self, backend: BackendId, by: &str) {
        self.authors.retain(|(known, _)| *known != backend);
        self.authors.push((backend, by.to_owned()));
    }

    fn author_of(&mut self, event: &Event) -> Option<String> {
        let (Event::BackendAdded { backend, .. }
        | Event::BackendRemoved { backend }
        | Event::BackendReplaced { backend, .. }) = event
        else {
            return None;
        };
        self.authors.extract_if(.., |(known, _)| known == backend).map(|(_, by)| by).last()
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

    pub(super) fn events(&self) -> Arc<VecDeque<Arc<EventRecord>>> {
        Arc::clone(&self.events)
    }

    /// The latest change in words.
    pub(super) fn last_text(&self) -> String {
        self.events.back().map(|event| event.happening.text.clone()).unwrap_or_default()
    }

    /// Something changed, in this epoch.
    pub(super) fn tell(&mut self, event: &Event, epoch: u64) {
        let author = self.author_of(event);
        let (epoch, mut happening) = match event {
            Event::Switched(switched) => {
                self.count(switched);
                (switched.epoch, Happening::of(event, |id| self.name_of(id)))
            }
            _ => (epoch, Happening::of(event, |id| self.name_of(id))),
        };
        if author.is_some() {
            happening.details.by = author;
        }
        let record = self.hub.tell(Some(&self.group), Some(epoch), happening);
        // Of interest while it lasts, which the status shows; not among the changes.
        let is_alarm = record.happening.severity == Severity::Warning;
        let is_passing = record.happening.kind == EventKind::FailbackBlocked && !is_alarm;
        if is_passing || record.happening.kind == EventKind::WorkersLate {
            return;
        }
        let events = Arc::make_mut(&mut self.events);
        if events.len() >= EVENTS_MAX {
            events.pop_front();
        }
        events.push_back(record);
    }

    /// An operator's order was refused; its audit line stands in the log already.
    pub(super) fn refuse(&self, command: &Command, by: &str, why: &str, epoch: u64) {
        if let Command::Switch { to, .. } = command {
            let happening = Happening::switch_refused(self.name_of(*to), by, why);
            self.hub.publish(Some(&self.group), Some(epoch), happening);
        }
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
            Command::Drain { backend } => format!("drain {}", self.name_of(*backend)),
            Command::EndDrain { backend } => format!("end the drain of {}", self.name_of(*backend)),
            Command::Report { backend, report } if report.verdict == Verdict::Up => {
                format!("take back the report on {} by {}", self.name_of(*backend), report.reporter)
            }
            Command::Report { backend, report } => {
                let name = self.name_of(*backend);
                format!(
                    "report {name} {} for {:?} by {}: {}",
                    report.verdict, report.length, report.reporter, report.reason
                )
            }
            Command::Pause { length, writes_only: false } => format!("pause clients for {length:?}"),
            Command::Pause { length, writes_only: true } => format!("pause the writes of clients for {length:?}"),
            Command::Resume => "resume clients".to_owned(),
            Command::Drill { drill, length, .. } => {
                format!("drill {} for {length:?} on {}", drill.fault, self.name_of(drill.backend))
            }
            Command::EndDrill => "end the drill".to_owned(),
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
}
