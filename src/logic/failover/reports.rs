//! What outside checkers say of the backends, for as long as they vouch for it.
//!
//! A backend that is reported down is left as one whose probes fail, if another can be selected. Reports can be wrong
//! together: they never leave clients without a backend that still works.

use std::fmt;
use std::time::{Duration, Instant};

use super::Failover;
use super::event::{Event, Refused, SavedReport, StayEnd};
use super::member::Member;
use crate::logic::route::BackendId;
use crate::logic::selection;

/// Checkers that may speak of one backend at a time.
const REPORTERS_MAX: usize = 16;

/// What a checker says of a backend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// It cannot serve.
    Down,
    /// It should not serve: traffic leaves it in a planned switch.
    Drain,
    /// Its preference is this for a time, > 0 and finite.
    Weight(f64),
    /// What the same checker said before holds no longer.
    Up,
}

impl fmt::Display for Verdict {
    /// As it is written in a report.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down => formatter.write_str("DOWN"),
            Self::Drain => formatter.write_str("DRAIN"),
            Self::Up => formatter.write_str("UP"),
            Self::Weight(weight) => write!(formatter, "WEIGHT {weight}"),
        }
    }
}

/// One report of a checker.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// What.
    pub verdict: Verdict,
    /// Who; a checker's later report of a backend takes the place of its earlier one.
    pub reporter: String,
    /// Why, in words.
    pub reason: String,
    /// For how long from now on.
    pub length: Duration,
}

/// A report in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Reported {
    /// What: never [`Verdict::Up`].
    pub verdict: Verdict,
    /// Who.
    pub reporter: String,
    /// Why.
    pub reason: String,
    /// Since when the same was said.
    pub since: Instant,
    /// Until when.
    pub until: Instant,
}

impl fmt::Display for Reported {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} by {}: {}", self.verdict, self.reporter, self.reason)
    }
}

/// The reports of one backend, the latest last.
#[derive(Clone, Debug, Default)]
pub(super) struct Reports(Vec<Reported>);

impl Reports {
    pub(super) fn all(&self) -> &[Reported] {
        &self.0
    }

    pub(super) fn down(&self) -> Option<&Reported> {
        self.0.iter().find(|report| report.verdict == Verdict::Down)
    }

    pub(super) fn drained(&self) -> Option<&Reported> {
        self.0.iter().find(|report| report.verdict == Verdict::Drain)
    }

    /// The latest word on its preference.
    pub(super) fn weight(&self) -> Option<f64> {
        self.0.iter().rev().find_map(|report| match report.verdict {
            Verdict::Weight(weight) => Some(weight),
            Verdict::Down | Verdict::Drain | Verdict::Up => None,
        })
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.0.iter().map(|report| report.until).min()
    }

    /// Takes those out whose time is over.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Reported> {
        self.0.extract_if(.., |report| report.until <= now).collect()
    }

    fn lift(&mut self, reporter: &str) -> Option<Reported> {
        let index = self.0.iter().position(|report| report.reporter == reporter)?;
        Some(self.0.remove(index))
    }

    /// Adds one; says whether it is news and no mere renewal.
    pub(super) fn add(&mut self, now: Instant, report: Report) -> bool {
        let Report { verdict, reporter, reason, length } = report;
        let earlier = self.lift(&reporter).filter(|earlier| earlier.verdict == verdict && earlier.reason == reason);
        let since = earlier.as_ref().map_or(now, |earlier| earlier.since);
        self.0.push(Reported { verdict, reporter, reason, since, until: now + length });
        earlier.is_none()
    }

    pub(super) fn saved(&self, backend: &str, now: Instant) -> Vec<SavedReport> {
        let saved = |report: &Reported| SavedReport {
            backend: backend.to_owned(),
            report: Report {
                verdict: report.verdict,
                reporter: report.reporter.clone(),
                reason: report.reason.clone(),
                length: report.until.saturating_duration_since(now),
            },
        };
        self.0.iter().map(saved).collect()
    }
}

impl Failover {
    pub(super) fn report(&mut self, now: Instant, backend: BackendId, report: Report) -> Result<(), Refused> {
        let index = self.index(backend).ok_or(Refused::UnknownBackend)?;
        let reports = &mut self.members[index].reports;
        if report.verdict == Verdict::Up {
            let lifted = reports.lift(&report.reporter).ok_or(Refused::NotReported)?;
            self.log([Event::ReportEnded { backend, report: lifted, is_expired: false }]);
            return Ok(());
        }
        if let Verdict::Weight(weight) = report.verdict
            && !(weight.is_finite() && weight > 0.0)
        {
            return Err(Refused::BadWeight);
        }
        let is_known = reports.all().iter().any(|known| known.reporter == report.reporter);
        if !is_known && reports.all().len() >= REPORTERS_MAX {
            return Err(Refused::TooManyReporters);
        }
        let is_down = report.verdict == Verdict::Down;
        if reports.add(now, report.clone()) {
            self.log([Event::Reported { backend, report }]);
        }
        self.must_persist = true;
        if is_down {
            self.end_stay_on(backend, StayEnd::BackendDown);
        }
        Ok(())
    }

    /// The active is reported down, and another can be selected.
    pub(super) fn must_leave_reported(&self) -> bool {
        let active = self.active.and_then(|id| self.index(id)).map(|index| &self.members[index]);
        active.is_some_and(|active| active.reports.down().is_some()) && self.best_other().is_some()
    }

    /// The active should be left, by an operator's or a checker's will, and there is nowhere to go.
    pub(super) fn is_stranded(&self) -> bool {
        let Some(active) = self.active.and_then(|id| self.index(id)) else { return false };
        let active = &self.members[active];
        let is_unwanted = active.reports.down().is_some() || self.is_drained(active);
        is_unwanted && self.best_other().is_none()
    }

    /// The best backend other than the active that may be selected.
    pub(super) fn best_other(&self) -> Option<BackendId> {
        let others = self.members.iter().enumerate().filter(|(_, member)| Some(member.id) != self.active);
        let is_good = |index: usize, member: &Member| {
            member.is_selectable() && member.server.is_trusted() && !self.must_be_promoted(index)
        };
        selection::best(others.map(|(index, member)| member.candidate(is_good(index, member))), None)
    }

    /// By an operator, or by a checker; an operator's stay on it counts more than a checker's word.
    pub(super) fn is_drained(&self, member: &Member) -> bool {
        let is_held = self.stay.is_some_and(|stay| stay.backend == member.id);
        member.is_drained || (member.reports.drained().is_some() && !is_held)
    }

    /// Tells once when there is nowhere to go, and once when there is again.
    pub(super) fn note_stranded(&mut self) {
        let stranded = self.active.filter(|_| self.is_stranded());
        if stranded != self.stranded {
            self.stranded = stranded;
            if let Some(backend) = stranded {
                self.log([Event::Stranded { backend }]);
            }
        }
    }
}

pub(super) fn restore(members: &mut [Member], saved: &[SavedReport], now: Instant) {
    for SavedReport { backend, report } in saved.iter().filter(|saved| !saved.report.length.is_zero()) {
        if let Some(member) = members.iter_mut().find(|member| member.name == *backend) {
            member.reports.add(now, report.clone());
        }
    }
}
