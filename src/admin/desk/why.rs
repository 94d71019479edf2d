//! Why the active is active: a sentence with its evidence, and one for each backend that is preferred to it and is not.

use std::time::{Duration, SystemTime};

use crate::channels::{Availability, BackendStatus, GroupStatus};

/// The answer to `WHY`, a line each.
pub(super) fn why(group: &GroupStatus, now: SystemTime) -> Vec<String> {
    let Some(active) = group.route.active.and_then(|id| group.backends.iter().find(|backend| backend.id == id)) else {
        let mut lines =
            vec!["no backend is active: none, or too few (failover.initial), was found healthy yet".to_owned()];
        lines.extend(group.backends.iter().map(|backend| format!("{}: {}", backend.name, backend.last_verdict)));
        return lines;
    };
    let mut lines = vec![first_line(group, active, now)];
    if let Some((_, until)) = group.stay {
        lines.push(format!("an operator holds it there for {} more", ahead(now, until)));
    }
    if group.wishes.is_stranded {
        let why = wish(active, now).unwrap_or_default();
        lines.push(format!("it should be left, for {why}, but no other backend can take over: it stays"));
    }
    if let Some((drill, until)) = group.wishes.drill {
        lines.push(format!("a drill plays {} for {} more", drill.fault, ahead(now, until)));
    }
    if let Some(evidence) = &active.degraded {
        lines.push(format!("it answers too slowly ({evidence}), and no backend is known that is surely faster"));
    }
    let preferred = group.backends.iter().filter(|backend| backend.id != active.id && backend.weight > active.weight);
    for backend in preferred.clone() {
        let why = obstacle(group, backend, now);
        lines.push(format!("{} (weight {}) is heavier, but {why}", backend.name, backend.weight));
    }
    let others = || group.backends.iter().filter(|backend| backend.id != active.id);
    for (backend, replication) in others().filter_map(|backend| Some((backend, backend.replication.as_ref()?))) {
        lines.push(format!("{} is {replication}", backend.name));
    }
    for (backend, (label, evidence)) in others().filter_map(|backend| Some((backend, backend.fence.as_ref()?))) {
        lines.push(format!("{} is fenced ({label}): {evidence}", backend.name));
    }
    if let Some(next) = group.route.standby.and_then(|id| group.backends.iter().find(|backend| backend.id == id)) {
        lines.push(format!("{} would be next", next.name));
        return lines;
    }
    lines.push("no other backend could take over".to_owned());
    let lighter = group.backends.iter().filter(|backend| backend.id != active.id && backend.weight <= active.weight);
    lines.extend(lighter.map(|backend| format!("{}: {}", backend.name, obstacle(group, backend, now))));
    lines
}

fn first_line(group: &GroupStatus, active: &BackendStatus, now: SystemTime) -> String {
    let since = group.active_since.map_or_else(String::new, |since| format!(" since {}", behind(now, since)));
    let heaviest = group.backends.iter().all(|backend| backend.weight <= active.weight);
    let state = match group.route.availability {
        Availability::Healthy if heaviest => "the heaviest backend, and healthy".to_owned(),
        Availability::Healthy => format!("healthy, weight {}", active.weight),
        Availability::Degraded => "the last that served; no backend is healthy".to_owned(),
        Availability::Refusing => "the last that served; no backend is healthy, and commands are refused".to_owned(),
    };
    let evidence = match &active.fault {
        Some(fault) => fault.clone(),
        None => format!("last check {}", active.last_verdict),
    };
    let course = match group.reason.as_str() {
        "start" => "it was the first choice when Handover started".to_owned(),
        reason => format!("it came by: {reason}"),
    };
    format!("{} is active{since}: {state} ({evidence}); {course}", active.name)
}

/// Why a backend does not serve.
fn obstacle(group: &GroupStatus, backend: &BackendStatus, now: SystemTime) -> String {
    if let Some(wish) = wish(backend, now) {
        return wish;
    }
    if !backend.healthy {
        let fault = backend.fault.as_deref().unwrap_or(&backend.last_verdict);
        return format!("unhealthy: {fault}");
    }
    let clean = backend.clean_since.map_or_else(String::new, |since| format!(", clean for {}", behind(now, since)));
    match (backend.circuit_until, &group.failback_blocked) {
        (Some(until), _) => format!("its breaker is open for {} more{clean}", ahead(now, until)),
        (None, Some(reason)) => format!("not returned to: {reason}{clean}"),
        (None, None) => format!("a switch to it is under way or about to be{clean}"),
    }
}

/// What an operator or a checker wants, if that keeps the backend from serving.
fn wish(backend: &BackendStatus, now: SystemTime) -> Option<String> {
    if let Some(until) = backend.banned_until {
        return Some(format!("an operator banned it for {} more", ahead(now, until)));
    }
    if backend.wishes.is_drained {
        return Some("an operator drained it".to_owned());
    }
    let report = backend.wishes.reports.iter().find(|report| report.verdict == "DOWN" || report.verdict == "DRAIN")?;
    let (verdict, reporter, reason) = (&report.verdict, &report.reporter, &report.reason);
    Some(format!("{reporter} reports it {verdict} for {} more: {reason}", ahead(now, report.until)))
}

fn ahead(now: SystemTime, until: SystemTime) -> String {
    rounded(until.duration_since(now).unwrap_or(Duration::ZERO))
}

fn behind(now: SystemTime, since: SystemTime) -> String {
    rounded(now.duration_since(since).unwrap_or(Duration::ZERO))
}

/// `3 s`, `4 m 10 s`, `2 h 5 m`: what a person wants to know of it.
pub(in crate::admin) fn rounded(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds % 3600 / 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} m {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} m"),
    }
}
