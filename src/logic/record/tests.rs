//! Holds the records against `docs/events.md`: each kind has an example there, and it is what the code writes.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::*;
use crate::logic::drill::{Drill, DrillFault};
use crate::logic::failover::{
    Blocked, CallOff, Event, Fault, FenceReason, Ledger, News, Reason, Report, Reported, StayEnd, Switched, Verdict,
};
use crate::logic::route::BackendId;

const DOCUMENT: &str = include_str!("../../../docs/events.md");
const AT: Moment = Moment(1_795_266_000_123);
const SECOND: Duration = Duration::from_secs(1);
const EAST: BackendId = BackendId(0);
const WEST: BackendId = BackendId(1);

fn name(backend: BackendId) -> &'static str {
    if backend == EAST { "east" } else { "west" }
}

fn record(happening: Happening) -> EventRecord {
    let is_global = matches!(happening.kind, EventKind::ConfigReloaded | EventKind::Lost);
    let (group, epoch) = if is_global { (None, None) } else { (Some("default".to_owned()), Some(2)) };
    EventRecord { schema: SCHEMA, id: 1_795_266_000_000_001, at: AT, group, epoch, happening }
}

fn machine_events() -> Vec<Event> {
    let fault = Fault {
        reason: Reason::ConnectionLost,
        cause: "closed by the server; then: Connection refused (os error 111)".to_owned(),
        since: Instant::now(),
    };
    let judged = Judged { moved: 1, repeated: 2, uncertain: 1, ..Judged::default() };
    let drill = Drill { backend: EAST, fault: DrillFault::Kill };
    let report = Report {
        verdict: Verdict::Down,
        reporter: "disk-watch".to_owned(),
        reason: "the disk is full".to_owned(),
        length: SECOND * 30,
    };
    let switched = Switched {
        from: Some(EAST),
        to: WEST,
        reason: fault.reason.clone(),
        cause: fault.cause.clone(),
        epoch: 2,
        detect: Duration::from_micros(1_343),
        switch: Duration::from_micros(2_854),
        judged,
    };
    vec![
        Event::Switched(switched),
        Event::SwitchCalledOff { to: EAST, why: CallOff::NotDrained, retry_in: Some(SECOND * 30) },
        Event::BackendDown { backend: EAST, fault },
        Event::BackendUp { backend: EAST },
        Event::BreakerOpened { backend: EAST, grace: SECOND * 60 },
        Event::BreakerHalfOpen { backend: EAST },
        Event::BreakerClosed { backend: EAST },
        Event::ProbeWarning {
            backend: EAST,
            warning: Some("SETRANGE is not permitted: writes are not checked".into()),
        },
        Event::ProbeWarning { backend: EAST, warning: None },
        Event::Degraded { backend: EAST, evidence: Some("p99 612 ms, baseline 0.4 ms, for 3.0 s".into()) },
        Event::Degraded { backend: EAST, evidence: None },
        Event::FailbackBlocked { reason: Some(Blocked::HoldTime) },
        Event::FailbackBlocked { reason: Some(Blocked::FlapGuard) },
        Event::FailbackBlocked { reason: None },
        Event::NoneHealthy,
        Event::Refusing,
        Event::Recovered { backend: WEST, after: Duration::from_millis(2_500) },
        Event::WorkersLate { missing: 1 },
        Event::WeightChanged { backend: EAST, weight: 0.5 },
        Event::StayBegan { backend: WEST, length: SECOND * 600 },
        Event::StayEnded { backend: WEST, why: StayEnd::Expired },
        Event::Banned { backend: EAST, length: SECOND * 600 },
        Event::BanEnded { backend: EAST },
        Event::Drained { backend: EAST },
        Event::DrainEnded { backend: EAST },
        Event::Reported { backend: EAST, report: report.clone() },
        Event::ReportEnded {
            backend: EAST,
            report: Reported {
                verdict: report.verdict,
                reporter: report.reporter,
                reason: report.reason,
                since: Instant::now(),
                until: Instant::now(),
            },
            is_expired: true,
        },
        Event::Stranded { backend: EAST },
        Event::Paused { length: SECOND * 60, writes_only: false },
        Event::Resumed { is_expired: false },
        Event::DrillBegan { drill, length: SECOND * 30 },
        Event::DrillEnded {
            ledger: Ledger {
                drill,
                length: SECOND * 30,
                is_cut_short: false,
                switches: 1,
                to: Some(WEST),
                detected_after: Some(Duration::from_micros(1_343)),
                served_after: Some(Duration::from_micros(4_197)),
                judged,
            },
        },
    ]
    .into_iter()
    .chain(news())
    .collect()
}

fn news() -> impl Iterator<Item = Event> {
    let fenced = |reason, evidence: &str| News::Fenced {
        reason,
        evidence: evidence.to_owned(),
        is_active: false,
        is_alarm: true,
    };
    let news = [
        News::Replica { of: "east".into(), promotes: true },
        News::Promoting { evidence: "it is the replica of east that has most (offset 1402)".into() },
        News::Promoted { took: Duration::from_millis(5) },
        News::PromotionFailed { cause: "REPLICAOF NO ONE refused: NOPERM".into(), retry_in: Some(SECOND) },
        fenced(FenceReason::MultipleMasters, "a master of the same data as west, which is active"),
        fenced(FenceReason::StaleData, "started again with 0 keys, it was seen with 100"),
        News::FenceLifted { why: "it replicates the active now" },
    ];
    let backend = |news: &News| match news {
        News::Replica { .. } | News::Promoting { .. } | News::Promoted { .. } | News::PromotionFailed { .. } => WEST,
        _ => EAST,
    };
    news.into_iter().map(move |news| Event::Replication { backend: backend(&news), news })
}

/// One of everything that there is.
fn samples() -> Vec<EventRecord> {
    let failed = Failed { uncertain: 3, not_applied: 4, ..Failed::default() };
    let backend = BackendOutcomes {
        backend: "east".to_owned(),
        active: true,
        replies: 4_807,
        failures: 7,
        connections_lost: 2,
        connects: 1,
        connects_failed: 1,
        connections: 4,
    };
    let outcomes = Outcomes {
        period_ms: 1_000,
        ok: 4_800,
        errors: 7,
        failed,
        in_flight: 12,
        latency_us: Some(Percentiles { p50: 250, p95: 1_000, p99: 2_500 }),
        backends: vec![backend],
    };
    let change = "backend.east.weight: 1 → 0.5".to_owned();
    let made = [
        Happening::switch_refused("east", "console", "the backend is not healthy: FORCE switches anyway"),
        Happening::commands_failed(failed),
        Happening::backend_added("north", 2.0, "console"),
        Happening::backend_removed("north", "console"),
        Happening::backend_replaced("north", "reload"),
        Happening::gap("east", "west", "connection lost", Some(Duration::from_millis(412))),
        Happening::config_reloaded(Ok(vec![change])),
        Happening::config_reloaded(Err("backend[0].url is missing".to_owned())),
        Happening::lost(17),
        Happening::outcomes(outcomes),
    ];
    machine_events().iter().map(|event| Happening::of(event, name)).chain(made).map(record).collect()
}

fn examples() -> Vec<Value> {
    let lines = DOCUMENT.lines().filter(|line| line.starts_with('{'));
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[test]
fn the_document_has_an_example_of_each_kind_and_it_is_what_the_code_writes() {
    let samples = samples();
    let written: Vec<String> = samples.iter().map(EventRecord::json).collect();
    let examples = examples();
    for kind in EventKind::ALL {
        assert!(samples.iter().any(|sample| sample.happening.kind == kind), "no sample of {}", kind.label());
        let heading = format!("### `{}`", kind.label());
        assert!(DOCUMENT.lines().any(|line| line.starts_with(&heading)), "docs/events.md has no {heading}");
        assert!(examples.iter().any(|example| example["kind"] == kind.label()), "no example of {}", kind.label());
    }
    for example in examples {
        let is_written = written.iter().any(|line| serde_json::from_str::<Value>(line).unwrap() == example);
        assert!(is_written, "no record is {example}; there is\n{}", written.join("\n"));
    }
}

#[test]
fn every_field_is_in_the_document() {
    let mut fields = BTreeSet::new();
    for sample in samples() {
        let Value::Object(object) = serde_json::to_value(&sample).unwrap() else { panic!("an object") };
        fields.extend(object.into_iter().map(|(field, _)| field));
    }
    let missing: Vec<_> = fields.iter().filter(|field| !DOCUMENT.contains(&format!("| `{field}` |"))).collect();
    assert!(missing.is_empty(), "docs/events.md does not describe {missing:?}");
    assert!(fields.len() > 20, "{fields:?}");
}

#[test]
fn names_are_unique_and_found_again() {
    for kind in EventKind::ALL {
        assert_eq!(EventKind::named(kind.label()), Some(kind));
    }
    assert_eq!(EventKind::named("switched"), None);
}

#[test]
fn a_text_never_breaks_a_line_of_json() {
    let fault = Fault { reason: Reason::Silent, cause: "a\r\nb\"\u{2028}".to_owned(), since: Instant::now() };
    let json = record(Happening::of(&Event::BackendDown { backend: EAST, fault }, name)).json();
    assert_eq!(json.lines().count(), 1, "{json}");
    assert!(json.contains(r#""cause":"a\r\nb\""#), "{json}");
}
