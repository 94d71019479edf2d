//! The decision machine of one group: which backend is active, and how a change of it proceeds.
//!
//! Its owner feeds it with probes, reports and vitals, then drains [`Failover::poll`]. It has no clock and no
//! randomness: time and jitter are arguments.

mod drilling;
mod event;
mod fencing;
mod gray;
mod member;
mod membership;
mod news;
mod operator;
mod orders;
mod promotion;
mod reports;
mod simulate;
mod switching;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::drilling::Drilling;
pub use self::drilling::Ledger;
pub use self::event::{
    Blocked, CallOff, Command, Event, Fault, Manner, Output, Reason, Refused, Removal, Saved, SavedBreaker,
    SavedReport, StayEnd, Switched,
};
use self::fencing::restore_servers;
pub use self::fencing::{Fence, FenceReason, SavedServer, Seen};
use self::gray::Comparison;
use self::member::{Inquiry, Member, Sign};
pub use self::news::News;
pub use self::promotion::PromotionOrder;
use self::promotion::Promotions;
pub use self::reports::{Report, Reported, Verdict};
pub use self::simulate::Simulation;
use self::switching::{Reporting, Stage};
use crate::logic::backoff::Backoff;
use crate::logic::breaker::{Breaker, BreakerState};
use crate::logic::detector::{Finding, Sample};
use crate::logic::health::ProbeVerdict;
use crate::logic::replication::ReplicationSettings;
use crate::logic::report::{ProbeReport, WorkerReport};
use crate::logic::route::{Availability, BackendId, Change, Pause, Route};
use crate::logic::selection;
use crate::logic::settings::{BreakerSettings, DetectorSettings, FailoverSettings, HealthSettings, NoneHealthy};

/// The first wait after a failback that was called off, and the longest.
const CALLED_OFF_WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The settings of a group's decisions.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupSettings {
    /// Health checks.
    pub health: HealthSettings,
    /// Failure detection on live traffic.
    pub detector: DetectorSettings,
    /// Circuit breakers.
    pub breaker: BreakerSettings,
    /// Choice of the active.
    pub failover: FailoverSettings,
}

/// A backend of the group, in the file's order.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendSpec {
    /// Its number.
    pub id: BackendId,
    /// Its name, for the state file.
    pub name: String,
    /// Its preference, > 0.
    pub weight: f64,
    /// Its own health checks, if it has any.
    pub health: Option<HealthSettings>,
    /// Its own circuit breaker, if it has one.
    pub breaker: Option<BreakerSettings>,
}

/// What is to be known of a backend from outside.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MemberView<'a> {
    /// Its number.
    pub id: BackendId,
    /// Its preference now.
    pub weight: f64,
    /// Its preference by the file, or by an operator; a checker may have reported another.
    pub own_weight: f64,
    /// It can serve.
    pub is_healthy: bool,
    /// Its breaker.
    pub breaker: BreakerState,
    /// Since when each probe has been clean.
    pub clean_since: Option<Instant>,
    /// An operator's ban lasts until then.
    pub banned_until: Option<Instant>,
    /// Why it cannot serve.
    pub fault: Option<&'a Fault>,
    /// It is to replace one that still has its name: nobody sees it before that.
    pub is_hidden: bool,
    /// It is removed or replaced as soon as another can take over.
    pub is_leaving: bool,
    /// An operator took it out of service.
    pub is_drained: bool,
    /// What checkers say of it.
    pub reports: &'a [Reported],
    /// It serves, but far too slowly: what was seen.
    pub degraded: Option<&'a str>,
    /// Why it is not returned to, for what it said of itself.
    pub fence: Option<&'a Fence>,
}

/// An operator holds the active on a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stay {
    /// Where.
    pub backend: BackendId,
    /// Until then.
    pub until: Instant,
}

/// The time in which no backend can serve.
#[derive(Clone, Debug)]
struct NoneServing {
    since: Instant,
    /// The log knows: at the start it is not told.
    is_told: bool,
}

/// What a probe's report is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Worth {
    /// It is what it says.
    Counts,
    /// Live traffic knows better.
    Overruled,
    /// It came too late to say anything.
    Nothing,
}

/// The decision machine.
#[derive(Clone, Debug)]
pub struct Failover {
    settings: GroupSettings,
    workers: usize,
    members: Vec<Member>,
    epoch: u64,
    active: Option<BackendId>,
    /// Why the active is active.
    reason: Reason,
    /// What was seen then, in words.
    cause: String,
    stage: Stage,
    attempts: u64,
    acquittals: u64,
    /// Which connections to whom are lost, see [`Route::abandoned_since`].
    abandoned: Option<(BackendId, Instant)>,
    availability: Availability,
    /// No backend can serve.
    none: Option<NoneServing>,
    unserved: Duration,
    /// The last active of the process before this one, and its epoch.
    restored: Option<(BackendId, u64)>,
    restored_epoch: u64,
    /// The latest switches, for the flap guard.
    recent: VecDeque<Instant>,
    failback_backoff: Backoff,
    failback_after: Option<Instant>,
    /// An operator chose the active then: `failback_hold` starts anew.
    chosen_at: Option<Instant>,
    stay: Option<Stay>,
    blocked: Option<Blocked>,
    /// This active should be left, and there is nowhere to go.
    stranded: Option<BackendId>,
    /// An operator lets clients wait.
    pause: Option<Pause>,
    drilling: Option<Drilling>,
    comparison: Comparison,
    reporting: Option<Reporting>,
    /// The last switch, in words.
    change: Option<Arc<Change>>,
    published: Route,
    replication: ReplicationSettings,
    promotions: Promotions,
    must_persist: bool,
    jitter: f64,
    outputs: VecDeque<Output>,
}

impl Failover {
    /// Knows nothing of the backends' health yet; `workers` must acknowledge each switch.
    #[must_use]
    pub fn new(
        now: Instant,
        settings: GroupSettings,
        backends: Vec<BackendSpec>,
        workers: usize,
        saved: Option<&Saved>,
    ) -> Self {
        let mut members: Vec<Member> = backends.into_iter().map(|spec| Member::new(spec, &settings)).collect();
        let (mut restored, mut stay) = (None, None);
        if let Some(saved) = saved {
            restore_breakers(&mut members, saved, now);
            restore_bans(&mut members, saved, now);
            reports::restore(&mut members, &saved.reports, now);
            for member in &mut members {
                member.is_drained = saved.drained.contains(&member.name);
            }
            restore_servers(&mut members, &saved.servers, now);
            let last = members.iter().find(|member| Some(&member.name) == saved.active.as_ref());
            restored = last.map(|member| (member.id, saved.epoch));
            let held =
                saved.stay.as_ref().filter(|(name, left)| Some(name) == saved.active.as_ref() && !left.is_zero());
            stay = held.zip(last).map(|((_, left), last)| Stay { backend: last.id, until: now + *left });
        }
        Self {
            workers,
            members,
            epoch: 0,
            active: None,
            reason: Reason::Start,
            cause: String::new(),
            stage: Stage::Starting { first_good: None, is_overdue: false },
            attempts: 0,
            acquittals: 0,
            abandoned: None,
            availability: Availability::Degraded,
            none: Some(NoneServing { since: now, is_told: false }),
            unserved: Duration::ZERO,
            restored,
            restored_epoch: saved.map_or(0, |saved| saved.epoch),
            recent: VecDeque::new(),
            failback_backoff: Backoff::new(CALLED_OFF_WAIT.0, CALLED_OFF_WAIT.1),
            failback_after: None,
            chosen_at: None,
            stay,
            blocked: None,
            stranded: None,
            pause: None,
            drilling: None,
            comparison: Comparison::default(),
            reporting: None,
            change: None,
            published: Route::unknown(),
            replication: ReplicationSettings::default(),
            promotions: Promotions::default(),
            must_persist: false,
            jitter: 0.5,
            outputs: VecDeque::new(),
            settings,
        }
    }

    /// A probe round ended.
    pub fn on_probe(&mut self, now: Instant, report: &ProbeReport) {
        let Some(index) = self.index(report.backend) else { return };
        let worth = self.weigh(index, report);
        let verdict = if worth == Worth::Counts { &report.verdict } else { &ProbeVerdict::Void };
        let hold_factor = 1.0 + self.settings.failover.failback_jitter * (2.0 * self.jitter - 1.0);
        let mut events = Vec::new();
        let member = &mut self.members[index];
        let is_slow = member.is_still_slow(report);
        member.note_pulse(report, worth);
        let fault = member.on_verdict((report.started_at, now), verdict, (hold_factor, is_slow), &mut events);
        if let ProbeVerdict::Good { warning, .. } = verdict {
            member.detector.on_alive(report.started_at);
            self.abandoned = member.detector.abandoned_since().map(|since| (member.id, since)).or(self.abandoned);
            member.warn(warning.clone(), &mut events);
        }
        let inquiry = if report.immediate { member.answer(report.started_at) } else { None };
        self.log(events);
        if let Some(fault) = self.judge(now, index, (report, worth), fault, inquiry) {
            self.bring_down(now, index, fault);
        }
        self.revive_active(now, index, report, verdict);
        self.prove(now, index, report, verdict);
        self.on_probe_of_replica(now, report, worth);
        self.settle(now);
    }

    /// A worker reported.
    pub fn on_worker(&mut self, now: Instant, report: WorkerReport) {
        if let WorkerReport::ConnectFailed { backend, at, cause } = &report {
            self.on_unconnected(now, *backend, *at, cause);
        }
        match report {
            WorkerReport::LinkLost { backend, at, cause, .. } | WorkerReport::ConnectFailed { backend, at, cause } => {
                self.on_sign(now, backend, Sign::Lost(Fault { reason: Reason::ConnectionLost, cause, since: at }));
            }
            WorkerReport::CannotServe { backend, at, word } => {
                let reason = Reason::CannotServe { word: word.to_owned() };
                self.on_sign(now, backend, Sign::Word(Fault { reason, cause: word.to_owned(), since: at }));
            }
            WorkerReport::Connected { backend, .. } => self.on_connected(now, backend),
            WorkerReport::Drained { worker, attempt } | WorkerReport::Stopped { worker, attempt } => {
                self.stage.acknowledge(worker, attempt);
            }
            WorkerReport::Activated { worker, epoch, judged } => {
                if let Some(reporting) = &mut self.reporting {
                    reporting.on_activated(worker, epoch, judged);
                }
            }
        }
        self.settle(now);
    }

    /// The vitals of all backends, in the order of [`Self::members`].
    pub fn on_vitals(&mut self, now: Instant, samples: &[Sample]) {
        for (index, sample) in samples.iter().enumerate().take(self.members.len()) {
            let member = &mut self.members[index];
            let finding = member.detector.on_sample(now, *sample);
            member.latency.on_look(now, &sample.replies, sample.disturbances);
            if member.detector.wants_proof(now) {
                let backend = member.id;
                self.on_sign(now, backend, Sign::Look);
            }
            let member = &self.members[index];
            if member.health.is_unhealthy() {
                continue;
            }
            let (reason, cause, since) = match finding {
                None => continue,
                Some(Finding::Suspicious) => {
                    self.on_sign(now, self.members[index].id, Sign::Look);
                    continue;
                }
                Some(Finding::Silent { since }) => (Reason::Silent, "no byte although requests wait", since),
                Some(Finding::FailureRate { since }) => (Reason::FailureRate, "too many failures", since),
            };
            self.bring_down(now, index, Fault { reason, cause: cause.to_owned(), since });
        }
        self.judge_grayness(now);
        self.settle(now);
    }

    /// Whether a backend's data is close enough behind the others for a failback to it. Its health has no part in this.
    pub fn on_lag(&mut self, now: Instant, backend: BackendId, is_level: bool) {
        let Some(index) = self.index(backend) else { return };
        // Of the active it says nothing that would matter once it is not.
        if self.active != Some(backend) {
            self.members[index].is_level = Some(is_level);
            self.settle(now);
        }
    }

    /// Time passed. `jitter` is a fresh random number from 0 to 1.
    pub fn on_tick(&mut self, now: Instant, jitter: f64) {
        self.jitter = jitter.clamp(0.0, 1.0);
        self.settle(now);
    }

    /// The next thing to do, if any.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Self::on_tick`] is needed at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let members = self.members.iter().filter_map(Member::deadline);
        let own = [self.stage_deadline(), self.refusing_at(), self.reporting.as_ref().map(|report| report.until)];
        let stay = self.stay.map(|stay| stay.until);
        let orders = [self.pause.map(|pause| pause.until), self.drill_deadline(), self.drain_deadline(), stay];
        let own = own.into_iter().chain(orders).flatten();
        let own = own.chain(self.promotion_deadline()).chain(self.leaving_deadline());
        members.chain(own).chain(self.failback_deadline()).min()
    }

    /// The route in force.
    #[must_use]
    pub const fn route(&self) -> &Route {
        &self.published
    }

    /// Why the active is active.
    #[must_use]
    pub const fn reason(&self) -> &Reason {
        &self.reason
    }

    /// What was seen when the active became active, in words; empty if nothing was.
    #[must_use]
    pub fn cause(&self) -> &str {
        &self.cause
    }

    /// Whether no switch is under way.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        self.stage.is_serving()
    }

    /// Where the switch that is under way leads to.
    #[must_use]
    pub const fn target(&self) -> Option<BackendId> {
        self.stage.target()
    }

    /// Where an operator holds the active.
    #[must_use]
    pub const fn stay(&self) -> Option<Stay> {
        self.stay
    }

    /// Until when clients wait by an operator's will.
    #[must_use]
    pub const fn pause(&self) -> Option<Pause> {
        self.pause
    }

    /// The active should be left, by an operator's or a checker's will, and there is nowhere to go.
    #[must_use]
    pub const fn stranded(&self) -> Option<BackendId> {
        self.stranded
    }

    /// Why a heavier healthy backend is not returned to.
    #[must_use]
    pub const fn blocked(&self) -> Option<Blocked> {
        self.blocked
    }

    /// Time spent without an active that serves.
    #[must_use]
    pub fn without_active(&self, now: Instant) -> Duration {
        self.unserved + self.none.as_ref().map_or(Duration::ZERO, |none| now.saturating_duration_since(none.since))
    }

    /// Every backend, in the order in which they came.
    pub fn members(&self) -> impl Iterator<Item = MemberView<'_>> {
        self.members.iter().map(|member| MemberView {
            id: member.id,
            weight: member.preference(),
            own_weight: member.weight,
            is_healthy: member.health.is_healthy(),
            breaker: member.breaker.state(),
            clean_since: member.clean_since,
            banned_until: member.banned_until,
            fault: member.fault.as_ref(),
            is_hidden: self.is_hidden(member.id),
            is_leaving: member.leaving.is_some(),
            is_drained: member.is_drained,
            reports: member.reports.all(),
            degraded: member.degraded.as_deref(),
            fence: member.server.fence.as_ref(),
        })
    }

    /// What must survive a restart, as of `now`.
    #[must_use]
    pub fn saved(&self, now: Instant) -> Saved {
        // Before the first choice, what an earlier process knew still holds.
        let active = self.active.or(self.restored.map(|(id, _)| id)).and_then(|id| self.index(id));
        Saved {
            active: active.map(|index| self.members[index].name.clone()),
            epoch: if self.active.is_some() { self.epoch } else { self.restored_epoch },
            breakers: self.visible().filter_map(|member| member.saved_breaker(now)).collect(),
            stay: self.stay.and_then(|stay| {
                let index = self.index(stay.backend)?;
                Some((self.members[index].name.clone(), stay.until.saturating_duration_since(now)))
            }),
            bans: self
                .visible()
                .filter_map(|member| Some((member.name.clone(), member.banned_until?.saturating_duration_since(now))))
                .collect(),
            drained: self.visible().filter(|member| member.is_drained).map(|member| member.name.clone()).collect(),
            reports: self.visible().flat_map(|member| member.reports.saved(&member.name, now)).collect(),
            servers: self.visible().filter_map(|member| member.server.saved(&member.name, now)).collect(),
        }
    }

    fn visible(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| !self.is_hidden(member.id))
    }

    /// What a report is worth: a late verdict nothing; silence nothing while live traffic is answered,
    /// or while a request that may legally run long keeps everybody waiting. An answer always counts.
    fn weigh(&mut self, index: usize, report: &ProbeReport) -> Worth {
        let health = &self.members[index].health_settings;
        let timeout = health.timeout;
        let took = report.ended_at.saturating_duration_since(report.started_at);
        let allowed = health.timeout * health.probes + health.probes_delay * (health.probes - 1);
        let ProbeVerdict::Failed { cause, refused } = &report.verdict else {
            return if took > allowed { Worth::Nothing } else { Worth::Counts };
        };
        let member = &mut self.members[index];
        // One that is slow anyway is not late for it.
        let is_strict = !*refused && member.latency.suspected_since().is_none();
        let since = if is_strict { report.started_at + took / 2 } else { report.started_at };
        if member.detector.has_replied_since(since) {
            let mut events = Vec::new();
            member.warn(Some(format!("probes fail although live traffic is answered: {cause}")), &mut events);
            self.log(events);
            Worth::Overruled
        } else if !refused && member.detector.is_excused() {
            Worth::Overruled
        } else if took > allowed + timeout / 2 {
            Worth::Nothing
        } else {
            Worth::Counts
        }
    }

    /// What a verdict and the signs that led to the probe mean together.
    fn judge(
        &mut self,
        now: Instant,
        index: usize,
        (report, worth): (&ProbeReport, Worth),
        fault: Option<Fault>,
        inquiry: Option<Inquiry>,
    ) -> Option<Fault> {
        let Some(inquiry) = inquiry else { return fault };
        let member = &mut self.members[index];
        match (&report.verdict, worth) {
            (ProbeVerdict::Void, _) | (_, Worth::Nothing) => member.reopen(now, inquiry),
            // Live traffic, or the limit for silence, decides.
            (_, Worth::Overruled) => member.acquit(now, report.started_at, inquiry),
            (ProbeVerdict::Good { .. } | ProbeVerdict::Busy { .. }, Worth::Counts) => {
                let is_acquitted = inquiry.word.is_some() && fault.is_none();
                self.acquittals += u64::from(is_acquitted && self.active == Some(member.id));
                member.acquit(now, report.started_at, inquiry);
            }
            (ProbeVerdict::CannotServe { .. }, Worth::Counts) => {
                let since = inquiry.word.or(inquiry.lost).map(|sign| sign.since);
                return fault.map(|fault| Fault { since: since.unwrap_or(fault.since).min(fault.since), ..fault });
            }
            (ProbeVerdict::Failed { cause, .. }, Worth::Counts) => {
                member.detector.on_guilty();
                let was_down = member.health.is_unhealthy() && fault.is_none();
                let sign = inquiry.lost.or(inquiry.word).filter(|_| !was_down);
                let with_cause = |sign: Fault| Fault { cause: format!("{}; then: {cause}", sign.cause), ..sign };
                return sign.map(with_cause).or(fault);
            }
        }
        fault
    }

    /// None can serve and the active answers again: no rise, no grace.
    fn revive_active(&mut self, now: Instant, index: usize, report: &ProbeReport, verdict: &ProbeVerdict) {
        let member = &mut self.members[index];
        let is_after = member.fault.as_ref().is_none_or(|fault| report.started_at >= fault.since);
        let is_good = matches!(verdict, ProbeVerdict::Good { .. });
        if is_good
            && is_after
            && self.active == Some(member.id)
            && member.health.is_unhealthy()
            && self.stage.is_serving()
        {
            let mut events = Vec::new();
            member.bring_up(now, &mut events);
            self.log(events);
        }
    }

    fn on_sign(&mut self, now: Instant, backend: BackendId, sign: Sign) {
        let Some(index) = self.index(backend) else { return };
        let member = &mut self.members[index];
        if !member.health.is_unhealthy() && member.on_sign(now, sign) {
            self.outputs.push_back(Output::ProbeNow(backend));
        }
    }

    /// No worker gets a connection although probes do: live traffic decides, as with silence.
    fn on_unconnected(&mut self, now: Instant, backend: BackendId, at: Instant, cause: &str) {
        let Some(index) = self.index(backend) else { return };
        let detector = &self.settings.detector;
        let limit = detector.slow_timeout.max(detector.hang_timeout);
        let member = &mut self.members[index];
        let Some(since) = member.on_unconnected(at).filter(|since| at >= *since + limit) else { return };
        if !member.health.is_unhealthy() {
            let cause = format!("no connection could be opened for {} ms: {cause}", (at - since).as_millis());
            self.bring_down(now, index, Fault { reason: Reason::ConnectionLost, cause, since });
        }
    }

    /// A connection to the active that was given up works again: look at once instead of at the next round.
    fn on_connected(&mut self, now: Instant, backend: BackendId) {
        let Some(index) = self.index(backend) else { return };
        let member = &mut self.members[index];
        member.unconnected = None;
        if self.active == Some(backend) && member.health.is_unhealthy() && member.on_sign(now, Sign::Look) {
            self.outputs.push_back(Output::ProbeNow(backend));
        }
    }

    fn bring_down(&mut self, now: Instant, index: usize, fault: Fault) {
        let mut events = Vec::new();
        self.members[index].bring_down(now, fault, &mut events);
        self.log(events);
        self.end_stay_on(self.members[index].id, StayEnd::BackendDown);
    }

    /// Lets time and all that came take effect.
    fn settle(&mut self, now: Instant) {
        let mut events = Vec::new();
        for member in &mut self.members {
            member.on_time(now, &mut events);
            if member.ask_if_due(now) {
                self.outputs.push_back(Output::ProbeNow(member.id));
            }
        }
        self.log(events);
        self.end_stay_in_time(now);
        self.end_pause_in_time(now);
        self.stop_drill_in_time(now);
        self.lift_fences_in_time(now);
        while self.let_go(now) || self.step(now) {}
        self.judge_availability(now);
        self.publish();
        self.finish_report(now);
        self.close_ledger();
        self.note_blocked(now);
        self.note_stranded();
        if std::mem::take(&mut self.must_persist) {
            self.outputs.push_back(Output::Persist(self.saved(now)));
        }
    }

    fn judge_availability(&mut self, now: Instant) {
        if self.stage.is_cutting() {
            return;
        }
        if self.active.is_some_and(|id| self.is_healthy(id)) {
            self.availability = Availability::Healthy;
            let Some(none) = self.none.take() else { return };
            let after = now.saturating_duration_since(none.since);
            self.unserved += after;
            if let Some(backend) = self.active.filter(|_| none.is_told) {
                self.log([Event::Recovered { backend, after }]);
            }
            return;
        }
        if self.none.is_none() {
            self.none = Some(NoneServing { since: now, is_told: true });
            self.availability = Availability::Degraded;
            self.log([Event::NoneHealthy]);
        }
        if self.refusing_at().is_some_and(|at| now >= at) {
            self.availability = Availability::Refusing;
            if let Some(none) = &mut self.none {
                none.is_told = true;
            }
            self.log([Event::Refusing]);
        }
    }

    /// When commands begin to be refused at once, if nothing changes.
    fn refusing_at(&self) -> Option<Instant> {
        let none = self.none.as_ref().filter(|_| self.availability != Availability::Refusing)?;
        let failover = &self.settings.failover;
        let is_known = self.active.is_some()
            || self.members.iter().all(|member| member.health.is_probed() && !member.health.is_latest_good());
        if failover.none_healthy == NoneHealthy::Refuse && is_known {
            return Some(none.since);
        }
        (failover.attempts > 0).then(|| none.since + failover.delay * failover.attempts)
    }

    fn note_blocked(&mut self, now: Instant) {
        let blocked = self.failback_choice(now).and_then(Result::err);
        if blocked != self.blocked {
            self.blocked = blocked;
            self.log([Event::FailbackBlocked { reason: blocked }]);
        }
    }

    fn publish(&mut self) {
        let route = Route {
            epoch: self.epoch,
            active: self.active,
            phase: self.stage.phase(),
            standby: self.standby(),
            availability: self.availability,
            acquittals: self.acquittals,
            abandoned_since: self.abandoned.filter(|(id, _)| self.active == Some(*id)).map(|(_, since)| since),
            pause: self.pause,
            drill: self.drill().map(|(drill, _)| drill),
            change: self.change.clone(),
        };
        if route != self.published {
            self.published = route.clone();
            self.outputs.push_back(Output::Publish(route));
        }
    }

    /// The next that would be chosen; nobody before the first choice.
    fn standby(&self) -> Option<BackendId> {
        let active = self.active?;
        let others = self.members.iter().filter(|member| member.id != active);
        let is_next = |member: &Member| member.is_selectable() && member.server.is_trusted();
        selection::best(others.map(|member| member.candidate(is_next(member))), None)
    }

    fn index(&self, id: BackendId) -> Option<usize> {
        self.members.iter().position(|member| member.id == id)
    }

    fn is_healthy(&self, id: BackendId) -> bool {
        self.index(id).is_some_and(|index| self.members[index].health.is_healthy())
    }

    fn log(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            if let Event::Switched(switched) = &event {
                self.add_up_drilled(switched);
            }
            self.must_persist |= matches!(
                event,
                Event::BreakerOpened { .. }
                    | Event::BreakerClosed { .. }
                    | Event::BreakerHalfOpen { .. }
                    | Event::StayBegan { .. }
                    | Event::StayEnded { .. }
                    | Event::Banned { .. }
                    | Event::BanEnded { .. }
                    | Event::BackendRemoved { .. }
                    | Event::Drained { .. }
                    | Event::DrainEnded { .. }
                    | Event::ReportEnded { .. }
            );
            self.outputs.push_back(Output::Log(event));
        }
    }
}

fn restore_bans(members: &mut [Member], saved: &Saved, now: Instant) {
    for (name, left) in saved.bans.iter().filter(|(_, left)| !left.is_zero()) {
        if let Some(member) = members.iter_mut().find(|member| member.name == *name) {
            member.banned_until = Some(now + *left);
        }
    }
}

fn restore_breakers(members: &mut [Member], saved: &Saved, now: Instant) {
    for breaker in &saved.breakers {
        if let Some(member) = members.iter_mut().find(|member| member.name == breaker.backend) {
            member.breaker = Breaker::restored(member.breaker_settings, now, breaker.grace, breaker.left);
        }
    }
}
