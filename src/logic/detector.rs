//! Failure detection of one backend on live traffic: silence, and the share of failures in a sliding window.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::logic::latency::Histogram;
use crate::logic::settings::DetectorSettings;

/// Requests written within this time of each other count as written together.
const TOGETHER: Duration = Duration::from_millis(5);
/// Marks that the sliding window is made of.
const MARKS: u32 = 10;

/// One worker's vitals of one backend, read at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// When a byte last came.
    pub last_byte: Option<Instant>,
    /// Since when a wholly written request has waited in silence.
    pub waiting_since: Option<Instant>,
    /// That request may legally run long.
    pub is_slow: bool,
    /// Replies, since the start.
    pub successes: u64,
    /// Failures, since the start.
    pub failures: u64,
    /// Runs by the time that they waited for their replies, since the start.
    pub replies: Histogram,
    /// How often something of a client's or of the worker's own kept replies waiting, since the start.
    pub disturbances: u64,
}

/// The readings of all workers together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// When a byte last came to any worker.
    pub last_byte: Option<Instant>,
    /// Since when nobody has heard anything although a request waits.
    pub silent_since: Option<Instant>,
    /// Since when a request has waited on a connection that brought nothing, whatever was heard on others.
    pub waiting_since: Option<Instant>,
    /// A request that may legally run long was waiting when the silence began.
    pub is_slow: bool,
    /// Replies, since the start.
    pub successes: u64,
    /// Failures, since the start.
    pub failures: u64,
    /// Runs by the time that they waited for their replies, since the start.
    pub replies: Histogram,
    /// How often something else than the backend kept replies waiting, since the start.
    pub disturbances: u64,
}

impl Sample {
    /// Adds the workers up: a byte to one of them ends the silence of all.
    #[must_use]
    pub fn merge(readings: &[Reading]) -> Self {
        let last_byte = readings.iter().filter_map(|reading| reading.last_byte).max();
        let earliest = readings.iter().filter_map(|reading| reading.waiting_since).min();
        let silent_since = earliest.map(|since| last_byte.map_or(since, |byte| byte.max(since)));
        let is_slow = silent_since.is_some_and(|silent| {
            let waits = |reading: &Reading| reading.waiting_since.is_some_and(|since| since <= silent + TOGETHER);
            readings.iter().any(|reading| reading.is_slow && waits(reading))
        });
        let mut replies = Histogram::default();
        readings.iter().for_each(|reading| replies.add(&reading.replies));
        Self {
            last_byte,
            silent_since,
            waiting_since: earliest,
            is_slow,
            successes: readings.iter().map(|reading| reading.successes).sum(),
            failures: readings.iter().map(|reading| reading.failures).sum(),
            replies,
            disturbances: readings.iter().map(|reading| reading.disturbances).sum(),
        }
    }
}

/// Probes asked for in the longest time allowed for silence while a single connection is silent.
const PROOFS: u32 = 4;

/// What a look at the vitals found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Half of the time allowed for silence has passed: a probe on a new connection should say whether it lives.
    Suspicious,
    /// Silent for all of the time allowed.
    Silent {
        /// Since when.
        since: Instant,
    },
    /// Too many failures among the outcomes of the window.
    FailureRate {
        /// When the window in which they came began.
        since: Instant,
    },
}

/// Totals at one moment.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    successes: u64,
    failures: u64,
}

/// The failures that a clean re-probe may yet excuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Excuse {
    /// No re-probe is out: each failure counts.
    None,
    /// A re-probe is out: failures are set aside until it is back.
    Pending { failures: u64 },
    /// It came back clean: what was set aside, and what comes until then, counts as `most` failures at most.
    Granted { failures: u64, until: Instant, most: u64 },
}

/// What a clean re-probe excuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excused {
    /// A connection was lost or refused: what went with it is one failure, for it did happen.
    Loss,
    /// Replies said "cannot serve" and the probe says otherwise: no failure, and none for the next such replies.
    Words,
}

/// How long replies that say "cannot serve" are excused: the next re-probe is out by then.
const WORDS_EXCUSED: Duration = Duration::from_millis(150);

/// Judges one backend by its vitals.
#[derive(Clone, Debug)]
pub struct Detector {
    settings: DetectorSettings,
    last_look: Option<Instant>,
    /// Silence before this moment is not counted.
    watch_from: Option<Instant>,
    sample: Sample,
    /// When a confirming probe was last asked for in this silence.
    asked_at: Option<Instant>,
    /// A probe that began after the silence did came back good.
    is_proven_alive: bool,
    /// Probes came back good with no long gap in between: when the first and the last of them began.
    answered: Option<(Instant, Instant)>,
    /// When one was last asked for because a single connection is silent.
    proof_asked_at: Option<Instant>,
    window: VecDeque<Mark>,
    successes: u64,
    failures: u64,
    excuse: Excuse,
}

impl Detector {
    /// Other settings; what was seen stays.
    pub fn configure(&mut self, settings: DetectorSettings) {
        self.settings = settings;
    }

    /// Has seen nothing yet.
    #[must_use]
    pub fn new(settings: DetectorSettings) -> Self {
        Self {
            settings,
            last_look: None,
            watch_from: None,
            sample: Sample::default(),
            asked_at: None,
            is_proven_alive: false,
            answered: None,
            proof_asked_at: None,
            window: VecDeque::with_capacity(MARKS as usize + 2),
            successes: 0,
            failures: 0,
            excuse: Excuse::None,
        }
    }

    /// Forgets what led to the last judgement: silence and failures count from `now` on.
    pub fn restart(&mut self, now: Instant) {
        self.watch_from = Some(now);
        self.window.clear();
        self.asked_at = None;
        self.is_proven_alive = false;
        self.excuse = Excuse::None;
    }

    /// Looks at the vitals. A look that comes later than half of the time allowed judges nothing:
    /// it was we who did not listen.
    pub fn on_sample(&mut self, now: Instant, sample: Sample) -> Option<Finding> {
        if self.silent_since() != self.silence_of(&sample) {
            self.asked_at = None;
            self.is_proven_alive = false;
        }
        let previous = std::mem::replace(&mut self.sample, sample);
        self.count(now, previous, sample);
        let is_late = self.last_look.is_some_and(|last| now.duration_since(last) > self.limit() / 2);
        self.last_look = Some(now);
        if is_late {
            self.restart(now);
            return None;
        }
        self.judge_silence(now).or_else(|| self.judge_failures(now))
    }

    /// A byte came at or after `since`.
    #[must_use]
    pub fn has_replied_since(&self, since: Instant) -> bool {
        self.sample.last_byte.is_some_and(|byte| byte >= since)
    }

    /// The latest vitals.
    #[must_use]
    pub const fn latest(&self) -> Sample {
        self.sample
    }

    /// When a byte last came.
    #[must_use]
    pub const fn last_byte(&self) -> Option<Instant> {
        self.sample.last_byte
    }

    /// A request that may legally run long keeps it silent: a probe's silence says nothing new.
    #[must_use]
    pub fn is_excused(&self) -> bool {
        self.sample.is_slow && self.silent_since().is_some()
    }

    /// A re-probe was asked for: failures wait for what it says.
    pub fn on_inquiry(&mut self) {
        match self.excuse {
            Excuse::Pending { .. } => return,
            Excuse::None => {}
            Excuse::Granted { failures, most, .. } => self.failures += failures.min(most),
        }
        self.excuse = Excuse::Pending { failures: 0 };
    }

    /// A probe that began at `started_at` was answered as it should be.
    pub fn on_alive(&mut self, started_at: Instant) {
        self.is_proven_alive |= self.silent_since().is_some_and(|since| started_at >= since);
        self.answered = match self.answered {
            Some((first, last)) if started_at <= last + self.limit_max() => Some((first, last.max(started_at))),
            _ => Some((started_at, started_at)),
        };
    }

    /// Whether a probe should say now that the server lives, since a connection is silent although others are heard.
    pub fn wants_proof(&mut self, now: Instant) -> bool {
        let Some(waiting_since) = self.sample.waiting_since.filter(|&since| self.has_replied_since(since)) else {
            return false;
        };
        let last = self.answered.map(|(_, last)| last).max(self.proof_asked_at).max(Some(waiting_since));
        let is_due = last.is_some_and(|last| now >= last + self.limit_max() / PROOFS);
        if is_due {
            self.proof_asked_at = Some(now);
        }
        is_due
    }

    /// A connection on which a request has waited since then, or for longer, is lost: all the while probes came back good.
    /// That takes longer than the limit for the silence of all, so that where there is another backend it was left; and a
    /// server that was stopped and goes on has answered on all of its connections by then.
    #[must_use]
    pub fn abandoned_since(&self) -> Option<Instant> {
        let (first, last) = self.answered?;
        let since = last.checked_sub(self.limit_max() + self.settings.hang_timeout)?;
        let is_waited_for = self.sample.waiting_since.is_some_and(|waiting_since| waiting_since <= since);
        (is_waited_for && first <= since).then_some(since)
    }

    /// The re-probe came back clean.
    pub fn on_clean(&mut self, now: Instant, excused: Excused) {
        if let Excuse::Pending { failures } = self.excuse {
            // The next look at the vitals may still bring failures of the same loss.
            let (until, most) = match excused {
                Excused::Loss => (now, 1),
                Excused::Words => (now + WORDS_EXCUSED, 0),
            };
            self.excuse = Excuse::Granted { failures, until, most };
        }
    }

    /// The re-probe failed: what was set aside counts.
    pub fn on_guilty(&mut self) {
        if let Excuse::Pending { failures } = self.excuse {
            self.failures += failures;
            self.excuse = Excuse::None;
        }
    }

    /// The time allowed for the silence in force. A fresh probe that was answered after the silence began
    /// shows that the server lives: live traffic still decides, but with the longer limit.
    fn limit(&self) -> Duration {
        if self.sample.is_slow || self.is_proven_alive { self.limit_max() } else { self.settings.hang_timeout }
    }

    fn limit_max(&self) -> Duration {
        self.settings.slow_timeout.max(self.settings.hang_timeout)
    }

    fn silent_since(&self) -> Option<Instant> {
        self.silence_of(&self.sample)
    }

    fn silence_of(&self, sample: &Sample) -> Option<Instant> {
        let since = sample.silent_since?;
        Some(self.watch_from.map_or(since, |from| from.max(since)))
    }

    fn judge_silence(&mut self, now: Instant) -> Option<Finding> {
        let since = self.silent_since()?;
        let limit = self.limit();
        if now >= since + limit {
            return Some(Finding::Silent { since });
        }
        let ask_at = self.asked_at.unwrap_or(since) + limit / 2;
        if now < ask_at {
            return None;
        }
        self.asked_at = Some(now);
        Some(Finding::Suspicious)
    }

    fn count(&mut self, now: Instant, previous: Sample, sample: Sample) {
        self.successes += sample.successes.saturating_sub(previous.successes);
        let failures = sample.failures.saturating_sub(previous.failures);
        match &mut self.excuse {
            Excuse::None => self.failures += failures,
            Excuse::Pending { failures: earlier } => *earlier += failures,
            Excuse::Granted { failures: earlier, until, most } => {
                *earlier += failures;
                if now >= *until {
                    self.failures += (*earlier).min(*most);
                    self.excuse = Excuse::None;
                }
            }
        }
    }

    fn judge_failures(&mut self, now: Instant) -> Option<Finding> {
        let mark = Mark { at: now, successes: self.successes, failures: self.failures };
        if self.window.back().is_none_or(|last| now >= last.at + self.settings.window / MARKS) {
            self.window.push_back(mark);
        }
        while self.window.get(1).is_some_and(|next| next.at + self.settings.window <= now) {
            self.window.pop_front();
        }
        let oldest = self.window.front()?;
        let failures = mark.failures - oldest.failures;
        let outcomes = failures + mark.successes - oldest.successes;
        let is_too_many = failures >= u64::from(self.settings.failures_min)
            && failures as f64 >= self.settings.failure_rate * outcomes as f64;
        is_too_many.then_some(Finding::FailureRate { since: oldest.at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::settings::LatencySettings;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn settings() -> DetectorSettings {
        DetectorSettings {
            hang_timeout: MS(1000),
            suspect_after: MS(50),
            slow_timeout: MS(6000),
            window: MS(2000),
            failures_min: 5,
            failure_rate: 0.1,
            latency: LatencySettings::default(),
        }
    }

    /// Looks every 50 ms at vitals that do not change; returns the findings with their times.
    fn watch(detector: &mut Detector, start: Instant, sample: Sample, from: u64, to: u64) -> Vec<(u64, Finding)> {
        let looks = (from..=to).step_by(50);
        looks.filter_map(|at| detector.on_sample(start + MS(at), sample).map(|found| (at, found))).collect()
    }

    fn silent(since: Instant, is_slow: bool) -> Sample {
        Sample { silent_since: Some(since), is_slow, ..Sample::default() }
    }

    #[test]
    fn silence_asks_at_half_and_ends_at_the_limit() {
        let start = Instant::now();
        let found = watch(&mut Detector::new(settings()), start, silent(start, false), 0, 1000);
        assert_eq!(found, [(500, Finding::Suspicious), (1000, Finding::Silent { since: start })]);
    }

    #[test]
    fn a_request_that_may_run_long_is_waited_for() {
        let start = Instant::now();
        let mut detector = Detector::new(settings());
        let found = watch(&mut detector, start, silent(start, true), 0, 6000);
        assert_eq!(found, [(3000, Finding::Suspicious), (6000, Finding::Silent { since: start })]);
        assert!(detector.is_excused());
    }

    #[test]
    fn a_probe_that_was_answered_earns_patience_and_not_more() {
        let start = Instant::now();
        let mut detector = Detector::new(settings());
        watch(&mut detector, start, silent(start, false), 0, 500);
        detector.on_alive(start + MS(500));
        let found = watch(&mut detector, start, silent(start, false), 550, 6000);
        assert_eq!(found, [(3500, Finding::Suspicious), (6000, Finding::Silent { since: start })]);
    }

    /// Looks at a connection that has waited since the start, and asks every 500 ms: what is lost by then.
    fn abandoned(answers: impl Fn(u64) -> bool, to: u64) -> Option<Duration> {
        let start = Instant::now() + MS(60_000);
        let mut detector = Detector::new(settings());
        detector.on_alive(start - MS(1));
        for at in (0..=to).step_by(500) {
            detector.on_sample(start + MS(at), Sample { waiting_since: Some(start), ..silent(start, false) });
            if answers(at) {
                detector.on_alive(start + MS(at));
            }
        }
        detector.abandoned_since().map(|since| since - start)
    }

    #[test]
    fn a_connection_is_lost_that_stays_silent_while_probes_are_answered() {
        assert_eq!(abandoned(|_| true, 6500), None, "the silence of all is judged first");
        assert_eq!(abandoned(|_| true, 7000), Some(MS(0)));
        assert_eq!(abandoned(|_| true, 8000), Some(MS(1000)));
        assert_eq!(abandoned(|at| at % 5000 == 0, 10_000), Some(MS(3000)));
    }

    #[test]
    fn a_server_that_was_stopped_abandons_no_connection_when_it_goes_on() {
        assert_eq!(abandoned(|_| false, 60_000), None);
        for stopped in [6500, 7000, 7500, 20_000, 60_000] {
            assert_eq!(abandoned(|at| at == 0 || at >= stopped, stopped), None, "{stopped}");
            assert_eq!(abandoned(|at| at == 0 || at >= stopped, stopped + 6500), None, "{stopped}");
        }
    }

    #[test]
    fn where_no_request_waits_nothing_is_abandoned() {
        let start = Instant::now();
        let mut detector = Detector::new(settings());
        (0..40).for_each(|half| detector.on_alive(start + MS(500 * half)));
        for waiting_since in [None, Some(start + MS(13_000))] {
            detector.on_sample(start + MS(20_000), Sample { waiting_since, ..Sample::default() });
            assert_eq!(detector.abandoned_since(), None);
        }
    }

    #[test]
    fn a_proof_is_asked_for_while_others_are_heard() {
        let start = Instant::now();
        let mut detector = Detector::new(settings());
        let mut asked = |waits: bool, hears: bool| {
            let ask = |at| {
                let last_byte = hears.then_some(start + MS(at));
                let waiting_since = waits.then_some(start);
                detector.on_sample(start + MS(at), Sample { last_byte, waiting_since, ..Sample::default() });
                detector.wants_proof(start + MS(at)).then_some(at)
            };
            (50..=4000).step_by(50).filter_map(ask).collect::<Vec<u64>>()
        };
        assert_eq!(asked(true, false), [0_u64; 0]);
        assert_eq!(asked(false, true), [0_u64; 0]);
        assert_eq!(asked(true, true), [1500, 3000]);
    }

    #[test]
    fn our_own_lateness_judges_nothing_and_starts_anew() {
        let start = Instant::now();
        let mut detector = Detector::new(settings());
        watch(&mut detector, start, silent(start, false), 0, 400);
        let found = watch(&mut detector, start, silent(start, false), 950, 1950);
        let anew = start + MS(950);
        assert_eq!(found, [(1450, Finding::Suspicious), (1950, Finding::Silent { since: anew })]);
    }

    #[test]
    fn a_byte_to_one_worker_ends_the_silence_of_all() {
        let start = Instant::now();
        let waits = Reading { waiting_since: Some(start), ..Reading::default() };
        let hears = Reading { last_byte: Some(start + MS(700)), ..Reading::default() };
        assert_eq!(Sample::merge(&[waits, hears]).silent_since, Some(start + MS(700)));
        assert_eq!(Sample::merge(&[hears]).silent_since, None);
    }

    #[test]
    fn silence_is_slow_only_if_the_slow_request_was_there_when_it_began() {
        let start = Instant::now();
        let waits = |at, is_slow| Reading { waiting_since: Some(start + MS(at)), is_slow, ..Reading::default() };
        assert!(Sample::merge(&[waits(0, false), waits(3, true)]).is_slow);
        assert!(!Sample::merge(&[waits(0, false), waits(300, true)]).is_slow);
        let hears = Reading { last_byte: Some(start + MS(400)), ..Reading::default() };
        assert!(Sample::merge(&[waits(0, false), waits(300, true), hears]).is_slow);
    }

    fn outcomes(successes: u64, failures: u64) -> Sample {
        Sample { successes, failures, ..Sample::default() }
    }

    #[test]
    fn failures_need_number_and_rate() {
        let cases = [(30, 4, false), (30, 5, true), (45, 5, true), (46, 5, false), (0, 5, true)];
        for (successes, failures, expected) in cases {
            let start = Instant::now();
            let mut detector = Detector::new(settings());
            detector.on_sample(start, outcomes(0, 0));
            let found = detector.on_sample(start + MS(100), outcomes(successes, failures));
            let since = Finding::FailureRate { since: start };
            assert_eq!(found, expected.then_some(since), "{failures} of {successes}");
        }
    }

    #[test]
    fn failures_leave_the_window() {
        let start = Instant::now();
        let mut detector = Detector::new(settings());
        assert_eq!(watch(&mut detector, start, outcomes(0, 0), 0, 100), []);
        assert_eq!(watch(&mut detector, start, outcomes(0, 4), 150, 2500), []);
        assert_eq!(watch(&mut detector, start, outcomes(0, 5), 2550, 5000), []);
    }

    /// At one failure a second no two seconds have five, though nothing succeeds; within two seconds five are enough.
    #[test]
    fn failures_one_second_apart_do_not_trip_and_five_within_two_seconds_do() {
        for (apart_ms, expected) in [(1000, None), (400, Some(5))] {
            let start = Instant::now();
            let mut detector = Detector::new(settings());
            detector.on_sample(start, outcomes(0, 0));
            let mut tripped = None;
            for failures in 1..=20 {
                for step in 1..=apart_ms / 50 {
                    let at = start + MS(50 * step + apart_ms * (failures - 1));
                    let seen = failures - u64::from(step < apart_ms / 50);
                    let found = detector.on_sample(at, outcomes(0, seen));
                    tripped = tripped.or(found.map(|_| seen));
                }
            }
            assert_eq!(tripped, expected, "{apart_ms} ms apart");
        }
    }

    #[test]
    fn a_clean_re_probe_makes_one_failure_of_what_a_lost_connection_took() {
        let start = Instant::now();
        let mut detector = Detector::new(settings());
        let mut failures = 0;
        let mut found = Vec::new();
        for round in 0..6 {
            let at = start + MS(200 * round);
            found.push(detector.on_sample(at, outcomes(0, failures)));
            detector.on_inquiry();
            failures += 50;
            found.push(detector.on_sample(at + MS(50), outcomes(0, failures)));
            detector.on_clean(at + MS(60), Excused::Loss);
            failures += 50;
            found.push(detector.on_sample(at + MS(100), outcomes(0, failures)));
        }
        let first = found.iter().position(Option::is_some);
        assert_eq!(first, Some(4 * 3 + 2), "the fifth lost connection is too many, none before");
    }

    #[test]
    fn words_that_the_re_probe_does_not_confirm_are_no_failures() {
        let start = Instant::now();
        let mut detector = Detector::new(settings());
        let mut failures = 0;
        for round in 0..40 {
            let at = start + MS(100 * round);
            detector.on_inquiry();
            failures += 20;
            assert_eq!(detector.on_sample(at, outcomes(0, failures)), None);
            detector.on_clean(at + MS(1), Excused::Words);
            failures += 20;
            assert_eq!(detector.on_sample(at + MS(50), outcomes(0, failures)), None);
        }
    }
}
