//! The sole owner of a group's decision: feeds the machine, and carries out what it says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::channels::{
    Availability, BackendId, BackendStatus, GroupStatus, ProbeReport, ProbeVerdict, Route, Vitals, WorkerReport,
};
use crate::config::Group;
use crate::control::state::Keeper;
use crate::control::{Shared, now};
use crate::logic::detector::{Reading, Sample};
use crate::logic::failover::{
    BackendSpec, Command, Event, Failover, GroupSettings, MemberView, Output, Reason, Saved, Switched,
};

/// The vitals are read so often in one hang timeout, within these bounds.
const LOOKS_PER_HANG: u32 = 20;
const TICK_MIN: Duration = Duration::from_millis(5);
const TICK_MAX: Duration = Duration::from_millis(50);
/// While nobody serves, the status is renewed so often.
const STATUS_MAX_AGE: Duration = Duration::from_secs(1);

/// The supervisor's ends of the channels.
pub(super) struct Ends {
    pub(super) reports: mpsc::Receiver<WorkerReport>,
    pub(super) probes: mpsc::Receiver<ProbeReport>,
    pub(super) operator: mpsc::Receiver<Command>,
    pub(super) route: watch::Sender<Route>,
    pub(super) asks: Vec<Arc<Notify>>,
    pub(super) keeper: Option<Keeper>,
}

/// Decides for one group.
pub struct Supervisor {
    name: String,
    machine: Failover,
    ends: Ends,
    status: watch::Sender<GroupStatus>,
    shared: Shared,
    tick: Duration,
    next_tick: Instant,
    observed: Vec<Observed>,
    switches: BTreeMap<(String, String, String), u64>,
    last_switch: Option<(Duration, Duration)>,
    status_at: Instant,
}

/// What probes showed of a backend, for the status.
struct Observed {
    name: String,
    role: String,
    last_verdict: String,
    probes: (u64, u64),
    probe_duration: Duration,
}

/// Why the supervisor woke.
enum Wake {
    Stop,
    Report(WorkerReport),
    Probe(ProbeReport),
    Operator(Command),
    Time,
}

impl Supervisor {
    pub(super) fn new(
        group: &Group,
        shared: Shared,
        saved: Option<&Saved>,
        ends: Ends,
    ) -> (Self, watch::Receiver<GroupStatus>) {
        let start = now();
        let specs = group.backends.iter().zip(&shared.ids).map(|(backend, id)| BackendSpec {
            id: *id,
            name: backend.name.clone(),
            weight: backend.weight,
            health: backend.overrides.health.clone(),
            breaker: Some(group.breaker_of(backend)),
        });
        let settings = GroupSettings {
            health: group.health.clone(),
            detector: group.detector.clone(),
            breaker: group.breaker,
            failover: group.failover.clone(),
        };
        let machine = Failover::new(start, settings, specs.collect(), shared.vitals.len(), saved);
        let observed: Vec<Observed> = group.backends.iter().map(|backend| Observed::new(&backend.name)).collect();
        let first = status_of(&group.name, &machine, &observed, start);
        let (status, receiver) = watch::channel(first);
        let supervisor = Self {
            name: group.name.clone(),
            machine,
            ends,
            status,
            shared,
            tick: (group.detector.hang_timeout / LOOKS_PER_HANG).clamp(TICK_MIN, TICK_MAX),
            next_tick: start,
            observed,
            switches: BTreeMap::new(),
            last_switch: None,
            status_at: start,
        };
        (supervisor, receiver)
    }

    /// Decides until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let wake = self.wake(&stop).await;
            if matches!(wake, Wake::Stop) {
                return;
            }
            let is_news = self.apply(wake);
            self.carry_out(is_news);
        }
    }

    /// The only place that waits; it changes nothing.
    async fn wake(&mut self, stop: &CancellationToken) -> Wake {
        let at = self.machine.next_deadline().map_or(self.next_tick, |deadline| deadline.min(self.next_tick));
        tokio::select! {
            biased;
            () = stop.cancelled() => Wake::Stop,
            Some(report) = self.ends.reports.recv() => Wake::Report(report),
            Some(report) = self.ends.probes.recv() => Wake::Probe(report),
            Some(command) = self.ends.operator.recv() => Wake::Operator(command),
            () = tokio::time::sleep_until(at.into()) => Wake::Time,
        }
    }

    /// Feeds the machine; says whether the status may have changed.
    fn apply(&mut self, wake: Wake) -> bool {
        let now = now();
        if now >= self.next_tick {
            // Whatever woke us, and even if reports never cease: silence is judged on time.
            self.next_tick = now + self.tick;
            self.look(now);
        }
        match wake {
            Wake::Stop => false,
            Wake::Report(report) => {
                self.machine.on_worker(now, report);
                false
            }
            Wake::Probe(report) => {
                // A verdict is weighed against the replies that came until now.
                self.look(now);
                self.observe(&report);
                self.machine.on_probe(now, &report);
                true
            }
            Wake::Operator(command) => {
                self.machine.on_operator(now, command);
                true
            }
            Wake::Time => {
                self.machine.on_tick(now, fastrand::f64());
                false
            }
        }
    }

    /// Reads the vitals of all workers.
    fn look(&mut self, now: Instant) {
        let workers = &self.shared.vitals;
        let sample = |backend: usize| {
            let readings = workers.iter().filter_map(|of_worker| of_worker.get(backend));
            let readings: Vec<Reading> = readings.map(|vitals| read(vitals, self.shared.origin)).collect();
            Sample::merge(&readings)
        };
        let samples: Vec<Sample> = (0..self.observed.len()).map(sample).collect();
        self.machine.on_vitals(now, &samples);
    }

    /// Does what the machine says; nothing here waits.
    fn carry_out(&mut self, mut is_news: bool) {
        while let Some(output) = self.machine.poll() {
            is_news = true;
            match output {
                Output::Publish(route) => {
                    self.ends.route.send_replace(route);
                }
                Output::ProbeNow(backend) => {
                    if let Some(index) = self.index(backend) {
                        self.ends.asks[index].notify_one();
                    }
                }
                Output::Log(event) => self.log(&event),
                Output::Persist(saved) => {
                    if let Some(keeper) = &self.ends.keeper {
                        keeper.keep(&self.name, &saved);
                    }
                }
            }
        }
        let now = now();
        let is_counting = self.machine.route().availability != Availability::Healthy;
        if is_news || (is_counting && now >= self.status_at + STATUS_MAX_AGE) {
            self.publish_status(now);
        }
    }

    fn publish_status(&mut self, now: Instant) {
        self.status_at = now;
        let switches = self.switches.iter();
        let switches =
            switches.map(|((from, to, reason), count)| (from.clone(), to.clone(), reason.clone(), *count)).collect();
        let status = status_of(&self.name, &self.machine, &self.observed, now);
        self.status.send_replace(GroupStatus { switches, last_switch: self.last_switch, ..status });
    }

    fn observe(&mut self, report: &ProbeReport) {
        if let Some(index) = self.index(report.backend) {
            self.observed[index].on_probe(report);
        }
    }

    fn index(&self, backend: BackendId) -> Option<usize> {
        self.shared.ids.iter().position(|id| *id == backend)
    }

    fn name_of(&self, backend: BackendId) -> &str {
        self.index(backend).map_or("?", |index| &self.observed[index].name)
    }

    /// One line for each change of state.
    fn log(&mut self, event: &Event) {
        let group = self.name.as_str();
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
            Event::CommandRefused { command, why } => tracing::warn!(group, ?command, %why, "command refused"),
        }
    }

    fn log_switch(&mut self, switched: &Switched) {
        let from = switched.from.map_or("none", |from| self.name_of(from)).to_owned();
        let to = self.name_of(switched.to).to_owned();
        let reason = switched.reason.to_string();
        let judged = switched.judged;
        // The first choice is how things should be; any other switch is worth a look.
        let is_start = switched.reason == Reason::Start;
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    group = self.name,
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
        if is_start {
            line!(info)
        } else {
            line!(warn)
        }
        self.last_switch = Some((switched.detect, switched.switch));
        *self.switches.entry((from, to, reason)).or_default() += 1;
    }
}

impl Observed {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            role: "unknown".to_owned(),
            last_verdict: "not probed yet".to_owned(),
            probes: (0, 0),
            probe_duration: Duration::ZERO,
        }
    }

    fn on_probe(&mut self, report: &ProbeReport) {
        self.probe_duration = report.ended_at.saturating_duration_since(report.started_at);
        self.last_verdict = describe(&report.verdict);
        match &report.verdict {
            ProbeVerdict::Good { role, .. } => {
                self.probes.0 += 1;
                self.role = role.clone().unwrap_or_else(|| "unknown".to_owned());
            }
            ProbeVerdict::CannotServe { .. } | ProbeVerdict::Busy { .. } | ProbeVerdict::Failed { .. } => {
                self.probes.1 += 1;
            }
            ProbeVerdict::Void => {}
        }
    }
}

fn describe(verdict: &ProbeVerdict) -> String {
    match verdict {
        ProbeVerdict::Good { warning: None, .. } => "good".to_owned(),
        ProbeVerdict::Good { warning: Some(warning), .. } => format!("good, but {warning}"),
        ProbeVerdict::CannotServe { reply } => format!("cannot serve: {reply}"),
        ProbeVerdict::Busy { reply } => format!("busy: {reply}"),
        ProbeVerdict::Failed { cause, .. } => format!("failed: {cause}"),
        ProbeVerdict::Void => "void: Handover was late itself".to_owned(),
    }
}

/// The status without what the supervisor counts itself.
fn status_of(name: &str, machine: &Failover, observed: &[Observed], now: Instant) -> GroupStatus {
    let backend = |(member, observed): (MemberView, &Observed)| BackendStatus {
        id: member.id,
        name: observed.name.clone(),
        weight: member.weight,
        healthy: member.is_healthy,
        circuit: member.breaker.label(),
        role: observed.role.clone(),
        last_verdict: observed.last_verdict.clone(),
        probes: observed.probes,
        probe_duration: observed.probe_duration,
    };
    let route = machine.route().clone();
    let reason = match route.active {
        None => "no backend has been found healthy yet".to_owned(),
        Some(_) => machine.reason().to_string(),
    };
    GroupStatus {
        name: name.to_owned(),
        route,
        reason,
        backends: machine.members().zip(observed).map(backend).collect(),
        switches: Vec::new(),
        last_switch: None,
        failback_blocked: machine.blocked().map(|blocked| blocked.to_string()),
        without_active: machine.without_active(now),
    }
}

fn read(vitals: &Vitals, origin: Instant) -> Reading {
    let moment = |micros: u64| (micros > 0).then(|| origin + Duration::from_micros(micros));
    Reading {
        last_byte: moment(vitals.last_byte_us.load(Ordering::Relaxed)),
        waiting_since: moment(vitals.waiting_since_us.load(Ordering::Relaxed)),
        is_slow: vitals.waiting_slow.load(Ordering::Relaxed),
        successes: vitals.successes.load(Ordering::Relaxed),
        failures: vitals.failures.load(Ordering::Relaxed),
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
