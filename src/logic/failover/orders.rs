//! An operator takes a backend out of service, or lets clients wait.

use std::time::{Duration, Instant};

use super::Failover;
use super::event::{Event, Reason, Refused, StayEnd};
use super::switching::Stage;
use crate::logic::route::{BackendId, Pause};

impl Failover {
    pub(super) fn drain(&mut self, backend: BackendId) -> Result<(), Refused> {
        let index = self.index(backend).ok_or(Refused::UnknownBackend)?;
        if self.stage.target() == Some(backend) {
            return Err(Refused::SwitchUnderWay);
        }
        if std::mem::replace(&mut self.members[index].is_drained, true) {
            return Err(Refused::AlreadyDrained);
        }
        self.log([Event::Drained { backend }]);
        self.end_stay_on(backend, StayEnd::Lifted);
        Ok(())
    }

    pub(super) fn end_drain(&mut self, backend: BackendId) -> Result<(), Refused> {
        let index = self.index(backend).ok_or(Refused::UnknownBackend)?;
        if !std::mem::replace(&mut self.members[index].is_drained, false) {
            return Err(Refused::NotDrained);
        }
        self.log([Event::DrainEnded { backend }]);
        Ok(())
    }

    /// A planned switch away from a drained active, if there is somewhere to go.
    pub(super) fn leave_drained(&mut self, now: Instant) -> bool {
        let is_drained = self.active.and_then(|id| self.index(id)).is_some_and(|index| {
            let member = &self.members[index];
            self.is_drained(member)
        });
        if !is_drained || self.failback_after.is_some_and(|at| now < at) {
            return false;
        }
        let Some(to) = self.best_other() else { return false };
        self.plan(now, to, Reason::Drained);
        true
    }

    /// When a switch away from a drained active that was called off is tried again.
    pub(super) fn drain_deadline(&self) -> Option<Instant> {
        let active = self.active.and_then(|id| self.index(id)).map(|index| &self.members[index])?;
        let is_due = matches!(self.stage, Stage::Serving) && self.is_drained(active) && self.best_other().is_some();
        self.failback_after.filter(|_| is_due)
    }

    pub(super) fn begin_pause(&mut self, now: Instant, length: Duration, writes_only: bool) {
        self.pause = Some(Pause { until: now + length, writes_only });
        self.log([Event::Paused { length, writes_only }]);
    }

    pub(super) fn end_pause(&mut self) -> Result<(), Refused> {
        self.pause.take().ok_or(Refused::NotPaused)?;
        self.log([Event::Resumed { is_expired: false }]);
        Ok(())
    }

    pub(super) fn end_pause_in_time(&mut self, now: Instant) {
        if self.pause.take_if(|pause| pause.until <= now).is_some() {
            self.log([Event::Resumed { is_expired: true }]);
        }
    }
}
