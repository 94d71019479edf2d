//! The circuit breaker of one backend: keeps a backend that failed from being chosen again too soon.

use std::time::{Duration, Instant};

use crate::logic::settings::BreakerSettings;

/// Good probes that close a half-open breaker.
pub const GOOD_TO_CLOSE: u32 = 2;

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// The backend may be chosen.
    Closed,
    /// It may not, until then.
    Open {
        /// When it becomes half-open.
        until: Instant,
    },
    /// The grace is over: probes decide.
    HalfOpen {
        /// Good probes so far.
        good: u32,
    },
}

impl BreakerState {
    /// A word for logs and metrics.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open { .. } => "open",
            Self::HalfOpen { .. } => "half-open",
        }
    }
}

/// The breaker: its state, and how long its next opening lasts.
#[derive(Clone, Debug)]
pub struct Breaker {
    settings: BreakerSettings,
    state: BreakerState,
    /// The grace of the last opening and when the breaker closed after it; a new fault within
    /// `grace_max` of that is a relapse.
    last: Option<(Duration, Option<Instant>)>,
}

impl Breaker {
    /// Other settings, for the openings to come.
    pub const fn configure(&mut self, settings: BreakerSettings) {
        self.settings = settings;
    }

    /// A closed breaker without a past.
    #[must_use]
    pub const fn new(settings: BreakerSettings) -> Self {
        Self { settings, state: BreakerState::Closed, last: None }
    }

    /// A breaker as it was before a restart: open for `left` more, after a grace of `grace`.
    #[must_use]
    pub fn restored(settings: BreakerSettings, now: Instant, grace: Duration, left: Duration) -> Self {
        let grace = grace.min(settings.grace_max);
        let state = BreakerState::Open { until: now + left.min(settings.grace_max) };
        Self { settings, state, last: Some((grace, None)) }
    }

    /// Where it stands.
    #[must_use]
    pub const fn state(&self) -> BreakerState {
        self.state
    }

    /// The backend may be chosen.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self.state, BreakerState::Closed)
    }

    /// The grace of the last opening.
    #[must_use]
    pub fn last_grace(&self) -> Option<Duration> {
        self.last.map(|(grace, _)| grace)
    }

    /// When time alone changes the state.
    #[must_use]
    pub const fn deadline(&self) -> Option<Instant> {
        match self.state {
            BreakerState::Open { until } => Some(until),
            BreakerState::Closed | BreakerState::HalfOpen { .. } => None,
        }
    }

    /// The backend failed. An open breaker stays as it is; a relapse doubles the grace.
    pub fn trip(&mut self, now: Instant) {
        let grace = match (self.state, self.last) {
            (BreakerState::Open { .. }, _) => return,
            (BreakerState::HalfOpen { .. }, Some((last, _))) => last * 2,
            (BreakerState::Closed, Some((last, Some(closed_at)))) if now < closed_at + self.settings.grace_max => {
                last * 2
            }
            _ => self.settings.grace,
        };
        let grace = grace.min(self.settings.grace_max);
        self.state = BreakerState::Open { until: now + grace };
        self.last = Some((grace, None));
    }

    /// Time passed: an open breaker whose grace is over becomes half-open. Says whether it did.
    pub fn on_time(&mut self, now: Instant) -> bool {
        let BreakerState::Open { until } = self.state else { return false };
        if now < until {
            return false;
        }
        self.state = BreakerState::HalfOpen { good: 0 };
        true
    }

    /// A probe round ended; it matters only when half-open.
    pub fn on_probe(&mut self, now: Instant, is_good: bool) {
        let BreakerState::HalfOpen { good } = self.state else { return };
        if !is_good {
            self.trip(now);
        } else if good + 1 >= GOOD_TO_CLOSE {
            self.close(now);
        } else {
            self.state = BreakerState::HalfOpen { good: good + 1 };
        }
    }

    /// Closes at once: nothing better is there, or an operator says so. The past is kept.
    pub fn close(&mut self, now: Instant) {
        self.state = BreakerState::Closed;
        if let Some((_, closed_at)) = &mut self.last {
            closed_at.get_or_insert(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: BreakerSettings =
        BreakerSettings { grace: Duration::from_secs(60), grace_max: Duration::from_secs(600) };
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn opens_for_the_grace_and_closes_after_two_good_probes() {
        let start = Instant::now();
        let mut breaker = Breaker::new(SETTINGS);
        breaker.trip(start);
        assert_eq!(breaker.deadline(), Some(start + SECOND * 60));
        breaker.on_probe(start + SECOND, true);
        assert!(!breaker.on_time(start + SECOND * 59));
        assert!(breaker.on_time(start + SECOND * 60));
        breaker.on_probe(start + SECOND * 60, true);
        assert_eq!(breaker.state(), BreakerState::HalfOpen { good: 1 });
        breaker.on_probe(start + SECOND * 61, true);
        assert!(breaker.is_closed());
    }

    #[test]
    fn a_relapse_doubles_the_grace_up_to_the_most() {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(SETTINGS);
        breaker.trip(now);
        let mut graces = Vec::new();
        for _ in 0..5 {
            now = breaker.deadline().unwrap();
            breaker.on_time(now);
            breaker.on_probe(now, false);
            graces.push((breaker.deadline().unwrap() - now).as_secs());
        }
        assert_eq!(graces, [120, 240, 480, 600, 600]);
    }

    #[test]
    fn a_fault_soon_after_closing_is_a_relapse_and_a_late_one_is_not() {
        for (later, grace) in [(599, 120), (601, 60)] {
            let start = Instant::now();
            let mut breaker = Breaker::new(SETTINGS);
            breaker.trip(start);
            breaker.close(start);
            let fault = start + SECOND * later;
            breaker.trip(fault);
            assert_eq!(breaker.deadline(), Some(fault + SECOND * grace));
        }
    }

    #[test]
    fn a_second_fault_does_not_prolong_an_open_breaker() {
        let start = Instant::now();
        let mut breaker = Breaker::new(SETTINGS);
        breaker.trip(start);
        breaker.trip(start + SECOND * 30);
        assert_eq!(breaker.deadline(), Some(start + SECOND * 60));
    }

    #[test]
    fn a_restored_breaker_remembers_its_grace() {
        let start = Instant::now();
        let mut breaker = Breaker::restored(SETTINGS, start, SECOND * 120, SECOND * 10);
        assert!(breaker.on_time(start + SECOND * 10));
        breaker.on_probe(start + SECOND * 10, false);
        assert_eq!(breaker.deadline(), Some(start + SECOND * 250));
    }
}
