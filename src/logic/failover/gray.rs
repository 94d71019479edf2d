//! Leaving an active that answers, but far too slowly: only for a backend that is surely faster.
//!
//! Live traffic raises the suspicion; then the active and the others are probed at the same moments and in the same
//! way, so that a slow network of our own, heavy commands, or a backend that is merely far away move nothing.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::event::{Event, Fault, Output, Reason};
use super::member::Member;
use super::{Failover, Worth};
use crate::logic::health::ProbeVerdict;
use crate::logic::latency::{Grayness, Usual, millis};
use crate::logic::report::ProbeReport;
use crate::logic::route::BackendId;
use crate::logic::selection;
use crate::logic::settings::{HealthSettings, LatencySettings};

/// Rounds from which the usual round trip of probes is known, and how far back it remembers.
const USUAL_MIN: u32 = 3;
const USUAL_MEMORY: u32 = 60;
/// A probe is back near the usual round trip when it takes at most so many times as long.
const NEAR: u32 = 4;
/// A backend is faster when its probes take at most one so manieth of what it is compared with.
const FASTER: u32 = 2;
/// Comparing probes that are kept, and how many of them a comparison needs.
const COMPARED_MAX: usize = 5;
const COMPARED_MIN: usize = 2;
/// Comparing probes come in quick succession at first …
const COMPARE_INTERVAL: Duration = Duration::from_millis(500);
const COMPARE_QUICKLY: u32 = 8;
/// … and then at leisure, since a thousand Handovers must not be a load.
const COMPARE_LATER: Duration = Duration::from_secs(10);
/// A switch that was called off is tried again after so long.
const CALLED_OFF_WAIT: Duration = Duration::from_secs(10);

/// How long a backend's probes take.
#[derive(Clone, Debug, Default)]
pub(super) struct Pulse {
    usual: Usual,
    /// The latest immediate probes, each on a new connection: when, how long, and whether all was well.
    compared: VecDeque<(Instant, Duration, bool)>,
    /// Rounds in a row that took far longer than usual: since when, how many, and the last one's time.
    slow: Option<(Instant, u32, Duration)>,
}

impl Pulse {
    /// A probe or round ended. `is_usual`: nothing speaks against the backend.
    fn on_probe(&mut self, report: &ProbeReport, health: &HealthSettings, settings: &LatencySettings, is_usual: bool) {
        let took = report.ended_at.saturating_duration_since(report.started_at);
        let is_good = matches!(report.verdict, ProbeVerdict::Good { .. });
        if report.immediate {
            if matches!(report.verdict, ProbeVerdict::Void) {
                return;
            }
            if self.compared.len() >= COMPARED_MAX {
                self.compared.pop_front();
            }
            self.compared.push_back((report.started_at, took, is_good));
            return;
        }
        if !is_good {
            return;
        }
        let took = took.saturating_sub(health.probes_delay * (health.probes - 1));
        let limit = self.usual.known(USUAL_MIN).map(|usual| usual.mul_f64(settings.factor).max(settings.floor));
        if settings.factor > 0.0 && limit.is_some_and(|limit| took > limit) {
            let (since, rounds, _) = self.slow.unwrap_or((report.started_at, 0, took));
            self.slow = Some((since, rounds + 1, took));
        } else {
            self.slow = None;
            if is_usual {
                self.usual.learn(took, USUAL_MEMORY);
            }
        }
    }

    /// It takes about as long as it used to, or nobody knows how long that was.
    fn is_near_usual(&self, took: Duration, settings: &LatencySettings) -> bool {
        self.usual.known(USUAL_MIN).is_none_or(|usual| took <= (usual * NEAR).max(settings.floor))
    }

    /// The middle one of the comparing probes since then, if there are enough, and whether all was well.
    fn middle(&self, since: Instant) -> Option<(Duration, bool)> {
        let recent = self.compared.iter().filter(|(at, ..)| *at >= since);
        let mut times: Vec<Duration> = recent.clone().map(|(_, took, _)| *took).collect();
        times.sort_unstable();
        let middle = times.get(times.len() / 2).filter(|_| times.len() >= COMPARED_MIN)?;
        Some((*middle, recent.clone().all(|(.., is_good)| *is_good)))
    }
}

/// When the active and the others are probed next to be compared.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Comparison {
    rounds: u32,
    next_at: Option<Instant>,
    /// The last attempt to leave was called off.
    not_before: Option<Instant>,
}

/// What speaks against an active that answers.
struct Evidence {
    text: String,
    /// What a reply takes.
    reply_time: Duration,
    /// Heavy commands would look the same: its own probes must be slow, too.
    needs_probes: bool,
}

impl Member {
    pub(super) fn note_pulse(&mut self, report: &ProbeReport, worth: Worth) {
        if worth == Worth::Nothing {
            return;
        }
        let is_usual = self.health.is_healthy() && self.latency.suspected_since().is_none();
        self.pulse.on_probe(report, &self.health_settings, &self.latency_settings, is_usual);
    }

    /// It was left for being slow, and a good probe shows that it still is.
    pub(super) fn is_still_slow(&self, report: &ProbeReport) -> bool {
        let was_slow = self.fault.as_ref().is_some_and(|fault| fault.reason == Reason::Slow);
        let took = report.ended_at.saturating_duration_since(report.started_at);
        was_slow && !self.pulse.is_near_usual(took, &self.latency_settings)
    }

    fn suspected_since(&self) -> Option<Instant> {
        self.latency.suspected_since().or(self.pulse.slow.map(|(since, ..)| since))
    }

    fn evidence(&self, now: Instant) -> Option<Evidence> {
        if let Some(grayness) = self.latency.grayness(now) {
            let needs_probes = matches!(grayness, Grayness::Slow { .. });
            return Some(Evidence { text: grayness.to_string(), reply_time: grayness.reply_time(), needs_probes });
        }
        // Without traffic only probes speak.
        let (since, rounds, took) = self.pulse.slow.filter(|_| self.latency.is_idle())?;
        let lasted = now.saturating_duration_since(since);
        let usual = self.pulse.usual.known(USUAL_MIN)?;
        let text = format!("probes {}, usually {}, for {:.1} s", millis(took), millis(usual), lasted.as_secs_f64());
        let is_long = lasted >= self.latency_settings.lasting && rounds >= 3;
        is_long.then_some(Evidence { text, reply_time: took, needs_probes: true })
    }
}

impl Failover {
    /// Looks whether the active is too slow, and whether a better one is there.
    pub(super) fn judge_grayness(&mut self, now: Instant) {
        let Some(index) = self.active.and_then(|id| self.index(id)) else { return };
        let member = &self.members[index];
        let evidence = if member.health.is_healthy() { member.evidence(now) } else { None };
        self.note_degraded(index, evidence.as_ref().map(|evidence| evidence.text.clone()));
        if !self.stage.is_serving() {
            return;
        }
        let Some(since) = self.members[index].suspected_since() else {
            self.comparison = Comparison::default();
            return;
        };
        self.compare_speeds(now);
        let Some(evidence) = evidence else { return };
        // An operator's will, and the bound on switches, count for more: it is not dead.
        let must_wait = self.stay.is_some()
            || self.is_calm_at(now).is_some_and(|at| now < at)
            || self.comparison.not_before.is_some_and(|at| now < at);
        if must_wait {
            return;
        }
        if let Some(to) = self.better_than(index, &evidence, since) {
            self.leave_slow(now, to, Fault { reason: Reason::Slow, cause: evidence.text, since });
        }
    }

    /// A switch away from a slow active was called off.
    pub(super) fn put_off_leaving(&mut self, now: Instant) {
        self.comparison.not_before = Some(now + CALLED_OFF_WAIT);
    }

    fn note_degraded(&mut self, index: usize, evidence: Option<String>) {
        let mut events = Vec::new();
        for (other, member) in self.members.iter_mut().enumerate() {
            let evidence = evidence.clone().filter(|_| other == index);
            if evidence.is_some() != member.degraded.is_some() {
                events.push(Event::Degraded { backend: member.id, evidence: evidence.clone() });
            }
            member.degraded = evidence;
        }
        self.log(events);
    }

    /// Probes the active and all that could take its place, at the same moment and in the same way.
    fn compare_speeds(&mut self, now: Instant) {
        if self.comparison.next_at.is_some_and(|at| now < at) {
            return;
        }
        self.comparison.rounds = self.comparison.rounds.saturating_add(1);
        let wait = if self.comparison.rounds < COMPARE_QUICKLY { COMPARE_INTERVAL } else { COMPARE_LATER };
        self.comparison.next_at = Some(now + wait);
        let compared = self.members.iter().filter(|member| Some(member.id) == self.active || member.is_selectable());
        self.outputs.extend(compared.map(|member| Output::ProbeNow(member.id)));
    }

    /// The heaviest backend that is surely faster than the active.
    fn better_than(&self, active: usize, evidence: &Evidence, since: Instant) -> Option<BackendId> {
        let own = self.members[active].pulse.middle(since).map(|(took, _)| took);
        let floor = self.settings.detector.latency.floor;
        if evidence.needs_probes && own.is_none_or(|own| own < floor) {
            return None;
        }
        let is_better = |member: &Member| {
            let Some((took, true)) = member.pulse.middle(since) else { return false };
            let is_faster = took * FASTER <= evidence.reply_time;
            let probes_agree = !evidence.needs_probes || own.is_some_and(|own| took * FASTER <= own);
            member.is_selectable() && is_faster && probes_agree
        };
        let others = self.members.iter().filter(|member| Some(member.id) != self.active);
        selection::best(others.map(|member| member.candidate(is_better(member))), None)
    }
}
