//! The other side of the route: the two-phase protocol, scripted, with an eye that sees every fault after a while.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use handover::logic::multiplexer::Report;
use handover::logic::route::{Availability, BackendId, Phase, Route};

/// How long a fault lasts until it is believed.
const DETECTION: Duration = Duration::from_millis(30);

pub(crate) struct Supervisor {
    pub(crate) route: Route,
    pub(crate) inbox: VecDeque<(Instant, usize, Report)>,
    acknowledged: BTreeSet<usize>,
    attempt: u64,
    bad_since: Option<Instant>,
    acquit: bool,
    pub(crate) switches: u64,
    pub(crate) called_off: u64,
}

impl Supervisor {
    pub(crate) fn new() -> Self {
        let route = Route { epoch: 1, active: Some(BackendId(0)), standby: Some(BackendId(1)), ..Route::unknown() };
        Self {
            route: Route { availability: Availability::Healthy, ..route },
            inbox: VecDeque::new(),
            acknowledged: BTreeSet::new(),
            attempt: 0,
            bad_since: None,
            acquit: false,
            switches: 0,
            called_off: 0,
        }
    }

    fn take_reports(&mut self, now: Instant, serves: &[bool]) {
        while self.inbox.front().is_some_and(|(at, ..)| *at <= now) {
            let (_, worker, report) = self.inbox.pop_front().expect("looked at");
            match (report, self.route.phase) {
                (Report::Stopped(attempt), Phase::Cut { attempt: current, .. })
                | (Report::Drained(attempt), Phase::Hold { attempt: current, .. })
                    if attempt == current =>
                {
                    self.acknowledged.insert(worker);
                }
                (Report::CannotServe { backend, .. }, _) => {
                    self.acquit |= serves[usize::from(backend.0)] && self.route.active == Some(backend);
                }
                _ => {}
            }
        }
    }

    /// Returns whether there is a new route.
    pub(crate) fn step(
        &mut self,
        now: Instant,
        workers: usize,
        serves: &[bool],
        wish: Option<usize>,
        drain: Duration,
    ) -> bool {
        let before = self.route.clone();
        self.take_reports(now, serves);
        let active = usize::from(self.route.active.expect("there is one").0);
        let best = (0..serves.len()).find(|&index| serves[index] && index != active);
        match self.route.phase {
            Phase::Cut { to, .. } if self.acknowledged.len() == workers => self.serve(to, serves),
            Phase::Hold { to, .. } if self.acknowledged.len() == workers => self.serve(to, serves),
            Phase::Hold { until, .. } if until <= now || !serves[active] => {
                self.called_off += 1;
                self.route.phase = Phase::Serve;
            }
            Phase::Serve if !serves[active] => {
                let since = *self.bad_since.get_or_insert(now);
                match best {
                    Some(to) if now >= since + DETECTION => {
                        self.begin(|attempt| Phase::Cut { to: BackendId(to as u16), attempt })
                    }
                    Some(_) => {}
                    None => self.route.availability = Availability::Degraded,
                }
            }
            Phase::Serve => {
                self.bad_since = None;
                self.route.availability = Availability::Healthy;
                self.route.standby = best.map(|index| BackendId(index as u16));
                if std::mem::take(&mut self.acquit) {
                    self.route.acquittals += 1;
                }
                if let Some(to) = wish.filter(|&to| to != active && serves[to]) {
                    self.begin(|attempt| Phase::Hold { to: BackendId(to as u16), attempt, until: now + drain });
                }
            }
            _ => {}
        }
        self.route != before
    }

    fn begin(&mut self, phase: impl Fn(u64) -> Phase) {
        self.attempt += 1;
        self.acknowledged.clear();
        self.route.phase = phase(self.attempt);
    }

    fn serve(&mut self, to: BackendId, serves: &[bool]) {
        self.switches += 1;
        self.bad_since = None;
        self.route.epoch += 1;
        self.route.active = Some(to);
        self.route.phase = Phase::Serve;
        let standby = (0..serves.len()).find(|&index| serves[index] && index != usize::from(to.0));
        self.route.standby = standby.map(|index| BackendId(index as u16));
    }
}
