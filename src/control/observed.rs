//! What probes showed of a backend, for those who look.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use crate::channels::{BackendStatus, BackendWishes, ProbeLine, ProbeReport, ProbeVerdict, ReportLine};
use crate::logic::breaker::BreakerState;
use crate::logic::failover::MemberView;
use crate::logic::replication::{Facts, Role};

/// Rounds that operators can look back at.
const HISTORY_MAX: usize = 10;

/// One moment by both clocks: what people read is the time of day.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) now: Instant,
    pub(super) wall: SystemTime,
}

impl Clock {
    pub(super) fn at(self, moment: Instant) -> SystemTime {
        match moment.checked_duration_since(self.now) {
            Some(ahead) => self.wall + ahead,
            None => self.wall - self.now.saturating_duration_since(moment),
        }
    }
}

/// What probes showed of a backend.
pub(super) struct Observed {
    name: String,
    role: String,
    last_verdict: String,
    probes: (u64, u64),
    probe_duration: Duration,
    history: VecDeque<ProbeLine>,
    lag: Option<String>,
}

impl Observed {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            role: "unknown".to_owned(),
            last_verdict: "not probed yet".to_owned(),
            probes: (0, 0),
            probe_duration: Duration::ZERO,
            history: VecDeque::new(),
            lag: None,
        }
    }

    pub(super) fn on_probe(&mut self, report: &ProbeReport) {
        self.probe_duration = report.ended_at.saturating_duration_since(report.started_at);
        self.last_verdict = describe(&report.verdict);
        if self.history.len() >= HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(ProbeLine {
            at: SystemTime::now(),
            took: self.probe_duration,
            verdict: self.last_verdict.clone(),
        });
        match &report.verdict {
            ProbeVerdict::Good { role, .. } => {
                self.probes.0 += 1;
                self.role = role.clone().unwrap_or_else(|| "unknown".to_owned());
            }
            ProbeVerdict::CannotServe { .. } | ProbeVerdict::Busy { .. } | ProbeVerdict::Failed { .. } => {
                self.probes.1 += 1;
            }
            ProbeVerdict::Void => {}
        }
    }

    /// The server said what it is: a replica, too, that fails the check.
    pub(super) fn on_facts(&mut self, facts: &Facts) {
        self.role = match facts.role {
            Role::Master => "master",
            Role::Replica => "slave",
        }
        .to_owned();
    }

    pub(super) fn on_lag(&mut self, verdict: &Result<String, String>) {
        let (Ok(text) | Err(text)) = verdict;
        self.lag = Some(text.clone());
    }

    pub(super) fn status(&self, member: &MemberView<'_>, clock: Clock) -> BackendStatus {
        BackendStatus {
            id: member.id,
            name: self.name.clone(),
            weight: member.weight,
            healthy: member.is_healthy,
            circuit: member.breaker.label(),
            role: self.role.clone(),
            last_verdict: self.last_verdict.clone(),
            probes: self.probes,
            probe_duration: self.probe_duration,
            history: self.history.clone(),
            fault: member.fault.map(|fault| format!("{}: {}", fault.reason, fault.cause)),
            circuit_until: match member.breaker {
                BreakerState::Open { until } => Some(clock.at(until)),
                BreakerState::Closed | BreakerState::HalfOpen { .. } => None,
            },
            clean_since: member.clean_since.map(|since| clock.at(since)),
            banned_until: member.banned_until.map(|until| clock.at(until)),
            is_leaving: member.is_leaving,
            wishes: wishes(member, clock),
            degraded: member.degraded.map(str::to_owned),
            fence: member.fence.map(|fence| (fence.reason.label(), fence.evidence.clone())),
            replication: None,
            lag: self.lag.clone(),
        }
    }
}

fn wishes(member: &MemberView<'_>, clock: Clock) -> BackendWishes {
    let reports = member.reports.iter().map(|report| ReportLine {
        verdict: report.verdict.to_string(),
        reporter: report.reporter.clone(),
        reason: report.reason.clone(),
        until: clock.at(report.until),
    });
    BackendWishes { own_weight: member.own_weight, is_drained: member.is_drained, reports: reports.collect() }
}

fn describe(verdict: &ProbeVerdict) -> String {
    match verdict {
        ProbeVerdict::Good { warning: None, .. } => "good".to_owned(),
        ProbeVerdict::Good { warning: Some(warning), .. } => format!("good, but {warning}"),
        ProbeVerdict::CannotServe { reply } => format!("cannot serve: {reply}"),
        ProbeVerdict::Busy { reply } => format!("busy: {reply}"),
        ProbeVerdict::Failed { cause, .. } => format!("failed: {cause}"),
        ProbeVerdict::Void => "void: Handover was late itself".to_owned(),
    }
}
