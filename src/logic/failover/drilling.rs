//! A drill as the machine sees it: when it begins and ends, and the ledger of what it led to.

use std::time::{Duration, Instant};

use super::Failover;
use super::event::{Event, Refused, Switched};
use crate::logic::drill::Drill;
use crate::logic::judged::Judged;
use crate::logic::route::BackendId;

/// A drill under way.
#[derive(Clone, Debug)]
pub(super) struct Drilling {
    drill: Drill,
    began_at: Instant,
    pub(super) until: Instant,
    /// The fault is no longer played; the last switch is still being added up.
    is_over: bool,
    ledger: Ledger,
}

/// What a drill led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// What was played, and on whose connections.
    pub drill: Drill,
    /// For how long.
    pub length: Duration,
    /// It was ended before its time.
    pub is_cut_short: bool,
    /// Switches while it went on.
    pub switches: u32,
    /// Where the first of them led to.
    pub to: Option<BackendId>,
    /// From the beginning of the drill to the first decision to switch.
    pub detected_after: Option<Duration>,
    /// From the beginning of the drill until the new active served: nobody waited longer for it.
    pub served_after: Option<Duration>,
    /// What became of the commands in flight, over all of the switches.
    pub judged: Judged,
}

impl Failover {
    /// The active is drilled only if another can take over, or with force.
    pub(super) fn begin_drill(
        &mut self,
        now: Instant,
        drill: Drill,
        length: Duration,
        is_forced: bool,
    ) -> Result<(), Refused> {
        self.index(drill.backend).ok_or(Refused::UnknownBackend)?;
        if self.drilling.is_some() {
            return Err(Refused::DrillUnderWay);
        }
        if self.active == Some(drill.backend) && self.best_other().is_none() && !is_forced {
            return Err(Refused::NoRefuge);
        }
        let ledger = Ledger {
            drill,
            length,
            is_cut_short: false,
            switches: 0,
            to: None,
            detected_after: None,
            served_after: None,
            judged: Judged::default(),
        };
        self.drilling = Some(Drilling { drill, began_at: now, until: now + length, is_over: false, ledger });
        self.log([Event::DrillBegan { drill, length }]);
        Ok(())
    }

    pub(super) fn end_drill(&mut self, now: Instant) -> Result<(), Refused> {
        let drilling = self.drilling.as_mut().filter(|drilling| !drilling.is_over).ok_or(Refused::NoDrill)?;
        drilling.is_over = true;
        drilling.ledger.is_cut_short = true;
        drilling.ledger.length = now.saturating_duration_since(drilling.began_at);
        Ok(())
    }

    /// Its backend is gone: there are no connections left to play it on.
    pub(super) fn end_drill_on(&mut self, now: Instant, backend: BackendId) {
        if self.drill().is_some_and(|(drill, _)| drill.backend == backend) {
            // There is one: it can be ended.
            let _ = self.end_drill(now);
        }
    }

    /// What is played now.
    #[must_use]
    pub fn drill(&self) -> Option<(Drill, Instant)> {
        let drilling = self.drilling.as_ref().filter(|drilling| !drilling.is_over)?;
        Some((drilling.drill, drilling.until))
    }

    pub(super) fn drill_deadline(&self) -> Option<Instant> {
        self.drill().map(|(_, until)| until)
    }

    /// A new active serves.
    pub(super) fn count_drilled(&mut self, now: Instant, decided_at: Instant, to: BackendId) {
        let Some(drilling) = &mut self.drilling else { return };
        let since = |at: Instant| at.saturating_duration_since(drilling.began_at);
        drilling.ledger.switches += 1;
        if drilling.ledger.to.is_none() {
            drilling.ledger.to = Some(to);
            drilling.ledger.detected_after = Some(since(decided_at));
            drilling.ledger.served_after = Some(since(now));
        }
    }

    pub(super) fn add_up_drilled(&mut self, switched: &Switched) {
        if let Some(drilling) = &mut self.drilling {
            drilling.ledger.judged += switched.judged;
        }
    }

    pub(super) fn stop_drill_in_time(&mut self, now: Instant) {
        if let Some(drilling) = self.drilling.as_mut().filter(|drilling| now >= drilling.until) {
            drilling.is_over = true;
        }
    }

    /// The ledger is complete once the last switch is.
    pub(super) fn close_ledger(&mut self) {
        let is_complete = self.reporting.is_none() && self.stage.phase() == crate::logic::route::Phase::Serve;
        if let Some(drilling) = self.drilling.take_if(|drilling| drilling.is_over && is_complete) {
            self.log([Event::DrillEnded { ledger: drilling.ledger }]);
        }
    }
}
