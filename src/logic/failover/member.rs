//! One backend as its group sees it: health, detector, breaker, and the re-probe that is out.

use std::time::{Duration, Instant};

use crate::logic::breaker::{Breaker, BreakerState};
use crate::logic::detector::{Detector, Excused};
use crate::logic::failover::event::{Event, Fault, Reason, SavedBreaker};
use crate::logic::failover::fencing::Server;
use crate::logic::failover::gray::Pulse;
use crate::logic::failover::membership::Leaving;
use crate::logic::failover::reports::Reports;
use crate::logic::failover::{BackendSpec, GroupSettings};
use crate::logic::health::{Health, HealthChange, HealthFault, ProbeVerdict};
use crate::logic::latency::LatencyWatch;
use crate::logic::route::BackendId;
use crate::logic::selection::Candidate;
use crate::logic::settings::{BreakerSettings, HealthSettings, LatencySettings, ProbeMode};

/// Between two re-probes that replies or reconnections asked for: at most ten a second.
const INQUIRY_GAP: Duration = Duration::from_millis(100);

/// Failed attempts to connect that say more than that one of them was unlucky.
const UNCONNECTED_MIN: u32 = 3;

/// A re-probe on a new connection, and the signs that led to it.
#[derive(Clone, Debug)]
pub(super) struct Inquiry {
    /// A connection was lost or refused.
    pub(super) lost: Option<Fault>,
    /// A reply said "cannot serve".
    pub(super) word: Option<Fault>,
    /// The latest sign: a probe that began before it leaves the question open.
    latest: Instant,
    /// The latest sign that cannot wait.
    latest_lost: Option<Instant>,
    stage: InquiryStage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InquiryStage {
    /// It is asked for then.
    Due(Instant),
    /// It was asked for then and has not come back.
    Asked(Instant),
}

/// A sign on live traffic that a backend may have failed.
#[derive(Clone, Debug)]
pub(super) enum Sign {
    Lost(Fault),
    Word(Fault),
    /// Silence, a planned switch, or a connection that works again: just look.
    Look,
}

#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) id: BackendId,
    pub(super) name: String,
    pub(super) weight: f64,
    pub(super) health: Health,
    pub(super) detector: Detector,
    pub(super) breaker: Breaker,
    pub(super) latency: LatencyWatch,
    pub(super) pulse: Pulse,
    pub(super) health_settings: HealthSettings,
    pub(super) breaker_settings: BreakerSettings,
    pub(super) latency_settings: LatencySettings,
    /// Why it is unhealthy.
    pub(super) fault: Option<Fault>,
    /// It serves, but far too slowly: what was seen.
    pub(super) degraded: Option<String>,
    /// Since when each probe has been clean.
    pub(super) clean_since: Option<Instant>,
    /// Share of `failback_hold` that is waited, drawn when `clean_since` was set.
    pub(super) hold_factor: f64,
    /// An operator's ban.
    pub(super) banned_until: Option<Instant>,
    /// It is about to go.
    pub(super) leaving: Option<Leaving>,
    /// An operator took it out of service.
    pub(super) is_drained: bool,
    pub(super) reports: Reports,
    /// What its server has said of itself.
    pub(super) server: Server,
    /// Whether its data is close enough behind the others; `None`: nobody has said since it last was the active.
    pub(super) is_level: Option<bool>,
    pub(super) inquiry: Option<Inquiry>,
    /// Since when no worker has got a connection, and how often one has tried.
    pub(super) unconnected: Option<(Instant, u32)>,
    asked_at: Option<Instant>,
    warning: Option<String>,
}

impl Member {
    pub(super) fn new(spec: BackendSpec, settings: &GroupSettings) -> Self {
        let health_settings = spec.health.unwrap_or_else(|| settings.health.clone());
        let breaker_settings = spec.breaker.unwrap_or(settings.breaker);
        Self {
            id: spec.id,
            name: spec.name,
            weight: spec.weight,
            health: Health::new(health_settings.fall, health_settings.rise),
            detector: Detector::new(settings.detector.clone()),
            breaker: Breaker::new(breaker_settings),
            latency: LatencyWatch::new(settings.detector.latency.clone(), settings.detector.hang_timeout / 2),
            pulse: Pulse::default(),
            health_settings,
            breaker_settings,
            latency_settings: settings.detector.latency.clone(),
            fault: None,
            degraded: None,
            clean_since: None,
            hold_factor: 1.0,
            banned_until: None,
            leaving: None,
            is_drained: false,
            reports: Reports::default(),
            server: Server::default(),
            is_level: None,
            inquiry: None,
            unconnected: None,
            asked_at: None,
            warning: None,
        }
    }

    /// Other settings: its own from `spec`, if it is given, else the group's.
    pub(super) fn configure(&mut self, spec: Option<&BackendSpec>, settings: &GroupSettings) {
        let own = spec.and_then(|spec| spec.health.clone());
        self.health_settings = own.unwrap_or_else(|| settings.health.clone());
        self.breaker_settings = spec.and_then(|spec| spec.breaker).unwrap_or(settings.breaker);
        self.health.configure(self.health_settings.fall, self.health_settings.rise);
        self.breaker.configure(self.breaker_settings);
        self.detector.configure(settings.detector.clone());
        self.latency_settings = settings.detector.latency.clone();
        self.latency.configure(self.latency_settings.clone(), settings.detector.hang_timeout / 2);
    }

    pub(super) fn is_selectable(&self) -> bool {
        self.health.is_healthy() && self.breaker.is_closed() && !self.is_set_aside()
    }

    /// An operator or a checker does not want it chosen.
    pub(super) fn is_set_aside(&self) -> bool {
        self.is_barred() || self.reports.down().is_some() || self.reports.drained().is_some()
    }

    /// An operator does not want it chosen, whatever happens.
    pub(super) const fn is_barred(&self) -> bool {
        self.is_banned() || self.is_drained
    }

    /// Its weight, unless a checker reported another.
    pub(super) fn preference(&self) -> f64 {
        self.reports.weight().unwrap_or(self.weight)
    }

    /// Its lag, if it is checked at all, is no reason against a failback.
    pub(super) fn may_lead(&self) -> bool {
        self.is_level == Some(true) || !self.health_settings.modes.contains(&ProbeMode::Lag)
    }

    /// Neither an operator nor what its server said of itself speaks against it.
    pub(super) fn may_be_chosen(&self) -> bool {
        !self.is_set_aside() && self.server.is_trusted()
    }

    /// It may not become the active: an operator banned it, or it is about to go.
    pub(super) const fn is_banned(&self) -> bool {
        self.banned_until.is_some() || self.leaving.is_some()
    }

    pub(super) fn candidate(&self, is_eligible: bool) -> Candidate {
        Candidate { id: self.id, weight: self.preference(), is_eligible }
    }

    pub(super) fn saved_breaker(&self, now: Instant) -> Option<SavedBreaker> {
        let left = match self.breaker.state() {
            BreakerState::Closed => return None,
            BreakerState::Open { until } => until.saturating_duration_since(now),
            BreakerState::HalfOpen { .. } => Duration::ZERO,
        };
        Some(SavedBreaker { backend: self.name.clone(), grace: self.breaker.last_grace()?, left })
    }

    /// A sign came. Returns whether a re-probe must be asked for now.
    pub(super) fn on_sign(&mut self, now: Instant, sign: Sign) -> bool {
        let is_urgent = matches!(sign, Sign::Lost(_));
        let at_earliest = self.asked_at.map_or(now, |asked| now.max(asked + INQUIRY_GAP));
        let inquiry = self.inquiry.get_or_insert(Inquiry {
            lost: None,
            word: None,
            latest: now,
            latest_lost: None,
            stage: InquiryStage::Due(at_earliest),
        });
        inquiry.latest = now;
        if is_urgent {
            inquiry.latest_lost = Some(now);
        }
        match sign {
            Sign::Lost(fault) => inquiry.lost = inquiry.lost.take().or(Some(fault)),
            Sign::Word(fault) => inquiry.word = inquiry.word.take().or(Some(fault)),
            Sign::Look => {}
        }
        self.detector.on_inquiry();
        if let InquiryStage::Due(due) = &mut inquiry.stage
            && is_urgent
        {
            *due = now;
        }
        self.ask_if_due(now)
    }

    /// A worker could not connect. Returns since when nobody could and nothing was heard, if they tried often enough.
    pub(super) fn on_unconnected(&mut self, at: Instant) -> Option<Instant> {
        let (since, count) = match self.unconnected {
            Some((since, count)) if !self.detector.has_replied_since(since) => (since, count + 1),
            _ => (at, 1),
        };
        self.unconnected = Some((since, count));
        (count >= UNCONNECTED_MIN).then_some(since)
    }

    /// Time passed. Returns whether a re-probe must be asked for now.
    pub(super) fn ask_if_due(&mut self, now: Instant) -> bool {
        let Some(inquiry) = &mut self.inquiry else { return false };
        let InquiryStage::Due(due) = inquiry.stage else { return false };
        if now < due {
            return false;
        }
        inquiry.stage = InquiryStage::Asked(now);
        self.asked_at = Some(now);
        true
    }

    /// An immediate probe that began at `started_at` came back: takes the inquiry that it answers.
    pub(super) fn answer(&mut self, started_at: Instant) -> Option<Inquiry> {
        let inquiry = self.inquiry.as_ref()?;
        let InquiryStage::Asked(asked_at) = inquiry.stage else { return None };
        if started_at < asked_at { None } else { self.inquiry.take() }
    }

    /// The answer was no answer, or came too early for the latest sign: ask again, with a gap.
    pub(super) fn reopen(&mut self, now: Instant, inquiry: Inquiry) {
        let due = self.asked_at.map_or(now, |asked| now.max(asked + INQUIRY_GAP));
        self.inquiry = Some(Inquiry { stage: InquiryStage::Due(due), ..inquiry });
        self.detector.on_inquiry();
    }

    /// A re-probe came back clean. A sign that came after it began is looked into again.
    pub(super) fn acquit(&mut self, now: Instant, started_at: Instant, mut inquiry: Inquiry) {
        self.detector.on_clean(now, if inquiry.lost.is_some() { Excused::Loss } else { Excused::Words });
        if inquiry.latest <= started_at {
            return;
        }
        let is_urgent = inquiry.latest_lost.is_some_and(|at| at > started_at);
        for fault in [&mut inquiry.lost, &mut inquiry.word].into_iter().flatten() {
            fault.since = inquiry.latest;
        }
        if !is_urgent {
            inquiry.lost = None;
        }
        self.reopen(now, inquiry);
        if let (true, Some(inquiry)) = (is_urgent, &mut self.inquiry) {
            inquiry.stage = InquiryStage::Due(now);
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let due = self.inquiry.as_ref().and_then(|inquiry| match inquiry.stage {
            InquiryStage::Due(due) => Some(due),
            InquiryStage::Asked(_) => None,
        });
        [due, self.breaker.deadline(), self.banned_until, self.reports.deadline()].into_iter().flatten().min()
    }

    /// A round ended. `events` receives what changed, except the fall itself, which is returned.
    pub(super) fn on_verdict(
        &mut self,
        (started_at, now): (Instant, Instant),
        verdict: &ProbeVerdict,
        (hold_factor, is_slow): (f64, bool),
        events: &mut Vec<Event>,
    ) -> Option<Fault> {
        if is_slow && matches!(verdict, ProbeVerdict::Good { .. }) {
            // Better than none, but no reason to return to it.
            self.health.on_slow();
            self.clean_since = None;
            return None;
        }
        let change = self.health.on_verdict(started_at, now, verdict);
        let is_good = matches!(verdict, ProbeVerdict::Good { .. });
        if is_good && self.clean_since.is_none() {
            self.clean_since = Some(started_at);
            self.hold_factor = hold_factor;
        }
        if !is_good && *verdict != ProbeVerdict::Void {
            self.clean_since = None;
        }
        if !matches!(verdict, ProbeVerdict::Void | ProbeVerdict::Busy { .. }) {
            self.with_breaker(now, events, |breaker| breaker.on_probe(now, is_good));
        }
        match change? {
            HealthChange::Up => {
                self.fault = None;
                events.push(Event::BackendUp { backend: self.id });
                None
            }
            HealthChange::Down(fault) => Some(self.fault_of(started_at, fault)),
        }
    }

    fn fault_of(&self, started_at: Instant, fault: HealthFault) -> Fault {
        let since = self.health.bad_since().unwrap_or(started_at);
        match fault {
            HealthFault::Failed(cause) => Fault { reason: Reason::ProbesFailed, cause, since },
            HealthFault::Answered(cause) => {
                let word = cause.split_whitespace().next().unwrap_or_default().to_owned();
                Fault { reason: Reason::CannotServe { word }, cause, since }
            }
        }
    }

    /// It cannot serve, for this reason.
    pub(super) fn bring_down(&mut self, now: Instant, fault: Fault, events: &mut Vec<Event>) {
        self.health.force_down();
        self.clean_since = None;
        self.inquiry = None;
        self.unconnected = None;
        self.detector.restart(now);
        self.latency.restart();
        self.fault = Some(fault.clone());
        events.push(Event::BackendDown { backend: self.id, fault });
        self.with_breaker(now, events, |breaker| breaker.trip(now));
    }

    /// It serves from now on, whatever its past: nothing better is there, or an operator says so.
    pub(super) fn bring_up(&mut self, now: Instant, events: &mut Vec<Event>) {
        if !self.health.is_healthy() {
            self.health.force_up();
            events.push(Event::BackendUp { backend: self.id });
        }
        self.fault = None;
        self.unconnected = None;
        self.detector.restart(now);
        self.latency.restart();
        self.with_breaker(now, events, |breaker| breaker.close(now));
    }

    pub(super) fn on_time(&mut self, now: Instant, events: &mut Vec<Event>) {
        self.with_breaker(now, events, |breaker| {
            breaker.on_time(now);
        });
        if self.banned_until.take_if(|until| now >= *until).is_some() {
            events.push(Event::BanEnded { backend: self.id });
        }
        for report in self.reports.expire(now) {
            events.push(Event::ReportEnded { backend: self.id, report, is_expired: true });
        }
    }

    /// A warning, or the end of one; told once per change.
    pub(super) fn warn(&mut self, warning: Option<String>, events: &mut Vec<Event>) {
        if self.warning != warning {
            self.warning.clone_from(&warning);
            events.push(Event::ProbeWarning { backend: self.id, warning });
        }
    }

    fn with_breaker(&mut self, now: Instant, events: &mut Vec<Event>, change: impl FnOnce(&mut Breaker)) {
        let before = self.breaker.state();
        change(&mut self.breaker);
        let after = self.breaker.state();
        if before.label() == after.label() {
            return;
        }
        events.push(match after {
            BreakerState::Closed => Event::BreakerClosed { backend: self.id },
            BreakerState::HalfOpen { .. } => Event::BreakerHalfOpen { backend: self.id },
            BreakerState::Open { until } => {
                Event::BreakerOpened { backend: self.id, grace: until.saturating_duration_since(now) }
            }
        });
    }
}
