//! The task that probes one backend: when it is due, or at once when the supervisor asks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::channels::{Availability, BackendId, Drill, DrillFault, Observation, ProbeReport, Route, Vitals};
use crate::control::checks::command::Told;
use crate::control::checks::{Checker, LagWatch};
use crate::control::inventory::Watch;
use crate::control::now;
use crate::logic::health::{Cadence, Circumstances, ProbeVerdict, Tally};
use crate::logic::settings::HealthSettings;

/// Probes one backend.
pub struct Prober {
    pub(super) backend: BackendId,
    pub(super) settings: HealthSettings,
    pub(super) checker: Checker,
    pub(super) lag: Option<LagWatch>,
    pub(super) inventory: Option<Watch>,
    pub(super) cadence: Cadence,
    /// Drawn anew for each round.
    pub(super) jitter: f64,
    pub(super) route: watch::Receiver<Route>,
    /// The workers' vitals of this backend, and the origin of their times.
    pub(super) vitals: Vec<Arc<Vitals>>,
    pub(super) origin: Instant,
    pub(super) ask: Arc<Notify>,
    pub(super) reports: mpsc::Sender<Probed>,
    pub(super) observations: mpsc::Sender<Observation>,
}

/// A round's report, and what the server then said of itself.
pub struct Probed {
    pub(super) report: ProbeReport,
    pub(super) told: Option<Told>,
}

/// Why the prober woke.
enum Wake {
    Stop,
    Asked,
    RouteChanged,
    Due,
}

impl Prober {
    /// Probes until `stop`, or until nobody wants its reports any more.
    pub async fn run(mut self, stop: CancellationToken) {
        let (lag, inventory) = (self.lag.take(), self.inventory.take());
        let (settings, route, observations) = (self.settings.clone(), self.route.clone(), self.observations.clone());
        let watch_lag = async {
            match lag {
                Some(lag) => lag.run(&settings, &route, &observations).await,
                None => std::future::pending().await,
            }
        };
        let of_inventory = self.observations.clone();
        let watch_inventory = async {
            match inventory {
                Some(inventory) => inventory.run(&of_inventory).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.probe_until(&stop) => {}
            () = watch_lag => {}
            () = watch_inventory => {}
        }
    }

    async fn probe_until(&mut self, stop: &CancellationToken) {
        loop {
            let report = match self.wake(stop).await {
                Wake::Stop => return,
                Wake::RouteChanged => continue,
                // Live traffic since may have made the round needless.
                Wake::Due if self.due() > now() => continue,
                Wake::Due => self.round_unless_asked(stop).await,
                Wake::Asked => self.immediate(stop).await,
            };
            let Some(report) = report else { return };
            let has_answered = matches!(report.verdict, ProbeVerdict::Good { .. } | ProbeVerdict::CannotServe { .. });
            let told = if has_answered { self.checker.facts().await } else { None };
            if self.reports.send(Probed { report, told }).await.is_err() {
                return;
            }
        }
    }

    /// The only place where it waits without probing.
    async fn wake(&mut self, stop: &CancellationToken) -> Wake {
        let due = self.due();
        tokio::select! {
            biased;
            () = stop.cancelled() => Wake::Stop,
            () = self.ask.notified() => Wake::Asked,
            changed = self.route.changed() => if changed.is_ok() { Wake::RouteChanged } else { Wake::Stop },
            () = tokio::time::sleep_until(due.into()) => Wake::Due,
        }
    }

    fn due(&self) -> Instant {
        let route = self.route.borrow();
        let is_hurried = route.active == Some(self.backend) || route.availability != Availability::Healthy;
        let about = Circumstances { is_hurried, live_reply: self.live_reply() };
        self.cadence.due(&self.settings, now(), about, self.jitter)
    }

    fn live_reply(&self) -> Option<Instant> {
        let last = self.vitals.iter().map(|vitals| vitals.last_byte_us.load(Ordering::Relaxed)).max()?;
        (last > 0).then(|| self.origin + Duration::from_micros(last))
    }

    /// A due round; the supervisor's question breaks it off, since a new connection tells more, and sooner.
    async fn round_unless_asked(&mut self, stop: &CancellationToken) -> Option<ProbeReport> {
        let ask = Arc::clone(&self.ask);
        tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            () = ask.notified() => {}
            report = self.round() => return Some(report),
        }
        self.immediate(stop).await
    }

    async fn immediate(&mut self, stop: &CancellationToken) -> Option<ProbeReport> {
        let started_at = now();
        tokio::select! {
            biased;
            () = stop.cancelled() => None,
            (verdict, is_fresh) = self.probe(true) => Some(self.report(started_at, verdict, is_fresh, true)),
        }
    }

    async fn round(&mut self) -> ProbeReport {
        let started_at = now();
        let wants_fresh = self.cadence.wants_fresh(&self.settings, started_at);
        let mut tally = Tally::new(self.settings.policy, self.settings.probes);
        let mut was_fresh = false;
        loop {
            let (verdict, is_fresh) = self.probe(wants_fresh && !was_fresh).await;
            was_fresh |= is_fresh;
            if let Some(verdict) = tally.add(verdict) {
                return self.report(started_at, verdict, was_fresh, false);
            }
            tokio::time::sleep(self.settings.probes_delay).await;
        }
    }

    /// One probe within its timeout. If we were late ourselves it says nothing.
    async fn probe(&mut self, is_fresh: bool) -> (ProbeVerdict, bool) {
        let timeout = self.settings.timeout;
        let deadline = now() + timeout;
        let played = Drill::on(self.route.borrow().drill, self.backend);
        let probing = async {
            match played {
                None => self.checker.probe(is_fresh).await,
                Some(fault) => (self.play(fault, is_fresh).await, is_fresh),
            }
        };
        let outcome = tokio::time::timeout_at(deadline.into(), probing).await;
        let late = now().saturating_duration_since(deadline);
        match outcome {
            Ok((verdict, was_fresh)) if late.is_zero() => (verdict, was_fresh),
            Err(_) if late <= timeout / 2 => {
                let cause = format!("{} within {} ms", self.checker.silence(), timeout.as_millis());
                (ProbeVerdict::Failed { cause, refused: false }, is_fresh)
            }
            Ok(_) | Err(_) => (ProbeVerdict::Void, is_fresh),
        }
    }

    /// What a probe finds while a drill plays this.
    async fn play(&mut self, fault: DrillFault, is_fresh: bool) -> ProbeVerdict {
        match fault {
            DrillFault::Kill => {
                ProbeVerdict::Failed { cause: "connection refused (a drill)".to_owned(), refused: true }
            }
            DrillFault::Hang => std::future::pending().await,
            DrillFault::Readonly => ProbeVerdict::CannotServe { reply: "READONLY (a drill)".to_owned() },
            DrillFault::Slow { by } => {
                tokio::time::sleep(by).await;
                self.checker.probe(is_fresh).await.0
            }
        }
    }

    fn report(&mut self, started_at: Instant, verdict: ProbeVerdict, is_fresh: bool, immediate: bool) -> ProbeReport {
        self.cadence.on_round(started_at, is_fresh, &verdict);
        self.jitter = fastrand::f64();
        ProbeReport { backend: self.backend, started_at, ended_at: now(), verdict, immediate }
    }
}
