//! The stages of a switch: choose, prove, hold or cut, serve. Only one switch is under way at a time.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::logic::failover::event::{
    Blocked, CallOff, Event, Fault, Manner, Output, Reason, Refused, StayEnd, Switched,
};
use crate::logic::failover::member::{Member, Sign};
use crate::logic::failover::promotion::Step;
use crate::logic::failover::{Failover, Stay};
use crate::logic::health::ProbeVerdict;
use crate::logic::judged::Judged;
use crate::logic::report::{ProbeReport, WorkerId};
use crate::logic::route::{BackendId, Change, Phase};
use crate::logic::selection;
use crate::logic::settings::{Failback, InitialPolicy};

/// How long a forced switch waits for workers that do not acknowledge; then their connections are killed.
const CUT_MAX: Duration = Duration::from_millis(50);
/// How long the first choice waits for a heavier backend after one was found good.
const START_MAX: Duration = Duration::from_millis(100);
/// How long the log of a switch waits for the workers' judgements.
const REPORTING_MAX: Duration = Duration::from_secs(2);
/// How long a planned switch waits for the probe of its target, on top of the probe's own timeout.
const PROVING_SLACK: Duration = Duration::from_secs(1);

/// Where the group stands.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    /// Nothing has been chosen yet; a first backend was good then, and has waited long enough for a heavier one.
    Starting { first_good: Option<Instant>, is_overdue: bool },
    /// The active serves.
    Serving,
    /// The active serves; the target of a planned switch is asked to answer a probe.
    Proving { switch: Switch, until: Instant },
    /// Workers hold new commands and drain.
    Holding { switch: Switch, attempt: u64, until: Instant, missing: Missing },
    /// A replica is asked for, catches up, or is promoted; in a planned switch commands wait, as in `hold`.
    Promoting { switch: Switch, step: Step, until: Instant, meanwhile: Meanwhile, is_promoting: bool },
    /// Workers stop writing and judge.
    Cutting { switch: Switch, attempt: u64, until: Instant, missing: Missing },
}

/// What becomes of commands while a replica is promoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meanwhile {
    /// The active takes them, should it live: nothing has been ordered yet.
    Served,
    /// Planned: they wait, in this attempt, whose drain ends then.
    Held(u64, Instant),
    /// Forced: they wait, in this attempt. What the active took from now on would be lost.
    Cut(u64),
}

/// A switch that was decided.
#[derive(Clone, Debug)]
pub(super) struct Switch {
    pub(super) to: BackendId,
    pub(super) reason: Reason,
    pub(super) cause: String,
    /// When its cause was first seen.
    pub(super) seen_at: Instant,
    pub(super) decided_at: Instant,
}

impl Switch {
    /// Decided now, without a fault that was seen before.
    pub(super) const fn new(now: Instant, to: BackendId, reason: Reason) -> Self {
        Self { to, reason, cause: String::new(), seen_at: now, decided_at: now }
    }
}

/// The workers that have not acknowledged yet.
#[derive(Clone, Debug)]
pub(super) struct Missing(Vec<WorkerId>);

impl Missing {
    fn all(workers: usize) -> Self {
        Self((0..workers).collect())
    }

    pub(super) const fn none() -> Self {
        Self(Vec::new())
    }

    fn remove(&mut self, worker: WorkerId) {
        self.0.retain(|missing| *missing != worker);
    }
}

impl Stage {
    /// What the workers see of it.
    pub(super) const fn phase(&self) -> Phase {
        match self {
            Self::Starting { .. } | Self::Serving | Self::Proving { .. } => Phase::Serve,
            Self::Promoting { switch, meanwhile, .. } => match *meanwhile {
                Meanwhile::Served => Phase::Serve,
                Meanwhile::Held(attempt, until) => Phase::Hold { to: switch.to, attempt, until },
                Meanwhile::Cut(attempt) => Phase::Cut { to: switch.to, attempt },
            },
            Self::Holding { switch, attempt, until, .. } => {
                Phase::Hold { to: switch.to, attempt: *attempt, until: *until }
            }
            Self::Cutting { switch, attempt, .. } => Phase::Cut { to: switch.to, attempt: *attempt },
        }
    }

    pub(super) const fn is_cutting(&self) -> bool {
        matches!(self, Self::Cutting { .. })
    }

    /// Where the switch that is under way leads to.
    pub(super) const fn target(&self) -> Option<BackendId> {
        match self {
            Self::Proving { switch, .. }
            | Self::Holding { switch, .. }
            | Self::Promoting { switch, .. }
            | Self::Cutting { switch, .. } => Some(switch.to),
            Self::Starting { .. } | Self::Serving => None,
        }
    }

    pub(super) const fn is_serving(&self) -> bool {
        matches!(self, Self::Serving)
    }

    /// A worker acknowledged; one of an older attempt means nothing.
    pub(super) fn acknowledge(&mut self, worker: WorkerId, acknowledged: u64) {
        if let Self::Holding { attempt, missing, .. } | Self::Cutting { attempt, missing, .. } = self
            && *attempt == acknowledged
        {
            missing.remove(worker);
        }
    }
}

/// A switch that took place and whose judgements are being added up.
#[derive(Clone, Debug)]
pub(super) struct Reporting {
    switched: Switched,
    missing: Missing,
    pub(super) until: Instant,
}

impl Reporting {
    pub(super) fn on_activated(&mut self, worker: WorkerId, epoch: u64, judged: Judged) {
        if epoch == self.switched.epoch && self.missing.0.contains(&worker) {
            self.missing.remove(worker);
            self.switched.judged += judged;
        }
    }
}

impl Failover {
    /// Takes one step if one is due; says whether it did.
    pub(super) fn step(&mut self, now: Instant) -> bool {
        let is_active_down = self.active.is_some_and(|id| !self.is_healthy(id)) || self.must_leave_reported();
        match &self.stage {
            Stage::Starting { .. } => self.start(now),
            Stage::Serving if is_active_down => self.leave(now),
            Stage::Serving => self.leave_drained(now) || self.fail_back(now),
            Stage::Proving { .. } | Stage::Holding { .. } if is_active_down => {
                self.overtake();
                self.leave(now);
                true
            }
            Stage::Promoting { .. } => self.step_of_promotion(now),
            Stage::Proving { switch, .. } | Stage::Holding { switch, .. } if self.is_set_aside(switch.to) => {
                self.call_off(now, CallOff::TargetSetAside)
            }
            Stage::Proving { switch, until } => {
                let is_lost = !self.is_fit(switch.to) || now >= *until;
                is_lost && self.call_off(now, CallOff::TargetUnhealthy)
            }
            Stage::Holding { switch, .. } if !self.is_fit(switch.to) => self.call_off(now, CallOff::TargetUnhealthy),
            Stage::Holding { missing, .. } if missing.0.is_empty() => self.drained(now),
            Stage::Holding { switch, until, .. } if switch.reason == Reason::Slow => now >= *until && self.force(now),
            Stage::Holding { until, .. } => now >= *until && self.call_off(now, CallOff::NotDrained),
            Stage::Cutting { missing, until, .. } => (missing.0.is_empty() || now >= *until) && self.complete(now),
        }
    }

    /// The first choice: as soon as the preferred backend is good, else when all have been heard,
    /// else a moment after the first good one. Nothing is there to be cut, so it serves at once.
    fn start(&mut self, now: Instant) -> bool {
        let good = self.members.iter().filter(|member| member.health.is_latest_good()).count();
        let Stage::Starting { first_good, is_overdue } = &mut self.stage else { return false };
        if good == 0 {
            (*first_good, *is_overdue) = (None, false);
            return false;
        }
        let since = *first_good.get_or_insert(now);
        *is_overdue = now >= since + START_MAX;
        let is_overdue = *is_overdue;
        let needed = match self.settings.failover.initial {
            InitialPolicy::One => 1,
            InitialPolicy::Majority => self.members.len() / 2 + 1,
            InitialPolicy::All => self.members.len(),
        };
        let is_wanted = |id: &BackendId| self.index(*id).is_some_and(|index| self.members[index].may_be_chosen());
        let last = self.restored.map(|(id, _)| id).filter(is_wanted);
        let heaviest = self.members.iter().map(|member| member.candidate(member.may_be_chosen()));
        let preferred = last.or_else(|| selection::best(heaviest, None));
        let is_good = |id| self.index(id).is_some_and(|index| self.members[index].health.is_latest_good());
        let is_settled =
            preferred.is_some_and(is_good) || self.members.iter().all(|member| member.health.is_probed()) || is_overdue;
        let choice = last.filter(|id| is_good(*id)).or_else(|| self.refuge()).or_else(|| self.last_refuge());
        let Some(to) = choice.filter(|_| good >= needed && is_settled) else { return false };
        self.begin(now, Switch { to, reason: Reason::Start, cause: String::new(), seen_at: since, decided_at: now });
        true
    }

    /// The first active. The same as before the start goes on in its epoch, so that what clients hold of it stays valid.
    fn begin(&mut self, now: Instant, switch: Switch) {
        self.epoch = match self.restored {
            Some((id, epoch)) if id == switch.to && epoch > 0 => epoch - 1,
            _ => self.restored_epoch,
        };
        self.serve(now, switch);
    }

    /// Leaves a dead active for the best other, if there is any.
    fn leave(&mut self, now: Instant) -> bool {
        let active = self.active.and_then(|id| self.index(id)).map(|index| &self.members[index]);
        let is_working = active.is_some_and(|active| active.health.is_healthy());
        let fault = active.and_then(|active| active.fault.clone()).filter(|_| !is_working);
        let report = active.and_then(|active| active.reports.down());
        let (reason, cause, seen_at) = match (fault, report) {
            (Some(fault), _) => (fault.reason, fault.cause, fault.since),
            (None, Some(report)) => {
                (Reason::ReportedDown, format!("{}: {}", report.reporter, report.reason), report.since)
            }
            (None, None) => (Reason::ProbesFailed, String::new(), now),
        };
        let switch = |to| Switch { to, reason, cause, seen_at, decided_at: now };
        if let Some(to) = self.refuge() {
            self.cut(now, switch(to));
            return true;
        }
        // A report alone leads nowhere else than to a backend that can be selected.
        if is_working {
            return false;
        }
        if let Some(to) = self.promoted_refuge() {
            self.cut(now, switch(to));
            return true;
        }
        let last = self.last_refuge();
        let Some(placeholder) = last.or(self.active) else { return false };
        let switch = switch(placeholder);
        if self.begin_promotion(now, switch.clone()) {
            return true;
        }
        let Some(to) = last else { return false };
        self.cut(now, Switch { to, ..switch });
        true
    }

    /// The best backend other than the active: healthy with a closed breaker; else, since the active does not work, any
    /// whose latest probe was clean, and be it reported down. None that is fenced, and none that must be promoted first.
    pub(super) fn refuge(&self) -> Option<BackendId> {
        self.best_refuge(|index| self.members[index].server.is_trusted() && !self.must_be_promoted(index))
    }

    /// As [`Self::refuge`], when there is no other: who is fenced is better than nobody.
    fn last_refuge(&self) -> Option<BackendId> {
        self.best_refuge(|index| !self.must_be_promoted(index))
    }

    /// As [`Self::refuge`], when there is no other: who is fenced as a second master because somebody promoted it.
    pub(super) fn promoted_refuge(&self) -> Option<BackendId> {
        self.best_refuge(|index| self.was_promoted(index))
    }

    pub(super) fn must_be_promoted(&self, index: usize) -> bool {
        self.replication.promotes && self.is_replica(index)
    }

    fn best_refuge(&self, is_allowed: impl Fn(usize) -> bool) -> Option<BackendId> {
        let others = || self.members.iter().enumerate().filter(|(_, member)| Some(member.id) != self.active);
        let best = |is_eligible: fn(&Member) -> bool| {
            let candidate =
                |(index, member): (usize, &Member)| member.candidate(is_eligible(member) && is_allowed(index));
            selection::best(others().map(candidate), None)
        };
        let is_active_working = self.active.is_some_and(|id| self.is_healthy(id));
        best(Member::is_selectable).or_else(|| {
            let clean = best(|member| member.health.is_latest_good() && !member.is_set_aside());
            let reported = || best(|member| member.health.is_latest_good() && !member.is_barred());
            if is_active_working { None } else { clean.or_else(reported) }
        })
    }

    fn fail_back(&mut self, now: Instant) -> bool {
        let Some(Ok(to)) = self.failback_choice(now) else { return false };
        self.plan(now, to, Reason::Failback);
        true
    }

    /// The backend to return to, or why the best healthy one that is heavier is not returned to.
    pub(super) fn failback_choice(&self, now: Instant) -> Option<Result<BackendId, Blocked>> {
        let mut blocked = None;
        for member in self.heavier() {
            match self.failback_block(now, member) {
                None => return Some(Ok(member.id)),
                Some(reason) => blocked = blocked.or(Some(reason)),
            }
        }
        blocked.map(Err)
    }

    /// The healthy backends heavier than the active, heaviest first.
    fn heavier(&self) -> Vec<&Member> {
        let Some(active) = self.active.and_then(|id| self.index(id)) else { return Vec::new() };
        let weight = self.members[active].preference();
        let is_heavier =
            |member: &&Member| member.preference() > weight && member.health.is_healthy() && !member.is_set_aside();
        let mut heavier: Vec<&Member> = self.members.iter().filter(is_heavier).collect();
        heavier.sort_by(|one, other| other.preference().partial_cmp(&one.preference()).unwrap_or(Ordering::Equal));
        heavier
    }

    fn failback_block(&self, now: Instant, member: &Member) -> Option<Blocked> {
        if self.stay.is_some() {
            return Some(Blocked::Stay);
        }
        match self.settings.failover.failback {
            Failback::Manual => return Some(Blocked::Manual),
            Failback::Never => return Some(Blocked::Never),
            Failback::Auto => {}
        }
        let fence = member.server.fence.as_ref();
        if let Some(fence) = fence.filter(|fence| fence.is_lasting) {
            Some(Blocked::Fenced(fence.reason))
        } else if !member.breaker.is_closed() {
            Some(Blocked::Breaker)
        } else if self.is_clean_at(member).is_none_or(|at| now < at) {
            Some(fence.map_or(Blocked::HoldTime, |fence| Blocked::Fenced(fence.reason)))
        } else if !member.may_lead() {
            Some(Blocked::Lag)
        } else if self.is_calm_at(now).is_some_and(|at| now < at) {
            Some(Blocked::FlapGuard)
        } else if self.failback_after.is_some_and(|at| now < at) {
            Some(Blocked::CalledOff)
        } else {
            None
        }
    }

    /// When a backend will have been clean for `failback_hold`. An operator's choice is left alone as long.
    pub(super) fn is_clean_at(&self, member: &Member) -> Option<Instant> {
        let since = member.clean_since?;
        let since = member.server.fence.as_ref().map_or(since, |fence| fence.since.max(since));
        let since = self.chosen_at.map_or(since, |chosen| chosen.max(since));
        Some(since + self.settings.failover.failback_hold.mul_f64(member.hold_factor))
    }

    /// When the flap guard lets failbacks through again, if it does not now.
    pub(super) fn is_calm_at(&self, now: Instant) -> Option<Instant> {
        let failover = &self.settings.failover;
        let in_window = |at: &&Instant| **at + failover.switches_window > now;
        let count = self.recent.iter().filter(in_window).count();
        let oldest = self.recent.iter().find(in_window);
        oldest.filter(|_| count >= failover.switches_max as usize).map(|at| *at + failover.switches_window)
    }

    pub(super) fn failback_deadline(&self) -> Option<Instant> {
        // What something else than time must end first has no deadline of its own.
        let is_held = self.stay.is_some();
        if is_held || !self.stage.is_serving() || self.settings.failover.failback != Failback::Auto {
            return None;
        }
        let is_open = |member: &&Member| !member.server.fence.as_ref().is_some_and(|fence| fence.is_lasting);
        let waiting = self.heavier().into_iter().filter(|member| member.breaker.is_closed() && member.may_lead());
        let clean = waiting.filter(is_open).filter_map(|member| self.is_clean_at(member)).min()?;
        let calm = self.recent.front().map(|at| *at + self.settings.failover.switches_window);
        let calm = calm.filter(|_| self.recent.len() >= self.settings.failover.switches_max as usize);
        [Some(clean), calm, self.failback_after].into_iter().flatten().max()
    }

    pub(super) fn stage_deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Starting { first_good, is_overdue } => {
                first_good.filter(|_| !is_overdue).map(|since| since + START_MAX)
            }
            Stage::Serving => None,
            Stage::Proving { until, .. }
            | Stage::Holding { until, .. }
            | Stage::Promoting { until, .. }
            | Stage::Cutting { until, .. } => Some(*until),
        }
    }

    pub(super) fn switch_by_operator(&mut self, now: Instant, to: BackendId, manner: Manner) -> Result<(), Refused> {
        let index = self.index(to).ok_or(Refused::UnknownBackend)?;
        if self.active == Some(to) {
            return Err(Refused::AlreadyActive);
        }
        let member = &self.members[index];
        if member.leaving.is_some() {
            return Err(Refused::TargetLeaving);
        }
        if member.is_banned() {
            return Err(Refused::TargetBanned);
        }
        if member.is_drained {
            return Err(Refused::TargetDrained);
        }
        if member.is_set_aside() {
            return Err(Refused::TargetReported);
        }
        match self.stage {
            Stage::Cutting { .. } | Stage::Promoting { .. } => return Err(Refused::SwitchUnderWay),
            Stage::Starting { .. } if manner == Manner::Planned => return Err(Refused::NoActive),
            _ => {}
        }
        match manner {
            Manner::Planned if !self.stage.is_serving() => return Err(Refused::SwitchUnderWay),
            Manner::Planned if !self.is_fit(to) => return Err(Refused::TargetUnhealthy),
            Manner::Planned => self.plan(now, to, Reason::Operator),
            Manner::Forced => {
                self.overtake();
                let switch = Switch::new(now, to, Reason::Operator);
                match self.stage {
                    Stage::Starting { .. } => self.begin(now, switch),
                    _ if self.is_promotable(index) => self.order_promotion(now, switch),
                    _ => self.cut(now, switch),
                }
            }
        }
        Ok(())
    }

    /// Begins a planned switch: the target must answer a probe now.
    pub(super) fn plan(&mut self, now: Instant, to: BackendId, reason: Reason) {
        self.plan_switch(now, Switch::new(now, to, reason));
    }

    /// Leaves a slow active as a planned switch, so that what it can still answer is not lost.
    pub(super) fn leave_slow(&mut self, now: Instant, to: BackendId, fault: Fault) {
        let Fault { reason, cause, since } = fault;
        self.plan_switch(now, Switch { to, reason, cause, seen_at: since, decided_at: now });
    }

    /// What a slow active has not answered when the drain ends is judged as if it were dead.
    fn force(&mut self, now: Instant) -> bool {
        let Stage::Holding { switch, .. } = &self.stage else { return false };
        let switch = switch.clone();
        self.give_up_slow(now, &switch);
        self.cut(now, switch);
        true
    }

    /// From now on the slow active is unhealthy.
    fn give_up_slow(&mut self, now: Instant, switch: &Switch) {
        let Some(index) = self.active.and_then(|id| self.index(id)) else { return };
        if self.members[index].health.is_healthy() {
            let (reason, cause, since) = (switch.reason.clone(), switch.cause.clone(), switch.seen_at);
            self.bring_down(now, index, Fault { reason, cause, since });
        }
    }

    fn plan_switch(&mut self, now: Instant, switch: Switch) {
        let to = switch.to;
        let Some(index) = self.index(to) else { return };
        let until = now + self.members[index].health_settings.timeout * 2 + PROVING_SLACK;
        self.stage = Stage::Proving { switch, until };
        if self.members[index].on_sign(now, Sign::Look) {
            self.outputs.push_back(Output::ProbeNow(to));
        }
    }

    /// A probe ended that may prove the target of a planned switch.
    pub(super) fn prove(&mut self, now: Instant, index: usize, report: &ProbeReport, verdict: &ProbeVerdict) {
        let Stage::Proving { switch, .. } = &self.stage else { return };
        let is_asked = report.immediate && report.started_at >= switch.decided_at;
        if switch.to != self.members[index].id || !is_asked {
            return;
        }
        match verdict {
            ProbeVerdict::Good { .. } => {
                let switch = Switch { decided_at: now, ..switch.clone() };
                self.hold(now, switch);
            }
            // That is what a replica says; it is promoted once it has everything.
            ProbeVerdict::CannotServe { .. } if self.is_promotable(index) => {
                let switch = Switch { decided_at: now, ..switch.clone() };
                self.hold(now, switch);
            }
            ProbeVerdict::Void => {}
            ProbeVerdict::Busy { .. } | ProbeVerdict::CannotServe { .. } | ProbeVerdict::Failed { .. } => {
                self.call_off(now, CallOff::TargetUnhealthy);
            }
        }
    }

    fn hold(&mut self, now: Instant, switch: Switch) {
        self.attempts += 1;
        let until = now + self.settings.failover.drain;
        let missing = Missing::all(self.workers);
        self.stage = Stage::Holding { switch, attempt: self.attempts, until, missing };
    }

    pub(super) fn cut(&mut self, now: Instant, switch: Switch) {
        self.attempts += 1;
        let missing = Missing::all(self.workers);
        self.stage = Stage::Cutting { switch, attempt: self.attempts, until: now + CUT_MAX, missing };
    }

    /// A forced switch takes the place of a planned one that was under way.
    pub(super) fn overtake(&mut self) {
        if let Stage::Proving { switch, .. } | Stage::Holding { switch, .. } = &self.stage {
            let event = Event::SwitchCalledOff { to: switch.to, why: CallOff::Overtaken, retry_in: None };
            let to = switch.to;
            self.stage = Stage::Serving;
            self.log([event]);
            self.end_stay_on(to, StayEnd::CalledOff);
        }
    }

    /// The old active goes on in its epoch; a failback is tried again later.
    pub(super) fn call_off(&mut self, now: Instant, why: CallOff) -> bool {
        let (Stage::Proving { switch, .. } | Stage::Holding { switch, .. } | Stage::Promoting { switch, .. }) =
            &self.stage
        else {
            return false;
        };
        let to = switch.to;
        let is_retried =
            matches!(switch.reason, Reason::Failback | Reason::Drained | Reason::Removed | Reason::Replaced);
        let retry_in = is_retried.then(|| self.failback_backoff.grow());
        self.failback_after = retry_in.map(|wait| now + wait).or(self.failback_after);
        if switch.reason == Reason::Slow {
            self.put_off_leaving(now);
        }
        self.stage = Stage::Serving;
        self.log([Event::SwitchCalledOff { to, why, retry_in }]);
        self.end_stay_on(to, StayEnd::CalledOff);
        true
    }

    /// The workers have let go of the old active, or their time is over.
    pub(super) fn complete(&mut self, now: Instant) -> bool {
        let (Stage::Holding { switch, missing, .. } | Stage::Cutting { switch, missing, .. }) = &self.stage else {
            return false;
        };
        let (mut switch, missing) = (switch.clone(), missing.0.len());
        // A target that failed in the meantime is not switched to if there is a better one.
        let is_wanted = switch.reason == Reason::Operator || self.is_healthy_or_clean(switch.to);
        if !is_wanted || self.index(switch.to).is_some_and(|index| self.members[index].leaving.is_some()) {
            switch.to = self.refuge().unwrap_or(switch.to);
        }
        if missing > 0 {
            self.log([Event::WorkersLate { missing }]);
        }
        if switch.reason == Reason::Slow {
            self.give_up_slow(now, &switch);
        }
        match switch.reason {
            Reason::Operator => self.chosen_at = Some(now),
            // No sign of flapping: nobody failed.
            Reason::Removed | Reason::Replaced => {}
            _ => self.remember(now),
        }
        self.serve(now, switch);
        true
    }

    fn is_healthy_or_clean(&self, id: BackendId) -> bool {
        self.is_healthy(id) || self.index(id).is_some_and(|index| self.members[index].health.is_latest_good())
    }

    fn is_set_aside(&self, id: BackendId) -> bool {
        self.index(id).is_some_and(|index| self.members[index].is_set_aside())
    }

    /// The flap guard counts it.
    fn remember(&mut self, now: Instant) {
        self.recent.push_back(now);
        while self.recent.len() > self.settings.failover.switches_max.max(1) as usize {
            self.recent.pop_front();
        }
    }

    /// A new epoch: the target serves.
    fn serve(&mut self, now: Instant, switch: Switch) {
        self.tell_switched();
        let from = self.active;
        let Some(index) = self.index(switch.to) else { return };
        let is_clean = self.members[index].health.is_latest_good();
        if is_clean || switch.reason == Reason::Operator {
            let mut events = Vec::new();
            self.members[index].bring_up(now, &mut events);
            self.log(events);
        }
        // Who replaces it has its name, and the stay with it.
        let is_elsewhere = |stay: &Stay| stay.backend != switch.to && switch.reason != Reason::Replaced;
        if let Some(stay) = self.stay.filter(is_elsewhere) {
            self.end_stay_on(stay.backend, StayEnd::BackendDown);
        }
        self.lift_fence(index, "it is the active");
        if let Some(old) = from.filter(|from| *from != switch.to).and_then(|from| self.index(from)) {
            self.members[old].server.forget_facts();
        }
        self.count_drilled(now, switch.decided_at, switch.to);
        self.epoch += 1;
        self.change = Some(Arc::new(Change {
            from: from.and_then(|from| self.index(from)).map(|index| self.members[index].name.clone()),
            to: self.members[index].name.clone(),
            reason: switch.reason.to_string(),
        }));
        self.members[index].is_level = None;
        self.active = Some(switch.to);
        self.reason = switch.reason.clone();
        self.cause.clone_from(&switch.cause);
        self.stage = Stage::Serving;
        self.must_persist = true;
        self.failback_after = None;
        self.failback_backoff.reset();
        let switched = Switched {
            from,
            to: switch.to,
            reason: switch.reason,
            cause: switch.cause,
            epoch: self.epoch,
            detect: switch.decided_at.saturating_duration_since(switch.seen_at),
            switch: now.saturating_duration_since(switch.decided_at),
            judged: Judged::default(),
        };
        let missing = Missing::all(self.workers);
        self.reporting = Some(Reporting { switched, missing, until: now + REPORTING_MAX });
    }

    /// Tells of the last switch once all workers have judged, or have had their time.
    pub(super) fn finish_report(&mut self, now: Instant) {
        if self.reporting.as_ref().is_some_and(|report| report.missing.0.is_empty() || now >= report.until) {
            self.tell_switched();
        }
    }

    fn tell_switched(&mut self) {
        if let Some(reporting) = self.reporting.take() {
            self.log([Event::Switched(reporting.switched)]);
        }
    }
}
