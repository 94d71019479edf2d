//! What an operator asks of the machine: a switch, a weight, a stay, a ban. More of it stands in `orders`, `reports` and
//! `drilling`.

use std::time::{Duration, Instant};

use super::event::{Command, Event, Manner, Refused, StayEnd};
use super::membership::check_weight;
use super::{Failover, Stay};
use crate::logic::route::BackendId;

impl Failover {
    /// An operator's command. A planned switch that was begun ends in [`Event::Switched`] or
    /// [`Event::SwitchCalledOff`].
    ///
    /// # Errors
    /// Says why it is not carried out; then nothing has changed.
    pub fn on_operator(&mut self, now: Instant, command: Command) -> Result<(), Refused> {
        let outcome = match command {
            Command::Switch { to, manner } => self.switch(now, to, manner),
            Command::SetWeight { backend, weight } => self.set_weight(backend, weight),
            Command::Stay { backend, length } => self.begin_stay(now, backend, length),
            Command::EndStay => match self.stay {
                Some(stay) => {
                    self.end_stay_on(stay.backend, StayEnd::Lifted);
                    Ok(())
                }
                None => Err(Refused::NoStay),
            },
            Command::Ban { backend, length } => self.ban(now, backend, length),
            Command::EndBan { backend } => self.end_ban(backend),
            Command::Remove { backend, removal } => self.remove(now, backend, removal),
            Command::Drain { backend } => self.drain(backend),
            Command::EndDrain { backend } => self.end_drain(backend),
            Command::Report { backend, report } => self.report(now, backend, report),
            Command::Pause { length, writes_only } => {
                self.begin_pause(now, length, writes_only);
                Ok(())
            }
            Command::Resume => self.end_pause(),
            Command::Drill { drill, length, is_forced } => self.begin_drill(now, drill, length, is_forced),
            Command::EndDrill => self.end_drill(now),
        };
        self.settle(now);
        outcome
    }

    /// A switch to elsewhere ends a stay.
    fn switch(&mut self, now: Instant, to: BackendId, manner: Manner) -> Result<(), Refused> {
        self.switch_by_operator(now, to, manner)?;
        if let Some(stay) = self.stay.filter(|stay| stay.backend != to) {
            self.end_stay_on(stay.backend, StayEnd::Lifted);
        }
        Ok(())
    }

    fn set_weight(&mut self, backend: BackendId, weight: f64) -> Result<(), Refused> {
        let index = self.index(backend).ok_or(Refused::UnknownBackend)?;
        check_weight(weight)?;
        if self.members[index].weight != weight {
            self.members[index].weight = weight;
            self.log([Event::WeightChanged { backend, weight }]);
        }
        Ok(())
    }

    fn begin_stay(&mut self, now: Instant, backend: BackendId, length: Duration) -> Result<(), Refused> {
        let index = self.index(backend).ok_or(Refused::UnknownBackend)?;
        if self.members[index].is_drained {
            return Err(Refused::TargetDrained);
        }
        if self.members[index].reports.down().is_some() {
            return Err(Refused::TargetReported);
        }
        if self.active != Some(backend) {
            self.switch_by_operator(now, backend, Manner::Planned)?;
        } else if !self.stage.is_serving() {
            // A failback away from it may be under way.
            return Err(Refused::SwitchUnderWay);
        }
        self.stay = Some(Stay { backend, until: now + length });
        self.log([Event::StayBegan { backend, length }]);
        Ok(())
    }

    pub(super) fn end_stay_on(&mut self, backend: BackendId, why: StayEnd) {
        if self.stay.take_if(|stay| stay.backend == backend).is_some() {
            self.log([Event::StayEnded { backend, why }]);
        }
    }

    pub(super) fn end_stay_in_time(&mut self, now: Instant) {
        if let Some(stay) = self.stay.filter(|stay| now >= stay.until) {
            self.end_stay_on(stay.backend, StayEnd::Expired);
        }
    }

    fn ban(&mut self, now: Instant, backend: BackendId, length: Duration) -> Result<(), Refused> {
        let index = self.index(backend).ok_or(Refused::UnknownBackend)?;
        if self.stage.target() == Some(backend) {
            return Err(Refused::SwitchUnderWay);
        }
        if self.active == Some(backend) {
            return Err(Refused::IsActive);
        }
        self.members[index].banned_until = Some(now + length);
        self.log([Event::Banned { backend, length }]);
        Ok(())
    }

    fn end_ban(&mut self, backend: BackendId) -> Result<(), Refused> {
        let index = self.index(backend).ok_or(Refused::UnknownBackend)?;
        self.members[index].banned_until.take().ok_or(Refused::NotBanned)?;
        self.log([Event::BanEnded { backend }]);
        Ok(())
    }
}
