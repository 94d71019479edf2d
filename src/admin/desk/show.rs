//! One backend, and what has happened, in lines.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::why::rounded;
use crate::admin::status::health;
use crate::channels::{BackendStatus, EventRecord, GroupStatus};

/// The answer to SHOW.
pub(super) fn backend(backend: &BackendStatus) -> Vec<String> {
    let health = health(backend.healthy, backend.replication.as_deref(), &backend.last_verdict);
    let mut lines = vec![format!(
        "{}: weight {}, {health}, circuit {}, role {}, checks {} good and {} bad",
        backend.name, backend.weight, backend.circuit, backend.role, backend.probes.0, backend.probes.1
    )];
    lines.extend(backend.fault.iter().map(|fault| format!("fault: {fault}")));
    if backend.is_leaving {
        lines.push("it leaves as soon as another can take over".to_owned());
    }
    lines.extend(backend.degraded.iter().map(|evidence| format!("too slow: {evidence}")));
    lines.extend(backend.replication.iter().map(|replication| format!("it is {replication}")));
    let fence = backend.fence.iter();
    lines.extend(fence.map(|(label, evidence)| format!("fenced ({label}): {evidence}; SWITCH lifts it")));
    lines.extend(wishes(backend));
    lines.extend(backend.circuit_until.iter().map(|until| format!("its breaker is open for {} more", left(*until))));
    lines.extend(backend.lag.iter().map(|lag| format!("lag: {lag}")));
    let checks = backend.history.iter().rev();
    lines.extend(checks.map(|probe| {
        let took_ms = probe.took.as_secs_f64() * 1e3;
        format!("{}  {took_ms:.1} ms  {}", ago(probe.at), probe.verdict)
    }));
    lines
}

/// What operators and checkers want of a backend, a line each.
fn wishes(backend: &BackendStatus) -> Vec<String> {
    let mut lines = Vec::new();
    lines.extend(backend.banned_until.iter().map(|until| format!("banned for {} more", left(*until))));
    if backend.wishes.is_drained {
        lines.push("drained by an operator, until UNDRAIN".to_owned());
    }
    lines.extend(backend.wishes.reports.iter().map(|report| {
        let (verdict, reporter, reason) = (&report.verdict, &report.reporter, &report.reason);
        format!("reported {verdict} by {reporter} for {} more: {reason}", left(report.until))
    }));
    lines
}

/// The answer to EVENTS, oldest first.
pub(super) fn events(status: &GroupStatus, count: usize) -> Vec<String> {
    let skipped = status.events.len().saturating_sub(count);
    let line =
        |event: &Arc<EventRecord>| format!("{}  {}", ago(UNIX_EPOCH + event.at.since_epoch()), event.happening.text);
    status.events.iter().skip(skipped).map(line).collect()
}

fn ago(at: SystemTime) -> String {
    format!("{:>10} ago", rounded(at.elapsed().unwrap_or_default()))
}

fn left(until: SystemTime) -> String {
    rounded(until.duration_since(SystemTime::now()).unwrap_or_default())
}
