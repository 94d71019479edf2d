//! The backends of one group as the control plane knows them, each with the task that probes it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::channels::{BackendId, Directions, Known, Observation, ProbeReport, Recruit, Route, Vitals};
use crate::config::{Backend, Group};
use crate::control::checks::{Checker, LagWatch};
use crate::control::inventory::{Bequest, Watch};
use crate::control::observed::Observed;
use crate::control::prober::{Probed, Prober};
use crate::control::promotion::Server;
use crate::lifecycle::Lifecycle;
use crate::logic::detector::{Reading, Sample};
use crate::logic::failover::{BackendSpec, GroupSettings};
use crate::logic::health::Cadence;
use crate::logic::replication::Facts;
use crate::logic::settings::Conduct;

/// The backends of one group.
pub(super) struct Roster {
    group: Group,
    workers: usize,
    origin: Instant,
    lifecycle: Lifecycle,
    route: watch::Receiver<Route>,
    reporting: Reporting,
    enrolled: Vec<Enrolled>,
    /// What workers are told; another one exactly if something changed.
    known: Arc<[Known]>,
    conduct: Arc<Conduct>,
}

/// Where what probes find goes, and what they are to hand on.
#[derive(Clone)]
pub(super) struct Reporting {
    pub(super) probes: mpsc::Sender<Probed>,
    pub(super) observations: mpsc::Sender<Observation>,
    pub(super) bequests: watch::Receiver<Bequest>,
}

/// One of them.
struct Enrolled {
    known: Known,
    observed: Observed,
    ask: Arc<Notify>,
    /// Ends its prober.
    stop: CancellationToken,
}

impl Drop for Enrolled {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Roster {
    /// Nobody is enrolled yet. Times in vitals count from `origin`; probes report to `reports`.
    pub(super) fn new(
        group: Group,
        (workers, origin): (usize, Instant),
        lifecycle: Lifecycle,
        route: watch::Receiver<Route>,
        reporting: Reporting,
    ) -> Self {
        let (enrolled, known, conduct) = (Vec::new(), Arc::default(), conduct_of(&group));
        Self { group, workers, origin, lifecycle, route, reporting, enrolled, known, conduct }
    }

    /// Another backend: it is probed from now on.
    pub(super) fn enroll(&mut self, recruit: Recruit) -> BackendSpec {
        let Recruit { id, endpoint, addition } = recruit;
        let spec = self.spec(id, &endpoint.backend);
        let vitals = (0..self.workers).map(|_| Arc::default()).collect();
        let observed = Observed::new(&endpoint.backend.name);
        let known = Known { id, endpoint, vitals, addition };
        let ask = Arc::new(Notify::new());
        let stop = self.start_prober(&known, &ask);
        self.enrolled.push(Enrolled { known, observed, ask, stop });
        self.renew();
        spec
    }

    /// It is not probed any more, and nobody knows it.
    pub(super) fn dismiss(&mut self, backend: BackendId) {
        self.enrolled.retain(|enrolled| enrolled.known.id != backend);
        self.renew();
    }

    /// Other settings, and other words for those backends that are named; those whose checks differ are probed anew.
    /// Returns what the machine needs of all.
    pub(super) fn configure(&mut self, group: Group, backends: &[Recruit]) -> (GroupSettings, Vec<BackendSpec>) {
        let mut enrolled = std::mem::take(&mut self.enrolled);
        let former = std::mem::replace(&mut self.group, group);
        self.conduct = conduct_of(&self.group);
        for one in &mut enrolled {
            let backend = &one.known.endpoint.backend;
            let checks = (former.health_of(backend).clone(), backend.checks.clone());
            if let Some(recruit) = backends.iter().find(|recruit| recruit.id == one.known.id) {
                one.known.endpoint = Arc::clone(&recruit.endpoint);
                one.known.addition.clone_from(&recruit.addition);
            }
            let backend = &one.known.endpoint.backend;
            if (&checks.0, &checks.1) != (self.group.health_of(backend), &backend.checks) {
                one.stop.cancel();
                one.stop = self.start_prober(&one.known, &one.ask);
            }
        }
        self.enrolled = enrolled;
        self.renew();
        let specs = self.enrolled.iter().map(|one| self.spec(one.known.id, &one.known.endpoint.backend));
        (settings_of(&self.group), specs.collect())
    }

    /// What workers are told.
    pub(super) fn directions(&self, route: Route) -> Directions {
        Directions { route, backends: Arc::clone(&self.known), conduct: Arc::clone(&self.conduct) }
    }

    fn renew(&mut self) {
        self.known = self.enrolled.iter().map(|enrolled| enrolled.known.clone()).collect();
    }

    /// Have it probed now.
    pub(super) fn ask(&self, backend: BackendId) {
        if let Some(enrolled) = self.find(backend) {
            enrolled.ask.notify_one();
        }
    }

    pub(super) fn observe(&mut self, report: &ProbeReport) {
        if let Some(enrolled) = self.enrolled.iter_mut().find(|enrolled| enrolled.known.id == report.backend) {
            enrolled.observed.on_probe(report);
        }
    }

    pub(super) fn note_lag(&mut self, backend: BackendId, verdict: &Result<String, String>) {
        if let Some(enrolled) = self.enrolled.iter_mut().find(|enrolled| enrolled.known.id == backend) {
            enrolled.observed.on_lag(verdict);
        }
    }

    pub(super) fn observe_facts(&mut self, backend: BackendId, told: &Result<Facts, String>) {
        let enrolled = self.enrolled.iter_mut().find(|enrolled| enrolled.known.id == backend);
        if let (Ok(facts), Some(enrolled)) = (told, enrolled) {
            enrolled.observed.on_facts(facts);
        }
    }

    /// What it takes to speak to it.
    pub(super) fn server(&self, backend: BackendId) -> Option<Server> {
        let endpoint = &self.find(backend)?.known.endpoint;
        Some(Server { backend: Backend::clone(&endpoint.backend), tls: endpoint.tls.clone() })
    }

    pub(super) fn observed(&self, backend: BackendId) -> Option<&Observed> {
        self.find(backend).map(|enrolled| &enrolled.observed)
    }

    /// The vitals of all workers together.
    pub(super) fn sample(&self, backend: BackendId) -> Sample {
        let vitals = self.find(backend).map_or(&[][..], |enrolled| &enrolled.known.vitals);
        let fresh_since = Instant::now() - (self.group.detector.hang_timeout / FRESH_SHARE).max(FRESH_MIN);
        let readings: Vec<Reading> = vitals.iter().map(|vitals| read(vitals, self.origin, fresh_since)).collect();
        Sample::merge(&readings)
    }

    fn find(&self, backend: BackendId) -> Option<&Enrolled> {
        self.enrolled.iter().find(|enrolled| enrolled.known.id == backend)
    }

    fn spec(&self, id: BackendId, backend: &Backend) -> BackendSpec {
        BackendSpec {
            id,
            name: backend.name.clone(),
            weight: backend.weight,
            health: backend.overrides.health.clone(),
            breaker: Some(self.group.breaker_of(backend)),
        }
    }

    /// Starts to probe; the token ends that.
    fn start_prober(&self, known: &Known, ask: &Arc<Notify>) -> CancellationToken {
        let (backend, settings) = (&known.endpoint.backend, self.group.health_of(&known.endpoint.backend));
        let prober = Prober {
            backend: known.id,
            settings: settings.clone(),
            checker: Checker::new(&self.group.name, backend, settings, known.endpoint.tls.clone()),
            inventory: (!self.group.parity.interval.is_zero()).then(|| Watch {
                id: known.id,
                group: self.group.name.clone(),
                backend: Backend::clone(backend),
                probe_key: settings.probe_key.clone(),
                tls: known.endpoint.tls.clone(),
                settings: self.group.parity,
                bequests: self.reporting.bequests.clone(),
            }),
            lag: backend.checks.lag.clone().map(|check| LagWatch::new(known.id, check)),
            cadence: Cadence::default(),
            jitter: fastrand::f64(),
            route: self.route.clone(),
            vitals: known.vitals.clone(),
            origin: self.origin,
            ask: Arc::clone(ask),
            reports: self.reporting.probes.clone(),
            observations: self.reporting.observations.clone(),
        };
        let stop = self.lifecycle.stopping().child_token();
        self.lifecycle.start("control prober", prober.run(stop.clone()));
        stop
    }
}

/// A worker that has not looked for this part of the hang timeout says nothing of silence; it looks five times as often.
const FRESH_SHARE: u32 = 4;
/// However short the hang timeout: workers do not look more often than every few milliseconds.
const FRESH_MIN: Duration = Duration::from_millis(20);

fn conduct_of(group: &Group) -> Arc<Conduct> {
    let (failover, retry, detector) = (group.failover.clone(), group.retry.clone(), group.detector.clone());
    Arc::new(Conduct { failover, retry, detector })
}

/// The settings of a group's decisions.
pub(super) fn settings_of(group: &Group) -> GroupSettings {
    GroupSettings {
        health: group.health.clone(),
        detector: group.detector.clone(),
        breaker: group.breaker,
        failover: group.failover.clone(),
    }
}

/// A worker that has not looked since `fresh_since` is busy or stuck: that a request seems to wait is its own doing.
fn read(vitals: &Vitals, origin: Instant, fresh_since: Instant) -> Reading {
    let moment = |micros: u64| (micros > 0).then(|| origin + Duration::from_micros(micros));
    let is_fresh = moment(vitals.looked_at_us.load(Ordering::Relaxed)).is_none_or(|looked_at| looked_at >= fresh_since);
    let waiting_since = moment(vitals.waiting_since_us.load(Ordering::Relaxed));
    Reading {
        last_byte: moment(vitals.last_byte_us.load(Ordering::Relaxed)),
        waiting_since: waiting_since.filter(|_| is_fresh),
        is_slow: vitals.waiting_slow.load(Ordering::Relaxed),
        successes: vitals.successes.load(Ordering::Relaxed),
        failures: vitals.failures.load(Ordering::Relaxed),
        replies: vitals.replies.load(),
        disturbances: vitals.disturbances.load(Ordering::Relaxed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_silence_that_a_stuck_worker_saw_is_not_the_backends() {
        const MS: Duration = Duration::from_millis(1);
        let (vitals, origin) = (Vitals::default(), Instant::now());
        vitals.waiting_since_us.store(5_000, Ordering::Relaxed);
        let waiting = |fresh_since| read(&vitals, origin, fresh_since).waiting_since;
        assert_eq!(waiting(origin + 100 * MS), Some(origin + 5 * MS), "it never said when it looked");
        vitals.looked_at_us.store(50_000, Ordering::Relaxed);
        assert_eq!(waiting(origin + 50 * MS), Some(origin + 5 * MS));
        assert_eq!(waiting(origin + 51 * MS), None);
    }
}
