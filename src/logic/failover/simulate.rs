//! What a fault would lead to: a copy of the machine is fed with it on a clock of its own.

use std::time::{Duration, Instant};

use super::event::{Event, Output};
use super::{Failover, Fault, Reason};
use crate::logic::detector::Sample;
use crate::logic::drill::DrillFault;
use crate::logic::health::ProbeVerdict;
use crate::logic::report::{ProbeReport, WorkerReport};
use crate::logic::route::{BackendId, Phase};

/// Nothing later than this is looked at.
const LENGTH: Duration = Duration::from_secs(60);
/// How often the clock of the copy is read.
const STEP: Duration = Duration::from_millis(5);
/// What a healthy backend takes to answer a probe.
const ROUND_TRIP: Duration = Duration::from_millis(1);

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Simulation {
    /// What was told, and how long after the fault.
    pub events: Vec<(Duration, Event)>,
    /// Who would serve at the end.
    pub active: Option<BackendId>,
    /// From the fault to the decision to switch; `None`: no switch.
    pub detected_after: Option<Duration>,
    /// From the fault until the new active serves.
    pub served_after: Option<Duration>,
    /// The fault would be seen by health checks alone: no command was waiting for it.
    pub without_traffic: Option<Duration>,
}

/// The copy and what is known of its surroundings.
struct Rehearsal {
    machine: Failover,
    began_at: Instant,
    now: Instant,
    backend: BackendId,
    fault: DrillFault,
    has_traffic: bool,
    /// Probes under way: of whom, asked for by the machine, since when, due when.
    probes: Vec<(BackendId, bool, Instant, Instant)>,
    /// A replica no more.
    promoted: Option<BackendId>,
    events: Vec<(Duration, Event)>,
    detected_after: Option<Duration>,
    served_after: Option<Duration>,
}

impl Failover {
    /// What would happen if `backend` had this fault now, with commands under way, and with none.
    #[must_use]
    pub fn simulate(&self, now: Instant, backend: BackendId, fault: DrillFault) -> Simulation {
        let quiet = Rehearsal::new(self, now, backend, fault, false).run();
        let mut busy = Rehearsal::new(self, now, backend, fault, true).run();
        busy.without_traffic = quiet.served_after;
        busy
    }
}

impl Rehearsal {
    fn new(machine: &Failover, now: Instant, backend: BackendId, fault: DrillFault, has_traffic: bool) -> Self {
        let mut machine = machine.clone();
        machine.outputs.clear();
        machine.drilling = None;
        let mut rehearsal = Self {
            machine,
            began_at: now,
            now,
            backend,
            fault,
            has_traffic,
            probes: Vec::new(),
            promoted: None,
            events: Vec::new(),
            detected_after: None,
            served_after: None,
        };
        let ids: Vec<BackendId> = rehearsal.machine.members.iter().map(|member| member.id).collect();
        ids.into_iter().for_each(|id| rehearsal.begin_probe(id, false, rehearsal.interval(id)));
        rehearsal
    }

    fn run(mut self) -> Simulation {
        if self.has_traffic {
            self.hurt();
        }
        while self.now < self.began_at + LENGTH && self.served_after.is_none() {
            self.now += STEP;
            self.end_probes();
            self.look();
            self.machine.on_tick(self.now, 0.5);
            self.follow();
        }
        Simulation {
            events: self.events,
            active: self.machine.active,
            detected_after: self.detected_after,
            served_after: self.served_after,
            without_traffic: None,
        }
    }

    /// What the data path sees at the first moment.
    fn hurt(&mut self) {
        let (backend, at) = (self.backend, self.now);
        match self.fault {
            DrillFault::Kill => {
                let cause = "connection reset".to_owned();
                let epoch = self.machine.epoch;
                self.machine.on_worker(at, WorkerReport::LinkLost { backend, epoch, at, cause });
            }
            DrillFault::Readonly => {
                self.machine.on_worker(at, WorkerReport::CannotServe { backend, at, word: "READONLY" });
            }
            DrillFault::Hang | DrillFault::Slow { .. } => {}
        }
        self.follow();
    }

    /// The vitals: silence, if that is the fault and somebody waits.
    fn look(&mut self) {
        if self.fault != DrillFault::Hang || !self.has_traffic || self.machine.active != Some(self.backend) {
            return;
        }
        let sample = |id: BackendId| Sample {
            silent_since: (id == self.backend).then_some(self.began_at),
            ..self.machine.index(id).map(|index| self.machine.members[index].detector.latest()).unwrap_or_default()
        };
        let samples: Vec<Sample> = self.machine.members.iter().map(|member| sample(member.id)).collect();
        self.machine.on_vitals(self.now, &samples);
    }

    fn interval(&self, id: BackendId) -> Duration {
        let Some(index) = self.machine.index(id) else { return LENGTH };
        let settings = &self.machine.members[index].health_settings;
        if self.machine.active == Some(id) { settings.interval } else { settings.standby_interval }
    }

    fn begin_probe(&mut self, id: BackendId, is_immediate: bool, after: Duration) {
        let Some(index) = self.machine.index(id) else { return };
        let began_at = self.now + after;
        let timeout = self.machine.members[index].health_settings.timeout;
        let takes = match (id == self.backend, self.fault) {
            (true, DrillFault::Hang) => timeout,
            (true, DrillFault::Slow { by }) => timeout.min(by),
            _ => ROUND_TRIP,
        };
        self.probes.push((id, is_immediate, began_at, began_at + takes));
    }

    fn end_probes(&mut self) {
        let now = self.now;
        let ended: Vec<_> = self.probes.extract_if(.., |(_, _, _, due)| *due <= now).collect();
        for (backend, immediate, started_at, ended_at) in ended {
            let verdict = self.verdict(backend);
            self.machine.on_probe(now, &ProbeReport { backend, started_at, ended_at, verdict, immediate });
            if !immediate {
                self.begin_probe(backend, false, self.interval(backend));
            }
        }
    }

    /// The fault for the one that has it; for the others, what their latest probe found.
    fn verdict(&self, id: BackendId) -> ProbeVerdict {
        let failed = |cause: &str, refused| ProbeVerdict::Failed { cause: cause.to_owned(), refused };
        let index = self.machine.index(id);
        let is_good = index.is_some_and(|index| self.machine.members[index].health.is_latest_good());
        let is_waiting = index.is_some_and(|index| self.machine.is_promotable(index));
        let good = ProbeVerdict::Good { server: None, role: None, warning: None };
        let readonly = ProbeVerdict::CannotServe { reply: "READONLY".to_owned() };
        if id != self.backend {
            return match () {
                () if is_good || self.promoted == Some(id) => good,
                () if is_waiting => readonly,
                () => failed("as before", true),
            };
        }
        match self.fault {
            DrillFault::Kill => failed("connection refused", true),
            DrillFault::Hang => failed("no reply within the timeout", false),
            DrillFault::Readonly => readonly,
            DrillFault::Slow { by } => match self.machine.index(id) {
                Some(index) if by >= self.machine.members[index].health_settings.timeout => {
                    failed("no reply within the timeout", false)
                }
                _ => good,
            },
        }
    }

    /// Carries out what the copy says: its workers obey at once.
    fn follow(&mut self) {
        while let Some(output) = self.machine.poll() {
            match output {
                Output::Publish(route) => self.obey(route.phase),
                Output::ProbeNow(id) => self.begin_probe(id, true, Duration::ZERO),
                Output::Log(event) => self.note(event),
                // As if it took no time.
                Output::Promote(order) => {
                    self.promoted = order.promote.map(|_| order.backend).or(self.promoted);
                    self.machine.on_promotion(self.now, order.backend, Ok(()));
                }
                Output::Persist(_) | Output::Dismiss(_) => {}
            }
        }
    }

    fn obey(&mut self, phase: Phase) {
        for worker in 0..self.machine.workers {
            match phase {
                Phase::Hold { attempt, .. } => {
                    self.machine.on_worker(self.now, WorkerReport::Drained { worker, attempt });
                }
                Phase::Cut { attempt, .. } => {
                    self.machine.on_worker(self.now, WorkerReport::Stopped { worker, attempt });
                }
                Phase::Serve => {
                    let (epoch, judged) = (self.machine.epoch, crate::logic::judged::Judged::default());
                    self.machine.on_worker(self.now, WorkerReport::Activated { worker, epoch, judged });
                }
            }
        }
    }

    fn note(&mut self, event: Event) {
        let after = self.now.saturating_duration_since(self.began_at);
        if let Event::Switched(switched) = &event
            && switched.reason != Reason::Start
        {
            self.served_after = Some(after);
            self.detected_after = Some(after.saturating_sub(switched.switch));
        }
        self.events.push((after, event));
    }
}

impl Simulation {
    /// Why the backend would be called unhealthy, if it would.
    #[must_use]
    pub fn fault(&self, backend: BackendId) -> Option<(Duration, &Fault)> {
        self.events.iter().find_map(|(after, event)| match event {
            Event::BackendDown { backend: down, fault } if *down == backend => Some((*after, fault)),
            _ => None,
        })
    }
}
