//! Members that come and go at run time: added, removed, replaced by another server of the same name.
//!
//! Whoever is to go stays a member until nobody needs it: the active is left by a planned switch first, and what a
//! switch leads to is called off. A number is never given twice, so nothing old is mistaken for something new.

use std::time::Instant;

use super::event::{CallOff, Event, Output, Reason, Refused, Removal, StayEnd};
use super::member::Member;
use super::switching::{Stage, Switch};
use super::{BackendSpec, Failover, GroupSettings, Stay};
use crate::logic::route::BackendId;
use crate::logic::selection;

/// Why a member is about to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    /// For good.
    Removed,
    /// For this one, which nobody sees until it has the name to itself.
    ReplacedBy(BackendId),
}

impl Failover {
    /// Another backend, of which nothing is known yet: its first clean probe makes it healthy.
    ///
    /// # Errors
    /// Its name or number is taken, or its weight is none; then nothing has changed.
    pub fn add(&mut self, now: Instant, spec: BackendSpec) -> Result<(), Refused> {
        check_weight(spec.weight)?;
        if self.members.iter().any(|member| member.id == spec.id || member.name == spec.name) {
            return Err(Refused::NameTaken);
        }
        let (backend, weight) = (spec.id, spec.weight);
        self.members.push(Member::new(spec, &self.settings));
        self.log([Event::BackendAdded { backend, weight }]);
        self.settle(now);
        Ok(())
    }

    /// Another server under the name of `old`. Where `old` is active it stays so until the other is healthy, and is
    /// left by a planned switch then; until that nobody sees the other. Stays, bans
    /// and drains go on under the name; what checkers reported was said of the old server.
    ///
    /// # Errors
    /// There is no such backend, a switch to what was to replace it is under way, or the weight is none; then nothing
    /// has changed.
    pub fn replace(&mut self, now: Instant, old: BackendId, spec: BackendSpec) -> Result<(), Refused> {
        check_weight(spec.weight)?;
        if self.index(old).is_none() {
            return Err(Refused::UnknownBackend);
        }
        if self.index(spec.id).is_some() {
            return Err(Refused::NameTaken);
        }
        self.discard_successor(now, old)?;
        let successor = spec.id;
        self.members.push(Member::new(spec, &self.settings));
        self.mark_leaving(old, Leaving::ReplacedBy(successor));
        self.settle(now);
        Ok(())
    }

    /// Other settings, for decisions from now on; what was found out stays. Each of `backends` that is a member takes
    /// its own health checks and breaker from there; weights stay.
    pub fn configure(&mut self, now: Instant, settings: GroupSettings, backends: &[BackendSpec]) {
        self.settings = settings;
        for member in &mut self.members {
            let spec = backends.iter().find(|spec| spec.id == member.id);
            member.configure(spec, &self.settings);
        }
        self.settle(now);
    }

    pub(super) fn remove(&mut self, now: Instant, backend: BackendId, removal: Removal) -> Result<(), Refused> {
        let index = self.index(backend).ok_or(Refused::UnknownBackend)?;
        let stays = |member: &&Member| {
            member.id != backend && member.leaving != Some(Leaving::Removed) && !self.is_hidden(member.id)
        };
        if self.members.iter().filter(stays).count() == 0 {
            return Err(Refused::LastBackend);
        }
        let is_active = self.active == Some(backend);
        let is_healthy = self.members[index].health.is_healthy();
        if is_active && is_healthy && removal == Removal::Planned && self.heir().is_none() {
            return Err(Refused::NoneToTakeOver);
        }
        self.discard_successor(now, backend)?;
        self.mark_leaving(backend, Leaving::Removed);
        self.end_stay_on(backend, StayEnd::Removed);
        let can_be_cut = self.stage.is_serving() || self.stage.planned_target().is_some();
        if is_active && can_be_cut && (removal == Removal::Forced || !is_healthy) {
            self.cut_away(now);
        }
        Ok(())
    }

    /// Lets go of every member that is to leave and that nobody needs any more. Says whether anything changed.
    pub(super) fn let_go(&mut self, now: Instant) -> bool {
        let target = self.stage.planned_target().and_then(|to| self.index(to));
        if target.is_some_and(|index| self.members[index].leaving.is_some()) {
            self.call_off(now, CallOff::TargetRemoved);
        }
        let is_needed = |id| self.active == Some(id) || self.stage.target() == Some(id);
        let leavers = self.members.iter().filter(|member| member.leaving.is_some() && !is_needed(member.id));
        let gone: Vec<BackendId> = leavers.map(|member| member.id).collect();
        gone.iter().for_each(|&backend| self.drop_member(now, backend));
        !gone.is_empty() | self.leave_for_heir(now)
    }

    /// When the leaving of the active is tried again.
    pub(super) fn leaving_deadline(&self) -> Option<Instant> {
        self.active_leaving().and(self.failback_after).filter(|_| self.stage.is_serving())
    }

    /// Nobody sees it yet: its predecessor still has the name.
    pub(super) fn is_hidden(&self, backend: BackendId) -> bool {
        self.members.iter().any(|member| member.leaving == Some(Leaving::ReplacedBy(backend)))
    }

    fn active_leaving(&self) -> Option<Leaving> {
        self.members[self.index(self.active?)?].leaving
    }

    fn mark_leaving(&mut self, backend: BackendId, leaving: Leaving) {
        if let Some(index) = self.index(backend) {
            self.members[index].leaving = Some(leaving);
        }
    }

    /// What was to replace this one is not wanted any more.
    fn discard_successor(&mut self, now: Instant, backend: BackendId) -> Result<(), Refused> {
        let leaving = self.index(backend).and_then(|index| self.members[index].leaving);
        let Some(Leaving::ReplacedBy(successor)) = leaving else { return Ok(()) };
        if self.stage.planned_target() == Some(successor) {
            self.call_off(now, CallOff::TargetRemoved);
        } else if self.stage.target() == Some(successor) {
            return Err(Refused::SwitchUnderWay);
        }
        self.members.retain(|member| member.id != successor);
        self.outputs.push_back(Output::Dismiss(successor));
        Ok(())
    }

    /// A planned switch away from an active that is to leave, as soon as another can take over.
    fn leave_for_heir(&mut self, now: Instant) -> bool {
        let Some(leaving) = self.active_leaving() else { return false };
        if !self.stage.is_serving() || self.failback_after.is_some_and(|at| now < at) {
            return false;
        }
        let (heir, reason) = match leaving {
            Leaving::Removed => (self.heir(), Reason::Removed),
            Leaving::ReplacedBy(successor) => {
                (Some(successor).filter(|&successor| self.is_healthy(successor)), Reason::Replaced)
            }
        };
        let Some(heir) = heir else { return false };
        self.plan(now, heir, reason);
        true
    }

    /// The best healthy backend other than the active, one with a closed breaker if there is any.
    fn heir(&self) -> Option<BackendId> {
        let others = || self.members.iter().filter(|member| Some(member.id) != self.active);
        let best = |is_eligible: fn(&Member) -> bool| {
            selection::best(others().map(|member| member.candidate(is_eligible(member))), None)
        };
        best(|member| member.is_selectable() && member.may_be_chosen())
            .or_else(|| best(|member| member.health.is_healthy() && member.may_be_chosen()))
    }

    /// A forced switch away from the active: to whoever can serve, else to the heaviest that stays.
    fn cut_away(&mut self, now: Instant) {
        let others = self.members.iter().filter(|member| Some(member.id) != self.active);
        let staying = others.map(|member| member.candidate(member.leaving.is_none()));
        let Some(to) = self.refuge().or_else(|| selection::best(staying, None)) else { return };
        self.overtake();
        self.cut(now, Switch::new(now, to, Reason::Removed));
    }

    fn drop_member(&mut self, now: Instant, backend: BackendId) {
        let Some(index) = self.index(backend) else { return };
        let member = self.members.remove(index);
        self.end_drill_on(now, backend);
        if self.restored.is_some_and(|(last, _)| last == backend) {
            self.restored = None;
        }
        match member.leaving {
            Some(Leaving::ReplacedBy(successor)) => {
                self.stay = self.stay.map(|stay| match stay.backend == backend {
                    true => Stay { backend: successor, ..stay },
                    false => stay,
                });
                if let Some(index) = self.index(successor) {
                    self.members[index].banned_until = member.banned_until;
                    self.members[index].is_drained = member.is_drained;
                }
                self.log([Event::BackendReplaced { backend, by: successor }]);
            }
            Some(Leaving::Removed) | None => self.log([Event::BackendRemoved { backend }]),
        }
        self.outputs.push_back(Output::Dismiss(backend));
    }
}

impl Stage {
    /// Where the switch that is under way leads to, as long as it can be called off.
    pub(super) const fn planned_target(&self) -> Option<BackendId> {
        match self {
            // Who is being promoted is a master by the time that anybody could say no.
            Self::Cutting { .. } | Self::Promoting { .. } => None,
            _ => self.target(),
        }
    }
}

pub(super) fn check_weight(weight: f64) -> Result<(), Refused> {
    if weight.is_finite() && weight > 0.0 { Ok(()) } else { Err(Refused::BadWeight) }
}
